import os
import types

import numpy as np
import pytest
from PIL import Image

from glow_tf import _progress
from glow_tf.cli import images
from glow_tf.data import image_file
from glow_tf.data.dataset import ArrayDataset
from glow_tf.data.image_data import ImageData, of_model
from glow_tf.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "many").mkdir()
    for name, grey in (("a.png", 60), ("many/b.png", 90), ("many/c.png", 120)):
        Image.fromarray(np.full((8, 16), grey, np.uint8)).save(name)
    (tmp_path / "text.png").write_text("not an image")
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path


@pytest.fixture
def data(monkeypatch):
    split = ArrayDataset(
        np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones((1, 4, 8, 2), np.uint8), np.arange(5)
    )
    loads = []
    monkeypatch.setattr(images, "data_of", lambda *_: loads.append(1) or types.SimpleNamespace(test=split))
    return loads


def read(values, *arguments, **options):
    """`images.read` for these values of `--images`."""
    return images.read(images.Options(images=tuple(values)), *arguments, **options)


def test_files_folders_and_test_images_keep_their_order(folder, data, small_glow):
    values = ("many", "test:4,0", "a.png", "test:2")
    assert images.check(values) == 6
    named = read(values, small_glow)
    assert named.images.shape == (6, 4, 8, 2)
    assert named.images[:, 0, 0, 0].tolist() == [90, 120, 4, 0, 60, 2]
    assert named.labels.tolist() == [images.UNKNOWN, images.UNKNOWN, 4, 0, images.UNKNOWN, 2]
    assert named.names == ("many/b.png", "many/c.png", "test:4", "test:0", "a.png", "test:2")
    assert len(data) == 1


def test_labels_are_those_of_the_models_classes(conditional_glow, monkeypatch):
    """Images of other classes are unlabelled, so that they are not encoded under any of the model's by accident."""
    split = ArrayDataset(np.zeros((3, 4, 8, 2), np.uint8), np.arange(3))
    monkeypatch.setattr(conditional_glow, "metadata", {"class_names": ["ant", "bee", "cow"]})
    for names, labels in ((["ant", "bee", "cow"], [2, 0]), (["ape", "bee", "cow"], [-1, -1]), ([], [-1, -1])):
        data = ImageData("animals", split, split, (4, 8, 2), tuple(names))
        assert images.of_split(conditional_glow, data, split, [2, 0], "test:").labels.tolist() == labels
        assert data.has_classes_of(conditional_glow) == (labels == [2, 0])


def test_unreadable_files_of_a_folder_are_left_out(folder, small_glow):
    """Also where training needed --max_bad to accept them."""
    (folder / "many" / "text.png").write_text("not an image")
    assert read(["many"], small_glow).names == ("many/b.png", "many/c.png")
    data = of_model(small_glow, "./many")
    assert (data.train.num_images, data.test.num_images) == (1, 1)


def test_a_folder_is_read_only_as_far_as_needed_and_that_is_said(folder, small_glow, monkeypatch):
    decoded, lines = [], []
    decode = image_file.decode
    monkeypatch.setattr(
        image_file, "decode", lambda path, **options: (decoded.append(path), decode(path, **options))[1]
    )
    monkeypatch.setattr(_progress, "line", lines.append)
    assert read(["many"], small_glow, limit=1).names == ("many/b.png",)
    assert decoded == ["many/b.png"]
    assert lines == ["the first 1 of 2 images in many are used"]
    assert read(["many", "a.png"], small_glow, limit=2).names == ("many/b.png", "many/c.png")
    assert lines[1:] == ["2 images are used (--n); left out: a.png"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("missing.png", "missing.png does not exist"),
        ("pipe.png", "pipe.png is"),
        ("test:", "named as in test:0,5,17"),
        ("test:1,x", "named as in test:0,5,17"),
        ("test:-1", "named as in test:0,5,17"),
    ],
)
def test_names_are_checked_before_tensorflow_is_needed(folder, value, message):
    with pytest.raises(InputError, match=message):
        images.check([value])


def test_what_cannot_be_read_is_named(folder, data, small_glow):
    for value, message in (("test:5", "from 0 to 4"), ("text.png", "the image text.png cannot be read")):
        images.check([value])
        with pytest.raises(InputError, match=message):
            read([value], small_glow)
