"""Data sets of TFDS: what is read, and which message follows if one is missing or damaged."""

import json
import os
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from damage import mutated_json
from prepared import keys, pictures, prepare

from glow_tf.data import image_data
from glow_tf.errors import InputError


@pytest.fixture(scope="module")
def mnist_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    digits = np.zeros((23, 28, 28, 1), np.uint8)
    digits[:, 4:24, 4:24] = pictures(23, (20, 20, 1))
    prepare(data_dir, "mnist", "3.0.1", {"train": digits[:16], "test": digits[16:]})
    return data_dir


def test_mnist_is_padded_to_32(mnist_dir):
    mnist = image_data.load("mnist", data_dir=mnist_dir)
    assert mnist.image_shape == (32, 32, 1) and mnist.class_names == tuple("0123456789")
    assert (mnist.train.num_images, mnist.test.num_images) == (16, 7)
    assert not mnist.flippable
    digits = np.zeros((23, 32, 32, 1), np.uint8)
    digits[:, 6:26, 6:26] = pictures(23, (20, 20, 1))
    label_of = {image.tobytes(): number % 10 for number, image in enumerate(digits[:16])}
    assert sorted(keys(mnist.train.images)) == sorted(label_of)
    assert [label_of[key] for key in keys(mnist.train.images)] == list(mnist.train.labels)


def test_size_and_channels_can_be_chosen(mnist_dir):
    assert image_data.load("mnist", data_dir=mnist_dir, image_size=(28, 28)).image_shape == (28, 28, 1)
    assert image_data.load("mnist", data_dir=mnist_dir, image_size=16, channels=3).train.images.shape == (
        16,
        16,
        16,
        3,
    )
    with pytest.raises(InputError, match="'mnist' has 1 channels, which cannot be converted to 4"):
        image_data.load("mnist", data_dir=mnist_dir, channels=4)


def test_large_images_are_cropped_and_resized(tmp_path):
    prepare(
        tmp_path,
        "celeb_a",
        "2.1.0",
        {"train": pictures(3, (218, 178, 3)), "test": pictures(1, (218, 178, 3))},
    )
    faces = image_data.load("celeb_a", data_dir=tmp_path, image_size=64)
    assert faces.train.images.shape == (3, 64, 64, 3) and faces.flippable


def test_a_set_known_only_from_its_files_without_labels_or_test_split(tmp_path):
    images = pictures(41, (8, 8, 3))
    prepare(tmp_path, "my_pictures", "1.0.0", {"train": images}, num_classes=0)
    mine = image_data.load("my_pictures", data_dir=tmp_path)
    assert mine.class_names == () and set(mine.train.labels) == {0}
    assert (mine.train.num_images, mine.test.num_images) == (39, 2)
    both = keys(mine.train.images) + keys(mine.test.images)
    assert sorted(both) == sorted(keys(images))


def test_validation_serves_as_test_and_a_config_is_part_of_the_name(tmp_path):
    splits = {"train": pictures(5, (32, 32, 3)), "validation": pictures(2, (32, 32, 3), seed=1)}
    prepare(tmp_path, "imagenet_resized", "0.1.0", splits, num_classes=1000, config="32x32")
    resized = image_data.load("imagenet_resized/32x32", data_dir=tmp_path)
    assert sorted(keys(resized.test.images)) == sorted(keys(splits["validation"]))
    assert len(resized.class_names) == 1000


def test_test_images_without_labels_are_left_out(tmp_path, caplog):
    splits = {"train": pictures(30, (8, 8, 1)), "test": pictures(4, (8, 8, 1)), "validation": pictures(3, (8, 8, 1))}
    prepare(tmp_path, "seen", "1.0.0", splits, unlabelled={"test"})
    prepare(tmp_path, "unseen", "1.0.0", splits, unlabelled={"test", "validation"})
    seen, unseen = (image_data.load(name, data_dir=tmp_path) for name in ("seen", "unseen"))
    assert (seen.train.num_images, seen.test.num_images, set(seen.test.labels)) == (30, 3, {0, 1, 2})
    assert (unseen.train.num_images, unseen.test.num_images) == (29, 1)
    assert "unseen has no labelled test split; the last 1 training images are held out" in caplog.text


def test_images_of_several_sizes_need_an_image_size(tmp_path):
    images = [pictures(1, (height, 9, 3))[0] for height in (5, 30, 9, 12)]
    prepare(tmp_path, "odd_sizes", "1.0.0", {"train": images}, feature_shape=(None, None, 3))
    with pytest.raises(InputError, match="no common size"):
        image_data.load("odd_sizes", data_dir=tmp_path)
    assert image_data.load("odd_sizes", data_dir=tmp_path, image_size=10).train.images.shape == (3, 10, 10, 3)


def test_a_set_without_images_is_refused(tmp_path):
    prepare(tmp_path, "numbers", "1.0.0", {"train": None}, extra={"value": (np.float32, [0.0] * 4)})
    with pytest.raises(InputError, match="no feature `image`"):
        image_data.load("numbers", data_dir=tmp_path)


def test_a_damaged_file_is_named_by_its_folder(tmp_path):
    prepare(tmp_path, "my_pictures", "1.0.0", {"train": pictures(9, (8, 8, 3))})
    (record,) = (tmp_path / "my_pictures" / "1.0.0").glob("*.tfrecord*")
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 255
    record.write_bytes(content)
    with pytest.raises(
        InputError, match="my_pictures/1.0.0.* cannot be read: corrupted record .*prepare the data set again"
    ):
        image_data.load("my_pictures", data_dir=tmp_path)


@pytest.fixture(scope="module")
def faces_dir(tmp_path_factory):
    """20 images of two kinds in several attributes, as celeb_a has them."""
    data_dir = tmp_path_factory.mktemp("tfds")
    attributes = {
        "Smiling": (np.bool_, [number % 3 == 0 for number in range(20)]),
        "Hat": (np.int64, [(-1, 1, 0, 7)[number % 4] for number in range(20)]),
        "Bald": (np.bool_, [False] * 20),
    }
    nowhere = (np.int64, [50] * 20)
    extra = {"attributes": attributes, "landmarks": {"nose": nowhere, "Bald": nowhere}, "Hat": (np.bool_, [True] * 20)}
    splits = {"train": pictures(20, (12, 10, 3)), "test": pictures(2, (12, 10, 3))}
    prepare(data_dir, "faces", "1.0.0", splits, num_classes=0, extra=extra)
    prepare(data_dir, "plain", "1.0.0", splits)
    prepare(data_dir, "many", "1.0.0", splits, extra={f"a{number}": (np.bool_, [True] * 20) for number in range(12)})
    return data_dir


def test_images_with_and_without_an_attribute(faces_dir):
    def numbers(images):
        return sorted(originals.index(key) for key in keys(images))

    originals = keys(pictures(20, (12, 10, 3)))
    positive, negative = image_data.load_attribute("faces", "Smiling", 100, data_dir=faces_dir)
    assert (numbers(positive), numbers(negative)) == (list(range(0, 20, 3)), [n for n in range(20) if n % 3])
    positive, negative = image_data.load_attribute("faces", "attributes/Hat", 100, data_dir=faces_dir)
    assert (numbers(positive), numbers(negative)) == (list(range(1, 20, 4)), list(range(0, 20, 2)))
    size = {"image_size": 8, "channels": 1}
    positive, negative = image_data.load_attribute("faces", "attributes/Smiling", 4, data_dir=faces_dir, **size)
    assert positive.shape == negative.shape == (4, 8, 8, 1)
    prepared = image_data.load("faces", data_dir=faces_dir, **size).train.images
    assert {*keys(positive), *keys(negative)} < {*keys(prepared)}


@pytest.mark.parametrize(
    ("name", "attribute", "said"),
    [
        ("faces", "Smile", "no attribute 'Smile'; it has Hat, attributes/Bald, .*, attributes/Hat, landmarks/B"),
        ("faces", "attributes", "no attribute 'attributes'"),
        ("faces", "Bald", "more than one attribute 'Bald'; it has attributes/Bald, landmarks/Bald"),
        ("faces", "attributes/Bald", "'attributes/Bald' of 'faces' is 1 for no image"),
        ("faces", "nose", "'landmarks/nose' of 'faces' is 1 for no image"),
        ("faces", "", "no attribute ''"),
        ("plain", "Smiling", "'plain' has no attributes: no feature"),
        ("digits", "Smiling", "'digits' has no attributes: it is not a data set"),
        ("many", "Smile", r"it has a0, a1, a10, .*a7 and 2 more$"),
        ("celeb_a", "Smiling", "'celeb_a' is not in .* tfds build celeb_a"),
    ],
)
def test_a_wrong_attribute_is_refused_in_one_line(faces_dir, name, attribute, said):
    with pytest.raises(InputError, match=said) as refusal:
        image_data.load_attribute(name, attribute, 10, data_dir=faces_dir)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


@pytest.mark.parametrize("name", ["imagenet_resized/33x33", "cifar10:9.9.9"])
def test_an_unknown_config_or_version_is_one_line(tmp_path, name):
    with pytest.raises(InputError, match=name) as caught:
        image_data.load(name, data_dir=tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("the network was used"))
    with pytest.raises(
        InputError, match=f"'cifar10' is not in '{tmp_path}' .*tfds build cifar10 --data_dir={tmp_path}"
    ):
        image_data.load("cifar10", data_dir=tmp_path)


def test_without_a_network_a_download_fails_at_once(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    start = time.monotonic()
    with pytest.raises(InputError, match=f"'cifar10' is not in '{tmp_path}'.*cannot be reached.*tfds build"):
        image_data.load("cifar10", data_dir=tmp_path, download=True)
    assert time.monotonic() - start < 2


def test_an_archive_of_the_wrong_content_is_refused_with_both_sums(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "cifar-10-binary.tar.gz").write_bytes(b"not it")
    with pytest.raises(InputError, match="wrong checksum.*c4a38c50a1bc5f3a.*Got:") as caught:
        image_data.load("cifar10", data_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cifar10" / "3.0.2").exists()


# Files that may hold anything


@pytest.fixture
def small_set(tmp_path):
    """The folder of a prepared data set that only its files describe."""
    prepare(tmp_path, "my_pictures", "1.0.0", {"train": pictures(9, (8, 8, 3)), "test": pictures(2, (8, 8, 3))})
    return tmp_path / "my_pictures" / "1.0.0"


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
def test_no_module_is_imported_for_a_data_set(small_set, monkeypatch, tmp_path, key):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_module.py").write_text("raise SystemExit")
    text = (small_set / "features.json").read_text()
    mine = text.replace("tensorflow_datasets.core.features.image_feature.Image", "evil_module.Image")
    (small_set / "features.json").write_text(mine.replace("pythonClassName", key))
    with pytest.raises(InputError, match="features.json' names the class 'evil_module.Image', which is not a feature"):
        image_data.load("my_pictures", data_dir=tmp_path)
    (small_set / "features.json").write_text(json.dumps({"type": "evil_module.Image", "content": {}}))
    with pytest.raises(InputError, match="names the class 'evil_module.Image'"):
        image_data.load("my_pictures", data_dir=tmp_path)
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_damaged_descriptions_are_refused_in_one_line(small_set, name, count=12):
    original = (small_set / name).read_bytes()
    for seed in range(count):
        (small_set / name).write_bytes(content := mutated_json(original, seed))
        start = time.monotonic()
        try:
            image_data.load("my_pictures", data_dir=small_set.parents[1])
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, content
        assert time.monotonic() - start < 5, content


def test_a_data_dir_that_tfds_takes_for_a_pattern_is_refused(small_set, tmp_path):
    (tmp_path / "d[x]").mkdir()
    (tmp_path / "my_pictures").rename(tmp_path / "d[x]" / "my_pictures")
    with pytest.raises(InputError, match="contains \\[ or a backslash, and tensorflow_datasets reads no such folder"):
        image_data.load("my_pictures", data_dir=tmp_path / "d[x]")


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "label.labels.txt"])
def test_descriptions_that_are_no_regular_files_are_refused_at_once(small_set, name):
    (small_set / name).unlink(missing_ok=True)
    os.mkfifo(small_set / name)
    with pytest.raises(InputError, match=f"{name} is a pipe, not a file of a TFDS data set"):
        image_data.load("my_pictures", data_dir=small_set.parents[1])


def test_more_images_than_the_files_can_hold_are_refused(small_set):
    text = (small_set / "dataset_info.json").read_text()
    (small_set / "dataset_info.json").write_text(text.replace('"9"', '"900000000000"'))
    with pytest.raises(InputError, match="should have 900000000000 images in train, but its files have"):
        image_data.load("my_pictures", data_dir=small_set.parents[1])


def test_labels_beyond_the_classes_are_refused(small_set):
    text = (small_set / "features.json").read_text()
    for count, message in (("3", "3 classes, but labels from 0 to 8"), ("900000000", "has 900000000 classes; usable")):
        (small_set / "features.json").write_text(text.replace('"10"', f'"{count}"'))
        (small_set / "label.labels.txt").unlink(missing_ok=True)
        with pytest.raises(InputError, match=message):
            image_data.load("my_pictures", data_dir=small_set.parents[1])


def test_warnings_of_tfds_about_itself_do_not_reach_the_user(small_set, caplog):
    import tensorflow_datasets

    image_data.load("my_pictures", data_dir=small_set.parents[1])
    assert tensorflow_datasets.features.Tensor(shape=(), dtype=np.float32).dtype is not None  # is deprecated
    assert not [record for record in caplog.records if "deprecated" in record.getMessage()]
