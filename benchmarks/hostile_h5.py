"""Files that a reader of weights must refuse: damaged, malicious, or not weights at all.

`HOSTILE` maps a name to a function that writes such a file; `write_all` writes them all. Every file but the
damaged ones carries a right digest, as an attacker's would, so that the digest is not what refuses it.
`mutant` damages any file at random.
"""

import hashlib
import io
import os
import pickle
import random
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from glow_tf import h5_reader, weights

CONFIG = {"image_shape": [32, 32, 3], "num_steps": 32}
METADATA = {"data": "cifar10", "step": 7}
ARRAYS = {
    "level0/actnorm/log_scale": np.linspace(-1, 1, 12, dtype=np.float32),
    "level0/conv/permutation": np.arange(12, dtype=np.int32),
    "level0/coupling/kernel": np.linspace(0, 1, 3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5),
    "level1/coupling/bias": np.zeros([2, 3], np.float64),
}
EXPECTED = {name: (array.shape, array.dtype) for name, array in ARRAYS.items()}
VICTIM = "level0/coupling/kernel"
SECRET = "a line of a local file that no weights file may bring in\n"

HOSTILE: dict[str, Callable[[Path, int], None]] = {}
FOREIGN: dict[str, Callable[[Path, int], None]] = {}  # for weights.read_foreign


def write_all(folder: Path, count: int, builders=None) -> dict[str, Path]:
    """Writes one file per builder.

    Args:
        folder: an empty one.
        count: how many groups, levels or bytes the bombs have; 20,000 for a test, 1,000,000 in earnest.
        builders: `HOSTILE` (the default) or `FOREIGN`.
    """
    paths = {}
    for name, build in (builders or HOSTILE).items():
        place = Path(folder) / name
        place.mkdir(parents=True)
        paths[name] = place / "weights.h5"
        build(paths[name], count)
    return paths


def mutant(data: bytes, seed: int) -> bytes:
    """Damages a file: flips, overwrites, zeroes, copies within, cuts off; the result differs from `data`."""
    chance = random.Random(seed)
    result = data
    while result == data:
        result = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            _damage(result, chance)
        result = bytes(result)
    return result


def _damage(data: bytearray, chance: random.Random):
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


def reseal(data: bytes) -> bytes:
    """Gives a damaged file of ours a right digest and a superblock that agrees with its length."""
    data = bytearray(data[: data.rfind(b"glow_tf sha256 ")] if b"glow_tf sha256 " in data else data)
    data[40:48] = len(data).to_bytes(8, "little")
    return bytes(data) + h5_reader.seal(hashlib.sha256(data).hexdigest())


def valid(path: Path, count: int = 0):
    """A file that must be read."""
    weights.write(path, ARRAYS, CONFIG, METADATA)


# ---------------------------------------------------------------------------------- how they are made


def _hostile(build):
    HOSTILE[build.__name__.lstrip("_")] = build
    return build


def _foreign(build):
    FOREIGN[build.__name__.lstrip("_")] = build
    return build


def _edited(path: Path, edit: Callable[[h5py.File], None], **options):
    """A valid file, edited with h5py and sealed."""
    image = io.BytesIO()
    with h5py.File(image, "w", **options) as h5:
        h5.attrs["format"] = np.bytes_("glow_tf")
        h5.attrs["format_version"] = np.int64(weights.FORMAT_VERSION)
        h5.attrs["config"] = np.bytes_(b'{"num_steps": 32}')
        h5.attrs["metadata"] = np.bytes_(b"{}")
        for name, array in ARRAYS.items():
            h5[name] = array
        edit(h5)
    data = image.getvalue()
    path.write_bytes(data + h5_reader.seal(hashlib.sha256(data).hexdigest()))


def _replaced(path: Path, **data_set):
    """A valid file whose victim is another data set."""

    def edit(h5):
        del h5[VICTIM]
        h5.create_dataset(VICTIM, **data_set)

    _edited(path, edit)


def _with_attribute(path: Path, name: str, value):
    _edited(path, lambda h5: h5.attrs.__setitem__(name, value))


def _patched(path: Path, old: bytes, new: bytes):
    """A valid file with the first `old` bytes replaced."""
    valid(path)
    data = path.read_bytes()
    if old not in data or len(old) != len(new):
        raise RuntimeError(f"{old!r} is not in the file: this builder no longer fits the format")
    path.write_bytes(reseal(data.replace(old, new, 1)))


def _secret(path: Path) -> Path:
    secret = path.with_name("secret.txt")
    secret.write_text(SECRET * 20)
    return secret


# ------------------------------------------------------------------------ links and data in other places


@_hostile
def external_link(path, count):
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other[VICTIM] = ARRAYS[VICTIM]

    def edit(h5):
        del h5[VICTIM]
        h5[VICTIM] = h5py.ExternalLink("other.h5", VICTIM)

    _edited(path, edit)


@_hostile
def soft_link(path, count):
    def edit(h5):
        h5.move(VICTIM, "elsewhere")
        h5[VICTIM] = h5py.SoftLink("/elsewhere")

    _edited(path, edit)


@_hostile
def external_storage(path, count):
    _replaced(path, shape=(3, 4, 5), dtype="f4", external=[(str(_secret(path)), 0, 240)])


@_hostile
def virtual_data_set(path, count):
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["kernel"] = ARRAYS[VICTIM]
    sources = h5py.VirtualLayout((3, 4, 5), "f4")
    sources[:] = h5py.VirtualSource("other.h5", "kernel", (3, 4, 5))

    def edit(h5):
        del h5[VICTIM]
        h5.create_virtual_dataset(VICTIM, sources)

    _edited(path, edit)


@_hostile
def user_block(path, count):
    _edited(path, lambda h5: None, userblock_size=512)


@_hostile
def group_inside_itself(path, count):
    _edited(path, lambda h5: h5.__setitem__("level0/again", h5["level0"]))


@_hostile
def doubling_hard_links(path, count):
    """2**30 paths from 30 groups."""

    def edit(h5):
        group = h5
        for _ in range(30):
            child = group.create_group("a")
            group["b"] = child
            group = child

    _edited(path, edit)


# ---------------------------------------------------------------------------------------------- bombs


@_hostile
def shape_bomb(path, count):
    _replaced(path, shape=(1 << 40,), dtype="f4")


@_hostile
def shape_overflow(path, count):
    _replaced(path, shape=(1 << 31, 1 << 31), dtype="f4", chunks=(64, 64))


@_hostile
def shape_larger_than_stored(path, count):
    _patched(path, struct.pack("<3Q", 3, 4, 5), struct.pack("<3Q", 3, 4, 1 << 40))


@_hostile
def gzip_bomb(path, count):
    _replaced(path, shape=(count * 1000,), dtype="f4", chunks=(1_000_000,), compression="gzip", fillvalue=0)


@_hostile
def gzip(path, count):
    _replaced(path, data=ARRAYS[VICTIM], compression="gzip")


@_hostile
def checksum_filter(path, count):
    _replaced(path, data=ARRAYS[VICTIM], fletcher32=True)


@_hostile
def many_groups(path, count):
    def edit(h5):
        for i in range(count):
            h5.create_group(f"g{i}")

    _edited(path, edit)


@_hostile
def many_links_of_the_newer_format(path, count):
    def edit(h5):
        group = h5.create_group("many", track_order=True)
        for i in range(count):
            group.create_group(f"g{i}")

    _edited(path, edit, libver="latest")


@_hostile
def deep_nesting(path, count):
    def edit(h5):
        group = h5
        for _ in range(count // 20):
            group = group.create_group("g")

    _edited(path, edit)


@_hostile
def many_attributes(path, count):
    def edit(h5):
        for i in range(min(count // 20, 50_000)):
            h5.attrs.create(f"a{i}", 1)

    _edited(path, edit)


@_hostile
def huge_attribute(path, count):
    _edited(path, lambda h5: h5.attrs.__setitem__("more", np.zeros(count * 100, np.uint8)), libver="latest")


@_hostile
def long_name(path, count):
    _edited(path, lambda h5: h5.create_group("x" * 60_000))


# ---------------------------------------------------------------------------------------- wrong values


@_hostile
def nan(path, count):
    _replaced(path, data=np.where(ARRAYS[VICTIM] == 1, np.float32("nan"), ARRAYS[VICTIM]))


@_hostile
def infinity(path, count):
    _replaced(path, data=np.where(ARRAYS[VICTIM] == 1, np.float32("inf"), ARRAYS[VICTIM]))


@_hostile
def transposed(path, count):
    _replaced(path, data=ARRAYS[VICTIM].T)


@_hostile
def missing_array(path, count):
    _edited(path, lambda h5: h5.__delitem__(VICTIM))


@_hostile
def extra_array(path, count):
    _edited(path, lambda h5: h5.__setitem__("level9/kernel", ARRAYS[VICTIM]))


@_hostile
def missing_and_extra(path, count):
    _edited(path, lambda h5: h5.move("level0", "level7"))


@_hostile
def group_for_an_array(path, count):
    _edited(path, lambda h5: (h5.__delitem__(VICTIM), h5.create_group(VICTIM)))


@_hostile
def array_for_a_group(path, count):
    _edited(path, lambda h5: (h5.__delitem__("level0"), h5.__setitem__("level0", ARRAYS[VICTIM])))


@_hostile
def named_type(path, count):
    _edited(path, lambda h5: (h5.__delitem__(VICTIM), h5.__setitem__(VICTIM, np.dtype("f4"))))


@_hostile
def no_values(path, count):
    _replaced(path, data=h5py.Empty("f4"))


@_hostile
def never_written(path, count):
    _replaced(path, shape=(3, 4, 5), dtype="f4")


@_hostile
def compact_storage(path, count):
    def edit(h5):
        del h5[VICTIM]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3, 4, 5))
        h5py.h5d.create(h5.id, VICTIM.encode(), h5py.h5t.IEEE_F32LE, space, properties)

    _edited(path, edit)


def _of_type(name, values):
    def build(path, count):
        _replaced(path, data=values(), **({"dtype": h5py.string_dtype()} if name == "type_object" else {}))

    HOSTILE[name] = build


_of_type("type_object", lambda: np.array([["text"] * 5] * 12, object))
_of_type("type_string", lambda: np.zeros((3, 4, 5), "S4"))
_of_type("type_float64", lambda: ARRAYS[VICTIM].astype("f8"))
_of_type("type_float16", lambda: ARRAYS[VICTIM].astype("f2"))
_of_type("type_big_endian", lambda: ARRAYS[VICTIM].astype(">f4"))
_of_type("type_int32", lambda: ARRAYS[VICTIM].astype("i4"))
_of_type("type_complex", lambda: ARRAYS[VICTIM].astype("c8"))
_of_type("type_bool", lambda: ARRAYS[VICTIM] > 0)
_of_type("type_compound", lambda: np.zeros((3, 4, 5), [("a", "f2"), ("b", "f2")]))


# ------------------------------------------------------------------------------------------ attributes


@_hostile
def lambda_in_model_config(path, count):
    _with_attribute(path, "model_config", '{"class_name": "Lambda", "config": {"function": "os.system(...)"}}')


def _with_config(name, value):
    HOSTILE[name] = lambda path, count: _with_attribute(path, "config", value)


_with_config("config_too_long", np.bytes_(b"{" + b" " * 63_000 + b"}"))
_with_config("config_nested", np.bytes_(b"[" * 50_000))
_with_config("config_not_json", np.bytes_(b"{num_steps: 32}"))
_with_config("config_list", np.bytes_(b"[1, 2]"))
_with_config("config_nan", np.bytes_(b'{"num_steps": NaN}'))
_with_config("config_not_unicode", np.bytes_(b'{"a": "\xff\xfe"}'))
_with_config("config_of_varying_length", '{"num_steps": 32}')
_with_config("config_number", 3.5)
_with_config("config_empty", h5py.Empty("f4"))


@_hostile
def newer_version(path, count):
    _with_attribute(path, "format_version", np.int64(2))


@_hostile
def version_not_a_number(path, count):
    _with_attribute(path, "format_version", np.bytes_("one"))


@_hostile
def other_format(path, count):
    _with_attribute(path, "format", np.bytes_("other\nprogram"))


@_hostile
def no_metadata(path, count):
    _edited(path, lambda h5: h5.attrs.__delitem__("metadata"))


# ---------------------------------------------------------------------------------------------- damage


@_hostile
def newer_hdf5_format(path, count):
    _edited(path, lambda h5: None, libver="latest")


@_hostile
def tree_that_loops(path, count):
    """The root's tree of names is its own child, one level deeper without end."""
    valid(path)
    data = bytearray(path.read_bytes())
    tree = data.index(b"TREE")
    data[tree + 5] = 255
    data[tree + 32 : tree + 40] = tree.to_bytes(8, "little")
    path.write_bytes(reseal(data))


@_hostile
def header_that_loops(path, count):
    """A continuation block that continues in itself."""
    valid(path)
    data = bytearray(path.read_bytes())
    block = len(data) // 8 * 8
    root = int.from_bytes(data[64:72], "little")
    data[root + 16 : root + 40] = struct.pack("<HHB3x2Q", 0x10, 16, 0, root + 16, 24)
    path.write_bytes(reseal(data[:block]))


@_hostile
def no_digest(path, count):
    valid(path)
    path.write_bytes(path.read_bytes()[:-80])


@_hostile
def half_a_digest(path, count):
    valid(path)
    path.write_bytes(path.read_bytes()[:-40])


@_hostile
def wrong_digest(path, count):
    valid(path)
    path.write_bytes(path.read_bytes()[:-80] + h5_reader.seal("0" * 64))


@_hostile
def one_bit_flipped(path, count):
    valid(path)
    data = bytearray(path.read_bytes())
    data[data.index(ARRAYS[VICTIM].tobytes()) + 9] ^= 1
    path.write_bytes(data)


@_hostile
def page_of_zeros(path, count):
    valid(path)
    data = path.read_bytes()
    path.write_bytes(data[:1024] + bytes(1024) + data[2048:])


@_hostile
def truncated(path, count):
    valid(path)
    path.write_bytes(path.read_bytes()[:3000])


@_hostile
def only_a_signature(path, count):
    path.write_bytes(b"\x89HDF\r\n\x1a\n")


@_hostile
def bytes_behind_the_digest(path, count):
    valid(path)
    path.write_bytes(path.read_bytes() + b"more")


# ------------------------------------------------------------------------------------- other kinds of file


def _of_bytes(name, data):
    HOSTILE[name] = lambda path, count: path.write_bytes(data)


def _zip(*names):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.writestr(name, "{}")
    return archive.getvalue()


class _RunsCode:
    def __reduce__(self):
        return os.mkdir, ("pickle-was-loaded",)


_of_bytes("empty", b"")
_of_bytes("text", b"these are no weights\n")
_of_bytes("html", b"<!DOCTYPE html><html><body>404</body></html>")
_of_bytes("png", b"\x89PNG\r\n\x1a\n" + bytes(100))
_of_bytes("jpeg", b"\xff\xd8\xff\xe0" + bytes(100))
_of_bytes("pickle_file", pickle.dumps(_RunsCode(), protocol=4))
_of_bytes("keras_archive", _zip("metadata.json", "config.json", "model.weights.h5"))
_of_bytes("torch_archive", _zip("model/data.pkl", "model/version"))
_of_bytes("numpy_archive", _zip("kernel.npy"))
_of_bytes("other_archive", _zip("readme"))
_of_bytes("numpy_array", b"\x93NUMPY\1\0" + bytes(64))
_of_bytes("gzip_archive", b"\x1f\x8b\x08" + bytes(64))
_of_bytes("safetensors", struct.pack("<Q", 30) + b'{"kernel":{"dtype":"F32"}}    ' + bytes(64))
_of_bytes("tensorflow_index", bytes(60) + bytes.fromhex("57fb808b247547db"))
_of_bytes("tensorflow_list", b'model_checkpoint_path: "ckpt-1"\n')
_of_bytes("git_lfs_pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
_of_bytes("random_bytes", random.Random(0).randbytes(10_000))
_of_bytes("zeros", bytes(10_000))


@_hostile
def sparse_giant(path, count):
    valid(path)
    os.truncate(path, 1 << 40)


@_hostile
def sparse_zeros(path, count):
    path.touch()
    os.truncate(path, 4_000_000_000)


@_hostile
def folder(path, count):
    path.mkdir()


@_hostile
def pipe(path, count):
    os.mkfifo(path)


@_hostile
def unix_socket(path, count):
    """Bound by its bare name: the address of a socket has room for about 100 characters."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


@_hostile
def endless_device(path, count):
    path.symlink_to("/dev/zero")


@_hostile
def link_to_itself(path, count):
    path.symlink_to(path)


@_hostile
def link_to_nothing(path, count):
    path.symlink_to(path.with_name("missing.h5"))


@_hostile
def no_permission(path, count):
    """Only a test for a user who is not root, who may read everything."""
    valid(path) if os.geteuid() else path.mkdir()
    path.chmod(0)


# ----------------------------------------------------------------------- other people's HDF5, for importers


def _keras_2(path: Path, layers: dict[str, dict[str, np.ndarray]], edit=lambda h5: None):
    """What `save_weights` of Keras 2 writes."""
    with h5py.File(path, "w") as h5:
        h5.attrs["layer_names"] = list(layers)
        for layer, arrays in layers.items():
            group = h5.create_group(layer)
            group.attrs["weight_names"] = list(arrays)
            for name, array in arrays.items():
                group[name] = array
        edit(h5)


def glow_tf2(path: Path, count: int = 0):
    """A small file in the layout of GLOW-tf2, in an order that is not the alphabet's; to be read."""
    step = {"glow/flow_step/b:0": np.ones([1, 1, 1, 4], np.float32), "conv2d/a:0": np.zeros([4], np.float32)}
    _keras_2(path, {"squeeze_layer": {}, "flow_step": step, "z__norm__last_layer": {"m:0": np.ones([2], np.float32)}})


@_foreign
def keras_name_that_is_not_there(path, count):
    _keras_2(path, {"a": {"k:0": np.ones(3)}}, lambda h5: h5["a"].attrs.__setitem__("weight_names", ["../b", "k:0"]))


@_foreign
def keras_listed_twice(path, count):
    _keras_2(path, {"a": {"k:0": np.ones(3)}}, lambda h5: h5["a"].attrs.__setitem__("weight_names", ["k:0", "k:0"]))


@_foreign
def keras_names_are_numbers(path, count):
    _keras_2(path, {"a": {"k:0": np.ones(3)}}, lambda h5: h5.attrs.__setitem__("layer_names", [1.0, 2.0]))


@_foreign
def keras_name_is_not_a_list(path, count):
    _keras_2(path, {"a": {"k:0": np.ones(3)}}, lambda h5: h5.attrs.__setitem__("layer_names", "a"))


@_foreign
def keras_layer_is_an_array(path, count):
    _keras_2(path, {"a": {"k:0": np.ones(3)}}, lambda h5: h5.attrs.__setitem__("layer_names", ["a/k:0"]))


@_foreign
def keras_weight_is_a_group(path, count):
    _keras_2(path, {"a": {"x/k:0": np.ones(3)}}, lambda h5: h5["a"].attrs.__setitem__("weight_names", ["x"]))


@_foreign
def keras_long_name(path, count):
    _keras_2(path, {"a": {"k:0": np.ones(3)}}, lambda h5: h5.attrs.__setitem__("layer_names", ["x" * count]))


@_foreign
def keras_many_names(path, count):
    """Names that all lie at one place."""
    _keras_2(path, {"a": {"k:0": np.ones(3)}}, lambda h5: h5.attrs.__setitem__("layer_names", ["a"] * 4000))


@_foreign
def keras_strings_that_loop(path, count):
    """The first string of the heap has length 0 and number 0; the HDF5 library reads such a file for ever."""
    _keras_2(path, {"a": {"k:0": np.ones(3)}})
    data = bytearray(path.read_bytes())
    at = data.index(b"GCOL") + 16
    data[at : at + 16] = bytes(16)
    path.write_bytes(data)


@_foreign
def keras_external_storage(path, count):
    secret = [(str(_secret(path)), 0, 12)]

    def edit(h5):
        h5["a"].create_dataset("s:0", (3,), "f4", external=secret)
        h5["a"].attrs["weight_names"] = ["s:0"]

    _keras_2(path, {"a": {"k:0": np.ones(3)}}, edit)


@_foreign
def keras_external_link(path, count):
    def edit(h5):
        h5["a/s:0"] = h5py.ExternalLink("other.h5", "k")
        h5["a"].attrs["weight_names"] = ["s:0"]

    _keras_2(path, {"a": {"k:0": np.ones(3)}}, edit)


@_foreign
def keras_arrays_that_overlap(path, count):
    """Many names of one array: together they are larger than the file."""

    def edit(h5):
        names = [f"n{i}" for i in range(200)]
        for name in names:
            h5[f"a/{name}"] = h5["a/k:0"]
        h5["a"].attrs["weight_names"] = names

    _keras_2(path, {"a": {"k:0": np.ones(100_000)}}, edit)


@_foreign
def keras_whole_model(path, count):
    config = '{"class_name": "Lambda"}'
    _keras_2(path, {"a": {"k:0": np.ones(3)}}, lambda h5: h5.attrs.__setitem__("model_config", config))


@_foreign
def many_foreign_groups(path, count):
    with h5py.File(path, "w") as h5:
        for i in range(count + 1):
            h5.create_group(f"g{i}")


@_foreign
def no_hdf5_at_all(path, count):
    path.write_text("these are no weights\n")
