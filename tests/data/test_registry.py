"""Names that lead nowhere: refused without TensorFlow, with what lies near."""

import subprocess
import sys

import pytest

from glow_tf import _files
from glow_tf.data import registry
from glow_tf.errors import InputError


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "runs" / "classes" / "weights.h5"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    return file


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("runs/clases/weights.h5", "runs/classes/weights.h5"),
        ("run/class/weight.h5", "runs/classes/weights.h5"),
        ("./runs/classes", None),  # itself
        ("./runs/clases", "runs/classes"),
        ("", None),
        ("runs/classes/other.png", None),
        ("elsewhere/classes", None),
        ("runs/classes/weights.h5/more", None),
    ],
)
def test_nearest(runs, named, found):
    assert _files.nearest(named) == found


def test_nearest_of_an_absolute_path(runs):
    assert _files.nearest(str(runs.parent.with_name("clases"))) == str(runs.parent)


def test_a_dangling_link_is_not_suggested_for_itself(tmp_path):
    (tmp_path / "weights.h5").symlink_to("nowhere")
    assert _files.suggestion(tmp_path / "weights.h5") == ""


def test_full_folders_are_not_looked_through(tmp_path, monkeypatch):
    for name in ("weights-1.h5", "weights-2.h5", "other"):
        (tmp_path / name).touch()
    assert _files.nearest(tmp_path / "weights-3.h5") is not None
    monkeypatch.setattr(_files, "MOST_ENTRIES", 2)
    assert _files.nearest(tmp_path / "weights-3.h5") is None


def test_the_message_names_it(runs):
    with pytest.raises(InputError, match=r"'runs/clases' does not exist; did you mean runs/classes\?"):
        registry.check_folder("runs/clases")
    with pytest.raises(InputError, match=r"weight.h5 does not exist; did you mean runs/classes/weights.h5\?"):
        _files.check_file("runs/classes/weight.h5")
    with pytest.raises(InputError, match="runs is a folder, not a file"):
        _files.check_file("runs")
    with pytest.raises(InputError, match="is not a folder"):
        registry.check_folder("runs/classes/weights.h5")


def test_a_folder_that_has_the_name_of_a_data_set_goes_behind_it(runs, monkeypatch):
    for name in ("digits", "mnist"):
        (runs.parent / name).mkdir()
    monkeypatch.chdir(runs.parent)
    assert [registry.is_folder(name) for name in ("digits", "mnist", "./digits", "./mnist")] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("name", ["digits", "cifar10", "imagenet_resized/32x32", "mnist:3.0.1", "runs", "./runs"])
def test_data_sets_that_are_there(runs, name):
    registry.check_data_set(name)


def test_a_data_set_that_was_prepared_without_code_of_tfds(tmp_path):
    (tmp_path / "own_set").mkdir()
    registry.check_data_set("own_set", tmp_path)
    with pytest.raises(InputError, match="'own_set' is neither"):
        registry.check_data_set("own_set")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar01", "neither a data set nor a folder; did you mean cifar10"),
        ("runns", "there is a folder runs"),
        ("./run", r"the folder './run' does not exist; did you mean runs\?"),
    ],
)
def test_data_sets_that_are_not_there(runs, name, words):
    with pytest.raises(InputError, match=words):
        registry.check_data_set(name)


@pytest.mark.parametrize("call", ["check_data_set('cifar01')", "check_data_set('./no')", "check_folder('no')"])
def test_tensorflow_is_not_imported(call):
    code = f"""
import sys
from glow_tf import errors
from glow_tf.data import registry
try:
    registry.{call}
except errors.InputError:
    sys.exit("tensorflow" in sys.modules)
sys.exit("nothing was refused")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_is_the_one_of_the_training_by_its_place(tmp_path, monkeypatch):
    for name in ("photographs", "digits", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert registry.is_same_folder("photographs", "~/photographs")
    assert registry.is_same_folder("~/photographs", "photographs")
    assert not registry.is_same_folder("photographs", "other")
    assert not registry.is_same_folder("digits", "digits")  # the data set, not the folder
    assert not registry.is_same_folder(None, "other")
