"""Tables of TensorFlow checkpoints with valid checksums and absurd entries: TensorFlow aborts the process on them."""

import os
import random
import struct

import numpy as np
import pytest
import tensorflow as tf
from damage import mutant
from tensorflow.core.protobuf import tensor_bundle_pb2

from glow_tf.errors import InputError
from glow_tf.importers.tf_checkpoint import Checkpoint

FLOAT, MAGIC = 1, bytes.fromhex("57fb808b247547db")
NAME = b"model/0/0/actnorm_center/b"


def crc32c(data):
    """Castagnoli's checksum, masked as LevelDB does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(value):
    encoded = b""
    while value > 127:
        encoded, value = encoded + bytes([value & 127 | 128]), value >> 7
    return encoded + bytes([value])


def block(pairs, restarts=(0,)):
    entries = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in pairs)
    return entries + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def write_table(prefix, pairs, **options):
    """A checkpoint of one data file of 64 bytes, with the given entries."""
    table = b""

    def add(content):
        nonlocal table
        handle = varint(len(table)) + varint(len(content))
        table += content + b"\0" + crc32c(content + b"\0")
        return handle

    data = add(block(pairs, **options))
    metaindex, index = add(block([])), add(block([(b"\xff", data)]))
    table += (metaindex + index).ljust(40, b"\0") + MAGIC
    prefix.with_name(prefix.name + ".index").write_bytes(table)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(bytes(64))
    return prefix


def entry(dims=(4,), dtype=FLOAT, size=16, offset=0, **fields):
    message = tensor_bundle_pb2.BundleEntryProto(dtype=dtype, size=size, offset=offset, **fields)
    for dim in dims:
        message.shape.dim.add().size = dim
    return message.SerializeToString()


HEADER = (b"", tensor_bundle_pb2.BundleHeaderProto(num_shards=1).SerializeToString())

ABSURD = {
    "negative": entry([-3]),
    "unknown axis": entry([-1, -1]),
    "giant": entry([1 << 40]),
    "giant, with its bytes": entry([1 << 40], size=1 << 42),
    "overflow": entry([1 << 32, 1 << 32]),
    "axes": entry([1] * 300),
    "unknown type": entry(dtype=77),
    "resource": entry(dtype=20),
    "reference": entry(dtype=100 + FLOAT),
    "4 bits": entry(dtype=29, size=4),
    "no type": entry(dtype=0),
    "negative size": entry(size=-16),
    "negative offset": entry(offset=-8),
    "beyond the data": entry(offset=1 << 20),
    "other data file": entry(shard_id=3),
    "slices": entry(slices=[{"extent": [{"start": 0, "length": 1}]}]),
    "not a message": b"\xff" * 20,
}


def test_a_table_that_makes_sense_is_read(tmp_path):
    checkpoint = Checkpoint(write_table(tmp_path / "x", [HEADER, (NAME, entry())]))
    assert checkpoint.variables == {NAME.decode(): ((4,), tf.float32)}


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_entries_are_refused(tmp_path, kind):
    write_table(tmp_path / "x", [HEADER, (NAME, ABSURD[kind])])
    with pytest.raises(InputError, match="x(.index)? is damaged") as error:
        Checkpoint(tmp_path / "x")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("pairs", "options"),
    [
        ([(b"", tensor_bundle_pb2.BundleHeaderProto(num_shards=1 << 30).SerializeToString())], {}),
        ([(NAME, entry())], {}),
        ([HEADER, (b"n" * 600, entry())], {}),
        ([HEADER, (NAME, entry()), (NAME, entry([1], size=4))], {}),
        ([HEADER, (NAME, entry()), HEADER], {}),
        ([HEADER, (NAME, entry())], {"restarts": (7,)}),
    ],
    ids=["many data files", "no header", "long name", "one name twice", "two headers", "restart inside an entry"],
)
def test_absurd_tables_are_refused(tmp_path, pairs, options):
    with pytest.raises(InputError, match="x.index is damaged"):
        Checkpoint(write_table(tmp_path / "x", pairs, **options))


def test_variables_that_share_their_bytes_are_refused(tmp_path):
    pairs = [HEADER, *((b"%03d" % number, entry([16], size=64)) for number in range(200))]
    with pytest.raises(InputError, match="its variables overlap, 12,800 bytes of 64"):
        Checkpoint(write_table(tmp_path / "x", pairs))


def test_mutants_are_refused_or_the_same(tmp_path):
    """Without the checksums' help in the table itself: they are TensorFlow's."""
    arrays = {f"model/{i}/b": np.full([2, i + 1], i, np.float32) for i in range(12)}
    names = list(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "x"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=list(arrays.values()),
    )
    index = tmp_path / "x.index"
    data = index.read_bytes()
    for seed in range(200):
        index.write_bytes(mutant(data, random.Random(seed).randrange(1 << 30)))
        try:
            checkpoint = Checkpoint(tmp_path / "x")
            read = checkpoint.read(list(checkpoint.variables))
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert all(np.array_equal(read[name], arrays[name]) for name in read)


def test_every_flipped_bit_of_an_entry_with_a_valid_checksum(tmp_path):
    sound = entry([2, 2], offset=16)
    for bit in range(8 * len(sound)):
        changed = (int.from_bytes(sound, "little") ^ 1 << bit).to_bytes(len(sound), "little")
        try:
            checkpoint = Checkpoint(write_table(tmp_path / "x", [HEADER, (NAME, changed)]))
            assert sum(array.nbytes for array in checkpoint.read(list(checkpoint.variables)).values()) <= 64
        except InputError as error:
            assert "\n" not in str(error)


def test_a_fifo_is_refused(tmp_path):
    os.mkfifo(tmp_path / "x.index")
    with pytest.raises(InputError, match="is a pipe, not a checkpoint's index"):
        Checkpoint(tmp_path / "x")
