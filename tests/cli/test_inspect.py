"""`python3 -m glow_tf inspect`: what a weights file says, without TensorFlow, and one line for bad files."""

import subprocess
import sys

import hostile_h5
import numpy as np
import pytest
from commands import environment
from helpers import make_glow

from glow_tf import pretrained, weights
from glow_tf.cli import inspect
from glow_tf.nn import base


def started(*arguments, cwd):
    command = [sys.executable, "-m", "glow_tf", "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env=environment(), check=False)


@pytest.fixture
def file(tmp_path, small_glow):
    path = tmp_path / "weights.h5"
    small_glow.save_weights(
        path, dataset="digits", command="python3 main.py", step=7, epoch=2, seed=3, class_names=["a", "b"],
        test_bits_per_dim=2.5, test_standard_error=0.25, test_images=12,
    )  # fmt: skip
    return path


def test_a_mean_that_a_few_images_decide_is_marked(file, small_glow):
    small_glow.save_weights(file, test_bits_per_dim=20.0, test_standard_error=18.0, test_images=12)
    expected = "20.0000, standard error 18.0000 (decided by a few images), on 12 test images"
    assert inspect.describe(file)["bits/dim"] == expected


def test_everything_that_the_file_says(file, small_glow):
    shown = inspect.describe(file)
    assert shown["model"] == "images 4x8x2 of 8 bits; L=2, K=2, width 8"
    assert shown["kind"] == "affine coupling, conv1x1, pixels scale, openai"
    assert shown["parameters"].startswith(f"{small_glow.num_parameters:,} trained")
    assert shown["data set"] == "digits, 2 classes"
    assert shown["trained"] == "step 7, epoch 2, seed 3"
    assert shown["bits/dim"] == "2.5000, standard error 0.2500, on 12 test images"
    assert shown["command"] == "python3 main.py"
    assert file.read_bytes().endswith(shown["SHA-256"].encode() + b"\n")


def test_steps_of_the_weights_before_and_half_precision_are_said(file, small_glow):
    small_glow.save_weights(file, stored_dtype="float16", step=7, previous_steps=90)
    shown = inspect.describe(file)
    assert shown["trained"] == "step 7, steps before 90"
    assert ", float64 stored as float16, in " in shown["parameters"]


@pytest.mark.parametrize("changes", [{"permutation": "shuffle"}, {"num_classes": 3, "classifier": True}])
def test_the_count_is_that_of_the_trained(tmp_path, changes):
    glow = make_glow(**changes)
    glow.save_weights(tmp_path / "w.h5")
    assert inspect.describe(tmp_path / "w.h5")["parameters"].startswith(f"{glow.num_parameters:,} trained")
    assert inspect._NON_TRAINABLE == base.NON_TRAINABLE


def test_bundled_weights_in_ten_lines(tmp_path):
    done = started("digits", cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 10)
    assert str(pretrained.DIGITS) in done.stdout
    assert "2.1885" in done.stdout
    assert "294,756 trained" in done.stdout


def test_needs_no_tensorflow(file):
    program = "import sys, glow_tf.cli.inspect as i; i.describe(sys.argv[1]); print('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout == "False\n"


def test_metadata_of_strangers_stays_on_its_lines(tmp_path, small_glow):
    odd = {"dataset": "a\nb\u202e", "command": "\x1b[2J" + "x" * 5000, "class_names": ["\r"], "step": None}
    small_glow.save_weights(tmp_path / "w.h5", **odd)
    done = started("w.h5", cwd=tmp_path)
    assert (done.returncode, done.stdout.count("\n")) == (0, 10)
    assert done.stdout.replace("\n", "").isprintable()
    assert r"data set    a\nb\u202e, 1 classes" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 400


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def without_a_model(path):
    weights.write(path, {"a": np.zeros(3, np.float32)}, {"image_shape": [4, 4]})


def a_number_for_a_name(path):
    """As another program could write it."""
    hostile_h5.edited(path, lambda h5: h5.attrs.__setitem__("metadata", np.bytes_(b'{"dataset": 5}')))


BAD = {
    "missing": (lambda path: path.unlink(), "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (lambda path: path.write_text("hello"), "is a text file"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:2000]), "truncated"),
    "one bit": (flipped, "is damaged"),
    "no digest": (lambda path: path.write_bytes(path.read_bytes()[:-80]), "has lost its checksum"),
    "no model": (without_a_model, "image_shape"),
    "metadata": (a_number_for_a_name, "the metadata's dataset is 5; it must be a text"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_one_line(file, kind):
    spoil, message = BAD[kind]
    spoil(file)
    done = started(file.name, cwd=file.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_the_flag_of_other_commands_names_the_file_too(file):
    by_flag, by_argument = started("--weights", file.name, cwd=file.parent), started(file.name, cwd=file.parent)
    assert by_flag.returncode == 0 and by_flag.stdout == by_argument.stdout


def test_one_file_at_a_time(file):
    for arguments in (["a.h5", "b.h5"], ["--weights", file.name, "b.h5"]):
        done = started(*arguments, cwd=file.parent)
        assert (done.returncode, done.stderr) == (2, "error: expected one weights file, not 2\n")
