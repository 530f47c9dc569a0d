"""Names of missing data: refused without TensorFlow, with the nearest existing name."""

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


def test_names_of_data_sets_take_precedence_over_folders(runs, monkeypatch):
    for name in ("digits", "mnist"):
        (runs.parent / name).mkdir()
    monkeypatch.chdir(runs.parent)
    assert [registry.is_folder(name) for name in ("digits", "mnist", "./digits", "./mnist")] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("name", "stands_for"),
    [
        ("digits", "digits"),
        ("cifar10", "tfds"),
        ("imagenet_resized/32x32", "tfds"),
        ("mnist:3.0.1", "tfds"),
        ("runs", "folder"),
        ("./runs", "folder"),
    ],
)
def test_data_sets_that_exist(runs, name, stands_for):
    (runs.parent / "a.png").touch()
    assert registry.check_data_set(name, download=True) == stands_for


def test_a_data_set_that_was_prepared_without_code_of_tfds(tmp_path):
    (tmp_path / "own_set" / "1.0.0").mkdir(parents=True)
    with pytest.raises(InputError, match="'own_set' is neither"):
        registry.check_data_set("own_set", tmp_path)
    (tmp_path / "own_set" / "1.0.0" / "dataset_info.json").touch()
    assert registry.check_data_set("own_set", tmp_path) == "tfds"
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
def test_missing_data_sets(runs, name, words):
    with pytest.raises(InputError, match=words):
        registry.check_data_set(name)


def test_a_missing_data_set_names_the_ways_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="needs --dataset mnist --download; .* tfds build mnist --data_dir=there$"):
        registry.check_data_set("mnist", "there")
    (tmp_path / "mnist").mkdir()
    with pytest.raises(InputError, match="the folder of that name is ./mnist$"):
        registry.check_data_set("mnist", "there")
    manual = tmp_path / "there" / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "train-images-idx3-ubyte.gz").touch()
    assert registry.check_data_set("mnist", "there") == "tfds"


@pytest.mark.parametrize("name", ["photos", "runs2"])
def test_only_what_is_near_is_suggested(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="neither a data set nor a folder; known are"):
        registry.check_data_set(name, tmp_path)


@pytest.mark.parametrize("name", ["d\udcff", "./d\udcff", "a\0b", "./a\0b"])
def test_names_that_cannot_be_recorded_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if "\0" not in name:
        (tmp_path / name).mkdir()
    for check in (registry.check_data_set, registry.check_folder):
        with pytest.raises(InputError, match="not valid UTF-8|null character") as caught:
            check(name)
        str(caught.value).encode()


@pytest.mark.parametrize(
    "name", [None, "", 5, True, "/", ".", "~", "photos", "../digits", "a\0", "cifar10/../..", "a:b"]
)
def test_weights_do_not_choose_what_is_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    monkeypatch.setattr(registry.listing, "check_not_empty", lambda root: pytest.fail("a folder was read"))
    with pytest.raises(InputError, match="name the data with --dataset|if that is a folder, add --dataset"):
        registry.check_recorded(name, tmp_path)


@pytest.mark.parametrize("name", ["digits", "cifar10", "mnist:3.0.1"])
def test_weights_may_record_data_sets_by_name(name):
    assert registry.check_recorded(name) == name


@pytest.mark.parametrize(
    "call",
    [
        "check_data_set('cifar01')",
        "check_data_set('cifar10', '/nowhere')",
        "check_data_set('./no')",
        "check_data_set('.')",
        "check_folder('no')",
    ],
)
def test_tensorflow_is_not_imported(call, tmp_path):
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
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0


def test_images_are_those_of_the_training_by_their_place(tmp_path, monkeypatch):
    for name in ("photographs/cats", "photographs/Test/cats", "digits", "other"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert registry.is_in_folder("photographs", "~/photographs")
    assert registry.is_in_folder("~/photographs", "photographs/cats/a.png")
    assert not registry.is_in_folder("photographs", "photographs/Test/cats")
    assert not registry.is_in_folder("photographs/cats", "photographs")
    assert not registry.is_in_folder("photographs", "other")
    assert not registry.is_in_folder("digits", "digits")  # the data set, not the folder
    assert not registry.is_in_folder(None, "other")


def test_a_part_of_the_folder_of_the_training_holds_out_other_images(tmp_path, monkeypatch):
    for name in ("photographs/cats", "photographs/test", "digits"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert registry.overlaps("photographs", "photographs/cats") and registry.overlaps("./photographs/cats", ".")
    assert not registry.overlaps("photographs", "./photographs")  # the same test images
    assert not registry.overlaps("photographs", "photographs/test")
    assert not registry.overlaps("digits", ".") and not registry.overlaps(None, ".")
