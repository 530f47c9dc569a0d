"""Reads untrusted HDF5 files: their checksum, their contents, and their arrays.

The HDF5 library reads only a file's tables, in a child process; see `_hdf5_contents`.
"""

import functools
import hashlib
import io
import math
import os
import re

import numpy as np

from glow_tf import _hdf5_contents
from glow_tf._files import printable
from glow_tf._hdf5_contents import Contents
from glow_tf.errors import InputError

# The line after the HDF5 data: the SHA-256 of every byte before it.
SEAL = b"glow_tf sha256 "
SEAL_BYTES = len(SEAL) + 64 + 1  # 64 hex digits and a line feed

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CHUNK_BYTES = 1 << 20

# The contents of sealed files by digest, since a command opens its file several times.
_remembered: dict[str, Contents] = {}


def seal(digest: str) -> bytes:
    """The line that ends a weights file; `digest` is the SHA-256 of all bytes before it, 64 hex digits."""
    return SEAL + digest.encode("ascii") + b"\n"


def remember(digest: str, contents: Contents) -> None:
    """Caches the contents of a sealed file by its digest; holds at most 16."""
    if len(_remembered) >= 16:
        _remembered.clear()  # a single call, since other threads also read and write
    _remembered[digest] = contents


class H5File:
    """An open HDF5 file, called `path` in messages.

    Attributes:
        digest: the verified SHA-256 of a sealed file, 64 hex digits; empty for other files.
        contents: attributes, names, groups and arrays.

    Raises:
        InputError: the file is not HDF5, does not match its digest, or has unsupported contents; from any method.
    """

    def __init__(self, path: str | os.PathLike, file: io.FileIO) -> None:
        self.path = path
        self._file = file
        self._before = os.fstat(file.fileno())
        self._size = self._before.st_size
        head = self._bytes(0, min(4096, self._size))
        if not head.startswith(_SIGNATURE):
            tail = self._bytes(max(0, self._size - 8), min(8, self._size))
            raise self.error(f"is {_what_it_is(head, tail, os.fspath(path))}, not a weights file (HDF5)")
        self.digest = self._verified_digest()

    def error(self, what: str) -> InputError:
        """Creates an error for this file; `what` continues a sentence that begins with its name."""
        return InputError(f"{printable(self.path)} {what}")

    @functools.cached_property
    def contents(self) -> Contents:
        if self.digest in _remembered:
            return _remembered[self.digest]
        try:
            contents = _hdf5_contents.read_in_child(self._file)
        except _hdf5_contents.ContentsError as error:
            raise self.error(str(error)) from error
        arrays = [array for array in contents["arrays"].values() if not isinstance(array, str)]
        total = sum(math.prod(shape) * np.dtype(dtype).itemsize for _, dtype, shape in arrays)
        if total > self._size:  # arrays that share their bytes
            raise self.error(f"has arrays of {total:,} bytes in a file of {self._size:,}")
        if self.digest:
            remember(self.digest, contents)
        return contents

    def shape_and_dtype(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """The shape and dtype of an array that is stored as plain numbers in this file."""
        array = self.contents["arrays"][name]
        if isinstance(array, str):
            raise self.error(f"has {printable(name)}, which is {array}")
        return tuple(array[2]), np.dtype(array[1])

    def load(self, names: list[str]) -> dict[str, np.ndarray]:
        """Reads arrays."""
        kinds = {name: self.shape_and_dtype(name) for name in names}
        arrays = {name: self._load_one(name, *kinds[name]) for name in names}
        after = os.fstat(self._file.fileno())
        if (after.st_size, after.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise self.error("changed while it was being read")
        return arrays

    def _load_one(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        flat = np.empty(math.prod(shape), dtype)
        self._fill(self.contents["arrays"][name][0], flat.data.cast("B"))
        if not np.isfinite(flat).all():
            raise self.error(f"has NaN or infinite values in {printable(name)}")
        try:
            return flat.reshape(shape)
        except ValueError as error:  # an empty array whose other sides overflow in NumPy
            raise self.error(f"has {printable(name)} of shape {printable(shape)}") from error

    def _bytes(self, offset: int, count: int) -> bytes:
        buffer = bytearray(count)
        self._fill(offset, memoryview(buffer))
        return bytes(buffer)

    def _fill(self, offset: int, view: memoryview) -> None:
        while view:
            try:
                count = os.preadv(self._file.fileno(), [view[: 1 << 30]], offset)
            except OSError as error:
                raise self.error(f"cannot be read: {error.strerror}") from error
            if not count:
                raise self.error("is truncated")
            view, offset = view[count:], offset + count

    def _verified_digest(self) -> str:
        start = self._size - SEAL_BYTES
        line = self._bytes(start, SEAL_BYTES) if start > 0 else b""
        if not (line.startswith(SEAL) and line.endswith(b"\n")):
            return ""
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES))
        for offset in range(0, start, _CHUNK_BYTES):
            chunk = buffer[: min(_CHUNK_BYTES, start - offset)]
            self._fill(offset, chunk)
            digest.update(chunk)
        if line != seal(digest.hexdigest()):
            claimed = printable(line[len(SEAL) :][:8])
            raise self.error(f"is damaged: its SHA-256 begins {digest.hexdigest()[:8]}, the one at its end {claimed}")
        return digest.hexdigest()


# ------------------------------------------------------------------------------------------- other formats

_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # ends the .index file of a TensorFlow checkpoint
_KINDS = (
    (rb"\Z", "empty"),
    (rb"\x89PNG", "a PNG image"),
    (rb"\xff\xd8\xff", "a JPEG image"),
    (rb"GIF8", "a GIF image"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"\x93NUMPY", "a NumPy array (.npy)"),
    (rb"PK\x03\x04.*data\.pkl", "a torch file, which is never opened"),
    (rb"PK\x03\x04.*(metadata|config)\.json", "a Keras 3 .keras archive"),
    (rb"PK\x03\x04.*\.npy", "a NumPy archive (.npz)"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"\x80[\x02-\x05]", "a Python pickle or an old torch file, which is never opened"),
    (rb".{5}\0\0\0\{", "a safetensors file"),  # the length of a header, then the header in JSON
    (rb"version https://git-lfs", "a Git LFS pointer (git lfs pull fetches the file)"),
    (rb"model_checkpoint_path:", "a TensorFlow list of checkpoints"),
    (rb"\s*<(!doctype\s+html|html|head|body)", "an HTML page (a failed download?)"),
    (rb"[^\x00-\x08\x0e-\x1a]+\Z", "a text file"),
)


def _what_it_is(head: bytes, tail: bytes, name: str) -> str:
    """The format of a file that is not HDF5, from its first 4096 and last 8 bytes."""
    for pattern, kind in _KINDS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return kind
    if tail == _TABLE_MAGIC or ".data-0" in os.path.basename(name):
        return "part of a TensorFlow checkpoint"
    return f"something that begins with the bytes {head[:8].hex(' ')}"
