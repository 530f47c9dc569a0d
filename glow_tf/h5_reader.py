"""A reader for HDF5 files that nobody vouches for.

Weights come from other people, and the HDF5 library is no guard. On damaged files HDF5 1.14.6 did not return
within 20 s (12 of 1,000 mutants with lists of names, 12 of 40,000 without) and took 2 GB for a file of 17 KB, and it
opens other files when a file tells it to. This is Python that knows the part of the format that `weights.write` and
Keras 2 use (HDF5 specification 3.0: superblock 0, symbol tables, version 1 headers, contiguous layout); the rest is
refused.
"""

import dataclasses
import functools
import hashlib
import io
import os
import re
import struct
from collections.abc import Iterator, Mapping

import h5py
import numpy as np

from glow_tf._files import printable
from glow_tf.errors import InputError

MAX_FILE_BYTES = 4_400_000_000  # 1e9 parameters in float32 and a tenth for tables; bounds the time of a digest
MAX_TABLE_BYTES = 16_000_000  # groups, headers and names together; the largest foreign model has under 1 MB
MAX_OBJECTS = 20_000  # groups and data sets; the largest foreign model has about 1,500
MAX_JSON_BYTES = 60_000  # an HDF5 attribute holds at most 64 KiB
MAX_DEPTH = 8  # Keras nests 5 deep
MAX_NAME_BYTES = 512

# The line behind the HDF5 data: the SHA-256 of every byte before it.
SEAL = b"glow_tf sha256 "
SEAL_BYTES = len(SEAL) + 64 + 1  # 64 hex digits and the end of the line

_CHUNK_BYTES = 1 << 20
_MAX_SHOWN = 300  # characters of a name from a file inside a message


def seal(digest: str) -> bytes:
    """The line that ends a weights file; `digest` is the SHA-256 of all bytes before it, 64 hex digits."""
    return SEAL + digest.encode("ascii") + b"\n"


_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_UNDEFINED = 2**64 - 1  # the address of what is not there

# Header messages (HDF5 specification, IV.A.2).
_DATASPACE, _DATATYPE, _LAYOUT, _ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = 0x01, 0x03, 0x08, 0x0C, 0x10, 0x11
_WITHOUT_MEANING_HERE = {0x00, 0x04, 0x05, 0x0D, 0x0E, 0x12}  # nil, fill values, comment, times
_REFUSED = {
    0x02: "links of the newer format (soft, external, or many)",
    0x06: "links of the newer format (soft, external, or many)",
    0x07: "data in an external file",
    0x0B: "compressed or filtered data",
}
_SHARED = 0x02  # flag of a message that stands elsewhere
_SOFT_LINK = 2  # cache type of a symbol table entry


@functools.cache
def number_encodings() -> dict[bytes, np.dtype]:
    """The datatype messages of little-endian floats and integers, byte for byte."""
    codes = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
    types = [np.dtype("<" + code) for code in codes]
    return {h5py.h5t.py_create(dtype).encode()[2:]: dtype for dtype in types}  # after a type and a version


@dataclasses.dataclass(frozen=True)
class _Attribute:
    datatype: bytes
    shape: tuple[int, ...] | None
    data: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class H5Object:
    """A group or a data set, as its header describes it.

    Attributes:
        attributes: by name.
        messages: the other header messages, by kind.
    """

    attributes: dict[str, _Attribute]
    messages: dict[int, bytes]


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Where an array lies in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    num_bytes: int


class H5File:
    """The tables and arrays of an open HDF5 file.

    Every read is checked against the file's size. So are all tables together, and against MAX_TABLE_BYTES:
    a sound file has each table once, and loops and overlaps come to an end.

    Attributes:
        sealed: whether the file ends in a digest, which then is the right one.
        digest: that one, 64 hex digits; empty where there is none.
        root: the root group.
    Raises:
        InputError: by every method, for whatever is not as this reader knows it.
    """

    def __init__(self, path: str | os.PathLike, file: io.FileIO):
        self.path = path
        self._file = file
        self._before = os.fstat(file.fileno())
        self._size = self._before.st_size
        self._budget = min(self._size, MAX_TABLE_BYTES)
        self._objects: dict[int, H5Object] = {}
        self._links: dict[H5Object, dict[str, int]] = {}
        self._heaps: dict[int, dict[int, bytes]] = {}
        head = self._bytes(0, min(4096, self._size))
        if not head.startswith(_HDF5_SIGNATURE):
            tail = self._bytes(max(0, self._size - 8), min(8, self._size))
            raise self.error(f"is {_what_it_is(head, tail, os.fspath(path))}, not a weights file (HDF5)")
        self.digest = ""
        self.sealed = self._check_seal()
        self.root = self._object(self._root_address(head))

    def error(self, what: str) -> InputError:
        return InputError(f"{printable(self.path)} {what}")

    def _damage(self, what: str) -> InputError:
        return self.error(f"is damaged, or in a form of HDF5 that is not read: {what}")

    # Bytes.

    def _bytes(self, offset: int, count: int) -> bytes:
        buffer = bytearray(count)
        self._fill(offset, memoryview(buffer))
        return bytes(buffer)

    def _fill(self, offset: int, view: memoryview):
        while view:
            try:
                count = os.preadv(self._file.fileno(), [view[: 1 << 30]], offset)
            except OSError as error:
                raise self.error(f"cannot be read: {error.strerror}") from error
            if not count:
                raise self.error("was cut short while it was read")
            view, offset = view[count:], offset + count

    def _table(self, offset: int, count: int) -> bytes:
        """Bytes of a table; `offset` and `count` come from the file."""
        self._budget -= count
        if offset + count > self._size:
            raise self._damage(f"a table at {offset} ends after the file's {self._size} bytes")
        if self._budget < 0:
            raise self._damage(f"its tables overlap, or take more than {MAX_TABLE_BYTES} bytes")
        return self._bytes(offset, count)

    def _unpack(self, form: str, data: bytes, offset: int = 0) -> tuple:
        """Integers from a table."""
        if offset + struct.calcsize(form) > len(data):
            raise self._damage("a table is too short")
        return struct.unpack_from(form, data, offset)

    def _text(self, data: bytes) -> str:
        """A name from a table, up to its first zero."""
        text = data.split(b"\0", 1)[0]
        if len(text) > MAX_NAME_BYTES:
            raise self._damage(f"a name of more than {MAX_NAME_BYTES} bytes")
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise self._damage(f"the name {printable(text)}") from error

    # The file as a whole.

    def _check_seal(self) -> bool:
        start = self._size - SEAL_BYTES
        line = self._bytes(start, SEAL_BYTES) if start > 0 else b""
        if not (line.startswith(SEAL) and line.endswith(b"\n")):
            return False
        self._size = start
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES))
        for offset in range(0, start, _CHUNK_BYTES):
            chunk = buffer[: min(_CHUNK_BYTES, start - offset)]
            self._fill(offset, chunk)
            digest.update(chunk)
        if line != seal(digest.hexdigest()):
            claimed = printable(line[len(SEAL) :][:8])
            found = digest.hexdigest()[:8]
            raise self.error(f"is damaged: its SHA-256 begins {found}, the one at its end {claimed}")
        self.digest = digest.hexdigest()
        return True

    def _root_address(self, head: bytes) -> int:
        if len(head) < 96:
            raise self.error(f"is cut short: {len(head)} bytes are there")
        if head[8:12] != bytes(4) or head[13:15] != b"\x08\x08":
            raise self._damage(f"superblock version {head[8]}, where the earliest format has version 0")
        base, _, end, driver, _, root = struct.unpack_from("<6Q", head, 24)
        if end > self._size:
            raise self.error(f"is cut short: {self._size} of {end} bytes are there")
        if end < self._size:
            raise self.error(f"is damaged: {self._size - end} bytes that are no digest follow its HDF5 part")
        if base != 0 or driver != _UNDEFINED:
            raise self._damage("it spans several files or begins later")
        return root

    # Objects and links.

    def _object(self, address: int) -> H5Object:
        if address not in self._objects:
            self._objects[address] = self._read_object(address)
        return self._objects[address]

    def _read_object(self, address: int) -> H5Object:
        attributes, messages = {}, {}
        for kind, flags, data in self._messages(address):
            if kind in _WITHOUT_MEANING_HERE:
                continue
            if kind in _REFUSED:
                raise self.error(f"uses {_REFUSED[kind]}, which is not read")
            known = kind in (_DATASPACE, _DATATYPE, _LAYOUT, _ATTRIBUTE, _SYMBOL_TABLE)
            if not known or flags & _SHARED or kind in messages:
                raise self._damage(f"message {kind:#x} in the header at {address}")
            if kind == _ATTRIBUTE:
                name, attribute = self._attribute(data)
                attributes[name] = attribute
            else:
                messages[kind] = data
        return H5Object(attributes, messages)

    def _messages(self, address: int) -> Iterator[tuple[int, int, bytes]]:
        """Kind, flags and data of every message of a version 1 object header."""
        version, size = self._unpack("<B7xI", self._table(address, 16))
        if version != 1:
            raise self._damage(f"no version 1 header at {address}")
        blocks = [(address + 16, size)]
        for block_address, block_size in blocks:
            block = self._table(block_address, block_size)
            at = 0
            while at < len(block):
                kind, size, flags = self._unpack("<HHB3x", block, at)
                data = block[at + 8 : at + 8 + size]
                if len(data) != size:
                    raise self._damage(f"a message at {block_address + at} is cut short")
                if kind == _CONTINUATION:
                    blocks.append(self._unpack("<2Q", data))
                else:
                    yield kind, flags, data
                at += 8 + size

    def links(self, group: H5Object) -> dict[str, int]:
        """Names and header addresses of a group's members."""
        if group not in self._links:
            self._links[group] = self._read_links(group)
        return self._links[group]

    def _read_links(self, group: H5Object) -> dict[str, int]:
        if _SYMBOL_TABLE not in group.messages:
            raise self._damage("a data set stands where a group should")
        tree, heap = self._unpack("<2Q", group.messages[_SYMBOL_TABLE])
        heap_head = self._table(heap, 32)
        names_size, _, names = self._unpack("<3Q", heap_head, 8)
        if heap_head[:5] != b"HEAP\0":
            raise self._damage(f"no heap of names at {heap}")
        members = {}
        for node in self._tree_leaves(tree):
            signature, count = self._unpack("<5sxH", self._table(node, 8))
            if signature != b"SNOD\1":
                raise self._damage(f"no symbol table at {node}")
            entries = self._table(node + 8, 40 * count)
            for name_offset, address, cache_type in struct.iter_unpack("<2QI20x", entries):
                if name_offset >= names_size:
                    raise self._damage("a name lies outside its heap")
                name = self._name(names + name_offset)
                if cache_type == _SOFT_LINK or address == _UNDEFINED:
                    raise self.error(f"has a soft link, {printable(name)}; links are not followed")
                members[name] = address
                if len(members) > MAX_OBJECTS:
                    raise self.error(f"holds more than {MAX_OBJECTS} groups and data sets")
        return members

    def _tree_leaves(self, address: int, level: int | None = None) -> Iterator[int]:
        """Addresses of the symbol table nodes below a version 1 B-tree node."""
        signature, kind, found_level, count = self._unpack("<4sBBH", self._table(address, 24))
        if signature != b"TREE" or kind != 0 or level not in (None, found_level):
            raise self._damage(f"no tree of names at {address}")
        for _, child in struct.iter_unpack("<2Q", self._table(address + 24, 16 * count)):
            if found_level == 0:
                yield child
            else:
                yield from self._tree_leaves(child, found_level - 1)

    def _name(self, offset: int) -> str:
        count = min(MAX_NAME_BYTES + 1, max(0, self._size - offset))
        name = self._text(self._bytes(offset, count))
        self._table(offset, len(name) + 1)
        if not name or name == "." or "/" in name:
            raise self._damage(f"the name {printable(name)}")
        return name

    def descend(self, group: H5Object, path: str) -> H5Object:
        """What lies at `path` under a group."""
        for part in path.split("/"):
            if part not in self.links(group):
                raise self.error(f"lists {printable(path)}, but has not got it")
            group = self._object(self.links(group)[part])
        return group

    def walk(self) -> dict[str, H5Object]:
        """Every data set of the file by its path, in the order of the paths."""
        found, num_objects = {}, 0
        pending = [("", self.root)]
        while pending:
            prefix, group = pending.pop()
            for link, address in self.links(group).items():
                num_objects += 1
                name, member = prefix + link, self._object(address)
                if num_objects > MAX_OBJECTS:
                    raise self.error(f"holds more than {MAX_OBJECTS} groups and data sets")
                if name.count("/") >= MAX_DEPTH:
                    raise self.error(f"nests groups more than {MAX_DEPTH} deep")
                if _SYMBOL_TABLE in member.messages:
                    pending.append((name + "/", member))
                else:
                    found[name] = member
        return dict(sorted(found.items()))

    # Attributes.

    def _attribute(self, data: bytes) -> tuple[str, _Attribute]:
        version, flags, *sizes = self._unpack("<2B3H", data)
        if version not in (1, 2, 3) or (version > 1 and flags):
            raise self._damage(f"an attribute of version {version}")
        at = 9 if version == 3 else 8  # version 3 adds the character set of the name
        parts = []
        for size in sizes:
            parts.append(data[at : at + size])
            at += (size + 7) // 8 * 8 if version == 1 else size
        name, datatype, dataspace = parts
        return self._text(name), _Attribute(datatype, self._shape(dataspace), data[at:])

    def text(self, name: str) -> bytes:
        """A root attribute that holds one string of fixed length."""
        attribute = self.root.attributes[name]
        kind, length = self._unpack("<B3xI", attribute.datatype)
        if kind & 15 != 3 or attribute.shape != () or length > min(MAX_JSON_BYTES, len(attribute.data)):
            raise self.error(f"has no string of at most {MAX_JSON_BYTES} bytes in its attribute {printable(name)}")
        return attribute.data[:length].rstrip(b"\0")

    def integer(self, name: str) -> int:
        """A root attribute that holds one 64-bit integer."""
        attribute = self.root.attributes[name]
        if self._number_type(attribute.datatype) != np.dtype("<i8") or attribute.shape != ():
            raise self.error(f"has no integer in its attribute {printable(name)}")
        return self._unpack("<q", attribute.data)[0]

    def names(self, holder: H5Object, attribute_name: str) -> list[str]:
        """An attribute that lists names, as Keras 2 writes them: of fixed or, since h5py 3, varying length."""
        attribute = holder.attributes.get(attribute_name)
        if attribute is None or attribute.shape is None or len(attribute.shape) != 1:
            raise self.error(f"has no list in an attribute {attribute_name}")
        (count,) = attribute.shape
        if count == 0:
            return []
        kind, length = self._unpack("<B3xI", attribute.datatype)
        width = 16 if kind & 15 == 9 else length
        if kind & 15 not in (3, 9) or width == 0 or count * width > len(attribute.data):
            raise self._damage(f"attribute {attribute_name} is no list of {count} names")
        entries = [attribute.data[i * width : (i + 1) * width] for i in range(count)]
        if kind & 15 == 9:
            entries = [self._global_string(entry) for entry in entries]
        return [self._text(entry) for entry in entries]

    def _global_string(self, entry: bytes) -> bytes:
        length, address, index = self._unpack("<IQI", entry)
        if address not in self._heaps:
            self._heaps[address] = self._read_global_heap(address)
        text = self._heaps[address].get(index, b"")
        if len(text) < length:
            raise self._damage(f"string {index} of the heap at {address} is not there")
        return text[:length]

    def _read_global_heap(self, address: int) -> dict[int, bytes]:
        signature, size = self._unpack("<5s3xQ", self._table(address, 16))
        if signature != b"GCOL\1" or size < 16:
            raise self._damage(f"no heap of strings at {address}")
        heap = self._table(address + 16, size - 16)
        strings, at = {}, 0
        while at + 16 <= len(heap):
            index, length = self._unpack("<H6xQ", heap, at)
            if index == 0:  # the rest is free
                break
            strings[index] = heap[at + 16 : at + 16 + length]
            at += 16 + (length + 7) // 8 * 8
        return strings

    # Arrays.

    def _shape(self, dataspace: bytes) -> tuple[int, ...] | None:
        """The sides of a simple dataspace, () for a scalar, None for one that holds nothing."""
        version, rank, _, kind = self._unpack("<4B", dataspace)
        if version == 2 and kind == 2:
            return None
        if version not in (1, 2) or rank > 32:
            raise self._damage(f"a dataspace of version {version} with {rank} axes")
        return self._unpack(f"<{rank}Q", dataspace, 8 if version == 1 else 4)

    def _number_type(self, datatype: bytes) -> np.dtype | None:
        encodings = number_encodings()
        return next((encodings[datatype[:n]] for n in (12, 20) if datatype[:n] in encodings), None)

    def stored(self, name: str, data_set: H5Object) -> _Stored:
        """Where an array lies, once it is certain that it lies in this file, as plain numbers."""
        messages = data_set.messages
        if set(messages) != {_DATASPACE, _DATATYPE, _LAYOUT}:
            raise self.error(f"has no array at {printable(name)}")
        dtype, shape = self._number_type(messages[_DATATYPE]), self._shape(messages[_DATASPACE])
        if dtype is None or shape is None:
            raise self.error(f"has {printable(name)} without numbers: only floats and integers are read")
        version, kind = self._unpack("<2B", messages[_LAYOUT])
        if (version, kind) != (3, 1):
            raise self.error(f"has {printable(name)} in chunks or virtual; only contiguous arrays are read")
        offset, size = self._unpack("<2Q", messages[_LAYOUT], 2)
        if offset == _UNDEFINED and size:
            raise self.error(f"has {printable(name)} of shape {shape}, of which no value was ever written")
        num_bytes = dtype.itemsize
        for side in shape:  # Python integers: NumPy's product would overflow
            num_bytes *= side
        if num_bytes != size or (size and offset + size > self._size):
            raise self.error(
                f"has {printable(name)} of shape {shape}, {num_bytes} bytes; "
                f"{size} bytes at {offset} are set aside for it in a file of {self._size}"
            )
        return _Stored(offset, shape, dtype, num_bytes)

    def load(self, stored: Mapping[str, _Stored]) -> dict[str, np.ndarray]:
        """Reads arrays; together they are no larger than the file."""
        total = sum(array.num_bytes for array in stored.values())
        if total > self._size:
            raise self.error(f"has arrays of {total} bytes in a file of {self._size}")
        arrays = {name: self._load_one(name, array) for name, array in stored.items()}
        after = os.fstat(self._file.fileno())
        if (after.st_size, after.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise self.error("was changed while it was read")
        return arrays

    def _load_one(self, name: str, stored: _Stored) -> np.ndarray:
        flat = np.empty(stored.num_bytes // stored.dtype.itemsize, stored.dtype)
        self._fill(stored.offset, flat.data.cast("B"))
        if not np.isfinite(flat).all():
            raise self.error(f"has NaN or infinite values in {printable(name)}")
        try:
            return flat.reshape(stored.shape)
        except ValueError as error:  # no values, and sides that NumPy cannot count
            raise self.error(f"has {printable(name)} of shape {stored.shape}") from error


# ---------------------------------------------------------------------------- files of the wrong kind

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
    """Names the kind of a file that is not HDF5, by its first 4096 and last 8 bytes."""
    for pattern, kind in _KINDS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return kind
    if tail == _TABLE_MAGIC or ".data-0" in os.path.basename(name):
        return "part of a TensorFlow checkpoint"
    return f"something that begins with the bytes {head[:8].hex(' ')}"
