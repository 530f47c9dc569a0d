"""weights.h5: what is written is read back or refused, in whatever state the file is in."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import damage
import h5py
import hostile_h5
import numpy as np
import pytest
import tensorflow as tf
from helpers import make_glow

from glow_tf import _hdf5, pretrained, weights
from glow_tf.errors import InputError
from glow_tf.glow import Glow

MUTANTS = int(os.environ.get("GLOW_TF_MUTANTS", 8))  # of each child process; 10,000 for a release
KILLS = int(os.environ.get("GLOW_TF_KILLS", 10))  # 200 for a release
BOMB = int(os.environ.get("GLOW_TF_BOMB", 20_001))  # 1,000,000 for a release

_opened_files = []
sys.addaudithook(lambda event, args: _opened_files.append(args[0]) if event == "open" else None)


def read(path, expected=hostile_h5.EXPECTED):
    with weights.open_weights(path) as file:
        return file.read(expected)


def assert_same(arrays, expected=hostile_h5.ARRAYS):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def start_child(function) -> int:
    """Runs a function in a fork of this process, which ends with it; returns its process id."""
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return child


@pytest.fixture
def forgotten():
    """Contents of files are read again, although this process wrote them."""
    _hdf5._remembered.clear()


@pytest.fixture
def valid(tmp_path):
    hostile_h5.valid(tmp_path / "weights.h5")
    _hdf5._remembered.clear()
    return tmp_path / "weights.h5"


# ------------------------------------------------------------------------------------------ round trips


def test_round_trip(valid):
    with weights.open_weights(valid) as file:
        assert file.config == hostile_h5.CONFIG
        assert file.metadata == hostile_h5.METADATA
        assert_same(file.read(hostile_h5.EXPECTED))
        assert file.num_values == sum(array.size for array in hostile_h5.ARRAYS.values())
    assert weights.layout(valid) == "glow_tf"


def test_many_arrays_of_every_shape_and_type(tmp_path, rng):
    """Enough names for trees of several levels, in one group and in many."""
    arrays = {f"one/array{i}": rng.normal(size=[i % 5, 3]).astype(np.float32) for i in range(700)}
    arrays |= {f"group{i}/a/b/c": np.array(i, dtype) for i, dtype in enumerate(["f2", "f8", "i1", "i8", "u2", "u8"])}
    weights.write(tmp_path / "w.h5", arrays, {})
    _hdf5._remembered.clear()
    assert_same(read(tmp_path / "w.h5", {name: (a.shape, a.dtype) for name, a in arrays.items()}), arrays)


def test_other_hdf5_programs_read_the_file(valid):
    with h5py.File(valid, "r") as h5:
        assert_same({name: h5[name][()] for name in hostile_h5.ARRAYS})


def test_big_endian_and_non_contiguous_arrays(tmp_path):
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    weights.write(tmp_path / "w.h5", {"a": array}, {})
    np.testing.assert_array_equal(read(tmp_path / "w.h5", {"a": ((4, 3), np.float32)})["a"], array)


@pytest.mark.parametrize("names", [[], [f"n{i:06d}_person" for i in range(5000)]], ids=["short", "long"])
def test_equal_arguments_give_equal_bytes(tmp_path, names):
    for name, arrays in (("a", hostile_h5.ARRAYS), ("b", dict(reversed(hostile_h5.ARRAYS.items())))):
        weights.write(tmp_path / name, arrays, hostile_h5.CONFIG, {"class_names": names})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_digest_is_sha256sum_of_the_bytes_before_it(valid):
    data = valid.read_bytes()
    summed = subprocess.run(["sha256sum"], input=data[:-80], capture_output=True, check=True).stdout.split()[0]
    assert data[-80:] == b"glow_tf sha256 " + summed + b"\n"


def test_reads_through_a_symbolic_link(valid, tmp_path):
    (tmp_path / "link.h5").symlink_to(valid)
    assert_same(read(tmp_path / "link.h5"))


def test_float16_is_read_as_the_type_of_the_model(tmp_path, small_glow):
    small_glow.save_weights(tmp_path / "half.h5", stored_dtype="float16")
    small_glow.save_weights(tmp_path / "whole.h5")
    assert (tmp_path / "half.h5").stat().st_size < 0.6 * (tmp_path / "whole.h5").stat().st_size
    loaded = Glow.load(tmp_path / "half.h5").named_variables()
    for name, variable in small_glow.named_variables().items():
        assert loaded[name].dtype == variable.dtype
        np.testing.assert_allclose(loaded[name], variable, rtol=1e-3, atol=1e-6)
    with pytest.raises(InputError, match="NaN or infinite"):  # 1e5 is too large for it
        weights.write(tmp_path / "half.h5", {"a": np.full(3, 1e5)}, {}, dtype="float16")
    with pytest.raises(InputError, match="cannot be stored as int8; float16"):  # a file that nothing loads
        small_glow.save_weights(tmp_path / "half.h5", stored_dtype="int8")


def test_files_of_earlier_versions(forgotten):
    """The bundled digits were written by the first version of the format."""
    with h5py.File(pretrained.DIGITS, "r") as h5:
        for name, variable in Glow.load("digits").named_variables().items():
            np.testing.assert_array_equal(variable, h5[name][()])


# ------------------------------------------------------------------------------------------ metadata


@pytest.mark.parametrize("letter", ["n", "\u732b", "\U0001f408", "\udcff"], ids=ascii)
def test_thousands_of_class_names(tmp_path, letter):
    metadata = {"class_names": [f"{letter}{i:06d}_person" for i in range(5000)], "step": 3}
    weights.check_metadata(metadata)
    weights.write(tmp_path / "w.h5", hostile_h5.ARRAYS, {}, metadata)
    _hdf5._remembered.clear()
    with weights.open_weights(tmp_path / "w.h5") as file:
        assert file.metadata == metadata
        assert_same(file.read(hostile_h5.EXPECTED))
        assert_same(file.read_all())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"mine": 1e400}, "the metadata cannot be saved as JSON"),
        ({"mine": float("nan")}, "the metadata cannot be saved as JSON"),
        ({"mine": {1, 2}}, "the metadata cannot be saved as JSON"),
        ({"mine": "x" * 5_000_000}, "takes 5,000,012 bytes as JSON; the limit is 4,000,000"),
        ({5: "mine"}, "has the key 5; keys must be texts"),
        ({"dataset": 5}, "dataset is 5; it must be a text"),
        ({"class_names": True}, "class_names is True; it must be a list of texts"),
        ({"class_names": ["a", 1]}, "class_names is .*; it must be a list of texts"),
        ({"test_bits_per_dim": 10**400}, "test_bits_per_dim is 1000.*; it must be a finite number"),
        ({"test_bits_per_dim": 10**5000}, "test_bits_per_dim is <int>; it must be a finite number"),
        ({"step": True}, "step is True; it must be an integer"),
        ({"train_bits_per_dim": "x" * 900}, "it must be an object"),
        ({"mine": json.loads("[" * 400 + "]" * 400)}, "nests lists and objects more than 32 deep"),
        ({"mine": json.loads('{"a":' * 400 + "1" + "}" * 400)}, "nests lists and objects more than 32 deep"),
    ],
)
def test_metadata_that_cannot_be_saved(valid, metadata, message):
    before = valid.read_bytes()
    with pytest.raises(InputError, match=message) as raised:
        weights.check_metadata(metadata)
    assert len(str(raised.value)) < 400
    with pytest.raises(InputError, match=message):
        weights.write(valid, hostile_h5.ARRAYS, {}, metadata)
    assert valid.read_bytes() == before


@pytest.mark.parametrize(
    ("arrays", "config", "message"),
    [
        ({"a": np.float32("nan")}, {}, "a holds NaN"),
        ({"a": np.array(["text"])}, {}, "a is of type"),
        ({"../a": np.ones(3)}, {}, "cannot name an array"),
        ({"a//b": np.ones(3)}, {}, "cannot name an array"),
        ({"metadata": np.ones(3)}, {}, "cannot name an array"),
        ({"a": np.ones(3)}, {"b": "x" * 70_000}, "configuration's b is xxx"),
        ({"a": np.ones(3)}, {"b": float("nan")}, "configuration's b is nan"),
    ],
)
def test_what_could_not_be_read_replaces_nothing(valid, arrays, config, message):
    before = valid.read_bytes()
    with pytest.raises(InputError, match=message):
        weights.write(valid, arrays, config)
    assert valid.read_bytes() == before
    assert os.listdir(valid.parent) == [valid.name]


# ------------------------------------------------------------------------------------------ giant models

GIANTS = {
    "wide": ({"image_shape": [32, 32, 3], "width": 8192, "num_steps": 8}, "it can have 1,000,000,000"),
    "deep": ({"image_shape": [1024, 1024, 4], "num_levels": 8, "num_steps": 16}, "claims a model of at least 5"),
    "classes": ({"image_shape": [512, 512, 4], "num_levels": 8, "num_classes": 90_000, "width": 1}, "claims a model"),
    "width": ({"image_shape": [8, 8, 1], "width": 4096, "num_steps": 1, "num_levels": 1}, "claims a model"),
}


@pytest.mark.parametrize("name", GIANTS)
def test_a_small_file_that_claims_a_giant_model(name, tmp_path, monkeypatch):
    config, message = GIANTS[name]
    weights.write(tmp_path / "w.h5", hostile_h5.ARRAYS, config)
    monkeypatch.setattr(tf, "Variable", None)  # nothing is built
    assert message in refusal(Glow.load, tmp_path / "w.h5", seconds=1, most_memory=50e6)


def test_arrays_that_share_their_bytes_do_not_make_a_file_large(tmp_path, monkeypatch):
    hostile_h5.shared(tmp_path / "w.h5", {"image_shape": [64, 64, 3], "num_steps": 64, "width": 1024}, 1000, 300_000)
    monkeypatch.setattr(tf, "Variable", None)  # nothing is built
    message = refusal(Glow.load, tmp_path / "w.h5", seconds=3, most_memory=50e6)
    assert "has arrays of 1,200,000,000 bytes in a file of 1,5" in message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"coupling": "additive", "permutation": "shuffle", "num_levels": 1},
        {"num_classes": 300, "classifier": True, "learned_top": False},
        {"architecture": "glow_tf2"},
        {"architecture": "plus", "num_classes": 300},
    ],
)
def test_the_least_size_is_below_every_models(changes):
    glow = make_glow(**changes)
    size = sum(int(np.prod(v.shape)) for v in glow.named_variables().values())
    assert size / 4 < glow.config.min_num_weights <= size


# ----------------------------------------------------------------------------------------- hostile files


@pytest.fixture(scope="module")
def hostile_paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return hostile_h5.write_all(folder / "own", BOMB) | hostile_h5.write_all(
        folder / "foreign", BOMB, hostile_h5.FOREIGN
    )


def memory(field: str) -> int:
    """VmRSS or VmHWM (its peak) of this process, in bytes."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


def refusal(read_it, path, seconds=5, most_memory=200e6) -> str:
    """The message with which a file is refused; fails if that takes much time or memory, or another file is opened."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before, start = memory("VmRSS"), time.process_time()
    _opened_files.clear()
    with pytest.raises(InputError) as raised:
        read_it(path)
    opened = {os.fspath(name) for name in _opened_files if not isinstance(name, int)}
    assert opened <= {str(path), "/dev/null"}
    assert time.process_time() - start < seconds
    assert memory("VmHWM") - before < most_memory
    message = str(raised.value)
    assert "\n" not in message and message.isprintable() and len(message) < 600
    return message


# A child process for each would take long; these go through every way of refusing.
IN_TURN = sorted(name for name in hostile_h5.HOSTILE if not name.startswith(("type_", "config_", "metadata_")))


@pytest.mark.parametrize("name", IN_TURN)
def test_refuses(hostile_paths, name):
    assert refusal(read, hostile_paths[name]).startswith(str(hostile_paths[name]))
    assert not Path("pickle-was-loaded").exists()


@pytest.mark.parametrize("name", sorted({*hostile_h5.HOSTILE} - {*IN_TURN}))
def test_refuses_types_and_json(hostile_paths, name, monkeypatch):
    def in_this_process(file):
        return _hdf5._hdf5_contents.read(file)

    monkeypatch.setattr(_hdf5._hdf5_contents, "read_in_child", in_this_process)
    assert refusal(read, hostile_paths[name]).startswith(str(hostile_paths[name]))


@pytest.mark.parametrize("name", hostile_h5.FOREIGN)
def test_importers_refuse(hostile_paths, name):
    refusal(weights.read_foreign, hostile_paths[name])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing_array", "lacks level0/coupling/kernel"),
        ("extra_array", "has level9/kernel, which the model does not have"),
        ("transposed", "level0/coupling/kernel with shape (5, 4, 3); the model has (3, 4, 5)"),
        ("type_f8", "level0/coupling/kernel with type float64; the model has float32"),
        ("nan", "NaN or infinite values in level0/coupling/kernel"),
        ("truncated", "is truncated or damaged"),
        ("one_bit_flipped", "is damaged: its SHA-256 begins"),
        ("no_digest", "has lost its checksum"),
        ("newer_version", "has format version 2; this program reads version 1"),
        ("lambda_in_model_config", "has the attribute model_config"),
        ("external_storage", "data in another file, which is not read"),
        ("soft_link", "a link to another object or file"),
        ("many_groups", "holds more than 20,000 groups"),
        ("empty", "is empty"),
        ("html", "is an HTML page"),
        ("keras_archive", "is a Keras 3 .keras archive"),
        ("safetensors", "is a safetensors file"),
        ("tensorflow_index", "is part of a TensorFlow checkpoint"),
        ("torch_archive", "is a torch file"),
        ("pipe", "is a pipe"),
        ("folder", "is a folder"),
        ("link_to_itself", "cannot be read: Too many levels of symbolic links"),
        ("metadata_class_names_true", "class_names is True; it must be a list of texts"),
    ],
)
def test_says_what_is_wrong(hostile_paths, name, words):
    assert words in refusal(read, hostile_paths[name])


def test_many_differences_are_counted(valid):
    with pytest.raises(InputError, match="lacks x0, x1, x10 and 17 more and has level0/actnorm/log_scale"):
        read(valid, {f"x{i}": ((1,), np.float32) for i in range(20)})


# --------------------------------------------------------------------------------------- random damage


def test_a_mutant_is_refused_or_the_same(valid, tmp_path):
    data, path = valid.read_bytes(), tmp_path / "mutant.h5"
    damaged_tails = 0
    for seed in range(40 * MUTANTS):
        changed = damage.mutant(data, seed)
        if not changed.endswith(data[-80:]):  # without a digest it takes a child process
            damaged_tails += 1
            if damaged_tails > MUTANTS:
                continue
        path.write_bytes(changed)
        try:
            assert_same(read(path))
        except InputError as error:
            assert "\n" not in str(error), seed


@pytest.mark.parametrize("make", [hostile_h5.valid, hostile_h5.glow_tf2])
def test_a_mutant_with_a_valid_digest_breaks_nothing(make, tmp_path):
    """Without the digest's help: wrong numbers cannot be known, crashes, delays and odd errors can."""
    path = tmp_path / "mutant.h5"
    make(path)
    data = path.read_bytes()
    for seed in range(MUTANTS):
        changed = damage.mutant(data, seed)
        path.write_bytes(hostile_h5.reseal(changed) if make is hostile_h5.valid else changed)
        with contextlib.suppress(InputError):
            arrays = read(path) if make is hostile_h5.valid else weights.read_foreign(path)
            assert sum(array.nbytes for array in arrays.values()) <= path.stat().st_size


# ------------------------------------------------------------------------------------ other people's files


def test_keras_2_arrays_come_in_the_order_of_its_lists(tmp_path):
    hostile_h5.glow_tf2(tmp_path / "keras.h5")
    assert weights.layout(tmp_path / "keras.h5") == "glow-tf2"
    names = list(weights.read_foreign(tmp_path / "keras.h5"))
    assert names == ["flow_step/glow/flow_step/b:0", "flow_step/conv2d/a:0", "z__norm__last_layer/m:0"]


def test_keras_2_lists_of_fixed_length_are_read(tmp_path):
    """h5py 2, and so Keras before 2020, wrote them like this."""
    hostile_h5.glow_tf2(tmp_path / "keras.h5")
    with h5py.File(tmp_path / "keras.h5", "a") as h5:
        for holder, name in ((h5, "layer_names"), (h5["flow_step"], "weight_names")):
            holder.attrs[name] = np.array([text.encode() for text in holder.attrs[name]])
    assert len(weights.read_foreign(tmp_path / "keras.h5")) == 3


def test_a_glow_tf2_file_is_recognised_and_the_command_named(tmp_path):
    path = tmp_path / "weights.h5"
    hostile_h5.glow_tf2(path)
    assert f"python3 convert.py --from glow-tf2 {path} --out weights.h5" in refusal(read, path)


def test_a_real_glow_tf2_file_is_read_as_h5py_reads_it(reference):
    path = reference / "glow_tf2_k2l2" / "weights.h5"
    assert weights.layout(path) == "glow-tf2"
    arrays = weights.read_foreign(path)
    assert len(arrays) == 63
    with h5py.File(path, "r") as h5:
        for name, array in arrays.items():
            layer, weight = name.split("/", 1)
            np.testing.assert_array_equal(array, h5[layer][weight][()])


@pytest.mark.parametrize(
    ("edit", "layout"),
    [
        (lambda h5: h5.attrs.__setitem__("layer_names", ["dense"]), "keras-2"),
        (lambda h5: h5.attrs.__setitem__("model_config", "{}"), "keras-2"),
        (lambda h5: h5.create_group("layers/dense/vars"), "keras-3"),
        (lambda h5: h5.create_group("_layer_checkpoint_dependencies"), "keras-3"),
        (lambda h5: h5.create_group("anything"), "unknown h5"),
    ],
)
def test_other_layouts_are_told_apart(tmp_path, edit, layout):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as h5:
        edit(h5)
    assert weights.layout(path) == layout
    assert "not a glow_tf weights file" in refusal(read, path)


# -------------------------------------------------------------------------- at the same time, and at the end


def test_a_reader_keeps_the_file_it_opened(valid):
    with weights.open_weights(valid) as file:
        weights.write(valid, {"other": np.ones(3)}, {})
        assert_same(file.read(hostile_h5.EXPECTED))


@pytest.mark.parametrize("size", [0, 100, 6000])
def test_a_file_cut_short_while_it_is_read_is_refused(valid, size):
    with weights.open_weights(valid) as file:
        os.truncate(valid, size)
        with pytest.raises(InputError, match="while it was being read|truncated"):
            file.read(hostile_h5.EXPECTED)


def test_a_file_changed_while_it_is_read_is_refused(valid):
    data = bytearray(valid.read_bytes())
    with weights.open_weights(valid) as file:
        data[data.index(hostile_h5.ARRAYS[hostile_h5.VICTIM].tobytes()) + 9] ^= 1
        valid.write_bytes(data)
        with pytest.raises(InputError, match="changed while it was being read"):
            file.read(hostile_h5.EXPECTED)


def test_a_killed_writer_leaves_a_complete_file(tmp_path, rng):
    path = tmp_path / "weights.h5"

    def save_for_ever():
        for step in range(1_000_000):
            weights.write(path, {f"a{i}": np.full(50_000, step, np.float32) for i in range(5)}, {"step": step})

    for delay in rng.uniform(0.01, 0.2, KILLS):
        weights.write(path, {"a0": np.zeros(1)}, {})
        writer = start_child(save_for_ever)
        deadline = time.monotonic() + 60
        while path.stat().st_size < 1_000_000 and time.monotonic() < deadline:
            time.sleep(0.001)  # until its first save is there
        time.sleep(delay)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        with weights.open_weights(path) as file:
            arrays = file.read({f"a{i}": ((50_000,), np.float32) for i in range(5)})
            assert all((array == file.config["step"]).all() for array in arrays.values())


def test_a_full_disk_leaves_the_old_file_and_no_other(valid):
    before = valid.read_bytes()

    def save_with_little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(OSError, match="too large"):
            weights.write(valid, {"a": np.ones(100_000, np.float32)}, {})

    assert os.waitpid(start_child(save_with_little_room), 0)[1] == 0
    assert valid.read_bytes() == before
    assert os.listdir(valid.parent) == [valid.name]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_pipe_in_the_way_is_an_error_and_leaves_no_file(tmp_path, make):
    make(tmp_path / "weights.h5")
    with pytest.raises(OSError, match="not a regular file"):
        weights.write(tmp_path / "weights.h5", hostile_h5.ARRAYS, {})
    assert os.listdir(tmp_path) == ["weights.h5"]
