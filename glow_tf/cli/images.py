"""The images that `--images` names in every command: files, folders, and images of the test split (`test:0,5`)."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from glow_tf._files import check_file, printable
from glow_tf.data import registry
from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.config import GlowConfig
    from glow_tf.data.image_data import ImageData

HELP = "An image file, a folder of images, or images of the test split such as test:0,5,17; may be repeated."

TEST = "test:"

UNKNOWN = -1  # the label of an unlabelled image


@dataclasses.dataclass(frozen=True)
class NamedImages:
    """Images in the order in which they were named.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: int32 [N], UNKNOWN for images of files and folders.
        names: [N], the file's path, or test:5.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


def check(values: Sequence[str]) -> None:
    """Checks the values of `--images` without importing TensorFlow.

    Raises:
        InputError: a file or folder does not exist, or `test:` is not followed by a list of numbers.
    """
    for value in values:
        if value.startswith(TEST):
            indices(value)
        elif os.path.isdir(value):
            registry.check_folder(value)
        else:
            check_file(value, "image file")


def read(values: Sequence[str], config: "GlowConfig", data: Callable[[], "ImageData"]) -> NamedImages:
    """Reads the images that the values of `--images` name, cropped and resized for a model.

    Args:
        values: the flag's values.
        config: the configuration of the model.
        data: returns the data set whose test split `test:` refers to; called only if it is needed.

    Raises:
        InputError: an image cannot be read, or the test split has no image with that number.
    """
    groups = [_read(value, config, data) for value in values]
    images, labels = (np.concatenate([getattr(group, part) for group in groups]) for part in ("images", "labels"))
    return NamedImages(images, labels, tuple(name for group in groups for name in group.names))


def _read(value: str, config: "GlowConfig", data: Callable[[], "ImageData"]) -> NamedImages:
    from glow_tf.data import image_data, image_folder

    height, width, channels = config.image_shape
    if value.startswith(TEST):
        split, numbers = data().test, indices(value)
        if max(numbers) >= split.num_images:
            raise InputError(
                f"--images is {printable(value)!r}; the test split has {split.num_images} images, so numbers can be "
                f"from 0 to {split.num_images - 1}"
            )
        images, labels = image_data.pick(split, numbers)
        return NamedImages(images, labels, tuple(f"{TEST}{number}" for number in numbers))
    if os.path.isdir(value):
        folder = image_folder.read_folder(value, image_size=(height, width), channels=channels)
        images, names = folder.images, tuple(os.path.join(value, path) for path in folder.paths)
    else:
        images, names = read_file(value, config)[np.newaxis], (value,)
    return NamedImages(images, np.full(len(images), UNKNOWN, np.int32), names)


def read_file(path: str | os.PathLike, config: "GlowConfig") -> np.ndarray:
    """Reads an image file as uint8 [H, W, C], cropped and resized for a model.

    Raises:
        InputError: the file does not exist or cannot be read as an image.
    """
    from glow_tf.data import image_file

    check_file(path, "image file")
    height, width, channels = config.image_shape
    try:
        return image_file.decode(path, image_size=(height, width), channels=channels)
    except Exception as error:  # Pillow's plug-ins raise nearly anything on damaged bytes
        reason = getattr(error, "strerror", None) or image_file.reason(error)
        raise InputError(f"the image {printable(path)} cannot be read: {reason}") from error


def indices(value: str) -> list[int]:
    """The numbers in a `test:` value of `--images`.

    >>> indices("test:0,5,17")
    [0, 5, 17]
    """
    words = [word.strip() for word in value.removeprefix(TEST).split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise InputError(f"--images is {printable(value)!r}; images of the test split are named as in test:0,5,17")
    return [int(word) for word in words]
