"""Data sets as uint8 batches: scikit-learn's digits, TensorFlow Datasets (TFDS), folders of images.

`load` returns an `ImageData` with a training and a test split. Up to 2 GiB of decoded pixels are held in
memory (`ArrayDataset`), a larger TFDS set is read from its files (`StreamingDataset`); both have the same methods.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from glow_tf.data import image_folder, registry, tfds
from glow_tf.data.dataset import ArrayDataset, StreamingDataset
from glow_tf.data.holdout import describe_change, fingerprint, validation_mask
from glow_tf.data.resize import resize_image
from glow_tf.errors import InputError

__all__ = ["ImageData", "describe_change", "load", "load_attribute", "name_for", "of_model", "pick"]

MAX_IMAGE_SIDE = 1024

_SPLIT_SEED = 20180709  # the permutation that parts the digits never changes
_NUM_DIGITS_TRAIN = 1541
_MIRRORING_CHANGES_CONTENT = ("digits", "mnist", "omniglot", "svhn", "binary_alpha_digits", "cmaterdb")


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
        train_names, test_names: the path of each image of a folder, relative to the folder of its split.
    """

    name: str
    train: ArrayDataset | StreamingDataset
    test: ArrayDataset | StreamingDataset
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] = ()
    flippable: bool = True
    train_names: tuple[str, ...] = ()
    test_names: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """Number of training and test images."""
        return self.train.num_images + self.test.num_images

    def fingerprint(self) -> dict[str, Any]:
        """JSON values that a run records; `describe_change` compares them with those of a later start."""
        return fingerprint(self.train.num_images, self.test.num_images, self.train_names, self.test_names)


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
        `resize_image` says.
    A path (begins with `.`, `/` or `~`, or is a folder and no known name): see `image_folder`. Without a
        training and a test sub-folder, about 5 % of the images, at least 1 and at most 10,000, chosen by
        the hash of their names, are for testing. A single image serves as both, with a warning.

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
    >>> images, labels = digits.test.random_subset(4, seed=0)
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
    if not registry.is_path(name):
        builder = tfds.find_builder(name, data_dir)
        if builder is not None:
            return _load_tfds(name, builder, size, channels, download)
        if not os.path.isdir(name):
            raise registry.unknown_data_set(name)
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
    builder = None if name == "digits" else tfds.find_builder(name, data_dir)
    if builder is None:
        raise InputError(f"{name!r} has no attributes: it is no data set of tensorflow_datasets")
    path = tfds.attribute_path(name, builder.info.features, attribute)
    source = tfds.open_source(name, builder, size, channels, download)
    split, _ = next(tfds.train_and_test(name, builder))
    examples = source.encoded(split, also=path)

    def value_of(example: dict[str, Any]) -> tf.Tensor:
        return tf.cast(functools.reduce(lambda inner, key: inner[key], path, example), tf.int32)

    def is_without(example: dict[str, Any]) -> tf.Tensor:
        return (value_of(example) == 0) | (value_of(example) == -1)

    positive = tfds.decoded(name, source, examples.filter(lambda example: value_of(example) == 1).take(count))
    negative = tfds.decoded(name, source, examples.filter(is_without).take(count))
    for values, images in (("1", positive), ("0 or -1", negative)):
        if not len(images):
            raise InputError(f"{'/'.join(path)!r} of {name!r} is {values} for no image; both kinds are needed")
    return positive, negative


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


def pick(split: ArrayDataset | StreamingDataset, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) of a split by their place in `batches`."""
    wanted, images, labels, seen = set(indices), {}, {}, 0
    for batch, of_batch in split.batches(256):
        for at in wanted & set(range(seen, seen + len(batch))):
            images[at], labels[at] = batch[at - seen].numpy(), int(of_batch[at - seen])
        seen += len(batch)
        if len(images) == len(wanted):
            break
    return np.stack([images[i] for i in indices]), np.array([labels[i] for i in indices], np.int32)


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


def _load_tfds(
    name: str, builder: Any, image_size: tuple[int, int] | None, channels: int | None, download: bool
) -> ImageData:
    source = tfds.open_source(name, builder, image_size, channels, download)
    train, test = (tfds.read_split(name, source, *split) for split in tfds.train_and_test(name, builder))
    shape = (*source.image_size, source.channels)
    return ImageData(name, train, test, shape, tfds.class_names(builder.info.features), _is_flippable(name))


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
    fitted = tf.data.Dataset.from_tensor_slices(raw).map(lambda image: resize_image(image, size, channels))
    images = fitted.batch(len(raw)).get_single_element().numpy()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
    train, test = (ArrayDataset(images[part], digits.target[part]) for part in np.split(order, [_NUM_DIGITS_TRAIN]))
    names = tuple(str(digit) for digit in range(10))
    return ImageData("digits", train, test, images.shape[1:], names, flippable=False)


# Folders


def _load_folder(
    name: str, image_size: tuple[int, int] | None, channels: int, rules: image_folder.ReadRules | None
) -> ImageData:
    train_folder, test_folder = image_folder.find_splits(name)
    read = image_folder.read_folder(train_folder, image_size=image_size, channels=channels, rules=rules)
    if test_folder is None:
        train, test, train_names, test_names = _validation_split(name, read)
        names = read.class_names
    else:
        held = image_folder.read_folder(test_folder, image_size=image_size, channels=channels, rules=rules)
        if held.images.shape[1:] != read.images.shape[1:]:
            raise InputError(
                f"the training images of {name!r} are {_size(read.images.shape[1:])}, its test images"
                f" {_size(held.images.shape[1:])}; give the image size to bring them all to"
            )
        names, test_labels = _shared_classes(name, read, held)
        train = ArrayDataset(read.images, read.labels if names else None)
        test = ArrayDataset(held.images, test_labels if names else None)
        train_names, test_names = read.paths, held.paths
    shape = read.images.shape[1:]
    return ImageData(name, train, test, shape, names, train_names=train_names, test_names=test_names)


def _validation_split(
    name: str, read: image_folder.FolderImages
) -> tuple[ArrayDataset, ArrayDataset, tuple[str, ...], tuple[str, ...]]:
    """Parts the test images from the training images without a second copy of the latter."""
    if len(read.images) == 1:
        logging.warning("%r holds a single image; it is the training and the test set", name)
        both = ArrayDataset(read.images, read.labels)
        return both, both, read.paths, read.paths
    is_test = validation_mask(read.paths)
    test_rows, train_rows = np.flatnonzero(is_test), np.flatnonzero(~is_test)
    test = ArrayDataset(read.images[test_rows], read.labels[test_rows])
    train_names, test_names = (tuple(read.paths[row] for row in rows) for rows in (train_rows, test_rows))
    # Rows only move towards the front, so each is read before it is overwritten.
    for start in range(0, len(train_rows), 1024):
        rows = train_rows[start : start + 1024]
        read.images[start : start + len(rows)] = read.images[rows]
    train = ArrayDataset(read.images[: len(train_rows)], read.labels[train_rows])
    return train, test, train_names, test_names


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
