"""convert.py as a user runs it.

TensorFlow takes seconds to start, so most runs are inside this process; what the start itself must do is
tested in one of its own.
"""

import contextlib
import pathlib
import runpy
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags
from helpers import make_glow, random_images

from glow_tf.glow import Glow
from glow_tf.importers import openai

SCRIPT = pathlib.Path(__file__).parents[1] / "convert.py"


OWN_FLAGS = ("from", "to", "out", "img_size", "n_bits", "ema")


@contextlib.contextmanager
def own_flags():
    """Takes this command's flags away again; another command's of the same name wait meanwhile."""
    others = {name: flags.FLAGS[name] for name in OWN_FLAGS if name in flags.FLAGS}
    _undefine(others)
    try:
        yield
    finally:
        _undefine(name for name in OWN_FLAGS if name in flags.FLAGS)
        for name, flag in others.items():
            flags.FLAGS[name] = flag
        flags.FLAGS.unparse_flags()


def _undefine(names):
    for name in list(names):
        delattr(flags.FLAGS, name)


@pytest.fixture
def convert(monkeypatch, capsys):
    """convert(*arguments) -> (exit status, standard output, error output)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, arguments)])
        monkeypatch.syspath_prepend(SCRIPT.parent)
        with own_flags(), pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return end.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def converted(convert):
    def run(*arguments):
        status, output, errors = convert(*arguments)
        assert (status, errors) == (0, "")
        return output

    return run


@pytest.fixture
def refused(convert):
    def run(*arguments):
        status, output, errors = convert(*arguments)
        assert (status, output) == (2, "")
        assert errors.startswith("error: ") and errors.count("\n") == 1, errors
        return errors

    return run


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """An OpenAI checkpoint of a small random model."""
    path = tmp_path_factory.mktemp("openai") / "model.ckpt"
    openai.write(make_glow(dtype="float32", image_shape=(8, 8, 3), num_bits=5), path)
    return path


def test_there_and_back(converted, prefix, tmp_path, rng):
    out = tmp_path / "weights.h5"
    message = converted("--from", "openai", prefix, "--img_size", 8, "--n_bits", 5, "--out", out)
    assert "8x8x3 of 5 bits, L=2 levels of K=2 steps, width 8, affine, conv1x1" in message
    message = converted("--to", "openai", out, "--out", tmp_path / "again")
    assert "--img_size 8 --n_bits 5" in message
    first, second = openai.read(prefix, 8, 5), openai.read(tmp_path / "again", 8, 5)
    images = random_images(rng, first, 2)
    np.testing.assert_array_equal(Glow.load(out).log_prob(images), first.log_prob(images))
    np.testing.assert_allclose(second.log_prob(images), first.log_prob(images), rtol=0, atol=1e-3)


def test_openai_reference(converted, reference, tmp_path):
    folder = reference / "openai_c"
    out = tmp_path / "weights.h5"
    source = folder / "model_best_loss.ckpt"
    assert "10 classes" in converted("--from", "openai", source, "--img_size", 16, "--ema", "--out", out)
    expected = np.load(folder / "values.npz")
    glow = Glow.load(out)
    assert glow.metadata == {"converted_from": "openai", "averaged": True}
    log_prob = glow.log_prob(expected["x_float"], expected["y"])
    bits = glow.pixels.bits_per_dim(log_prob, glow.config.num_dims)
    np.testing.assert_allclose(bits, expected["bits_x_ema"], rtol=0, atol=1e-5)


def test_glow_tf2_reference(converted, reference, tmp_path):
    out = tmp_path / "weights.h5"
    converted("--from", "glow-tf2", reference / "glow_tf2_k2l2" / "weights.h5", "--out", out)
    expected = np.load(reference / "glow_tf2_k2l2" / "values.npz")
    nll = -Glow.load(out).log_prob(expected["x"]).numpy() / np.log(2)
    np.testing.assert_allclose(nll, expected["nll"], rtol=1e-5)


def test_rosinality_reference(converted, reference, tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "weights.h5"
    converted("--from", "rosinality", reference / "rosinality" / "model.pt", "--img_size", 16, "--out", out)
    expected = np.load(reference / "rosinality" / "values.npz")
    glow = Glow.load(out)
    log_prob = glow.log_prob(expected["x_nchw"].transpose(0, 2, 3, 1))
    bits = glow.pixels.bits_per_dim(log_prob, glow.config.num_dims)
    np.testing.assert_allclose(bits, expected["bits_per_dim"], rtol=0, atol=1e-5)


def test_errors_are_one_line(refused, prefix, tmp_path):
    out = tmp_path / "weights.h5"
    assert "not divisible by" in refused("--from", "openai", prefix, "--img_size", 10, "--out", out)
    assert "does not exist" in refused("--from", "openai", tmp_path / "none", "--img_size", 8, "--out", out)
    index = f"{prefix}.index"
    assert "part of a TensorFlow checkpoint" in refused("--from", "glow-tf2", index, "--out", out)
    assert "part of a TensorFlow checkpoint" in refused("--to", "openai", index, "--out", out)
    nowhere = tmp_path / "none" / "weights.h5"
    assert "cannot be written" in refused("--from", "openai", prefix, "--img_size", 8, "--out", nowhere)
    assert "is a folder" in refused("--from", "openai", prefix, "--img_size", 8, "--out", tmp_path)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --from"),
        (("--from", "openai", "--to", "openai", "x"), "give either --from"),
        (("--from", "torch", "x"), "should be one of"),
        (("--from", "openai", "--out", "w"), "give one path to read; 0"),
        (("--from", "openai", "x", "y", "--out", "w"), "give one path to read; 2"),
        (("--from", "openai", "x"), "--out"),
        (("--from", "openai", "x", "--out", "w"), "give --img_size"),
        (("--from", "rosinality", "x", "--out", "w"), "give --img_size"),
        (("--from", "glow-tf2", "x", "--n_bits", 5, "--out", "w"), "leave --n_bits away"),
        (("--from", "glow-tf2", "x", "--ema", "--out", "w"), "--ema is for"),
        (("--from", "openai", "x", "--n_bits", 9, "--out", "w"), "n_bits"),
    ],
)
def test_wrong_flags(refused, arguments, message):
    assert message in refused(*arguments)


def test_help_and_wrong_flags_do_not_wait_for_tensorflow():
    for arguments, status in (["--help"], 0), (["--from", "openai"], 2):
        start = time.monotonic()
        result = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
        assert result.returncode == status
        assert time.monotonic() - start < 3
        if status == 0:
            assert "--from openai PREFIX" in result.stdout and "averaged" in result.stdout
        else:
            assert result.stderr.startswith("error: ")
