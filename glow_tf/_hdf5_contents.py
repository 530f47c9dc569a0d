"""Reads the table of contents of HDF5 files with h5py, in a child process of limited time and memory.

A crafted file can make the HDF5 library loop, take gigabytes, or open other files, even if its checksum is valid. The
library therefore runs in a child, which reads no array and follows no link. It reports the offset, type and shape of
each array, and `_hdf5` reads the arrays itself. A child costs 0.2 s, so the contents of a verified file are cached by
its SHA-256.

The child runs this file as a program, without the package.
"""

import contextlib
import json
import math
import os
import resource
import subprocess
import sys
import time
from typing import Any, BinaryIO, TypedDict

import h5py
import numpy as np

MAX_OBJECTS = 20_000  # groups and data sets; the largest supported model of another program has about 1,500
MAX_DEPTH = 8  # nested groups; Keras nests 5 deep
MAX_NAME_BYTES = 512
MAX_TEXT_BYTES = 64_000  # an HDF5 attribute holds at most 64 KiB
MAX_ATTRIBUTES = 64

_CPU_SECONDS = 2
_WALL_SECONDS = 60  # generous, for a busy machine
_MEMORY = 128 << 20  # beyond the imports

# The supported types; arrays of any other type are refused.
TYPES = {
    **{f"<f{size}": getattr(h5py.h5t, f"IEEE_F{8 * size}LE") for size in (2, 4, 8)},
    **{f"<i{size}": getattr(h5py.h5t, f"STD_I{8 * size}LE") for size in (1, 2, 4, 8)},
    **{f"<u{size}": getattr(h5py.h5t, f"STD_U{8 * size}LE") for size in (1, 2, 4, 8)},
}


class ContentsError(ValueError):
    """A file is damaged or has unsupported contents; the message continues a sentence that begins with its name."""


class Contents(TypedDict):
    """The contents of an HDF5 file as plain JSON values.

    `attributes` are those of the root group: a string, an integer, or None for anything else. `names` holds the lists
    in Keras 2's attributes layer_names and weight_names, by the path of their group. An array is
    (offset, dtype, shape), or a string that says why it cannot be read.
    """

    attributes: dict[str, Any]
    names: dict[str, list[str]]
    groups: list[str]
    arrays: dict[str, Any]


def read(file: BinaryIO) -> Contents:
    """Reads the contents of a trusted file, in this process; for other files, and for errors, see `read_in_child`."""
    try:
        with h5py.File(file, "r") as h5:
            return _read(h5)
    except ContentsError:
        raise
    except Exception as error:  # h5py raises nearly anything on damaged tables
        raise ContentsError("is truncated or damaged: the HDF5 library cannot read it") from error


def _read(h5: h5py.File) -> Contents:
    contents = Contents(attributes=_attributes(h5), names={}, groups=[], arrays={})
    pending, seen = [("", h5)], {h5py.h5o.get_info(h5.id).addr}
    while pending:
        path, group = pending.pop()
        names = _names(group)
        if names is not None:
            contents["names"][path] = names
        for name in _members(group, len(seen)):
            address, kind = _link(group, name)
            full = f"{path}/{name}" if path else name
            if full.count("/") >= MAX_DEPTH:
                raise ContentsError(f"nests groups more than {MAX_DEPTH} deep")
            if address is None:
                contents["arrays"][full] = "a link to another object or file"
            elif address in seen:
                contents["arrays"][full] = "a second name of the same object"
            elif kind == h5py.h5o.TYPE_GROUP:
                contents["groups"].append(full)
                pending.append((full, group[name]))
            elif kind == h5py.h5o.TYPE_DATASET:
                contents["arrays"][full] = _array(group[name].id)
            else:
                contents["arrays"][full] = "neither a group nor an array"
            seen.add(address)
    return contents


def _attributes(h5: h5py.File) -> dict[str, Any]:
    if h5py.h5o.get_info(h5.id).num_attrs > MAX_ATTRIBUTES:
        raise ContentsError(f"has more than {MAX_ATTRIBUTES} attributes")
    values: dict[str, Any] = dict.fromkeys(h5.attrs)
    for name in ("format", "format_version", "config", "metadata"):
        if name in values and h5.attrs.get_id(name).get_storage_size() <= MAX_TEXT_BYTES:
            value = h5.attrs[name]
            values[name] = int(value) if isinstance(value, np.int64) else _text(value, MAX_TEXT_BYTES)
    return values


def _names(group: h5py.Group) -> list[str] | None:
    """Keras' list of names in a group's attribute (fixed-length strings, or variable-length since h5py 3), or None."""
    for attribute in ("layer_names", "weight_names"):
        if attribute in group.attrs:
            value = group.attrs[attribute]
            if getattr(value, "ndim", 0) != 1 or value.size > MAX_OBJECTS:
                return None
            names = [_text(name) for name in value.tolist()]
            return None if None in names else [name for name in names if name is not None]
    return None


def _text(value: Any, limit: int = MAX_NAME_BYTES) -> str | None:
    """A value as a string of at most `limit` bytes in UTF-8, or None."""
    try:
        data = value.encode() if isinstance(value, str) else value
        return data.decode() if isinstance(data, bytes) and len(data) <= limit else None
    except UnicodeError:
        return None


def _members(group: h5py.Group, count: int) -> list[str]:
    if count + len(group) > MAX_OBJECTS:
        raise ContentsError(f"holds more than {MAX_OBJECTS:,} groups and arrays")
    names = sorted(group)
    if not all(map(_text, names)):
        raise ContentsError(f"has a name that is not UTF-8 or has more than {MAX_NAME_BYTES} bytes")
    return names


def _link(group: h5py.Group, name: str) -> tuple[int | None, int | None]:
    """(address, type) of a hard link's target; (None, None) for any other link."""
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        return None, None
    info = h5py.h5o.get_info(group.id, name.encode())
    return info.addr, info.type


def _array(data_set: h5py.h5d.DatasetID) -> tuple[int, str, tuple[int, ...]] | str:
    """(offset, dtype, shape) of a plain array, or why it cannot be read."""
    properties, space, kind = data_set.get_create_plist(), data_set.get_space(), data_set.get_type()
    if properties.get_layout() != h5py.h5d.CONTIGUOUS or properties.get_nfilters():
        return "in chunks, compressed, compact or virtual: only plain arrays are read"
    if properties.get_external_count():
        return "data in another file, which is not read"
    dtype = next((code for code, known in TYPES.items() if kind.equal(known)), None)
    if dtype is None or space.get_simple_extent_type() == h5py.h5s.NULL:
        return "not made of little-endian floats or integers"
    shape = space.get_simple_extent_dims()
    count = kind.get_size() * math.prod(shape)
    if count != data_set.get_storage_size() or (count and data_set.get_offset() is None):
        return f"of shape {shape}, but {data_set.get_storage_size()} bytes are stored"
    return data_set.get_offset() or 0, dtype, shape


# ------------------------------------------------------------------------------------------- the child


def read_in_child(file: BinaryIO) -> Contents:
    """Reads the contents of an untrusted file, in a child process; may change the file's position.

    Raises:
        ContentsError: the library fails on the file or takes too long, or the file has too many objects.
    """
    paths = filter(os.path.isabs, sys.path)  # without the working directory
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-S", "-P", __file__],
            stdin=file,
            capture_output=True,
            timeout=_WALL_SECONDS,
            env=environment,
            start_new_session=True,  # so that Ctrl-C in a terminal reaches only the parent
            check=False,
        )
        answer = json.loads(done.stdout)
    except OSError as error:
        raise ContentsError(f"cannot be read: no child process can be started ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise ContentsError(f"is damaged: the HDF5 library did not read it in {_WALL_SECONDS} s") from error
    except (ValueError, RecursionError) as error:
        reason = "fails on it" if done.returncode >= 0 else f"died on it (signal {-done.returncode})"
        raise ContentsError(f"is damaged: the HDF5 library {reason}") from error
    if "error" in answer:
        raise ContentsError(answer["error"])
    return answer


def _limit_resources() -> None:
    limits = {resource.RLIMIT_CPU: math.ceil(time.process_time()) + _CPU_SECONDS, resource.RLIMIT_CORE: 0}
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:  # Linux
        limits[resource.RLIMIT_AS] = int(file.read().split()[0]) * resource.getpagesize() + _MEMORY
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def _main() -> None:
    _limit_resources()
    try:
        with open(0, "rb", closefd=False) as file:
            answer: Any = read(file)
    except ContentsError as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
