"""Reads untrusted TensorFlow checkpoints (V2 format), after checking their index.

PREFIX.index is a LevelDB table of BundleEntryProto messages. TensorFlow verifies its checksums, but aborts the
process on invalid entries, such as a negative dimension, so this module validates the table first.

References: tensorflow/core/util/tensor_bundle, and LevelDB's doc/table_format.md.
"""

import math
import os
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import tensor_bundle_pb2

from glow_tf._files import open_regular, printable, unambiguous_prefix
from glow_tf.errors import InputError

MAX_INDEX_BYTES = 16_000_000  # size of the .index file; OpenAI's have 1 MB
MAX_NAME_BYTES = 512
MAX_VARIABLES = 200_000  # OpenAI's largest have 20,000
MAX_SHARDS = 64
MAX_RANK = 8

_MAGIC = bytes.fromhex("57fb808b247547db")

# TensorFlow aborts the process on others, such as references (float32_ref).
_TYPES = {
    tf.as_dtype(name).as_datatype_enum: tf.as_dtype(name)
    for name in (
        *("string", "bool", "bfloat16", "float16", "float32", "float64"),
        *(f"{kind}{size}" for kind in ("int", "uint") for size in (8, 16, 32, 64)),
    )
}

# The exceptions that TensorFlow raises on damaged files; some are built-in Python exceptions.
_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, OSError, IndexError)


class Variable(NamedTuple):
    """A variable of a checkpoint."""

    shape: tuple[int, ...]
    dtype: tf.DType


class Checkpoint:
    """A checkpoint whose index is valid; InputError if its files are missing or damaged.

    Args:
        prefix: PREFIX of the files PREFIX.index and PREFIX.data-00000-of-00001; the name of either file also works.

    Attributes:
        prefix: the same, without a file's suffix.
        variables: {name: Variable}.
    """

    def __init__(self, prefix: str | os.PathLike) -> None:
        self.prefix = re.sub(r"\.(index|data-\d+-of-\d+)$", "", os.fspath(prefix))
        name = printable(self.prefix)
        if os.path.isdir(self.prefix):
            raise InputError(f"{name} is a folder; name the prefix of its files, such as {name}/model_best_loss.ckpt")
        if not os.path.lexists(self.prefix + ".index"):
            raise InputError(f"there is no checkpoint {name}: the file {name}.index does not exist")
        with open_regular(self.prefix + ".index", "checkpoint's index", MAX_INDEX_BYTES) as file:
            index = file.read()
        try:
            self.variables, shards = _read_table(index)
        except (ValueError, IndexError, struct.error, DecodeError) as error:
            reason = str(error) if type(error) is ValueError else "its table is cut short"
            raise InputError(f"{name}.index is damaged or not a TensorFlow checkpoint: {printable(reason)}") from error
        self._endings = [f".data-{shard:05d}-of-{len(shards):05d}" for shard in range(len(shards))]
        sizes = []
        for ending, needed in zip(self._endings, shards, strict=True):
            with open_regular(self.prefix + ending, "checkpoint's data") as file:
                sizes.append(os.fstat(file.fileno()).st_size)
            if needed > sizes[-1]:
                raise InputError(f"{name} is damaged: its data has {sizes[-1]:,} bytes, but its index needs {needed:,}")
        needed = sum(math.prod(v.shape) * v.dtype.size for v in self.variables.values() if v.dtype != tf.string)
        if needed > sum(sizes):
            raise InputError(f"{name} is damaged: its variables overlap, {needed:,} bytes of {sum(sizes):,}")

    def read(self, names: list[str]) -> dict[str, np.ndarray]:
        """{name: array} of some variables; InputError if one cannot be read."""
        with unambiguous_prefix(self.prefix, [".index", *self._endings]) as prefix:
            arrays: dict[str, np.ndarray] = {}
            name = "its index"
            try:
                reader = tf.train.load_checkpoint(prefix)
                for name in names:
                    arrays[name] = reader.get_tensor(name)
            except _ERRORS as error:
                text = getattr(error, "message", None) or str(error)
                reason = printable(" ".join(text.split()).replace(prefix, ""))
                raise InputError(f"{printable(self.prefix)} cannot be read at {printable(name)}: {reason}") from error
        return arrays


def _read_table(index: bytes) -> tuple[dict[str, Variable], list[int]]:
    """({name: Variable}, [minimum size of each data file]); raises ValueError if the table is invalid."""
    if len(index) < 48 or not index.endswith(_MAGIC):
        raise ValueError("its end is not that of an index")
    footer = index[-48:]
    _, at = _varint(footer, 0)
    _, at = _varint(footer, at)
    variables: dict[str, Variable] = {}
    shards: list[int] = []
    last = None
    for _, handle in _entries(_block(index, footer[at:])):
        for key, value in _entries(_block(index, handle)):
            if last is not None and key <= last:  # TensorFlow searches, and could find another entry of that name
                raise ValueError("its names are not in order")
            if len(variables) == MAX_VARIABLES:
                raise ValueError(f"it has more than {MAX_VARIABLES:,} variables")
            last = key
            if key == b"":
                header = tensor_bundle_pb2.BundleHeaderProto.FromString(value)
                if not 1 <= header.num_shards <= MAX_SHARDS:
                    raise ValueError(f"it claims {header.num_shards} data files")
                shards = [0] * header.num_shards
            else:
                name = key.decode("utf-8", "surrogateescape")
                entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
                variables[name] = _variable(name, entry)
                if not 0 <= entry.shard_id < len(shards):
                    raise ValueError(f"{name} lies in data file {entry.shard_id} of {len(shards)}")
                shards[entry.shard_id] = max(shards[entry.shard_id], entry.offset + entry.size)
    return variables, shards


def _variable(name: str, entry: tensor_bundle_pb2.BundleEntryProto) -> Variable:
    shape = tuple(axis.size for axis in entry.shape.dim)
    dtype = _TYPES.get(entry.dtype)
    if dtype is None:
        raise ValueError(f"{name} is of an unsupported type")
    if entry.shape.unknown_rank or len(shape) > MAX_RANK or min(shape, default=0) < 0 or entry.slices:
        raise ValueError(f"{name} has {len(shape)} axes, {list(shape[:MAX_RANK])}")
    is_right = entry.size >= 0 if dtype == tf.string else entry.size == math.prod(shape) * dtype.size
    if not is_right or math.prod(shape) > 2**40 or entry.offset < 0:
        raise ValueError(f"{name} of shape {list(shape)} has {entry.size} bytes at {entry.offset}")
    return Variable(shape, dtype)


def _block(index: bytes, handle: bytes) -> bytes:
    offset, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    if offset + size + 5 > len(index) or index[offset + size]:  # followed by its type and a checksum
        raise ValueError("it is compressed, or a block lies outside of it")
    return index[offset : offset + size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The (key, value) pairs of a block; a key shares a prefix with the one before it, except at a restart."""
    (num_restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 - 4 * num_restarts
    if end < 0:
        raise ValueError("a block has more restarts than bytes")
    restarts = set(struct.unpack(f"<{num_restarts}I", block[end:-4]))
    at, key, whole = 0, b"", {0}
    while at < end:
        start = at
        shared, at = _varint(block, at)
        added, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or shared + added > MAX_NAME_BYTES or at + added + size > end:
            raise ValueError("a name or an entry is too long")
        if shared == 0:
            whole.add(start)
        key = key[:shared] + block[at : at + added]
        yield key, block[at + added : at + added + size]
        at += added + size
    if not restarts <= whole:  # TensorFlow could start reading in the middle of an entry
        raise ValueError("a block restarts inside an entry")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, position after it)."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError("a number is too long")
