"""Files that a reader of weights must refuse: damaged, malicious, or not weights at all.

`HOSTILE` maps a name to a function that writes such a file, and `FOREIGN` to one for `weights.read_foreign`. Every
file but the damaged ones carries a valid digest, as an attacker's would.
"""

import hashlib
import io
import json
import os
import pickle
import random
import re
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from glow_tf import _hdf5, weights

CONFIG = {"image_shape": [32, 32, 3], "num_steps": 32}
METADATA = {"dataset": "cifar10", "step": 7}
ARRAYS = {
    "level0/actnorm/log_scale": np.linspace(-1, 1, 12, dtype=np.float32),
    "level0/conv/permutation": np.arange(12, dtype=np.int32),
    "level0/coupling/kernel": np.linspace(0, 1, 3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5),
    "level1/coupling/bias": np.zeros([2, 3], np.float64),
}
EXPECTED = {name: (array.shape, array.dtype) for name, array in ARRAYS.items()}
VICTIM = "level0/coupling/kernel"

HOSTILE: dict[str, Callable[[Path, int], object]] = {}
FOREIGN: dict[str, Callable[[Path, int], object]] = {}


def write_all(folder: Path, count: int, builders=None) -> dict[str, Path]:
    """Writes one file per builder into an empty folder; `count` is the size of the bombs: groups, levels, bytes."""
    paths = {}
    for name, build in (builders or HOSTILE).items():
        paths[name] = Path(folder) / name / "weights.h5"
        paths[name].parent.mkdir(parents=True)
        build(paths[name], count)
    return paths


def valid(path: Path, count: int = 0) -> None:
    """A file that must be read."""
    weights.write(path, ARRAYS, CONFIG, METADATA)


def reseal(data: bytes) -> bytes:
    """Gives a damaged file of ours a valid digest and a superblock that agrees with its length."""
    changed = bytearray(data[: data.rfind(_hdf5.SEAL)] if _hdf5.SEAL in data else data)
    changed[40:48] = len(changed).to_bytes(8, "little")
    return bytes(changed) + _hdf5.seal(hashlib.sha256(changed).hexdigest())


# ------------------------------------------------------------------------------------------- edited with h5py


def edited(path: Path, edit: Callable[[h5py.File], object], **options) -> None:
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
    path.write_bytes(data + _hdf5.seal(hashlib.sha256(data).hexdigest()))


def shared(path: Path, config: dict, count: int, size: int) -> None:
    """A sealed file of `count` arrays that are all the same `size` float32 zeros."""
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("earliest", "v110")) as h5:
        h5.attrs["format"] = np.bytes_("glow_tf")
        h5.attrs["format_version"] = np.int64(weights.FORMAT_VERSION)
        h5.attrs["config"] = np.bytes_(json.dumps(config))
        h5.attrs["metadata"] = np.bytes_(b"{}")
        offset = h5.create_dataset("0", data=np.zeros(size, np.float32)).id.get_offset()
        others = [h5.create_dataset(f"{i}", data=np.float32([i, i])).id.get_offset() for i in range(1, count)]
    data = bytearray(image.getvalue())
    starts = {struct.pack("<Q", other) for other in others}
    for match in re.finditer(rb"(?=\x08\0{7})", bytes(data)):  # the length of two float32, behind their offset
        if bytes(data[match.start() - 8 : match.start()]) in starts:
            data[match.start() - 8 : match.start() + 8] = struct.pack("<QQ", offset, 4 * size)
    data = data.replace(struct.pack("<QQQ", 1 << 16 | 257, 2, 2), struct.pack("<QQQ", 1 << 16 | 257, size, size))
    path.write_bytes(data + _hdf5.seal(hashlib.sha256(data).hexdigest()))


def _edit(name, edit, **options):
    HOSTILE[name] = lambda path, count: edited(path, lambda h5: edit(h5, path, count), **options)


def _replace(name, values):
    """A file whose victim is another object; `values` has the options of `create_dataset`, or an object."""

    def edit(h5, path, count):
        del h5[VICTIM]
        new = values(path, count)
        if isinstance(new, dict):
            h5.create_dataset(VICTIM, **new)
        else:
            h5[VICTIM] = new

    _edit(name, edit)


def _attribute(name, value, attribute="config"):
    _edit(name, lambda h5, path, count: h5.attrs.__setitem__(attribute, value))


def _secret(path):
    """A local file that no weights file may bring in."""
    secret = path.with_name("secret.txt")
    secret.write_text("a line of a local file\n" * 50)
    return [(str(secret), 0, 240)]


def _virtual(h5, path, count):
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["kernel"] = ARRAYS[VICTIM]
    sources = h5py.VirtualLayout((3, 4, 5), "f4")
    sources[:] = h5py.VirtualSource("other.h5", "kernel", (3, 4, 5))
    del h5[VICTIM]
    h5.create_virtual_dataset(VICTIM, sources)


def _nested(h5, count, also=None):
    for _ in range(count):
        child = h5.create_group("a")
        if also:
            h5[also] = child  # two paths to each group: 2**count in all
        h5 = child


def _compact(h5, path, count):
    del h5[VICTIM]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(h5.id, VICTIM.encode(), h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3, 4, 5)), properties)


def _with(value):
    return np.where(ARRAYS[VICTIM] == 1, np.float32(value), ARRAYS[VICTIM])


_replace("external_link", lambda path, count: h5py.ExternalLink("other.h5", VICTIM))
_replace("soft_link", lambda path, count: h5py.SoftLink("/level0/actnorm/log_scale"))
_replace("soft_link_to_nothing", lambda path, count: h5py.SoftLink("/elsewhere"))
_replace("external_storage", lambda path, count: {"shape": (3, 4, 5), "dtype": "f4", "external": _secret(path)})
_edit("virtual_data_set", _virtual)
_edit("user_block", lambda h5, path, count: None, userblock_size=512)
_edit("group_inside_itself", lambda h5, path, count: h5.__setitem__("level0/again", h5["level0"]))
_edit("doubling_hard_links", lambda h5, path, count: _nested(h5, 30, also="b"))
_edit("two_names_of_an_array", lambda h5, path, count: h5.__setitem__("level9", h5[VICTIM]))
_replace("shape_bomb", lambda path, count: {"shape": (1 << 40,), "dtype": "f4"})
_replace("shape_overflow", lambda path, count: {"shape": (1 << 31, 1 << 31), "dtype": "f4", "chunks": (64, 64)})
_replace("gzip_bomb", lambda path, count: {"shape": (count * 1000,), "chunks": (1 << 20,), "compression": "gzip"})
_replace("gzip", lambda path, count: {"data": ARRAYS[VICTIM], "compression": "gzip"})
_replace("checksum_filter", lambda path, count: {"data": ARRAYS[VICTIM], "fletcher32": True})
_edit("many_groups", lambda h5, path, count: [h5.create_group(f"g{i}") for i in range(count)])
_edit("deep_nesting", lambda h5, path, count: _nested(h5, count // 20))
_edit("many_attributes", lambda h5, path, count: [h5.attrs.create(f"a{i}", 1) for i in range(min(count // 20, 50_000))])
_edit(
    "huge_attribute",
    lambda h5, path, count: h5.attrs.__setitem__("more", np.zeros(count * 100, np.uint8)),
    libver="latest",
)
_edit("long_name", lambda h5, path, count: h5.create_group("x" * 60_000))
_replace("nan", lambda path, count: _with("nan"))
_replace("infinity", lambda path, count: _with("inf"))
_replace("transposed", lambda path, count: ARRAYS[VICTIM].T)
_edit("missing_array", lambda h5, path, count: h5.__delitem__(VICTIM))
_edit("extra_array", lambda h5, path, count: h5.__setitem__("level9/kernel", ARRAYS[VICTIM]))
_edit("missing_and_extra", lambda h5, path, count: h5.move("level0", "level7"))
_edit("group_for_an_array", lambda h5, path, count: (h5.__delitem__(VICTIM), h5.create_group(VICTIM)))
_edit("array_for_a_group", lambda h5, path, count: (h5.__delitem__("level0"), h5.__setitem__("level0", np.ones(3))))
_replace("named_type", lambda path, count: np.dtype("f4"))
_replace("no_values", lambda path, count: {"data": h5py.Empty("f4")})
_replace("never_written", lambda path, count: {"shape": (3, 4, 5), "dtype": "f4"})
_edit("compact_storage", _compact)
_replace("type_object", lambda path, count: {"data": np.array([["text"] * 5] * 12, object)})
for _code in ("S4", "f8", "f2", ">f4", "i4", "c8", "?", [("a", "f2"), ("b", "f2")]):
    _replace(f"type_{_code}", lambda path, count, code=_code: np.zeros((3, 4, 5), code if code != "f2" else "i2"))

for _name, _value in {
    "too_long": np.bytes_(b"{" + b" " * 63_000 + b"}"),
    "nested": np.bytes_(b"[" * 50_000),
    "deep_object": np.bytes_(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "not_json": np.bytes_(b"{num_steps: 32}"),
    "list": np.bytes_(b"[1, 2]"),
    "nan": np.bytes_(b'{"num_steps": NaN}'),
    "huge_float": np.bytes_(b'{"num_steps": 1e400}'),
    "huge_integer": np.bytes_(b'{"num_steps": 1' + b"0" * 400 + b"}"),
    "not_unicode": np.bytes_(b'{"a": "\xff\xfe"}'),
    "odd_key": np.bytes_(rb'{"\u001b[2J": 1}'),
    "long_text": np.bytes_(b'{"coupling": "' + b"x" * 50_000 + b'"}'),
    "object": np.bytes_(b'{"coupling": {"a": 1}}'),
    "number": 3.5,
    "empty": h5py.Empty("f4"),
}.items():
    _attribute(f"config_{_name}", _value)
for _name, _value in {
    "class_names_true": b'{"class_names": true}',
    "class_names_numbers": b'{"class_names": [1, 2]}',
    "dataset_number": b'{"dataset": 5}',
    "huge_bits": b'{"test_bits_per_dim": 1' + b"0" * 400 + b"}",
    "bits_text": b'{"test_bits_per_dim": "2"}',
    "step_float": b'{"step": 1.5}',
    "summary_list": b'{"train_bits_per_dim": [1]}',
}.items():
    _attribute(f"metadata_{_name}", np.bytes_(_value), "metadata")
_attribute("lambda_in_model_config", '{"class_name": "Lambda"}', "model_config")
_attribute("newer_version", np.int64(2), "format_version")
_attribute("version_not_a_number", np.bytes_("one"), "format_version")
_attribute("other_format", np.bytes_("other\nprogram"), "format")
_edit("no_metadata", lambda h5, path, count: h5.attrs.__delitem__("metadata"))
_edit("metadata_twice", lambda h5, path, count: h5.__setitem__("metadata", np.frombuffer(b"{}", np.uint8)))
_edit(
    "metadata_of_floats",
    lambda h5, path, count: (h5.attrs.__delitem__("metadata"), h5.__setitem__("metadata", np.zeros(3))),
)
_edit(
    "metadata_too_long",
    lambda h5, path, count: (
        h5.attrs.__delitem__("metadata"),
        h5.__setitem__("metadata", np.full(5_000_000, 32, np.uint8)),
    ),
)

# ------------------------------------------------------------------------------------------- damaged bytes


def _bytes(name, change, builders=HOSTILE, make=valid):
    """A file whose bytes `change` replaces."""

    def build(path, count):
        make(path)
        path.write_bytes(change(path.read_bytes()))

    builders[name] = build


def _looping_tree(data):
    """The root's tree of names is its own child, one level deeper without end."""
    changed, tree = bytearray(data), data.index(b"TREE")
    changed[tree + 5] = 255
    changed[tree + 32 : tree + 40] = tree.to_bytes(8, "little")
    return reseal(changed)


def _looping_header(data):
    """A continuation block that continues in itself."""
    changed, root = bytearray(data[:-80]), int.from_bytes(data[64:72], "little")
    changed[root + 16 : root + 40] = struct.pack("<HHB3x2Q", 0x10, 16, 0, root + 16, 24)
    return reseal(changed)


def _flipped(data):
    at = data.index(ARRAYS[VICTIM].tobytes()) + 9
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


_large_shape = struct.pack("<3Q", 3, 4, 1 << 40)
_bytes("shape_larger_than_stored", lambda data: reseal(data.replace(struct.pack("<3Q", 3, 4, 5), _large_shape, 1)))
_bytes("tree_that_loops", _looping_tree)
_bytes("header_that_loops", _looping_header)
_bytes("no_digest", lambda data: data[:-80])
_bytes("half_a_digest", lambda data: data[:-40])
_bytes("wrong_digest", lambda data: data[:-80] + _hdf5.seal("0" * 64))
_bytes("one_bit_flipped", _flipped)
_bytes("page_of_zeros", lambda data: data[:1024] + bytes(1024) + data[2048:])
_bytes("truncated", lambda data: data[:3000])
_bytes("sealed_and_truncated", lambda data: reseal(data[:3000]))
_bytes("only_a_signature", lambda data: data[:8])
_bytes("bytes_behind_the_digest", lambda data: data + b"more")

# ------------------------------------------------------------------------------------------- other kinds of file


def _zip(*names):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.writestr(name, "{}")
    return archive.getvalue()


class _RunsCode:
    def __reduce__(self):
        return os.mkdir, ("pickle-was-loaded",)


for _name, _data in {
    "empty": b"",
    "text": b"these are no weights\n",
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "jpeg": b"\xff\xd8\xff\xe0" + bytes(100),
    "pickle_file": pickle.dumps(_RunsCode(), protocol=4),
    "keras_archive": _zip("metadata.json", "config.json", "model.weights.h5"),
    "torch_archive": _zip("model/data.pkl", "model/version"),
    "numpy_archive": _zip("kernel.npy"),
    "other_archive": _zip("readme"),
    "numpy_array": b"\x93NUMPY\1\0" + bytes(64),
    "gzip_archive": b"\x1f\x8b\x08" + bytes(64),
    "safetensors": struct.pack("<Q", 30) + b'{"kernel":{"dtype":"F32"}}    ' + bytes(64),
    "tensorflow_index": bytes(60) + bytes.fromhex("57fb808b247547db"),
    "tensorflow_list": b'model_checkpoint_path: "ckpt-1"\n',
    "git_lfs_pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "random_bytes": random.Random(0).randbytes(10_000),
    "zeros": bytes(10_000),
}.items():
    _bytes(_name, lambda data, new=_data: new, make=Path.touch)


def _unix_socket(path, count):
    """Bound by its bare name: the address of a socket has room for about 100 characters."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


HOSTILE |= {
    "sparse_giant": lambda path, count: (valid(path), os.truncate(path, 1 << 40)),
    "sparse_zeros": lambda path, count: (path.touch(), os.truncate(path, 4_000_000_000)),
    "folder": lambda path, count: path.mkdir(),
    "pipe": lambda path, count: os.mkfifo(path),
    "unix_socket": _unix_socket,
    "endless_device": lambda path, count: path.symlink_to("/dev/zero"),
    "link_to_itself": lambda path, count: path.symlink_to(path),
    "link_to_nothing": lambda path, count: path.symlink_to(path.with_name("missing.h5")),
}

# ------------------------------------------------------------------------------------------- for the importers


def keras_2(path: Path, layers: dict[str, dict[str, np.ndarray]]) -> None:
    """What `save_weights` of Keras 2 writes."""
    with h5py.File(path, "w") as h5:
        h5.attrs["layer_names"] = list(layers)
        for layer, arrays in layers.items():
            group = h5.create_group(layer)
            group.attrs["weight_names"] = list(arrays)
            for name, array in arrays.items():
                group[name] = array


def glow_tf2(path: Path, count: int = 0) -> None:
    """A small file in GLOW-tf2's layout, in an order that is not the alphabet's; it must be read."""
    step = {"glow/flow_step/b:0": np.ones([1, 1, 1, 4], np.float32), "conv2d/a:0": np.zeros([4], np.float32)}
    keras_2(path, {"squeeze_layer": {}, "flow_step": step, "z__norm__last_layer": {"m:0": np.ones([2], np.float32)}})


def _keras(name, edit):
    def build(path, count):
        keras_2(path, {"a": {"k:0": np.ones(3), "x/y:0": np.ones(100_000)}})
        with h5py.File(path, "a") as h5:
            edit(h5, path, count)

    FOREIGN[name] = build


def _list(name, attribute, values):
    def edit(h5, path, count):
        (h5 if attribute == "layer_names" else h5["a"]).attrs[attribute] = values(count)

    _keras(name, edit)


def _many_names(h5, path, count):
    names = [f"n{i}" for i in range(200)]
    for name in names:
        h5[f"a/{name}"] = h5["a/x/y:0"]
    h5["a"].attrs["weight_names"] = names


def _zero_string(data):
    """The first string of the heap has length 0 and number 0; the HDF5 library reads such a file for ever."""
    at = data.index(b"GCOL") + 16
    return data[:at] + bytes(16) + data[at + 16 :]


def _listed(h5, new):
    h5["a/s:0"] = new
    h5["a"].attrs["weight_names"] = ["s:0"]


_list("keras_name_that_is_not_there", "weight_names", lambda count: ["../b", "k:0"])
_list("keras_listed_twice", "weight_names", lambda count: ["k:0", "k:0"])
_list("keras_weight_is_a_group", "weight_names", lambda count: ["x"])
_list("keras_names_are_numbers", "layer_names", lambda count: [1.0, 2.0])
_list("keras_name_is_not_a_list", "layer_names", lambda count: "a")
_list("keras_layer_is_an_array", "layer_names", lambda count: ["a/k:0"])
_list("keras_long_name", "layer_names", lambda count: ["x" * count])
_list("keras_many_names", "layer_names", lambda count: ["a"] * 4000)
_keras("keras_arrays_that_overlap", _many_names)
_bytes("keras_strings_that_loop", _zero_string, FOREIGN, glow_tf2)
_keras("keras_external_link", lambda h5, path, count: _listed(h5, h5py.ExternalLink("other.h5", "k")))
_keras("keras_whole_model", lambda h5, path, count: h5.attrs.__setitem__("model_config", '{"class_name": "Lambda"}'))
_keras("many_foreign_groups", lambda h5, path, count: [h5.create_group(f"g{i}") for i in range(count + 1)])
_bytes("no_hdf5_at_all", lambda data: b"these are no weights\n", FOREIGN, Path.touch)
