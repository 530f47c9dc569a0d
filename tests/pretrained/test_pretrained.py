"""Weights by name: files, folders of runs, and those that come with the package."""

import pathlib
import shutil

import pytest

from glow_tf import pretrained
from glow_tf.data import image_data
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a run in it."""
    (tmp_path / "runs" / "mine" / "checkpoints").mkdir(parents=True)
    shutil.copy(pretrained.DIGITS, tmp_path / "runs" / "mine" / pretrained.RUN_WEIGHTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_bundled_file_is_a_name():
    assert set(pretrained.BUNDLED) == {path.stem for path in pretrained.DIGITS.parent.glob("*.h5")}
    for name, path in pretrained.BUNDLED.items():
        assert pretrained.find(name, "runs") == path


@pytest.mark.parametrize("name", sorted({*pretrained.BUNDLED} - {"digits"}))
def test_bundled_weights_are_those_of_a_model(name):
    assert Glow.load(name).is_initialized


def test_the_digits_have_the_bits_that_their_file_records():
    """As the version that trained them measured."""
    glow = Glow.load("digits")
    bits, *_ = metrics.bits_per_dim(glow, image_data.load("digits").test)
    assert bits == pytest.approx(glow.metadata["test_bits_per_dim"], abs=1e-5)


def test_files_and_runs(here):
    weights = str(here / "runs" / "mine" / pretrained.RUN_WEIGHTS)
    for name in (weights, here / "runs" / "mine", str(here / "runs" / "mine")):
        assert pretrained.find(name, "runs") == weights


def test_a_bundled_name_goes_before_a_folder_of_that_name(here):
    shutil.copytree("runs/mine", "digits")
    assert pretrained.locate("digits") == pretrained.DIGITS
    assert pretrained.locate("./digits") == f"./digits/{pretrained.RUN_WEIGHTS}"


def test_without_a_name_the_newest_run_or_the_bundled_weights_that_show_most(here):
    assert pretrained.find(None, "runs") == pathlib.Path("runs/mine") / pretrained.RUN_WEIGHTS
    best = next(name for name in ("fashion_mnist", "cifar10", "digits") if name in pretrained.BUNDLED)
    assert pretrained.find(None, "none") == pretrained.BUNDLED[best]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none does not exist; bundled weights: .*digits"),
        ("runs/min", r"runs/min does not exist; did you mean runs/mine\?$"),
        ("runs", "runs is a folder without checkpoints/weights.h5"),
        ("a\nb\x1b", r"a\\nb\\x1b does not exist"),
    ],
)
def test_what_is_not_there_is_one_line(here, name, message):
    with pytest.raises(InputError, match=message):
        pretrained.find(name, "runs")
