"""convert.py as a user runs it: all command lines in one process, since TensorFlow takes seconds to start."""

import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT, run_many
from helpers import REFERENCE, make_glow, random_images

from glow_tf.glow import Glow
from glow_tf.importers import openai

WRONG_FLAGS = [
    ((), "use either --from"),
    (("--from", "openai", "--to", "openai", "x"), "use either --from"),
    (("--input", "x"), "--input is not a flag of this command; --help lists its flags"),
    (("--from", "torch", "x"), "--from is 'torch'; it can be openai, glow-tf2, rosinality"),
    (("--from", "openai", "--out", "w"), "expected one path to read, not 0"),
    (("--from", "openai", "x", "y", "--out", "w"), "expected one path to read, not 2"),
    (("--to", "openai", "x", "--weights", "y", "--out", "w"), "expected one path to read, not 2"),
    (("--from", "openai", "x"), "--out"),
    (("--from", "openai", "x", "--out", "w"), "set it with --img_size"),
    (("--from", "rosinality", "x", "--out", "w"), "set it with --img_size"),
    (("--from", "glow-tf2", "x", "--n_bits", "5", "--out", "w"), "--n_bits cannot be combined with"),
    (("--from", "glow-tf2", "x", "--ema", "--out", "w"), "--ema is for"),
    (("--from", "openai", "x", "--n_bits", "9", "--out", "w"), "n_bits"),
    (("--to", "openai", "x", "--img_size", "8", "--out", "w"), "--img_size cannot be combined with --to"),
    (("--to", "openai", "x", "--n_bits", "5", "--out", "w"), "--n_bits cannot be combined with --to"),
]

# (command line, what the error says); {prefix} is an OpenAI checkpoint, and "none" does not exist.
REFUSED = [
    (("--from", "openai", "{prefix}", "--img_size", "10", "--out", "w"), "not divisible by"),
    (("--from", "openai", "none", "--img_size", "8", "--out", "w"), "does not exist"),
    (("--from", "glow-tf2", "{prefix}.index", "--out", "w"), "part of a TensorFlow checkpoint"),
    (("--to", "openai", "{prefix}.index", "--out", "w"), "part of a TensorFlow checkpoint"),
    (("--from", "openai", "{prefix}", "--img_size", "8", "--out", "{prefix}.index/w"), "is not a writable folder"),
    (("--from", "openai", "{prefix}", "--img_size", "8", "--out", "."), "is a folder"),
    (("--from", "glow-tf2", "{prefix}.index", "--out", "{prefix}.index"), "which is also an input; name another file"),
    (("--to", "saved-model", "digits", "--out", "."), "--out . exists already; name a folder to make"),
    *WRONG_FLAGS,
]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """An OpenAI checkpoint of a small random model."""
    path = tmp_path_factory.mktemp("openai") / "model.ckpt"
    openai.write(make_glow(dtype="float32", image_shape=(8, 8, 3), num_bits=5), path)
    return path


@pytest.fixture(scope="module")
def run(prefix, tmp_path_factory):
    """({name: (status, output, errors)}, the folder the commands ran in)."""
    folder = tmp_path_factory.mktemp("convert")
    lines = {
        "there": ["--from", "openai", str(prefix), "--img_size", "8", "--n_bits", "5", "--out", "new/there.h5"],
        "back": ["--to", "openai", "--weights", "new/there.h5", "--out", "again"],
        **{f"refused {i}": [w.format(prefix=prefix) for w in line] for i, (line, _) in enumerate(REFUSED)},
    }
    if REFERENCE.is_dir():
        paths = {
            "openai": ("openai_c/model_best_loss.ckpt", "--img_size", "16", "--ema"),
            "glow-tf2": ("glow_tf2_k2l2/weights.h5",),
            "rosinality": ("rosinality/model.pt", "--img_size", "16"),
        }
        for program, (path, *options) in paths.items():
            source = str(REFERENCE / path)
            lines[program] = ["--from", program, source, *options, "--out", f"{program}.h5"]
    return dict(zip(lines, run_many("convert", list(lines.values()), folder), strict=True)), folder


@pytest.fixture
def converted(run):
    """name of a command line -> (what it printed, the folder)."""

    def of(name):
        status, output, errors = run[0][name]
        assert (status, errors) == (0, "")
        return output, run[1]

    return of


def test_there_and_back(converted, prefix, rng):
    message, folder = converted("there")
    assert "8x8x3 of 5 bits; L=2, K=2, width 8; affine coupling, conv1x1, " in message
    assert "--img_size 8 --n_bits 5" in converted("back")[0]
    first, second = openai.read(prefix, 8, 5), openai.read(folder / "again", 8, 5)
    images = random_images(rng, first, 2)
    np.testing.assert_array_equal(Glow.load(folder / "new" / "there.h5").log_prob(images), first.log_prob(images))
    np.testing.assert_allclose(second.log_prob(images), first.log_prob(images), rtol=0, atol=1e-3)


def test_openai_reference(converted, reference):
    message, folder = converted("openai")
    assert "10 classes" in message
    glow, expected = Glow.load(folder / "openai.h5"), np.load(reference / "openai_c" / "values.npz")
    assert glow.metadata == {"converted_from": "openai", "averaged": True}
    log_prob = glow.log_prob(expected["x_float"], expected["y"])
    bits = glow.dequantizer.bits_per_dim(log_prob, glow.config.num_dims)
    np.testing.assert_allclose(bits, expected["bits_x_ema"], rtol=0, atol=1e-5)


def test_glow_tf2_reference(converted, reference):
    _, folder = converted("glow-tf2")
    expected = np.load(reference / "glow_tf2_k2l2" / "values.npz")
    nll = -Glow.load(folder / "glow-tf2.h5").log_prob(expected["x"]).numpy() / np.log(2)
    np.testing.assert_allclose(nll, expected["nll"], rtol=1e-5)


def test_rosinality_reference(converted, reference):
    pytest.importorskip("torch")
    _, folder = converted("rosinality")
    glow, expected = Glow.load(folder / "rosinality.h5"), np.load(reference / "rosinality" / "values.npz")
    log_prob = glow.log_prob(expected["x_nchw"].transpose(0, 2, 3, 1))
    bits = glow.dequantizer.bits_per_dim(log_prob, glow.config.num_dims)
    np.testing.assert_allclose(bits, expected["bits_per_dim"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("index", range(len(REFUSED)), ids=lambda i: REFUSED[i][1])
def test_errors_are_one_line_and_write_nothing(run, index):
    answers, folder = run
    status, output, errors = answers[f"refused {index}"]
    assert (status, output) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    assert REFUSED[index][1] in errors
    assert not (folder / "w").exists()


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["--from", "openai"], 2)])
def test_help_and_wrong_flags_do_not_wait_for_tensorflow(arguments, status):
    script = [sys.executable, "-X", "importtime", ROOT / "convert.py"]
    done = subprocess.run([*script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "tensorflow" not in done.stderr and "absl" in done.stderr
    if status == 0:
        assert "--from openai PREFIX" in done.stdout and "moving average" in done.stdout
    else:
        assert "\nerror: " in done.stderr
