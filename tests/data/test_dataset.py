"""Data sets in memory and in files: their batches, the order of these, their shards."""

import numpy as np
import pytest
from absl import logging
from prepared import keys, pictures, prepare

from glow_tf.data import image_data, tfds
from glow_tf.errors import InputError


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """A split of 50 images read from files, and the same in memory."""
    data_dir = tmp_path_factory.mktemp("tfds")
    prepare(data_dir, "cifar10", "3.0.2", {"train": pictures(50, (32, 32, 3)), "test": pictures(3, (32, 32, 3))})
    held = image_data.load("cifar10", data_dir=data_dir).train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds, "IN_MEMORY_BYTES", 100)
        split = image_data.load("cifar10", data_dir=data_dir).train
    assert isinstance(split, image_data.StreamingDataset)
    return split, held


@pytest.fixture
def held():
    return image_data.ArrayDataset(pictures(50, (4, 6, 3)), np.arange(50))


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


def test_the_order_in_memory_is_that_of_numpys_generators(held):
    """A run that resumes with a later version meets the same images, mirrored or not."""
    images, labels = collect(held.training_batches(10, seed=3, epoch=1, flip=True))
    np.testing.assert_array_equal(labels, np.random.default_rng([3, 1]).permutation(50))
    is_mirrored = np.random.default_rng([3, 1, 1]).random(50) < 0.5
    np.testing.assert_array_equal(images[is_mirrored], held.images[labels[is_mirrored], :, ::-1])
    np.testing.assert_array_equal(images[~is_mirrored], held.images[labels[~is_mirrored]])
    np.testing.assert_array_equal(held.random_subset(9, seed=3)[1], np.random.default_rng(3).permutation(50)[:9])


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


def test_fewer_images_than_a_batch_are_repeated_with_one_warning(caplog, monkeypatch):
    monkeypatch.setattr(logging, "_log_counter_per_token", {})  # nobody has been warned yet
    small = image_data.ArrayDataset(pictures(3, (2, 2, 1)))
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


def test_a_random_subset_has_different_images_and_at_most_all(split):
    images, labels = split.random_subset(10, seed=0)
    assert images.shape[0] == 10 == len(labels) and len(set(keys(images))) == 10
    np.testing.assert_array_equal(images, split.random_subset(10, seed=0)[0])
    assert keys(images) != keys(split.random_subset(10, seed=1)[0])
    assert len(split.random_subset(99, seed=0)[0]) == 50


def test_a_streamed_split_holds_what_the_one_in_memory_holds(streamed):
    on_disk, held = streamed
    for part, other in zip(collect(on_disk.batches(8)), collect(held.batches(8)), strict=True):
        np.testing.assert_array_equal(part, other)
    seed = int(np.random.SeedSequence([3, 0]).generate_state(1)[0])  # a run's seed and epoch decide it
    first, _ = collect(on_disk.source.encoded("train", seed).map(on_disk.source.decode).batch(10).take(1))
    np.testing.assert_array_equal(on_disk.random_subset(10, seed=3)[0], first)
    np.testing.assert_array_equal(collect(on_disk.training_batches(10, seed=3, epoch=0).take(1))[0], first)
    assert on_disk.num_images == held.num_images and on_disk.steps_per_epoch(7) == held.steps_per_epoch(7) == 7


def test_other_arrays_than_images_are_refused():
    with pytest.raises(ValueError, match="float32"):
        image_data.ArrayDataset(np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="N > 0"):
        image_data.ArrayDataset(np.zeros((0, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="2 images, but labels of shape"):
        image_data.ArrayDataset(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, int))
    for labels in ([0.5, 1.0], [0, 2**40], ["a", "b"], [True, False]):
        with pytest.raises(InputError, match="not integers below"):
            image_data.ArrayDataset(np.zeros((2, 4, 4, 3), np.uint8), labels)
    with pytest.raises(InputError, match="batch_size is 0; it must be 1 or more"):
        image_data.ArrayDataset(np.zeros((2, 4, 4, 3), np.uint8)).batches(0)


def test_lists_are_held_as_arrays():
    split = image_data.ArrayDataset([*np.zeros((2, 4, 4, 3), np.uint8)], [3, 1])
    assert split.images.shape == (2, 4, 4, 3) and split.labels.dtype == np.int32 and split.labels.tolist() == [3, 1]
