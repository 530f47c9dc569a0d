"""Damages any file, and JSON in particular, at random."""

import json
import random

# Values that replace those of a JSON file.
ODD_VALUES = (
    *(None, True, -1, 0, 0.5, 2**70, 1e308, "", "\x1b[2J\n", "\udcff", "x" * 5000, [], {}, [[[]]], {"a": {"b": 1}}),
)


def mutant(data: bytes, seed: int) -> bytes:
    """Damages a file: flips, overwrites, zeroes, copies within, cuts off; the result differs from `data`."""
    chance = random.Random(seed)
    result = data
    while result == data:
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            _damage(changed, chance)
        result = bytes(changed)
    return result


def _damage(data: bytearray, chance: random.Random) -> None:
    at, source = chance.randrange(len(data)), chance.randrange(len(data))
    width = chance.choice((2, 4, 8))
    word = at // width * width
    kind = chance.choice(("flip", "byte", "number", "zero", "copy", "pointer", "cut"))
    if kind == "flip":
        data[at] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        data[at] = chance.choice((0, 1, 127, 128, 255))
    elif kind == "number" and word + width <= len(data):
        number = chance.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), source % 2**16))
        data[word : word + width] = number.to_bytes(width, "little")
    elif kind == "zero":
        size = len(data[at : at + chance.choice((16, 512, 4096))])
        data[at : at + size] = bytes(size)
    elif kind == "copy":
        size = min(chance.choice((8, 64, 256)), len(data) - max(at, source))
        data[at : at + size] = data[source : source + size]
    elif kind == "pointer":
        pointers = [i for i in range(0, len(data) - 8, 8) if 0 < int.from_bytes(data[i : i + 8], "little") < len(data)]
        if pointers:
            one, other = chance.choice(pointers), chance.choice(pointers)
            data[one : one + 8] = data[other : other + 8]
    elif kind == "cut" and len(data) > 200 and chance.random() < 0.3:
        del data[max(200, at) :]


def mutated_json(data, seed):
    """JSON with damaged bytes, or with a value replaced, removed or nested too deeply."""
    chance = random.Random(seed)
    if chance.random() < 0.3:
        return mutant(data, seed)
    value = json.loads(data)
    places = list(_places(value))
    container, key = chance.choice(places)
    kind = chance.choice(("replace", "replace", "replace", "remove", "nest"))
    if kind == "remove":
        del container[key]
    elif kind == "replace":
        container[key] = chance.choice(ODD_VALUES)
    else:
        container[key] = "NESTED"
    depth = chance.choice((50, 900, 100_000))
    return json.dumps(value).replace('"NESTED"', '{"a":' * depth + "1" + "}" * depth).encode()


def _places(value):
    """(container, key) of each value inside a JSON value."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
