"""Which folders hold training and test images, and what is reported about the choice."""

import os
import re

import pytest
from prepared import fill

from glow_tf.data import listing
from glow_tf.errors import InputError


def find_splits(root):
    train, test = listing.find_splits(str(root))
    return os.path.relpath(train, root), test and os.path.relpath(test, root)


def make(root, *paths):
    """Files whose names are all that a listing looks at."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["a.png"], (".", None)),
        (["cat/a.png", "dog/a.png"], (".", None)),
        (["train/a.png"], ("train", None)),
        (["Train/a.png", "TEST/cat/a.png"], ("Train", "TEST")),
        (["training/a.png", "testing/a.png"], ("training", "testing")),
        (["train/a.png", "valid/a.png", "labels/a.csv", "README.md"], ("train", "valid")),
        (["train/a.png", "labels/a.csv"], ("train", None)),
        (["only/a.png"], (".", None)),
        (["archive/ds/cat/a.png", "archive/ds/dog/a.png"], (".", None)),
    ],
)
def test_a_layout_that_leaves_nothing_out_is_chosen_without_a_word(tmp_path, caplog, paths, splits):
    make(tmp_path, *paths)
    assert find_splits(tmp_path) == splits
    assert not caplog.records


@pytest.mark.parametrize(
    ("paths", "splits", "words"),
    [
        (["train/a.png", "test/a.png", "validation/a.png"], ("train", "test"), "not used: validation"),
        (["training/a.png", "testing/a.png", "validation/a.png"], ("training", "testing"), "not used: validation"),
        (["train/a.png", "test/a.png", "b.png"], ("train", "test"), "not used: b.png"),
        (
            ["train/a.png", "car/a.png", "bus/a.png"],
            (".", None),
            "'train' is read together .*bus, car",
        ),
        (["train/a.png", "b.png"], (".", None), "'train' is read together .*b.png"),
        (["test/a.png", "exam/a.png"], (".", None), "'test' is read together .*exam.* no folder of training images"),
        (["a/train/a.png", "a/test/a.png"], ("a/train", "a/test"), "a': training images are read from 'train', test"),
        (["a/b/train/c/a.png", "a/b/val/c/a.png"], ("a/b/train", "a/b/val"), "test images from 'val'$"),
        (["train/a.png", "test/notes.txt"], ("train", None), "the test folder holds no images"),
    ],
)
def test_a_choice_that_leaves_images_out_or_mixes_them_is_one_warning(tmp_path, caplog, paths, splits, words):
    make(tmp_path, *paths)
    assert find_splits(tmp_path) == splits
    (record,) = caplog.records
    assert re.search(words, record.getMessage()) and "\n" not in record.getMessage()


def test_splits_inside_classes_are_reported(tmp_path, caplog):
    paths = [os.path.join(kind, split, "a.png") for kind in ("cat", "dog") for split in ("Train", "test")]
    make(tmp_path, *paths)
    assert find_splits(tmp_path) == (".", None)
    listing.warn_of_mixed_splits(str(tmp_path), paths)
    (record,) = caplog.records
    assert "the images in folders 'Train' and 'test' are read as one set" in record.getMessage()
    listing.warn_of_mixed_splits(str(tmp_path), ["train/a.png", "b/test.png"])
    assert len(caplog.records) == 1


def test_an_empty_folder_is_refused(tmp_path):
    make(tmp_path, "train/notes.txt", "test/.hidden.png", "README.md")
    with pytest.raises(InputError, match=r"found 0 images in .*; formats: PNG, JPEG, WEBP, BMP, TIFF, GIF"):
        listing.check_not_empty(str(tmp_path))
    fill(tmp_path / "train", 1)
    listing.check_not_empty(str(tmp_path))


def test_class_names_are_text_even_where_folders_are_not():
    labels, names = listing.classes(["caf\udce9/a.png", "bar/a.png", "bar/b.png"])
    assert names == ("bar", "caf\\xe9") and labels.tolist() == [1, 0, 0]
    assert "".join(names).encode()


def test_classes_that_are_called_alike_once_they_are_escaped_are_refused():
    assert listing.classes(["a/1.png", "b\udcff/1.png"])[1] == ("a", "b\\xff")
    with pytest.raises(InputError, match="two class folders are both called"):
        listing.classes(["b\\xff/1.png", "b\udcff/1.png"])
