"""Data sets: their pixels, their splits, the order of their batches, and what is said when one is missing."""

import logging
import pathlib
import tarfile
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from prepared import pictures, prepare

from glow_tf import data, image_folder
from glow_tf.errors import InputError

PHOTOGRAPHS = pathlib.Path(__file__).parents[2] / "shared" / "data" / "cifar10_jpeg.tar.xz"


@pytest.fixture(scope="module")
def mnist_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    digits = np.zeros((23, 28, 28, 1), np.uint8)
    digits[:, 4:24, 4:24] = pictures(23, (20, 20, 1))
    prepare(data_dir, "mnist", "3.0.1", {"train": digits[:16], "test": digits[16:]})
    return data_dir


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """A split of 50 images read from files, and the same in memory."""
    data_dir = tmp_path_factory.mktemp("tfds")
    prepare(data_dir, "cifar10", "3.0.2", {"train": pictures(50, (32, 32, 3)), "test": pictures(3, (32, 32, 3))})
    held = data.load("cifar10", data_dir=data_dir).train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "IN_MEMORY_BYTES", 100)
        split = data.load("cifar10", data_dir=data_dir).train
    assert isinstance(split, data.StreamedSplit)
    return split, held


@pytest.fixture
def held():
    return data.Split(pictures(50, (4, 6, 3)), np.arange(50))


@pytest.fixture(params=["memory", "streamed"])
def split(request):
    """50 different images, by either way of holding them."""
    if request.param == "streamed":
        return request.getfixturevalue("streamed")[0]
    return request.getfixturevalue("held")


def collect(dataset):
    """(images, labels) of all batches together."""
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def keys(images):
    return [image.tobytes() for image in images]


# Splits


def test_batches_give_each_image_once_in_fixed_order(split):
    batches = list(split.batches(16).as_numpy_iterator())
    assert [len(images) for images, _ in batches] == [16, 16, 16, 2]
    images, labels = collect(split.batches(16))
    assert images.dtype == np.uint8 and labels.dtype == np.int32
    assert len(set(keys(images))) == 50
    np.testing.assert_array_equal(images, collect(split.batches(7))[0])


def test_batches_in_memory_keep_the_order_of_the_arrays(held):
    images, labels = collect(held.batches(16))
    np.testing.assert_array_equal(images, held.images)
    np.testing.assert_array_equal(labels, np.arange(50))


def test_an_epoch_of_training_uses_each_image_at_most_once(split):
    dataset = split.training_batches(16, seed=1, epoch=0)
    assert dataset.element_spec[0].shape == [16, *split.batches(1).element_spec[0].shape[1:]]
    assert dataset.element_spec[1].shape == [16]
    images, _ = collect(dataset)
    assert len(images) == 48 == 16 * split.steps_per_epoch(16)
    assert len(set(keys(images))) == 48
    assert set(keys(images)) <= set(keys(collect(split.batches(50))[0]))


def test_labels_stay_with_their_images(split):
    images, labels = collect(split.batches(50))
    label_of = dict(zip(keys(images), labels, strict=True))
    images, labels = collect(split.training_batches(10, seed=0, epoch=0))
    assert [label_of[key] for key in keys(images)] == list(labels)
    assert len(set(labels)) > 5


def test_the_order_is_a_function_of_seed_and_epoch(split):
    def order(seed, epoch):
        return keys(collect(split.training_batches(10, seed, epoch, flip=True))[0])

    first = order(3, 0)
    assert first == order(3, 0)
    assert first != order(3, 1) and first != order(4, 0)


def test_skip_leaves_out_whole_batches_and_changes_nothing_else(split):
    whole = collect(split.training_batches(8, 5, 2, flip=True))
    rest = collect(split.training_batches(8, 5, 2, flip=True, skip=4))
    np.testing.assert_array_equal(whole[0][32:], rest[0])
    np.testing.assert_array_equal(whole[1][32:], rest[1])
    assert list(split.training_batches(8, 5, 2, skip=6)) == []
    assert list(split.training_batches(8, 5, 2, skip=9)) == []


@pytest.mark.parametrize("count", [2, 4])
def test_the_shards_together_are_the_batch_of_one(split, count):
    whole = list(split.training_batches(8, 5, 2, flip=True, skip=1).as_numpy_iterator())
    shards = [split.training_batches(8, 5, 2, flip=True, skip=1, shard=(i, count)) for i in range(count)]
    assert shards[0].element_spec[0].shape[0] == 8 // count
    for (images, labels), *parts in zip(whole, *(shard.as_numpy_iterator() for shard in shards), strict=True):
        np.testing.assert_array_equal(images, np.concatenate([part[0] for part in parts]))
        np.testing.assert_array_equal(labels, np.concatenate([part[1] for part in parts]))


def test_shards_must_divide_the_batch(split):
    with pytest.raises(InputError, match="batch size 10 is not divisible by the number of shards, 3"):
        split.training_batches(10, 0, 0, shard=(0, 3))


def test_about_half_of_the_images_are_mirrored_and_nothing_else_changes(split):
    plain, _ = collect(split.training_batches(50, 7, 0))
    flipped, _ = collect(split.training_batches(50, 7, 0, flip=True))
    mirrored = 0
    for before, after in zip(plain, flipped, strict=True):
        if not np.array_equal(before, after):
            np.testing.assert_array_equal(before[:, ::-1], after)
            mirrored += 1
    assert 12 <= mirrored <= 38  # 25 expected, 3.5 is the standard deviation
    originals = set(keys(collect(split.batches(50))[0]))
    assert set(keys(plain)) <= originals  # mirroring works on a copy


def test_fewer_images_than_a_batch_are_repeated_with_one_warning(caplog):
    small = data.Split(pictures(3, (2, 2, 1)))
    for epoch in range(2):
        (images, _), *others = small.training_batches(8, seed=0, epoch=epoch).as_numpy_iterator()
        assert not others and len(images) == 8
        counts = [keys(images).count(key) for key in set(keys(images))]
        assert sorted(counts) == [2, 3, 3]
    assert small.steps_per_epoch(8) == 1
    warned = [record for record in caplog.records if "repeated" in record.getMessage()]
    assert len(warned) == 1 and "3 training images" in warned[0].getMessage()


def test_fewer_streamed_images_than_a_batch_are_repeated(streamed):
    images, _ = collect(streamed[0].training_batches(64, seed=0, epoch=0))
    assert len(images) == 64 and len(set(keys(images))) == 50


def test_take_gives_different_images_and_all_at_most(split):
    images, labels = split.take(10, seed=0)
    assert images.shape[0] == 10 == len(labels) and len(set(keys(images))) == 10
    np.testing.assert_array_equal(images, split.take(10, seed=0)[0])
    assert keys(images) != keys(split.take(10, seed=1)[0])
    assert len(split.take(99, seed=0)[0]) == 50


def test_a_streamed_split_holds_what_the_one_in_memory_holds(streamed):
    on_disk, held = streamed
    for part, other in zip(collect(on_disk.batches(8)), collect(held.batches(8)), strict=True):
        np.testing.assert_array_equal(part, other)
    assert on_disk.num_images == held.num_images and on_disk.steps_per_epoch(7) == held.steps_per_epoch(7) == 7


def test_a_split_refuses_what_is_no_images():
    with pytest.raises(ValueError, match="float32"):
        data.Split(np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="N > 0"):
        data.Split(np.zeros((0, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="2 images, but labels of shape"):
        data.Split(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, int))


# Fitting


@pytest.mark.parametrize("shape", [(28, 28), (27, 25), (32, 20), (1, 1)])
@pytest.mark.parametrize("is_static", [True, False])
def test_small_images_are_padded_as_numpy_pads_with_the_minimum(shape, is_static):
    image = pictures(1, (*shape, 3))[0]
    down, right = 32 - shape[0], 32 - shape[1]
    widths = [(down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0)]
    np.testing.assert_array_equal(fit(image, (32, 32), is_static), np.pad(image, widths, mode="minimum"))


@pytest.mark.parametrize("shape", [(48, 40), (33, 50), (20, 40), (218, 178)])
@pytest.mark.parametrize("is_static", [True, False])
def test_large_images_become_what_the_folder_reader_makes_of_them(shape, is_static):
    coarse = Image.fromarray(pictures(1, (5, 5, 3))[0])
    image = np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))
    expected = np.asarray(image_folder.crop_and_resize(Image.fromarray(image), (32, 32))).astype(int)
    assert np.abs(fit(image, (32, 32), is_static) - expected).max() <= 2


@pytest.mark.parametrize("is_static", [True, False])
def test_a_crop_alone_changes_no_pixel(is_static):
    image = pictures(1, (33, 45, 3))[0]
    np.testing.assert_array_equal(fit(image, (33, 32), is_static), image[:, 6:38])


def fit(image, image_size, is_static):
    """`fit_image` inside a graph, as tf.data runs it, with the shape known or not."""
    shape = image.shape if is_static else [None, None, image.shape[-1]]
    signature = [tf.TensorSpec(shape, tf.uint8)]
    function = tf.function(lambda x: data.fit_image(x, image_size, image.shape[-1]), signature)
    assert function.get_concrete_function().output_shapes == [*image_size, image.shape[-1]]
    return function(image).numpy()


def test_channels_are_repeated_or_weighted():
    grey = pictures(1, (4, 4, 1))[0]
    np.testing.assert_array_equal(data.fit_image(tf.constant(grey), (4, 4), 3), np.repeat(grey, 3, -1))
    colour = pictures(1, (4, 4, 3))[0]
    weighted = colour @ [0.299, 0.587, 0.114]
    assert np.abs(data.fit_image(tf.constant(colour), (4, 4), 1)[..., 0] - weighted).max() <= 1


# Digits


def test_digits():
    digits = data.load("digits")
    assert digits.image_shape == (8, 8, 1) and digits.class_names == tuple("0123456789")
    assert (digits.train.num_images, digits.test.num_images) == (1541, 256)
    assert not digits.flippable
    images = np.concatenate([digits.train.images, digits.test.images])
    assert set(np.unique(images)) == set(range(0, 256, 16))
    assert set(digits.test.labels) == set(range(10))
    again = data.load("digits")
    np.testing.assert_array_equal(digits.test.images, again.test.images)


def test_digits_are_those_of_scikit_learn():
    from sklearn import datasets

    source = datasets.load_digits()
    digits = data.load("digits")
    images = np.concatenate([digits.train.images, digits.test.images])[..., 0]
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    ours = sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))
    clipped = (np.minimum(source.images, 15) * 16).astype(np.uint8)
    theirs = sorted((image.tobytes(), label) for image, label in zip(clipped, source.target, strict=True))
    assert ours == theirs


def test_digits_can_be_padded_and_coloured_but_not_shrunk():
    digits = data.load("digits", image_size=12, channels=3)
    assert digits.image_shape == (12, 12, 3)
    plain = data.load("digits").train.images
    np.testing.assert_array_equal(digits.train.images[:, 2:10, 2:10], np.repeat(plain, 3, -1))
    with pytest.raises(InputError, match="digits are 8x8"):
        data.load("digits", image_size=4)


@pytest.mark.parametrize("size", [0, -1, 4096, (8, 0)])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(InputError, match="1 to 1024"):
        data.load("digits", image_size=size)


def test_impossible_channels_are_refused():
    with pytest.raises(InputError, match="channels is 5"):
        data.load("digits", channels=5)


# TensorFlow Datasets


def test_mnist_is_padded_to_32(mnist_dir):
    mnist = data.load("mnist", data_dir=mnist_dir)
    assert mnist.image_shape == (32, 32, 1) and mnist.class_names == tuple("0123456789")
    assert (mnist.train.num_images, mnist.test.num_images) == (16, 7)
    assert not mnist.flippable
    digits = np.zeros((23, 32, 32, 1), np.uint8)
    digits[:, 6:26, 6:26] = pictures(23, (20, 20, 1))
    label_of = {image.tobytes(): number % 10 for number, image in enumerate(digits[:16])}
    assert sorted(keys(mnist.train.images)) == sorted(label_of)
    assert [label_of[key] for key in keys(mnist.train.images)] == list(mnist.train.labels)


def test_size_and_channels_can_be_chosen(mnist_dir):
    assert data.load("mnist", data_dir=mnist_dir, image_size=(28, 28)).image_shape == (28, 28, 1)
    assert data.load("mnist", data_dir=mnist_dir, image_size=16, channels=3).train.images.shape == (
        16,
        16,
        16,
        3,
    )
    with pytest.raises(InputError, match="'mnist' has 1 channels, of which 4"):
        data.load("mnist", data_dir=mnist_dir, channels=4)


def test_a_crop_is_announced(tmp_path, caplog):
    prepare(
        tmp_path,
        "celeb_a",
        "2.1.0",
        {"train": pictures(3, (218, 178, 3)), "test": pictures(1, (218, 178, 3))},
    )
    with caplog.at_level(logging.INFO, "absl"):
        faces = data.load("celeb_a", data_dir=tmp_path, image_size=64)
    assert faces.train.images.shape == (3, 64, 64, 3) and faces.flippable
    assert any("218x178" in record.getMessage() and "64x64" in record.getMessage() for record in caplog.records)


def test_a_set_known_only_from_its_files_without_labels_or_test_split(tmp_path):
    images = pictures(41, (8, 8, 3))
    prepare(tmp_path, "my_pictures", "1.0.0", {"train": images}, num_classes=0)
    mine = data.load("my_pictures", data_dir=tmp_path)
    assert mine.class_names == () and set(mine.train.labels) == {0}
    assert (mine.train.num_images, mine.test.num_images) == (39, 2)
    both = keys(mine.train.images) + keys(mine.test.images)
    assert sorted(both) == sorted(keys(images))


def test_validation_serves_as_test_and_a_config_is_part_of_the_name(tmp_path):
    splits = {"train": pictures(5, (32, 32, 3)), "validation": pictures(2, (32, 32, 3), seed=1)}
    prepare(tmp_path, "imagenet_resized", "0.1.0", splits, num_classes=1000, config="32x32")
    resized = data.load("imagenet_resized/32x32", data_dir=tmp_path)
    assert sorted(keys(resized.test.images)) == sorted(keys(splits["validation"]))
    assert len(resized.class_names) == 1000


def test_images_of_several_sizes_need_an_image_size(tmp_path):
    images = [pictures(1, (height, 9, 3))[0] for height in (5, 30, 9, 12)]
    prepare(tmp_path, "odd_sizes", "1.0.0", {"train": images}, feature_shape=(None, None, 3))
    with pytest.raises(InputError, match="no common size"):
        data.load("odd_sizes", data_dir=tmp_path)
    assert data.load("odd_sizes", data_dir=tmp_path, image_size=10).train.images.shape == (3, 10, 10, 3)


def test_a_set_without_images_is_refused(tmp_path):
    prepare(tmp_path, "numbers", "1.0.0", {"train": None}, extra={"value": (np.float32, [0.0] * 4)})
    with pytest.raises(InputError, match="no feature `image`"):
        data.load("numbers", data_dir=tmp_path)


def test_a_damaged_file_is_named_by_its_folder(tmp_path):
    prepare(tmp_path, "my_pictures", "1.0.0", {"train": pictures(9, (8, 8, 3))})
    (record,) = (tmp_path / "my_pictures" / "1.0.0").glob("*.tfrecord*")
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 255
    record.write_bytes(content)
    with pytest.raises(InputError, match="my_pictures/1.0.0.* cannot be read .*prepare the data set again"):
        data.load("my_pictures", data_dir=tmp_path)


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
    return data_dir


def test_images_with_and_without_an_attribute(faces_dir):
    def numbers(images):
        return sorted(originals.index(key) for key in keys(images))

    originals = keys(pictures(20, (12, 10, 3)))
    having, lacking = data.load_attribute("faces", "Smiling", 100, data_dir=faces_dir)
    assert (numbers(having), numbers(lacking)) == (list(range(0, 20, 3)), [n for n in range(20) if n % 3])
    having, lacking = data.load_attribute("faces", "attributes/Hat", 100, data_dir=faces_dir)
    assert (numbers(having), numbers(lacking)) == (list(range(1, 20, 4)), list(range(0, 20, 2)))
    size = {"image_size": 8, "channels": 1}
    having, lacking = data.load_attribute("faces", "attributes/Smiling", 4, data_dir=faces_dir, **size)
    assert having.shape == lacking.shape == (4, 8, 8, 1)
    prepared = data.load("faces", data_dir=faces_dir, **size).train.images
    assert {*keys(having), *keys(lacking)} < {*keys(prepared)}


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
        ("digits", "Smiling", "'digits' has no attributes: it is no data set"),
        ("celeb_a", "Smile", r"it has attributes/5_o_Clock_Shadow, .*attributes/\w+, \.\.\.$"),
        ("celeb_a", "Smiling", "'celeb_a' is not in .* tfds build celeb_a"),
    ],
)
def test_what_is_no_attribute_is_one_line(faces_dir, name, attribute, said):
    with pytest.raises(InputError, match=said) as refusal:
        data.load_attribute(name, attribute, 10, data_dir=faces_dir)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


@pytest.mark.parametrize("name, hint", [("cfar10", "cifar10"), ("Digits", "digits"), ("imagenet", "imagenet")])
def test_an_unknown_name_gets_suggestions(tmp_path, name, hint):
    with pytest.raises(InputError, match=f"{name!r} is neither.*did you mean .*{hint}.*folder of images"):
        data.load(name, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["imagenet_resized/33x33", "cifar10:9.9.9"])
def test_an_unknown_config_or_version_is_one_line(tmp_path, name):
    with pytest.raises(InputError, match=name) as caught:
        data.load(name, data_dir=tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("the network was used"))
    with pytest.raises(InputError, match=f"{tmp_path}/cifar10/3.0.2.*tfds build cifar10 --data_dir={tmp_path}"):
        data.load("cifar10", data_dir=tmp_path)


def test_without_a_network_a_download_fails_at_once(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    start = time.monotonic()
    with pytest.raises(InputError, match=f"{tmp_path}/cifar10/3.0.2.*cannot be reached.*tfds build"):
        data.load("cifar10", data_dir=tmp_path, download=True)
    assert time.monotonic() - start < 2


def test_a_network_that_never_answers_is_given_up(tmp_path, monkeypatch):
    never = threading.Event()

    def hang(*_, **__):
        never.wait()
        raise urllib.error.URLError("given up")

    monkeypatch.setattr(urllib.request, "urlopen", hang)
    monkeypatch.setattr(data, "_NETWORK_SECONDS", 0.1)
    with pytest.raises(InputError, match="cannot be reached"):
        data.load("cifar10", data_dir=tmp_path, download=True)
    never.set()


def test_an_archive_of_the_wrong_content_is_refused_with_both_sums(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "cifar-10-binary.tar.gz").write_bytes(b"not it")
    with pytest.raises(InputError, match="wrong checksum.*c4a38c50a1bc5f3a.*Got:") as caught:
        data.load("cifar10", data_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cifar10" / "3.0.2").exists()


# Folders


def fill(folder, count, seed=0, side=8):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(pictures(count, (side, side, 3), seed)):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


def test_a_flat_folder_holds_out_five_per_cent_for_ever(tmp_path):
    folder = data.load(str(fill(tmp_path, 40)))
    assert (folder.train.num_images, folder.test.num_images) == (38, 2)
    assert folder.image_shape == (8, 8, 3) and folder.class_names == () and folder.flippable
    originals = keys(pictures(40, (8, 8, 3)))
    assert sorted(keys(folder.train.images) + keys(folder.test.images)) == sorted(originals)
    np.testing.assert_array_equal(folder.test.images, data.load(str(tmp_path)).test.images)


def test_labels_of_a_divided_folder_stay_with_their_images(tmp_path):
    for number, name in enumerate(["b", "a", "c"]):
        fill(tmp_path / name, 20, seed=number)
    folder = data.load(str(tmp_path))
    assert folder.class_names == ("a", "b", "c")
    label_of = {key: label for label, seed in enumerate([1, 0, 2]) for key in keys(pictures(20, (8, 8, 3), seed))}
    for split in (folder.train, folder.test):
        assert [label_of[key] for key in keys(split.images)] == list(split.labels)
    assert (folder.train.num_images, folder.test.num_images) == (57, 3)


def test_training_and_test_folders_share_their_classes(tmp_path):
    for name in ("a", "b", "c"):
        fill(tmp_path / "train" / name, 2)
    fill(tmp_path / "val" / "b", 1)
    fill(tmp_path / "val" / "c", 2)
    folder = data.load(str(tmp_path))
    assert folder.class_names == ("a", "b", "c")
    assert folder.train.labels.tolist() == [0, 0, 1, 1, 2, 2] and folder.test.labels.tolist() == [1, 2, 2]
    fill(tmp_path / "val" / "unheard of", 1)
    with pytest.raises(InputError, match="classes the training folder lacks: .'unheard of'"):
        data.load(str(tmp_path))


def test_an_unlabelled_test_folder_leaves_all_unlabelled(tmp_path, caplog):
    fill(tmp_path / "train" / "a", 2)
    fill(tmp_path / "train" / "b", 2)
    fill(tmp_path / "test", 2)
    folder = data.load(str(tmp_path))
    assert folder.class_names == () and set(folder.train.labels) == {0}
    assert "classes are ignored" in caplog.text


def test_training_and_test_images_must_agree_in_size(tmp_path):
    fill(tmp_path / "train", 2)
    fill(tmp_path / "test", 2, side=9)
    with pytest.raises(InputError, match="8x8, its test images 9x9"):
        data.load(str(tmp_path))
    assert data.load(str(tmp_path), image_size=8).test.images.shape == (2, 8, 8, 3)


def test_one_image_and_none(tmp_path, caplog):
    folder = data.load(str(fill(tmp_path / "one", 1)))
    assert folder.train.num_images == folder.test.num_images == 1
    assert "single image" in caplog.text
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="found 0 images"):
        data.load(str(tmp_path / "none"))
    with pytest.raises(InputError, match="does not exist"):
        data.load(str(tmp_path / "missing"))


def test_a_folder_beside_a_data_set_of_its_name(tmp_path, monkeypatch):
    fill(tmp_path / "mnist", 2)
    fill(tmp_path / "mine", 2)
    monkeypatch.chdir(tmp_path)
    assert data.load("mine").train.num_images == 1
    assert data.load("./mnist").train.num_images == 1
    with pytest.raises(InputError, match="tfds build mnist"):
        data.load("mnist", data_dir=tmp_path / "tfds")


def test_channels_and_rules_reach_the_folder_reader(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    white = image_folder.ReadRules(background="white")
    assert data.load(str(tmp_path), folder_rules=white).train.images.min() == 255
    assert data.load(str(tmp_path), channels=4).image_shape == (4, 4, 4)


def test_photographs_in_class_folders(tmp_path):
    if not PHOTOGRAPHS.exists():
        pytest.skip(f"needs {PHOTOGRAPHS.name} in ../shared/data")
    with tarfile.open(PHOTOGRAPHS) as archive:
        photographs = [archive.next() for _ in range(30)]
        archive.extractall(tmp_path, [member for member in photographs if member.isfile()], filter="data")
    photographs = data.load(str(tmp_path / "cifar10_jpeg"), image_size=(16, 24))
    assert photographs.image_shape == (16, 24, 3)
    assert photographs.test.num_images >= 1
