"""Data sets as uint8 batches: scikit-learn's digits, TensorFlow Datasets (TFDS), folders of images.

`load` returns an `ImageData` with a training and a test split. Up to 2 GiB of decoded pixels are held in
memory (`ArrayDataset`), a larger TFDS set is read from its files (`StreamingDataset`); both have the same methods.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from glow_tf.config import GlowConfig
from glow_tf.data import image_folder, listing, registry
from glow_tf.data.dataset import ArrayDataset, StreamingDataset
from glow_tf.data.digits import CLASS_NAMES, load_digits
from glow_tf.data.holdout import fingerprint, validation_mask
from glow_tf.errors import InputError

_MIRRORING_CHANGES_CONTENT = ("digits", "mnist", "omniglot", "svhn", "binary_alpha_digits", "cmaterdb")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """A data set and its two splits."""

    name: str  # the argument of `load`
    train: ArrayDataset | StreamingDataset
    test: ArrayDataset | StreamingDataset
    image_shape: tuple[int, int, int]  # (H, W, C) of every image
    class_names: tuple[str, ...] = ()  # of each label; empty if the images are unlabelled (their labels are 0)
    flippable: bool = True  # whether a mirrored image is as likely as the original: False for digits and letters
    train_names: tuple[str, ...] = ()  # the path of each image of a folder, relative to the folder of its split
    test_names: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """Number of training and test images."""
        return self.train.num_images + self.test.num_images

    def check_fits(self, config: GlowConfig) -> None:
        """Raises InputError if a model of this configuration cannot be trained on the images."""
        if self.image_shape != config.image_shape:
            have, need = ("x".join(map(str, shape)) for shape in (self.image_shape, config.image_shape))
            raise InputError(
                f"the images of {self.name} are {have}, but the model expects {need}; use --img_size "
                f"{config.image_shape[0]} --channel_size {config.image_shape[2]}, or name other data with --dataset"
            )
        count, needed = len(self.class_names), config.num_classes
        if needed and needed != count:
            classes = f"{count} classes" if count else "no classes"
            raise InputError(f"{self.name} has {classes}, but the model has {needed}; name other data with --dataset")

    def has_classes_of(self, glow: Any) -> bool:
        """Whether the classes are those of a class-conditional Glow: as many, and of the same names if it has any."""
        names = list(glow.metadata.get("class_names") or self.class_names)
        return len(self.class_names) == glow.config.num_classes and names == list(self.class_names)

    def fingerprint(self) -> dict[str, Any]:
        """JSON values that a run records; `holdout.describe_change` compares them with those of a later start."""
        train, test = self.train, self.test
        images = (train.images, test.images) if self.train_names else ((), ())  # type: ignore[union-attr]  # a folder
        return fingerprint(train.num_images, test.num_images, self.train_names, self.test_names, *images)


def load(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    download: bool = False,
    max_bad: float = image_folder.MAX_BAD,
) -> ImageData:
    """Loads a data set by name, or a folder of images by path.

    - `digits`: scikit-learn's 1,797 grey 8x8 digits. Their values 0..16 are held as 16 * min(v, 15), so that a model
      of 4 bits sees 0..15. 1,541 are for training and 256 for testing, by a fixed permutation without stratification.
    - A TFDS name (`mnist`, `cifar10`, `imagenet_resized/32x32`, `celeb_a`, ...): any set with a feature `image`. Test
      images are its split `test`, else `validation`, else the last 5% of `train`, at most 10,000. Labels are its
      feature `label` if that is a class; a test split without them is left out. Images are padded or resized by
      `resize.resize_image`.
    - A path (begins with `.`, `/` or `~`, or is a folder whose name is not that of a data set): see `image_folder`
      for what is read, `listing.find_splits` for training and test folders. Without a test folder, `holdout` chooses
      about 5% of the images, at least 1 and at most 10,000, by their names. A single image serves as both, with a
      warning.

    Args:
        data_dir: where TFDS keeps its prepared sets. Default: TFDS's own places.
        image_size: (height, width), or the side of a square. Default: the data set's own size, but 32x32 for sets of
            28x28.
        channels: 1 (grey) or 3 (RGB), for folders also 2 and 4. Default: the data set's own; 3 for folders.
        download: whether a missing TFDS set may be downloaded and prepared.
        max_bad: share of unreadable files in a folder, from 0 to 1, above which it is refused.

    Raises:
        InputError: for an unknown name, a set that is missing, has no images or cannot be read.

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
    name, size = os.fspath(name), _checked_size(image_size)
    if channels not in (None, 1, 2, 3, 4):
        raise InputError(f"channels is {channels}; it can be 1 (grey) or 3 (RGB), for folders also 2 and 4")
    if not 0 <= max_bad <= 1:
        raise InputError(f"--max_bad is {max_bad}; it is a share from 0 to 1")
    match registry.check_data_set(name, data_dir, download):
        case "digits":
            digits = load_digits(size, channels)
            return ImageData(name, *digits, digits[0].images.shape[1:], CLASS_NAMES, flippable=False)
        case "tfds":
            from glow_tf.data import tfds

            source = tfds.open_source(name, data_dir, size, channels, download)
            train, test = tfds.read_splits(source)
            shape = (*source.image_size, source.channels)
            is_flippable = not any(word in registry.family(name) for word in _MIRRORING_CHANGES_CONTENT)
            return ImageData(name, train, test, shape, source.class_names, is_flippable)
        case _:
            return _load_folder(name, size, channels or 3, max_bad)


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
    """Returns up to `count` training images with an attribute, and as many without it, of a TFDS data set.

    An attribute is a feature of one boolean or integer per image, such as celeb_a's `attributes/Smiling`: images with
    True or 1 have it, images with False, 0 or -1 do not, images of other values are left out. The images are those of
    `load`; only those returned are decoded.

    Args:
        attribute: the feature's path, or its last part where no other feature ends so.
        count: largest number of images with the attribute, and without it.
        data_dir, image_size, channels, download: as for `load`.

    Raises:
        InputError: as `load`, and if there is no such attribute or all images have the same value.
    """
    size = _checked_size(image_size)
    if registry.check_data_set(name, data_dir, download) != "tfds":
        raise InputError(f"{name!r} has no attributes: it is not a data set of tensorflow_datasets, as celeb_a is")
    from glow_tf.data import tfds

    source = tfds.open_source(name, data_dir, size, channels, download)
    path = tfds.attribute_path(source, attribute)
    split = tfds.splits(source)[0][0]
    examples = source.encoded(split, attribute=path)

    def value_of(example: dict[str, Any]) -> tf.Tensor:
        return tf.cast(functools.reduce(lambda inner, key: inner[key], path, example), tf.int32)

    def is_without(example: dict[str, Any]) -> tf.Tensor:
        return (value_of(example) == 0) | (value_of(example) == -1)

    positive = tfds.decoded(source, examples.filter(lambda example: value_of(example) == 1).take(count))
    negative = tfds.decoded(source, examples.filter(is_without).take(count))
    for values, images in (("1", positive), ("0 or -1", negative)):
        if not len(images):
            raise InputError(f"{'/'.join(path)!r} of {name!r} is {values} for no image; both values are needed")
    return positive, negative


def of_model(
    glow: Any, name: str | None = None, *, data_dir: str | os.PathLike | None = None, download: bool = False
) -> ImageData:
    """Loads `name`, or the data set that a Glow was trained on, which is never downloaded, in the size of its images.

    Raises InputError as `load`, and if that data set is unknown or a folder.
    """
    height, width, channels = glow.config.image_shape
    return load(
        name or registry.check_recorded(glow.metadata.get("dataset"), data_dir),
        data_dir=data_dir,
        image_size=(height, width),
        channels=channels,
        download=download and name is not None,
        max_bad=1.0,  # the share that the training tolerated is not known
    )


def pick(split: ArrayDataset | StreamingDataset, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (images, labels) of a split by their positions in `batches`."""
    positions, images, labels, seen = set(indices), {}, {}, 0
    for image_batch, label_batch in split.batches(256):
        for at in positions & set(range(seen, seen + len(image_batch))):
            images[at], labels[at] = image_batch[at - seen].numpy(), int(label_batch[at - seen])
        seen += len(image_batch)
        if len(images) == len(positions):
            break
    return np.stack([images[i] for i in indices]), np.array([labels[i] for i in indices], np.int32)


def _checked_size(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    largest = image_folder.MAX_IMAGE_SIDE
    if not (1 <= height <= largest and 1 <= width <= largest):
        raise InputError(f"image size is {height}x{width}; each side can be 1 to {largest} pixels")
    return int(height), int(width)


def _load_folder(name: str, image_size: tuple[int, int] | None, channels: int, max_bad: float) -> ImageData:
    read_folder = functools.partial(image_folder.read_folder, image_size=image_size, channels=channels, max_bad=max_bad)
    train_folder, test_folder = listing.find_splits(registry.check_folder(name))
    read = read_folder(train_folder)
    listing.warn_of_mixed_splits(train_folder, read.paths)
    if test_folder is None:
        return _with_held_out_images(name, read)
    held = read_folder(test_folder)
    shape = read.images.shape[1:]
    if held.images.shape[1:] != shape:
        raise InputError(
            f"the training images of {name!r} are {_size(shape)}, its test images {_size(held.images.shape[1:])};"
            " choose one size for all with --img_size"
        )
    names, test_labels = _shared_classes(name, read, held)
    train = ArrayDataset(read.images, read.labels if names else None)
    test = ArrayDataset(held.images, test_labels if names else None)
    return ImageData(name, train, test, shape, names, train_names=read.paths, test_names=held.paths)


def _with_held_out_images(name: str, read: image_folder.FolderImages) -> ImageData:
    """Separates test images from training images, without a second copy of the latter."""
    shape, names = read.images.shape[1:], read.class_names
    if len(read.images) == 1:
        logging.warning("%r holds a single image; it is the training and the test set", name)
        both = ArrayDataset(read.images, read.labels)
        return ImageData(name, both, both, shape, names, train_names=read.paths, test_names=read.paths)
    is_test = validation_mask(read.paths)
    test_rows, train_rows = np.flatnonzero(is_test), np.flatnonzero(~is_test)
    test = ArrayDataset(read.images[test_rows], read.labels[test_rows])
    # Rows only move towards the front, so each is read before it is overwritten.
    for start in range(0, len(train_rows), 1024):
        rows = train_rows[start : start + 1024]
        read.images[start : start + len(rows)] = read.images[rows]
    train = ArrayDataset(read.images[: len(train_rows)], read.labels[train_rows])
    train_names, test_names = (tuple(read.paths[row] for row in rows) for rows in (train_rows, test_rows))
    return ImageData(name, train, test, shape, names, train_names=train_names, test_names=test_names)


def _shared_classes(
    name: str, train: image_folder.FolderImages, test: image_folder.FolderImages
) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns (class names, labels of the test images in terms of them), without classes unless both have them."""
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
