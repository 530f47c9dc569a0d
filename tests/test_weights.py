"""weights.h5: what is written is read back or refused, in whatever state the file is in."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks import hostile_h5
from glow_tf import weights
from glow_tf.errors import InputError

MUTANTS = int(os.environ.get("GLOW_TF_MUTANTS", 300))  # 10,000 for a release
KILLS = int(os.environ.get("GLOW_TF_KILLS", 10))  # 200 for a release
BOMB = int(os.environ.get("GLOW_TF_BOMB", 20_000))  # 1,000,000 for a release

_opened_files = []
sys.addaudithook(lambda event, args: _opened_files.append(args[0]) if event == "open" else None)


def read(path, expected=hostile_h5.EXPECTED):
    with weights.open_weights(path) as file:
        return file.read(expected)


def assert_same(found, expected=hostile_h5.ARRAYS):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)


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
def valid(tmp_path):
    hostile_h5.valid(tmp_path / "weights.h5")
    return tmp_path / "weights.h5"


# ------------------------------------------------------------------------------------------ round trips


def test_reads_what_was_written(valid):
    with weights.open_weights(valid) as file:
        assert file.config == hostile_h5.CONFIG
        assert file.metadata == hostile_h5.METADATA
        assert_same(file.read(hostile_h5.EXPECTED))
    assert weights.layout(valid) == "glow_tf"


def test_many_arrays_of_every_shape_and_type(tmp_path, rng):
    """Enough names for trees of several levels, in one group and in many."""
    arrays = {f"one/array{i}": rng.normal(size=[i % 5, 3]).astype(np.float32) for i in range(700)}
    arrays |= {f"group{i}/a/b/c": np.array(i, dtype) for i, dtype in enumerate(["f2", "f8", "i1", "i8", "u2", "u8"])}
    weights.write(tmp_path / "w.h5", arrays, {})
    assert_same(read(tmp_path / "w.h5", {name: (a.shape, a.dtype) for name, a in arrays.items()}), arrays)


def test_other_hdf5_programs_read_the_file(valid):
    with h5py.File(valid, "r") as h5:
        assert_same({name: h5[name][()] for name in hostile_h5.ARRAYS})


def test_big_endian_and_non_contiguous_arrays_are_stored_plainly(tmp_path):
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    weights.write(tmp_path / "w.h5", {"a": array}, {})
    found = read(tmp_path / "w.h5", {"a": ((4, 3), np.float32)})["a"]
    np.testing.assert_array_equal(found, array)


def test_equal_arguments_give_equal_bytes(valid, tmp_path):
    reversed_arrays = dict(reversed(hostile_h5.ARRAYS.items()))
    weights.write(tmp_path / "again.h5", reversed_arrays, hostile_h5.CONFIG, hostile_h5.METADATA)
    assert (tmp_path / "again.h5").read_bytes() == valid.read_bytes()


def test_the_digest_is_sha256sum_of_what_stands_before_it(valid):
    data = valid.read_bytes()
    summed = subprocess.run(["sha256sum"], input=data[:-80], capture_output=True, check=True).stdout.split()[0]
    assert data[-80:] == b"glow_tf sha256 " + summed + b"\n"


def test_reads_through_a_symbolic_link(valid, tmp_path):
    (tmp_path / "link.h5").symlink_to(valid)
    assert_same(read(tmp_path / "link.h5"))


@pytest.mark.parametrize(
    ("arrays", "config", "message"),
    [
        ({"a": np.float32("nan")}, {}, "a holds NaN"),
        ({"a": np.array(["text"])}, {}, "a is of type"),
        ({"../a": np.ones(3)}, {}, "cannot name an array"),
        ({"a//b": np.ones(3)}, {}, "cannot name an array"),
        ({"a": np.ones(3)}, {"b": "x" * 70_000}, "config takes 70009 bytes"),
        ({"a": np.ones(3)}, {"b": float("nan")}, "JSON"),
    ],
)
def test_what_could_not_be_read_replaces_nothing(valid, arrays, config, message):
    before = valid.read_bytes()
    with pytest.raises(ValueError, match=message):
        weights.write(valid, arrays, config)
    assert valid.read_bytes() == before
    assert os.listdir(valid.parent) == [valid.name]


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


def refusal(read_it, path) -> str:
    """The message with which a file is refused; fails on other errors, delay, appetite or curiosity."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before, start = memory("VmRSS"), time.monotonic()
    _opened_files.clear()
    with pytest.raises(InputError) as raised:
        read_it(path)
    opened = {os.fspath(name) for name in _opened_files if not isinstance(name, int)}
    assert opened <= {str(path)}
    assert time.monotonic() - start < 5
    assert memory("VmHWM") - before < 200e6
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize("name", hostile_h5.HOSTILE)
def test_refuses(hostile_paths, name):
    refusal(read, hostile_paths[name])
    assert not Path("pickle-was-loaded").exists()


@pytest.mark.parametrize("name", hostile_h5.FOREIGN)
def test_importers_refuse(hostile_paths, name):
    refusal(weights.read_foreign, hostile_paths[name])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing_array", "lacks level0/coupling/kernel"),
        ("extra_array", "has level9/kernel, which the model has not"),
        ("transposed", "level0/coupling/kernel with shape (5, 4, 3); the model has (3, 4, 5)"),
        ("type_float64", "level0/coupling/kernel with type float64; the model has float32"),
        ("nan", "NaN or infinite values in level0/coupling/kernel"),
        ("truncated", "is cut short: 3000 of 9096 bytes are there"),
        ("one_bit_flipped", "is damaged: its SHA-256 begins"),
        ("no_digest", "has lost the digest at its end"),
        ("newer_version", "has format version 2; this program reads version 1"),
        ("lambda_in_model_config", "has attribute model_config"),
        ("external_storage", "data in an external file"),
        ("soft_link", "links are not followed"),
        ("many_groups", "holds more than 20000 groups"),
        ("empty", "is empty"),
        ("html", "is an HTML page"),
        ("keras_archive", "is a Keras 3 .keras archive"),
        ("safetensors", "is a safetensors file"),
        ("tensorflow_index", "is part of a TensorFlow checkpoint"),
        ("torch_archive", "is a torch file"),
        ("pipe", "is a pipe"),
        ("folder", "is a folder"),
        ("link_to_itself", "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_says_what_is_wrong(hostile_paths, name, words):
    assert words in refusal(read, hostile_paths[name])


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path):
    with pytest.raises(InputError, match=r"a\\nb\.h5' does not exist"):
        read(tmp_path / "a\nb.h5")


def test_many_differences_are_counted(valid):
    with pytest.raises(InputError, match="lacks x0, x1, x2 and 17 more and has level0/actnorm/log_scale"):
        read(valid, {f"x{i}": ((1,), np.float32) for i in range(20)})


# --------------------------------------------------------------------------------------- random damage


def test_a_mutant_is_refused_or_the_same(valid, tmp_path):
    data, path = valid.read_bytes(), tmp_path / "mutant.h5"
    for seed in range(MUTANTS):
        path.write_bytes(hostile_h5.mutant(data, seed))
        try:
            assert_same(read(path))
        except InputError as error:
            assert "\n" not in str(error), seed


@pytest.mark.parametrize("read_it", [read, weights.read_foreign, weights.layout])
@pytest.mark.parametrize("make", [hostile_h5.valid, hostile_h5.glow_tf2])
def test_a_mutant_with_a_right_digest_breaks_nothing(make, read_it, tmp_path):
    """Without the digest's help: wrong numbers cannot be known, crashes, delays and odd errors can."""
    path = tmp_path / "mutant.h5"
    make(path)
    data = path.read_bytes()
    for seed in range(MUTANTS):
        changed = hostile_h5.mutant(data, seed)
        path.write_bytes(hostile_h5.reseal(changed) if make is hostile_h5.valid else changed)
        start = time.monotonic()
        with contextlib.suppress(InputError):
            found = read_it(path)
            if read_it is not weights.layout:
                assert sum(array.nbytes for array in found.values()) <= path.stat().st_size
        assert time.monotonic() - start < 5, seed


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


def test_a_glow_tf2_file_is_recognised_and_the_command_given(tmp_path):
    path = tmp_path / "weights.h5"
    hostile_h5.glow_tf2(path)
    assert f"python3 convert.py --from glow-tf2 {path} --out weights.h5" in refusal(read, path)


def test_a_real_glow_tf2_file_is_read_as_h5py_reads_it(reference):
    path = reference / "glow_tf2_k2l2" / "weights.h5"
    assert weights.layout(path) == "glow-tf2"
    found = weights.read_foreign(path)
    assert len(found) == 63
    with h5py.File(path, "r") as h5:
        for name, array in found.items():
            np.testing.assert_array_equal(array, h5[name][()] if name in h5 else _in_layer(h5, name))


def _in_layer(h5, name):
    layer, weight = name.split("/", 1)
    return h5[layer][weight][()]


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
        with pytest.raises(InputError, match="while it was read|damaged"):
            file.read(hostile_h5.EXPECTED)


def test_a_file_changed_while_it_is_read_is_refused(valid):
    data = bytearray(valid.read_bytes())
    with weights.open_weights(valid) as file:
        data[data.index(hostile_h5.ARRAYS[hostile_h5.VICTIM].tobytes()) + 9] ^= 1
        valid.write_bytes(data)
        with pytest.raises(InputError, match="changed while it was read"):
            file.read(hostile_h5.EXPECTED)


def test_a_killed_writer_leaves_a_complete_file(tmp_path, rng):
    path = tmp_path / "weights.h5"

    def save_for_ever():
        for step in range(1_000_000):
            weights.write(path, {f"a{i}": np.full(50_000, step, np.float32) for i in range(5)}, {"step": step})

    save_once = {"a0": np.zeros(1)}
    for delay in rng.uniform(0.01, 0.2, KILLS):
        weights.write(path, save_once, {})
        writer = start_child(save_for_ever)
        deadline = time.monotonic() + 60
        while path.stat().st_size < 1_000_000 and time.monotonic() < deadline:
            time.sleep(0.001)  # until its first save is there
        time.sleep(delay)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        with weights.open_weights(path) as file:
            found = file.read({f"a{i}": ((50_000,), np.float32) for i in range(5)})
            assert all((array == file.config["step"]).all() for array in found.values())


def test_a_full_disk_leaves_the_old_file_and_no_litter(valid):
    before = valid.read_bytes()

    def save_with_little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(OSError, match="too large"):
            weights.write(valid, {"a": np.ones(100_000, np.float32)}, {})

    assert os.waitpid(start_child(save_with_little_room), 0)[1] == 0
    assert valid.read_bytes() == before
    assert os.listdir(valid.parent) == [valid.name]


def test_a_folder_in_the_way_is_an_error_and_leaves_no_litter(tmp_path):
    (tmp_path / "weights.h5").mkdir()
    with pytest.raises(OSError, match="directory"):
        weights.write(tmp_path / "weights.h5", hostile_h5.ARRAYS, {})
    assert os.listdir(tmp_path) == ["weights.h5"]
