"""The JSON of a weights file: the model's configuration, and metadata about its weights.

Both are validated before writing and after reading, since an untrusted file can contain any type.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from glow_tf._files import printable
from glow_tf.errors import InputError

MAX_CONFIG_BYTES = 60_000  # an HDF5 attribute holds at most 64 KiB
MAX_METADATA_BYTES = 4_000_000  # up to 100 MB as Python objects
MAX_DEPTH = 32  # lists and objects inside each other, which tf.Module wraps recursively


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raises InputError for metadata that a weights file cannot store; a trainer calls it before training.

    >>> check_metadata({"dataset": "digits", "class_names": ["zero", "one"], "notes": {"mine": 1}})
    >>> check_metadata({"class_names": True})
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: the metadata's class_names is True; it must be a list of texts
    """
    encode("metadata", metadata)


def class_names(metadata: Mapping[str, Any], num_classes: int) -> list[str]:
    """The names of a model's classes in a printable form; the index where the metadata holds none.

    >>> class_names({"class_names": ["cat"]}, 2)
    ['cat', '1']
    """
    names = [printable(name) for name in metadata.get("class_names") or ()][:num_classes]
    return names + [str(index) for index in range(len(names), num_classes)]


def total_steps(metadata: Mapping[str, Any]) -> int | None:
    """The training steps of a model, with those of the weights that its run started from; None if unknown.

    >>> total_steps({"step": 10, "previous_steps": 90})
    100
    """
    step = metadata.get("step")
    return None if step is None else step + (metadata.get("previous_steps") or 0)


def is_decided_by_few(mean: float, error: float | None) -> bool:
    """Whether a few images decide a mean of bits/dim: its standard error is larger than half of it.

    The standard error is None for a single image.

    >>> is_decided_by_few(3.5, 0.01), is_decided_by_few(20.0, 18.0), is_decided_by_few(20.0, None)
    (False, True, False)
    """
    return error is not None and bool(error > abs(mean) / 2)


def caveat(mean: float, error: float | None) -> str:
    """What to write after a mean of bits/dim and its standard error: nothing, unless a few images decide the mean."""
    return " (decided by a few images)" if is_decided_by_few(mean, error) else ""


def encode(kind: str, value: Mapping[str, Any]) -> bytes:
    """Encodes a "configuration" or "metadata" as JSON; raises InputError for values that a file cannot store."""
    limit, check = _KINDS[kind]
    check(value)
    try:
        text = json.dumps(dict(value), sort_keys=True, allow_nan=False, default=_unwrapped).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:  # NaN, 1e400, a type that JSON does not support
        raise InputError(f"the {kind} cannot be saved as JSON: {printable(error)}") from error
    if len(text) > limit:
        raise InputError(f"the {kind} takes {len(text):,} bytes as JSON; the limit is {limit:,}")
    return text


def decode(kind: str, text: object) -> dict[str, Any]:
    """The inverse of `encode`; raises InputError for any other `text`."""
    limit, check = _KINDS[kind]
    usable = text if isinstance(text, str) and len(text) <= limit else ""
    try:
        value = json.loads(usable, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"the {kind} is not a JSON object of at most {limit:,} bytes")
    check(value)
    return value


def _unwrapped(value: Any) -> dict:
    """A plain dictionary, from the wrapper that tf.Module puts around dictionaries of its attributes."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} in JSON")


def _is_number(value: object) -> bool:
    """Whether a value is a finite float, or an integer of at most 63 bits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


_IS_VALID: dict[str, Callable[[Any], bool]] = {
    "a text": lambda value: isinstance(value, str),
    "an integer": lambda value: isinstance(value, int) and _is_number(value),
    "a finite number": _is_number,
    "a list of texts": lambda value: isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value),
    "an object": lambda value: isinstance(value, Mapping),
}

# The metadata that this package reads. None means that a value is unknown; other keys are unrestricted.
_METADATA = {
    **dict.fromkeys(("dataset", "command", "converted_from", "run_id"), "a text"),
    **dict.fromkeys(("step", "previous_steps", "epoch", "seed", "test_images", "selection_images"), "an integer"),
    **dict.fromkeys(("test_bits_per_dim", "test_standard_error", "selection_bits_per_dim"), "a finite number"),
    "class_names": "a list of texts",
    "train_bits_per_dim": "an object",
}


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    names = [key for key in metadata if not isinstance(key, str)]
    if names:
        raise InputError(f"the metadata has the key {printable(names[0], 60)}; keys must be texts")
    for key, needed in _METADATA.items():
        value = metadata.get(key)
        if value is not None and not _IS_VALID[needed](value):
            raise InputError(f"the metadata's {key} is {printable(value, 60)}; it must be {needed}")
    inner: list[Any] = [metadata]
    for _ in range(MAX_DEPTH):
        values = (value for each in inner for value in (each.values() if isinstance(each, Mapping) else each))
        inner = [value for value in values if isinstance(value, (Mapping, list, tuple))]
    if inner:
        raise InputError(f"the metadata nests lists and objects more than {MAX_DEPTH} deep")


def _check_config(config: Mapping[str, Any]) -> None:
    """Allows numbers, short strings and short lists of numbers; `GlowConfig` checks their values."""
    for key, value in config.items():
        values = value if isinstance(value, (list, tuple)) and len(value) <= 8 else [value]
        is_short_text = isinstance(value, str) and len(value) <= 100 and value.isprintable()
        if not re.fullmatch(r"\w{1,60}", key):
            raise InputError(f"the configuration has an unknown key: {printable(key, 60)}")
        if not is_short_text and not all(isinstance(v, bool) or _is_number(v) for v in values):
            raise InputError(f"the configuration's {key} is {printable(value, 60)}")


# {kind: (its largest size in bytes, the check of its values)}
_KINDS: dict[str, tuple[int, Callable[[Mapping[str, Any]], None]]] = {
    "configuration": (MAX_CONFIG_BYTES, _check_config),
    "metadata": (MAX_METADATA_BYTES, _check_metadata),
}
