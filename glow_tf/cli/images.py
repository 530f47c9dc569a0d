"""The images that `--images` names in every command: files, folders, and images of the test split (`test:0,5`)."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from glow_tf import _progress
from glow_tf._files import check_file, counted, format_names, printable
from glow_tf._option import option
from glow_tf.cli import app, command_line
from glow_tf.data import listing, registry
from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.config import GlowConfig
    from glow_tf.data.dataset import ArrayDataset, StreamingDataset
    from glow_tf.data.image_data import ImageData
    from glow_tf.glow import Glow

HELP = "An image file, a folder of images, or images of the test split such as test:0,5,17; may be repeated."

TEST = "test:"

UNKNOWN = -1  # the label of an unlabelled image


@dataclasses.dataclass(frozen=True)
class NamedImages:
    """Images in the order in which they were named."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N], UNKNOWN for images of files and folders
    names: tuple[str, ...]  # [N], the file's path, or test:5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(command_line.Options):
    """The flags of the commands that read images."""

    images: tuple[str, ...] = option((), f"{HELP} Default: the first images of the test split.")
    dataset: str | None = option(
        None, "The data set that test:... and class:NAME refer to. Default: the one the weights were trained on."
    )
    data_dir: str | None = option(None, app.DATA_DIR_HELP)
    download: bool = option(False, app.DOWNLOAD_HELP)

    @property
    def reads_data_set(self) -> bool:
        """Whether images of the data set are read: of its test split, or because --images is missing."""
        return not self.images or any(value.startswith(TEST) for value in self.images)


def check(values: Sequence[str]) -> int:
    """The number of images that `--images` names, without importing TensorFlow; InputError if one is missing."""
    count = 0
    for value in values:
        if value.startswith(TEST):
            count += len(indices(value))
        elif os.path.isdir(value):
            listing.check_not_empty(registry.check_folder(value))
            count += len(listing.find_images(value)[0])
        elif "," in value and not os.path.lexists(value):
            raise InputError(f"{printable(value)} does not exist; repeat --images for each image")
        else:
            check_file(value, "image file")
            count += 1
    return count


def files(values: Sequence[str]) -> list[str]:
    """The image files that the values of `--images` name, those in folders included."""
    found = []
    for value in values:
        if os.path.isdir(value):
            found += [os.path.join(value, path) for path in listing.find_images(value)[0]]
        elif not value.startswith(TEST):
            found.append(value)
    return found


def check_data_flags(options: Options) -> None:
    """Raises InputError for a data set that does not exist, or that is named but not read."""
    if options.reads_data_set and options.dataset is not None:
        registry.check_data_set(options.dataset, options.data_dir, options.download)
    for name in ("dataset", "data_dir", "download"):
        if name in options.given and not options.reads_data_set:
            raise InputError(f"--{name} has no effect: --images names only files and folders; use one of them")


def check_data(options: Options, model: app.Weights) -> None:
    """Raises InputError if the data set of `data_of` is missing, without importing TensorFlow."""
    name = data_set_of(options, model)
    kind = registry.check_data_set(name, options.data_dir, options.download and options.dataset is not None)
    app.check_data_dir(options.data_dir, kind, name)


def data_set_of(options: Options, model: "app.Weights | Glow") -> str:
    """The name of the data set of --dataset, or of the one that a model was trained on."""
    return options.dataset or registry.check_recorded(model.metadata.get("dataset"), options.data_dir)


def data_of(options: Options, glow: "Glow") -> "ImageData":
    """The data set of --dataset, or the one that a model was trained on, in the size of its images."""
    from glow_tf.data import image_data

    return image_data.of_model(glow, options.dataset, data_dir=options.data_dir, download=options.download)


def read(options: Options, glow: "Glow", limit: int | None = None) -> NamedImages:
    """Reads the images that `--images` names, cropped and resized for a model.

    `limit` is the largest number of images of a folder, and in all. Raises InputError if an image cannot be read.
    """
    data = functools.cache(lambda: data_of(options, glow))  # loaded once, and only for images of the test split
    groups = [_read(value, glow, data, limit) for value in options.images]
    images, labels = (np.concatenate([getattr(group, part) for group in groups]) for part in ("images", "labels"))
    names = tuple(name for group in groups for name in group.names)
    if limit is not None and limit < len(names):
        _progress.line(f"{counted(limit, 'image')} are used (--n); left out: {format_names(names[limit:])}")
    return NamedImages(images[:limit], labels[:limit], names[:limit])


def of_split(
    glow: "Glow", data: "ImageData", split: "ArrayDataset | StreamingDataset", numbers: Sequence[int], prefix: str
) -> NamedImages:
    """Images of a split by number; unlabelled for a class-conditional model of other classes."""
    from glow_tf.data import image_data

    images, labels = image_data.pick(split, numbers)
    if glow.config.num_classes and not data.has_classes_of(glow):
        labels = np.full_like(labels, UNKNOWN)
    return NamedImages(images, labels, tuple(f"{prefix}{number}" for number in numbers))


def _read(value: str, glow: "Glow", load_data: Callable[[], "ImageData"], limit: int | None) -> NamedImages:
    if value.startswith(TEST):
        data, numbers = load_data(), indices(value)
        split = data.test
        if max(numbers) >= split.num_images:
            raise InputError(
                f"--images is {printable(value)!r}; the test split has {split.num_images} images, so numbers can be "
                f"from 0 to {split.num_images - 1}"
            )
        return of_split(glow, data, split, numbers, TEST)
    if os.path.isdir(value):
        images, names = read_folder(value, glow.config, limit)
    else:
        images, names = read_file(value, glow.config)[np.newaxis], (value,)
    return NamedImages(images, np.full(len(images), UNKNOWN, np.int32), names)


def read_folder(folder: str, config: "GlowConfig", limit: int | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """(uint8 [N, H, W, C], paths) of the images of a folder, or of its first `limit`, which a line reports."""
    from glow_tf.data import image_folder

    found = len(listing.find_images(folder)[0])
    if limit is not None and limit < found:
        _progress.line(f"the first {limit:,} of {found:,} images in {printable(folder)} are used")
    height, width, channels = config.image_shape
    read = image_folder.read_folder(folder, image_size=(height, width), channels=channels, max_bad=1.0, limit=limit)
    return read.images, tuple(os.path.join(folder, path) for path in read.paths)


def read_file(path: str | os.PathLike, config: "GlowConfig") -> np.ndarray:
    """Reads an image file as uint8 [H, W, C], cropped and resized for a model; InputError if that fails."""
    from glow_tf.data import image_file

    check_file(path, "image file")
    return image_file.read(path, config.image_shape, f"the image {printable(path)}")


def indices(value: str) -> list[int]:
    """The numbers in a `test:` value of `--images`.

    >>> indices("test:0,5,17")
    [0, 5, 17]
    """
    words = [word.strip() for word in value.removeprefix(TEST).split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise InputError(f"--images is {printable(value)!r}; images of the test split are named as in test:0,5,17")
    return [int(word) for word in words]
