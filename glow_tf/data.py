"""Data sets as uint8 batches: scikit-learn's digits, TensorFlow Datasets (TFDS), folders of images.

`load` returns an `ImageData` with a training and a test split. Up to 2 GiB of decoded pixels are held in
memory (`Split`), a larger TFDS set is read from its files (`StreamedSplit`); both have the same methods.
The order of the training images is a pure function of (seed, epoch), so a run resumes without iterator
state, and the batches of all shards together do not depend on their number.
"""

import contextlib
import dataclasses
import difflib
import functools
import math
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from glow_tf import image_folder
from glow_tf.errors import InputError

IN_MEMORY_BYTES = 2 * 2**30
MAX_IMAGE_SIDE = 1024
HELD_OUT_FRACTION = 0.05  # of a set that has no test split of its own ...
MAX_HELD_OUT = 10_000  # ... but no more images than this

_SPLIT_SEED = 20180709  # the permutations that part test from training images never change
_NUM_DIGITS_TRAIN = 1541
_SHUFFLE_BUFFER = 10_000  # encoded images, on top of the shuffled files
_NETWORK_SECONDS = 5.0
_TFDS_NAME = re.compile(r"[a-z]\w*(/[\w.+-]+)?(:\d+\.\d+\.\d+)?", re.ASCII)
_MIRRORING_CHANGES_CONTENT = ("digits", "mnist", "omniglot", "svhn", "binary_alpha_digits", "cmaterdb")


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Split:
    """Images and labels held in memory.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: int32 [N]; zeros where none are given.
    Raises:
        ValueError: if the images are something else, or there are more or fewer labels.

    >>> split = Split(images, labels=np.arange(6))
    >>> split.num_images, split.steps_per_epoch(batch_size=4)
    (6, 1)
    >>> [labels.tolist() for _, labels in split.batches(4).as_numpy_iterator()]
    [[0, 1, 2, 3], [4, 5]]
    >>> batch, labels = next(split.training_batches(4, seed=0, epoch=0).as_numpy_iterator())
    >>> batch.shape, batch.dtype.name
    ((4, 4, 4, 1), 'uint8')
    """

    images: np.ndarray
    labels: np.ndarray

    def __init__(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 [N, H, W, C], N > 0")
        if labels is None:
            labels = np.zeros(len(images), np.int32)
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} images, but labels of shape {labels.shape}")
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", np.asarray(labels, np.int32))

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.images)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Full batches in one epoch; 1 when the images must be repeated to fill it."""
        return max(1, self.num_images // batch_size)

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Each image once, in fixed order: (uint8 [b, H, W, C], int32 [b]); the last batch may be smaller."""

        def generate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for start in range(0, self.num_images, batch_size):
                rows = slice(start, start + batch_size)
                yield self.images[rows], self.labels[rows]

        return _from_generator(generate, None, self.images.shape[1:])

    def training_batches(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        *,
        flip: bool = False,
        skip: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """One epoch of full batches in random order: (uint8 [b, H, W, C], int32 [b]), b known statically.

        The order is a permutation by numpy's Generator([seed, epoch]); the images that fill no batch are
        left out of this epoch. Fewer images than `batch_size` are repeated to fill one, with a warning.

        Args:
            batch_size: of all shards together.
            flip: mirror each image left to right with probability 1/2, decided by (seed, epoch, position).
            skip: leave out this many batches at the start, at no cost (to resume inside an epoch).
            shard: (index, count): of each batch only part `index` of `count`, so b = batch_size / count.
        Raises:
            InputError: if `count` does not divide `batch_size`.
        """
        rows = _shard_rows(batch_size, shard)
        repeats = _repeats(self.num_images, batch_size)
        generator = np.random.default_rng([seed, epoch])
        order = np.concatenate([generator.permutation(self.num_images) for _ in range(repeats)])
        mirrored = _mirrored(seed, epoch, len(order)) & flip

        def generate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for step in range(skip, self.steps_per_epoch(batch_size)):
                positions = np.arange(step * batch_size, (step + 1) * batch_size)[rows]
                indices, turned = order[positions], mirrored[positions]
                images = self.images[indices]
                images[turned] = images[turned, :, ::-1]
                yield images, self.labels[indices]

        return _from_generator(generate, batch_size // shard[1], self.images.shape[1:])

    def take(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(images, labels) of `count` different images chosen at random, or of all if there are fewer."""
        chosen = np.random.default_rng(seed).permutation(self.num_images)[:count]
        return self.images[chosen], self.labels[chosen]


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedSplit:
    """Images of a TFDS split too large for memory, read from its files; the methods of `Split`.

    The training order comes from shuffled files and a buffer of 10,000 encoded images, both seeded by
    (seed, epoch): a pure function of the two, though less thoroughly mixed than a permutation. Skipped
    batches are read but not decoded.

    Attributes:
        source: where the encoded examples come from, and how they are decoded.
        split: TFDS's name of the split, such as "train" or "train[:-10000]".
        num_images: examples in the split.
    """

    source: "_TfdsSource"
    split: str
    num_images: int

    def steps_per_epoch(self, batch_size: int) -> int:
        """As `Split.steps_per_epoch`."""
        return max(1, self.num_images // batch_size)

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """As `Split.batches`."""
        decoded = self.source.encoded(self.split).map(self.source.decode, tf.data.AUTOTUNE)
        return decoded.batch(batch_size).prefetch(2)

    def training_batches(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        *,
        flip: bool = False,
        skip: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """As `Split.training_batches`."""
        rows = _shard_rows(batch_size, shard)
        num_steps = max(0, self.steps_per_epoch(batch_size) - skip)
        repeats = _repeats(self.num_images, batch_size)
        mirrored = _mirrored(seed, epoch, repeats * self.num_images) & flip
        shuffle_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])

        def is_in_shard(position: tf.Tensor, _: Any) -> tf.Tensor:
            row = position % batch_size
            return (rows.start <= row) & (row < rows.stop)

        def decode(_: tf.Tensor, example_and_turn: tuple[Any, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            example, is_mirrored = example_and_turn
            image, label = self.source.decode(example)
            return tf.cond(is_mirrored, lambda: image[:, ::-1], lambda: image), label

        examples = self.source.encoded(self.split, shuffle_seed).repeat(repeats)
        examples = tf.data.Dataset.zip(examples, tf.data.Dataset.from_tensor_slices(mirrored))
        examples = examples.skip(skip * batch_size).take(num_steps * batch_size)
        images = examples.enumerate().filter(is_in_shard).map(decode, tf.data.AUTOTUNE)
        return images.batch(batch_size // shard[1], drop_remainder=True).prefetch(2)

    def take(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(images, labels) of the first `count` images in the training order of (seed, 0)."""
        shuffle_seed = int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])
        examples = self.source.encoded(self.split, shuffle_seed).take(count)
        decoded = examples.map(self.source.decode, tf.data.AUTOTUNE)
        return next(decoded.batch(min(count, self.num_images)).as_numpy_iterator())


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """A data set.

    Attributes:
        name: as given to `load`.
        train, test: its two splits.
        image_shape: (H, W, C) of every image.
        class_names: the name of each label; empty if the images are unlabelled (their labels are 0).
        flippable: whether mirrored left to right an image is as likely as before: False for digits and
            letters.
    """

    name: str
    train: Split | StreamedSplit
    test: Split | StreamedSplit
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] = ()
    flippable: bool = True


def load(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    download: bool = False,
    folder_rules: image_folder.ReadRules | None = None,
) -> ImageData:
    """Loads a data set by name, or a folder of images by path.

    `digits`: scikit-learn's 1,797 grey 8x8 digits. Their values 0..16 are held as 16 * min(v, 15), so
        that a model of 4 bits sees 0..15. 1,541 are for training and 256 for testing, by a fixed
        permutation without stratification.
    A TFDS name (`mnist`, `cifar10`, `imagenet_resized/32x32`, `celeb_a`, ...): any set with a feature
        `image`. Test images are its split `test`, else `validation`, else the last 5 % of `train`, at
        most 10,000. Labels are its feature `label` if that is a class. Images become `image_size` as
        `fit_image` says.
    A path (begins with `.`, `/` or `~`, or is a folder and no known name): see `image_folder`. Without a
        training and a test sub-folder, 5 % of the images, at least 1 and at most 10,000, chosen by a
        fixed permutation, are for testing. A single image serves as both, with a warning.

    Args:
        data_dir: where TFDS keeps its prepared sets; None: TFDS's own default.
        image_size: (height, width), or the side of a square. None: the data set's own size, but 32x32
            for sets of 28x28.
        channels: 1 (grey) or 3 (RGB), for folders also 2 and 4. None: the data set's own; 3 for folders.
        download: whether a missing TFDS set may be downloaded and prepared.
        folder_rules: which files of a folder are accepted.
    Raises:
        InputError: for an unknown name, a set that is not there, has no images or cannot be read.

    >>> digits = load("digits")
    >>> digits.train.num_images, digits.test.num_images, digits.image_shape
    (1541, 256, (8, 8, 1))
    >>> images, labels = digits.test.take(4, seed=0)
    >>> images.shape, images.dtype.name, labels.tolist()
    ((4, 8, 8, 1), 'uint8', [..., ..., ..., ...])
    >>> load("digit")
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: 'digit' is neither a data set nor a folder; did you mean digits? ...
    """
    size = _checked_size(image_size)
    if channels not in (None, 1, 2, 3, 4):
        raise InputError(f"channels is {channels}; it can be 1 (grey) or 3 (RGB), for folders also 2 and 4")
    if name == "digits":
        return _load_digits(size, channels)
    if not name.startswith((".", "~", os.sep)):
        builder = _tfds_builder(name, data_dir)
        if builder is not None:
            return _load_tfds(name, builder, size, channels, download)
        if not os.path.isdir(name):
            raise InputError(_unknown_name_message(name))
    return _load_folder(name, size, channels or 3, folder_rules)


def load_attribute(
    name: str,
    attribute: str,
    count: int,
    *,
    data_dir: str | os.PathLike | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    download: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(training images with an attribute, those without it), at most `count` of each, of a TFDS data set.

    An attribute is a feature of one boolean or integer an image, such as celeb_a's `attributes/Smiling`: True or 1
    is with it, False, 0 or -1 without it, images of other values are neither. The images are those of `load`; only
    those returned are decoded.

    Args:
        attribute: the feature's path, or its last part where no other feature ends so.
    Raises:
        InputError: as `load`, and if there is no such attribute or it does not divide the images.
    """
    size = _checked_size(image_size)
    builder = None if name == "digits" else _tfds_builder(name, data_dir)
    if builder is None:
        raise InputError(f"{name!r} has no attributes: it is no data set of tensorflow_datasets")
    path = _attribute_path(name, builder.info.features, attribute)
    source = _tfds_source(name, builder, size, channels, download)
    split, _ = next(_splits(name, builder))
    examples = source.encoded(split, also=path)

    def value_of(example: dict[str, Any]) -> tf.Tensor:
        return tf.cast(functools.reduce(lambda inner, key: inner[key], path, example), tf.int32)

    def is_without(example: dict[str, Any]) -> tf.Tensor:
        return (value_of(example) == 0) | (value_of(example) == -1)

    having = _decoded(name, source, examples.filter(lambda example: value_of(example) == 1).take(count))
    lacking = _decoded(name, source, examples.filter(is_without).take(count))
    for values, images in (("1", having), ("0 or -1", lacking)):
        if not len(images):
            raise InputError(f"{'/'.join(path)!r} of {name!r} is {values} for no image; both kinds are needed")
    return having, lacking


def name_for(glow: Any, name: str | None = None) -> str:
    """`name`, or the data set that a Glow was trained on; InputError if its weights do not say."""
    found = name or glow.metadata.get("dataset")
    if found is None:
        raise InputError("the weights do not say what they were trained on; name the data with --dataset")
    return found


def of_model(
    glow: Any, name: str | None = None, *, data_dir: str | os.PathLike | None = None, download: bool = False
) -> ImageData:
    """The data set that a Glow was trained on, or `name`, in the size of its images.

    Raises:
        InputError: as `load` and `name_for`.
    """
    height, width, channels = glow.config.image_shape
    size = (height, width)
    return load(name_for(glow, name), data_dir=data_dir, image_size=size, channels=channels, download=download)


def pick(split: Split | StreamedSplit, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) of a split by their place in `batches`."""
    wanted, images, labels, seen = set(indices), {}, {}, 0
    for batch, of_batch in split.batches(256):
        for at in wanted & set(range(seen, seen + len(batch))):
            images[at], labels[at] = batch[at - seen].numpy(), int(of_batch[at - seen])
        seen += len(batch)
        if len(images) == len(wanted):
            break
    return np.stack([images[i] for i in indices]), np.array([labels[i] for i in indices], np.int32)


def fit_image(image: tf.Tensor, image_size: tuple[int, int], channels: int) -> tf.Tensor:
    """Brings one uint8 image [h, w, c] to [H, W, channels]; identity if it fits.

    An image with both sides at most the target's is padded around its centre (an odd rest goes to the
    bottom and the right) as numpy.pad(mode="minimum") does: each new row repeats the minimum of every
    column, then each new column that of every row. So openai/glow makes 32x32 of MNIST's 28x28.
    Otherwise the largest centred region with the target's aspect ratio is resized as
    `image_folder.crop_and_resize` does: cut out and no more where its size is right already, else by a
    bicubic filter that is antialiased when it shrinks. Grey is repeated in each of 3 channels; RGB becomes
    grey by ITU-R 601; there is no other change of channels.
    """
    if image.shape[-1] != channels:
        image = tf.tile(image, [1, 1, 3]) if channels == 3 else tf.image.rgb_to_grayscale(image)
    if tuple(image.shape[:2]) == tuple(image_size):
        return image
    fits = tf.reduce_all(tf.shape(image)[:2] <= image_size)
    fitted = tf.cond(
        fits,
        lambda: _pad_with_minimum(image, image_size),
        lambda: _crop_and_resize(image, image_size),
    )
    return tf.ensure_shape(fitted, [*image_size, channels])


def _pad_with_minimum(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    for axis in (0, 1):
        # In a graph this branch is built even where it is not taken, and must not fail then.
        missing = tf.maximum(image_size[axis] - tf.shape(image)[axis], 0)
        edge = tf.reduce_min(image, axis, keepdims=True)
        before, after = tf.repeat(edge, missing // 2, axis), tf.repeat(edge, missing - missing // 2, axis)
        image = tf.concat([before, image, after], axis)
    return image


def _crop_and_resize(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    target = tf.constant(image_size, tf.float32)
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    ratio = tf.reduce_min(sides / target)
    corner = (sides - ratio * target) / 2
    is_cut_only = tf.reduce_all(tf.round(ratio * target) == target)
    ratio, corner = tf.where(is_cut_only, 1.0, ratio), tf.where(is_cut_only, tf.floor(corner), corner)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image[tf.newaxis], tf.float32),
        size=tf.constant(image_size),
        scale=tf.repeat(1 / ratio, 2),
        translation=-corner / ratio,
        kernel_type="keyscubic",
        antialias=True,
    )
    return tf.saturate_cast(tf.round(resized[0]), tf.uint8)


def _checked_size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not (1 <= height <= MAX_IMAGE_SIDE and 1 <= width <= MAX_IMAGE_SIDE):
        raise InputError(f"image size is {height}x{width}; each side can be 1 to {MAX_IMAGE_SIDE} pixels")
    return int(height), int(width)


def _is_flippable(name: str) -> bool:
    family = re.split("[/:]", name)[0]
    return not any(word in family for word in _MIRRORING_CHANGES_CONTENT)


# Batches


def _from_generator(
    generate: Callable[[], Iterator], batch_size: int | None, image_shape: tuple[int, ...]
) -> tf.data.Dataset:
    signature = (
        tf.TensorSpec([batch_size, *image_shape], tf.uint8),
        tf.TensorSpec([batch_size], tf.int32),
    )
    return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(2)


def _shard_rows(batch_size: int, shard: tuple[int, int]) -> slice:
    index, count = shard
    if batch_size % count:
        raise InputError(f"the batch size {batch_size} is not divisible by the number of shards, {count}")
    size = batch_size // count
    return slice(index * size, (index + 1) * size)


def _repeats(num_images: int, batch_size: int) -> int:
    """How often the images must be used to fill one batch; warns if that is more than once."""
    repeats = math.ceil(batch_size / num_images)
    if repeats > 1:
        message = "%d training images are fewer than the batch size %d; they are repeated to fill it"
        logging.log_first_n(logging.WARNING, message, 1, num_images, batch_size)
    return repeats


def _mirrored(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 1]).random(count) < 0.5


def _num_held_out(num_images: int) -> int:
    return max(1, min(MAX_HELD_OUT, int(HELD_OUT_FRACTION * num_images)))


# Digits


def _load_digits(image_size: tuple[int, int] | None, channels: int | None) -> ImageData:
    from sklearn import datasets  # takes a second to import

    size, channels = image_size or (8, 8), channels or 1
    if min(size) < 8 or channels not in (1, 3):
        raise InputError(
            f"digits are 8x8 and grey; {size[0]}x{size[1]} with {channels} channels cannot be made of them"
            " (possible: 8x8 or larger, 1 or 3 channels)"
        )
    digits = datasets.load_digits()
    raw = (16 * np.minimum(digits.images, 15)).astype(np.uint8)[..., np.newaxis]
    fitted = tf.data.Dataset.from_tensor_slices(raw).map(lambda image: fit_image(image, size, channels))
    images = fitted.batch(len(raw)).get_single_element().numpy()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
    train, test = (Split(images[part], digits.target[part]) for part in np.split(order, [_NUM_DIGITS_TRAIN]))
    names = tuple(str(digit) for digit in range(10))
    return ImageData("digits", train, test, images.shape[1:], names, flippable=False)


# Folders


def _load_folder(
    name: str, image_size: tuple[int, int] | None, channels: int, rules: image_folder.ReadRules | None
) -> ImageData:
    train_folder, test_folder = image_folder.find_splits(name)
    read = image_folder.read_folder(train_folder, image_size=image_size, channels=channels, rules=rules)
    if test_folder is None:
        train, test = _hold_out(name, read)
        names = read.class_names
    else:
        held = image_folder.read_folder(test_folder, image_size=image_size, channels=channels, rules=rules)
        if held.images.shape[1:] != read.images.shape[1:]:
            raise InputError(
                f"the training images of {name!r} are {_size(read.images.shape[1:])}, its test images"
                f" {_size(held.images.shape[1:])}; give the image size to bring them all to"
            )
        names, test_labels = _shared_classes(name, read, held)
        train = Split(read.images, read.labels if names else None)
        test = Split(held.images, test_labels if names else None)
    return ImageData(name, train, test, read.images.shape[1:], names)


def _hold_out(name: str, read: image_folder.FolderImages) -> tuple[Split, Split]:
    """Parts the test images from the training images without a second copy of the latter."""
    num_images = len(read.images)
    if num_images == 1:
        logging.warning("%r holds a single image; it is the training and the test set", name)
        return Split(read.images, read.labels), Split(read.images, read.labels)
    order = np.random.default_rng(_SPLIT_SEED).permutation(num_images)
    num_test = _num_held_out(num_images)
    test_rows, train_rows = np.sort(order[:num_test]), np.sort(order[num_test:])
    test = Split(read.images[test_rows], read.labels[test_rows])
    # Rows only move towards the front, so each is read before it is overwritten.
    for start in range(0, len(train_rows), 1024):
        rows = train_rows[start : start + 1024]
        read.images[start : start + len(rows)] = read.images[rows]
    return Split(read.images[: len(train_rows)], read.labels[train_rows]), test


def _shared_classes(
    name: str, train: image_folder.FolderImages, test: image_folder.FolderImages
) -> tuple[tuple[str, ...], np.ndarray]:
    """(class names, labels of the test images in terms of them), without classes unless both have them."""
    if bool(train.class_names) != bool(test.class_names):
        logging.warning("only one split of %r has its images in class folders; classes are ignored", name)
        return (), test.labels
    unknown = sorted(set(test.class_names) - set(train.class_names))
    if unknown:
        raise InputError(f"the test folder of {name!r} has classes the training folder lacks: {unknown[:5]}")
    index = np.array([train.class_names.index(each) for each in test.class_names], np.int32)
    return train.class_names, index[test.labels] if len(index) else test.labels


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape[:2])


# TensorFlow Datasets


@dataclasses.dataclass(frozen=True, eq=False)
class _TfdsSource:
    """Reads a prepared TFDS set: encoded examples first, so that those not wanted are not decoded."""

    builder: Any  # tfds.core.DatasetBuilder
    image_size: tuple[int, int]
    channels: int
    has_labels: bool

    def encoded(
        self, split: str, shuffle_seed: int | None = None, also: tuple[str, ...] | None = None
    ) -> tf.data.Dataset:
        """Examples {"image": encoded bytes, "label": int64} in fixed order, or shuffled by a seed.

        Args:
            also: the path of another feature to read, such as ("attributes", "Smiling").
        """
        import tensorflow_datasets as tfds

        features: dict[str, Any] = {"image": True, "label": True} if self.has_labels else {"image": True}
        if also is not None:
            wanted: Any = True
            for key in reversed(also):
                wanted = {key: wanted}
            features |= wanted
        decoders = tfds.decode.PartialDecoding(features, decoders={"image": tfds.decode.SkipDecoding()})
        shuffles = shuffle_seed is not None
        read_config = tfds.ReadConfig(try_autocache=False, shuffle_seed=shuffle_seed)
        examples = self.builder.as_dataset(
            split=split, shuffle_files=shuffles, decoders=decoders, read_config=read_config
        )
        options = tf.data.Options()
        options.deterministic = True
        if shuffles:
            examples = examples.shuffle(_SHUFFLE_BUFFER, shuffle_seed, reshuffle_each_iteration=False)
        return examples.with_options(options)

    def decode(self, example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """(uint8 [H, W, C], int32 [])."""
        shape = self.builder.info.features["image"].shape
        image = tf.io.decode_image(example["image"], shape[-1], expand_animations=False)
        image = tf.ensure_shape(image, shape)
        label = tf.cast(example["label"], tf.int32) if self.has_labels else tf.constant(0)
        return fit_image(image, self.image_size, self.channels), label


def _tfds_builder(name: str, data_dir: str | os.PathLike | None) -> Any:
    """TFDS's builder of a data set, or None if it knows no such name; a wrong config or version raises."""
    import tensorflow_datasets as tfds

    if not _TFDS_NAME.fullmatch(name):
        return None
    root = None if data_dir is None else os.path.expanduser(os.fspath(data_dir))
    try:
        return tfds.builder(name, data_dir=root)
    except tfds.core.DatasetNotFoundError:
        return None
    except Exception as error:  # each data set's code raises what it likes
        raise InputError(f"the data set {name!r} cannot be used: {_first_words(error)}") from error


def _unknown_name_message(name: str) -> str:
    import tensorflow_datasets as tfds

    known = ["digits", *tfds.list_builders(with_community_datasets=False)]
    close = difflib.get_close_matches(name.lower(), known, n=4)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return (
        f"{name!r} is neither a data set nor a folder; {hint}known are digits, the image data sets of"
        " tensorflow_datasets (mnist, cifar10, celeb_a, ...) and the path of a folder of images"
    )


def _load_tfds(
    name: str, builder: Any, image_size: tuple[int, int] | None, channels: int | None, download: bool
) -> ImageData:
    source = _tfds_source(name, builder, image_size, channels, download)
    train, test = (_read_split(name, source, *split) for split in _splits(name, builder))
    shape = (*source.image_size, source.channels)
    return ImageData(name, train, test, shape, _class_names(builder.info.features), _is_flippable(name))


def _tfds_source(
    name: str, builder: Any, image_size: tuple[int, int] | None, channels: int | None, download: bool
) -> _TfdsSource:
    """The prepared set; InputError where it is not there, or has no images of that kind."""
    features = builder.info.features
    height, width, own_channels = _image_feature_shape(name, features)
    if image_size is not None:
        size = image_size
    elif height is None or width is None:
        raise InputError(f"the images of {name!r} have no common size; give the image size to bring them to")
    else:
        size = (32, 32) if (height, width) == (28, 28) else (height, width)
    channels = channels or own_channels
    if channels != own_channels and {channels, own_channels} != {1, 3}:
        raise InputError(f"{name!r} has {own_channels} channels, of which {channels} cannot be made")
    _prepare(name, builder, download)
    _announce_crop(name, (height, width), size)
    return _TfdsSource(builder, size, channels, bool(_class_names(features)))


def _image_feature_shape(name: str, features: Any) -> tuple[int | None, int | None, int]:
    import tensorflow_datasets as tfds

    feature = _feature(features, "image")
    if not isinstance(feature, tfds.features.Image):
        raise InputError(f"{name!r} cannot be used: it has no feature `image` that is an image")
    shape = tuple(feature.shape)
    if feature.np_dtype != np.uint8 or len(shape) != 3 or shape[-1] not in (1, 3, 4):
        raise InputError(
            f"the images of {name!r} are {np.dtype(feature.np_dtype)} {shape}; usable are uint8 images of 1,"
            " 3 or 4 channels"
        )
    return shape


def _class_names(features: Any) -> tuple[str, ...]:
    import tensorflow_datasets as tfds

    label = _feature(features, "label")
    return tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()


def _feature(features: Any, name: str) -> Any:
    import tensorflow_datasets as tfds

    return features[name] if isinstance(features, tfds.features.FeaturesDict) and name in features else None


def _attribute_path(name: str, features: Any, attribute: str) -> tuple[str, ...]:
    """Where a data set's features hold an attribute."""
    types = _attribute_types(features)
    known = sorted(types, key=lambda path: (types[path] != np.bool_, path))
    if not known:
        raise InputError(f"{name!r} has no attributes: no feature is one boolean or integer an image")
    found = [path for path in known if path == attribute] or [
        path for path in known if path.rsplit("/", 1)[-1] == attribute
    ]
    if len(found) != 1:
        shown = ", ".join((found or known)[:10]) + (", ..." if len(found or known) > 10 else "")
        count = "more than one" if found else "no"
        raise InputError(f"{name!r} has {count} attribute {attribute!r}; it has {shown}")
    return tuple(found[0].split("/"))


def _attribute_types(features: Any, path: str = "") -> dict[str, np.dtype]:
    """{path: type} of the features that can be an attribute: booleans, integers and labels of two classes."""
    import tensorflow_datasets as tfds

    if isinstance(features, tfds.features.FeaturesDict):
        inner = [_attribute_types(features[key], f"{path}/{key}".lstrip("/")) for key in features]
        return functools.reduce(dict.__or__, inner, {})
    has_other_labels = isinstance(features, tfds.features.ClassLabel) and features.num_classes != 2
    if not isinstance(features, tfds.features.Tensor) or features.shape != () or has_other_labels:
        return {}
    dtype = np.dtype(features.np_dtype)
    return {path: dtype} if dtype.kind in "biu" else {}


def _announce_crop(name: str, own: tuple[int | None, int | None], size: tuple[int, int]) -> None:
    height, width = own
    if height is not None and width is not None and height <= size[0] and width <= size[1]:
        return
    logging.info(
        "%s: images of %s are cropped at their centre to the aspect ratio of %dx%d and resized",
        name, "several sizes" if None in own else f"{height}x{width}", *size,
    )  # fmt: skip


def _splits(name: str, builder: Any) -> Iterator[tuple[str, int]]:
    """(TFDS's name of the split, number of images) for training, then for testing."""
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    if not counts.get("train"):
        raise InputError(f"the data set {name!r} has no split `train`; it has {sorted(counts)}")
    test = next((split for split in ("test", "validation") if counts.get(split)), None)
    if test is not None:
        yield "train", counts["train"]
        yield test, counts[test]
        return
    held_out = _num_held_out(counts["train"])
    logging.info("%s has no test split; the last %d training images are held out for it", name, held_out)
    yield f"train[:-{held_out}]", counts["train"] - held_out
    yield f"train[-{held_out}:]", held_out


def _read_split(name: str, source: _TfdsSource, split: str, num_images: int) -> Split | StreamedSplit:
    streamed = StreamedSplit(source, split, num_images)
    shape = (num_images, *source.image_size, source.channels)
    if math.prod(shape) > IN_MEMORY_BYTES:
        return streamed
    images, labels = np.empty(shape, np.uint8), np.empty(num_images, np.int32)
    stored = 0
    with _naming_damaged_files(name, source):
        for image_batch, label_batch in streamed.batches(256).as_numpy_iterator():
            rows = slice(stored, stored + len(image_batch))
            images[rows], labels[rows] = image_batch, label_batch
            stored += len(image_batch)
    if stored != num_images:
        raise InputError(f"{name!r} should have {num_images} images in {split}, but its files hold {stored}")
    return Split(images, labels)


def _decoded(name: str, source: _TfdsSource, examples: tf.data.Dataset) -> np.ndarray:
    """uint8 [N, H, W, C]: the images of encoded examples."""
    images = [np.zeros((0, *source.image_size, source.channels), np.uint8)]
    with _naming_damaged_files(name, source):
        images += [image for image, _ in examples.map(source.decode, tf.data.AUTOTUNE).batch(256).as_numpy_iterator()]
    return np.concatenate(images)


@contextlib.contextmanager
def _naming_damaged_files(name: str, source: _TfdsSource) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # TFDS and TensorFlow each have their own for a damaged file
        raise InputError(
            f"the files of {name!r} in {str(source.builder.data_path)!r} cannot be read"
            f" ({_first_words(error)}); delete that folder and prepare the data set again"
        ) from error


def _prepare(name: str, builder: Any, download: bool) -> None:
    """Makes sure that the data set lies prepared in its folder, by download only if that is allowed.

    Archives that the user put into <data_dir>/downloads/manual are used without any network.

    Raises:
        InputError: within 10 seconds if the data set is missing and there is no network.
    """
    import tensorflow_datasets as tfds

    if _is_prepared(builder):
        return
    archives_at = os.path.join(str(builder.data_dir_root), "downloads", "manual")
    if not _has_archives(builder, archives_at):
        if not download:
            raise InputError(_missing_message(name, builder, "downloading was not asked for"))
        if not _is_reachable(builder):
            raise InputError(_missing_message(name, builder, "its server cannot be reached"))
    config = tfds.download.DownloadConfig(manual_dir=archives_at, try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # each data set's code raises what it likes
        raise InputError(f"the data set {name!r} cannot be prepared: {_first_words(error, 600)}") from error


def _is_prepared(builder: Any) -> bool:
    logger = logging.get_absl_logger()
    level = logger.level
    logger.setLevel("ERROR")  # that a folder is missing is for the error to say, once
    try:
        return builder.is_prepared()
    finally:
        logger.setLevel(level)


def _missing_message(name: str, builder: Any, why: str) -> str:
    root = str(builder.data_dir_root)
    return (
        f"the data set {name!r} is not in {str(builder.data_path)!r} and {why}; copy the prepared folder"
        f" there, or prepare it where there is a network with: tfds build {name} --data_dir={root}"
    )


def _has_archives(builder: Any, folder: str) -> bool:
    names = [info.filename for info in builder.url_infos.values()]
    return bool(names) and all(name and os.path.isfile(os.path.join(folder, name)) for name in names)


def _is_reachable(builder: Any) -> bool:
    """Whether the server of the data set answers within a few seconds; it need not answer kindly."""
    url = next(iter(builder.url_infos), None)
    if url is None:
        return True  # nothing that TFDS would download itself
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=_NETWORK_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # a refusal is an answer
        except (OSError, ValueError):
            return
        answered.set()

    # A thread, because a look-up of the host name knows no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_NETWORK_SECONDS)
    return answered.is_set()


def _first_words(error: Exception, length: int = 200) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else text[:length] + "..."
