"""Data sets by name: digits, folders, unknown names, and the data of a model."""

import pathlib
import tarfile
import types
import urllib.request

import numpy as np
import pytest
from PIL import Image
from prepared import keys, pictures

from glow_tf.data import holdout, image_data
from glow_tf.errors import InputError

PHOTOGRAPHS = pathlib.Path(__file__).parents[3] / "shared" / "data" / "cifar10_jpeg.tar.xz"


def test_digits():
    digits = image_data.load("digits")
    assert digits.image_shape == (8, 8, 1) and digits.class_names == tuple("0123456789")
    assert (digits.train.num_images, digits.test.num_images) == (1541, 256)
    assert not digits.flippable
    images = np.concatenate([digits.train.images, digits.test.images])
    assert set(np.unique(images)) == set(range(0, 256, 16))
    assert set(digits.test.labels) == set(range(10))
    again = image_data.load("digits")
    np.testing.assert_array_equal(digits.test.images, again.test.images)


def test_digits_are_those_of_scikit_learn():
    from sklearn import datasets

    source = datasets.load_digits()
    digits = image_data.load("digits")
    images = np.concatenate([digits.train.images, digits.test.images])[..., 0]
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    ours = sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))
    clipped = (np.minimum(source.images, 15) * 16).astype(np.uint8)
    theirs = sorted((image.tobytes(), label) for image, label in zip(clipped, source.target, strict=True))
    assert ours == theirs


def test_digits_can_be_padded_and_coloured_but_not_shrunk():
    digits = image_data.load("digits", image_size=12, channels=3)
    assert digits.image_shape == (12, 12, 3)
    plain = image_data.load("digits").train.images
    np.testing.assert_array_equal(digits.train.images[:, 2:10, 2:10], np.repeat(plain, 3, -1))
    with pytest.raises(InputError, match="digits are 8x8"):
        image_data.load("digits", image_size=4)


@pytest.mark.parametrize("size", [0, -1, 4096, (8, 0)])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(InputError, match="1 to 1024"):
        image_data.load("digits", image_size=size)


def test_impossible_channels_are_refused():
    with pytest.raises(InputError, match="channels is 5"):
        image_data.load("digits", channels=5)


@pytest.mark.parametrize("name, hint", [("cfar10", "cifar10"), ("Digits", "digits"), ("imagenet", "imagenet")])
def test_an_unknown_name_gets_suggestions(tmp_path, name, hint):
    with pytest.raises(InputError, match=f"{name!r} is neither.*did you mean .*{hint}.*folder of images"):
        image_data.load(name, data_dir=tmp_path)


# Folders


def fill(folder, count, seed=0, side=8):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(pictures(count, (side, side, 3), seed)):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


def test_a_flat_folder_is_divided_by_the_names_of_its_images(tmp_path):
    folder = image_data.load(fill(tmp_path, 40))  # a Path
    assert (folder.train.num_images, folder.test.num_images, folder.num_images) == (39, 1, 40)
    assert folder.image_shape == (8, 8, 3) and folder.class_names == () and folder.flippable
    originals = pictures(40, (8, 8, 3))
    for split, names in ((folder.train, folder.train_names), (folder.test, folder.test_names)):
        assert keys(split.images) == keys([originals[int(name.removesuffix(".png"))] for name in names])
    assert sorted(folder.train_names + folder.test_names) == [f"{number:03}.png" for number in range(40)]


def test_a_folder_that_grew_is_told_apart_and_its_test_images_stay(tmp_path):
    before = image_data.load(str(fill(tmp_path, 100)))
    assert holdout.describe_change(before.fingerprint(), image_data.load(str(tmp_path)).fingerprint()) == ("", False)
    after = image_data.load(str(fill(tmp_path, 104)))
    assert set(before.train_names) <= set(after.train_names) and set(before.test_names) <= set(after.test_names)
    message, is_fatal = holdout.describe_change(before.fingerprint(), after.fingerprint())
    assert "4 images were added and 0 images were removed" in message and not is_fatal


def test_labels_of_a_divided_folder_stay_with_their_images(tmp_path):
    for number, name in enumerate(["b", "a", "c"]):
        fill(tmp_path / name, 20, seed=number)
    folder = image_data.load(str(tmp_path))
    assert folder.class_names == ("a", "b", "c")
    label_of = {key: label for label, seed in enumerate([1, 0, 2]) for key in keys(pictures(20, (8, 8, 3), seed))}
    for split in (folder.train, folder.test):
        assert [label_of[key] for key in keys(split.images)] == list(split.labels)
    assert folder.train.num_images == 60 - folder.test.num_images


def test_training_and_test_folders_share_their_classes(tmp_path):
    for name in ("a", "b", "c"):
        fill(tmp_path / "train" / name, 2)
    fill(tmp_path / "val" / "b", 1)
    fill(tmp_path / "val" / "c", 2)
    folder = image_data.load(str(tmp_path))
    assert folder.class_names == ("a", "b", "c")
    assert folder.train.labels.tolist() == [0, 0, 1, 1, 2, 2] and folder.test.labels.tolist() == [1, 2, 2]
    fill(tmp_path / "val" / "unheard of", 1)
    with pytest.raises(InputError, match="classes the training folder lacks: .'unheard of'"):
        image_data.load(str(tmp_path))


def test_an_unlabelled_test_folder_leaves_all_unlabelled(tmp_path, caplog):
    fill(tmp_path / "train" / "a", 2)
    fill(tmp_path / "train" / "b", 2)
    fill(tmp_path / "test", 2)
    folder = image_data.load(str(tmp_path))
    assert folder.class_names == () and set(folder.train.labels) == {0}
    assert "classes are ignored" in caplog.text


def test_training_and_test_images_must_agree_in_size(tmp_path):
    fill(tmp_path / "train", 2)
    fill(tmp_path / "test", 2, side=9)
    with pytest.raises(InputError, match="8x8, its test images 9x9"):
        image_data.load(str(tmp_path))
    assert image_data.load(str(tmp_path), image_size=8).test.images.shape == (2, 8, 8, 3)


def test_one_image_and_none(tmp_path, caplog):
    folder = image_data.load(str(fill(tmp_path / "one", 1)))
    assert folder.train.num_images == folder.test.num_images == 1
    assert "single image" in caplog.text
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="found 0 images"):
        image_data.load(str(tmp_path / "none"))
    with pytest.raises(InputError, match="does not exist"):
        image_data.load(str(tmp_path / "missing"))


def test_a_folder_beside_a_data_set_of_its_name(tmp_path, monkeypatch):
    fill(tmp_path / "mnist", 2)
    fill(tmp_path / "mine", 2)
    monkeypatch.chdir(tmp_path)
    assert image_data.load("mine").train.num_images == 1
    assert image_data.load("./mnist").train.num_images == 1
    with pytest.raises(InputError, match="tfds build mnist"):
        image_data.load("mnist", data_dir=tmp_path / "tfds")


def test_channels_and_the_tolerance_reach_the_folder_reader(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    assert image_data.load(str(tmp_path), max_bad=0.5).train.images.min() == 255
    assert image_data.load(str(tmp_path), max_bad=0.5, channels=4).image_shape == (4, 4, 4)
    with pytest.raises(InputError, match="remove them, or train with --max_bad 0.5 to accept them$"):
        image_data.load(str(tmp_path))
    with pytest.raises(InputError, match="--max_bad is 5"):
        image_data.load(str(tmp_path), max_bad=5)


def test_photographs_in_class_folders(tmp_path):
    if not PHOTOGRAPHS.exists():
        pytest.skip(f"needs {PHOTOGRAPHS.name} in ../shared/data")
    with tarfile.open(PHOTOGRAPHS) as archive:
        photographs = [archive.next() for _ in range(30)]
        archive.extractall(tmp_path, [member for member in photographs if member.isfile()], filter="data")
    photographs = image_data.load(str(tmp_path / "cifar10_jpeg"), image_size=(16, 24))
    assert photographs.image_shape == (16, 24, 3)
    assert photographs.test.num_images >= 1


# Data of a model


class Trained:
    """The parts of a Glow that name and shape its data."""

    config = types.SimpleNamespace(image_shape=(8, 8, 3))

    def __init__(self, dataset):
        self.metadata = {"dataset": dataset}


def test_a_folder_is_read_only_if_the_user_names_it(tmp_path, monkeypatch):
    folder = str(fill(tmp_path / "photos", 3))
    for recorded in (folder, "/", "."):
        with pytest.raises(InputError, match="if that is a folder, add --dataset"):
            image_data.of_model(Trained(recorded))
    assert image_data.of_model(Trained(folder), folder).num_images == 3
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="trained on 'photos'; if that is a folder, add --dataset photos"):
        image_data.of_model(Trained("photos"))


def test_nothing_is_downloaded_for_a_name_in_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("the network was used"))
    with pytest.raises(InputError, match="'cifar10' is not in .* needs --dataset cifar10 --download"):
        image_data.of_model(Trained("cifar10"), data_dir=tmp_path, download=True)
