"""Finds the direction of `sample.py --mode attribute`: from a file, or from images with and without the attribute."""

import csv
import dataclasses
import difflib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from glow_tf import _progress, metadata
from glow_tf._files import check_file, format_names, printable, read_text
from glow_tf._option import option
from glow_tf.cli import images as named_images
from glow_tf.data import listing, registry
from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.cli import app
    from glow_tf.glow import Glow

# The flags of each way to define the attribute.
WAYS = {"direction": ("direction",), "positive": ("positive", "negative"), "attribute": ("csv", "attribute")}

CLASS = "class:"

MAX_IMAGES = 2000  # with the attribute, and as many without it

_YES, _NO = {"1", "true", "yes", "y"}, {"-1", "0", "false", "no", "n"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(named_images.Options):
    """The flags that name images, and those of an attribute and of a class."""

    label: str | None = option(
        None, "The class, by name or index. Default: all classes, one row each, or the class of each image."
    )
    positive: str | None = option(
        None, "For --mode attribute: a folder of images with the attribute, or class:NAME of the data set."
    )
    negative: str | None = option(
        None, "For --mode attribute: a folder of images without the attribute, or class:NAME."
    )
    csv: str | None = option(None, "For --mode attribute: a table whose first column names image files.")
    attribute: str | None = option(
        None,
        "For --mode attribute: a feature of the TFDS data set, or the column of the --csv table that is 1 for images "
        "with the attribute and 0 or -1 for those without.",
    )
    direction: str | None = option(None, "For --mode attribute: a file that --save_direction wrote.")
    save_direction: str | None = option(None, "For --mode attribute: the file to save the direction in.")

    @property
    def classes(self) -> dict[str, str]:
        """{flag: name} of the classes that --positive and --negative name."""
        values = {"--positive": self.positive or "", "--negative": self.negative or ""}
        return {flag: value.removeprefix(CLASS) for flag, value in values.items() if value.startswith(CLASS)}

    @property
    def has_examples_of_data_set(self) -> bool:
        """Whether the images with and without the attribute come from a data set."""
        return bool(self.classes) or (self.attribute is not None and self.csv is None)


def check_options(options: Options) -> None:
    """Raises InputError for contradictory flags, and then for files that do not exist."""
    ways = [way for way, names in WAYS.items() if any(getattr(options, name) is not None for name in names)]
    if len(ways) > 1:
        raise InputError(f"--{' and --'.join(ways)} each define the attribute; use only one of them")
    if not ways:
        raise InputError(
            "an attribute needs examples: --positive and --negative (folders, or class:NAME), --attribute (of a TFDS "
            "data set, or of a table with --csv), or --direction"
        )
    if ways == ["positive"] and None in (options.positive, options.negative):
        raise InputError("--positive and --negative must be used together: images with the attribute and without it")
    if options.direction is not None and options.save_direction is not None:
        raise InputError("--save_direction is for a direction computed from images, not for one read by --direction")
    if options.csv is not None and options.attribute is None:
        raise InputError("--csv needs the name of a column: --attribute NAME")
    for file, what in ((options.csv, "table of comma-separated values"), (options.direction, "direction")):
        if file is not None:
            check_file(file, what)
    for folder in (options.positive, options.negative):
        if folder is not None and not folder.startswith(CLASS):
            listing.check_not_empty(registry.check_folder(folder))


def example_files(options: Options) -> list[str]:
    """The files that the examples are read from: the table and its images, or those of the folders."""
    if options.csv is not None and options.attribute is not None:
        positive, negative = read_table(options.csv, options.attribute)
        return [options.csv, *positive, *negative]
    folders = (options.positive, options.negative)
    return named_images.files([folder for folder in folders if folder is not None and not folder.startswith(CLASS)])


def check_model(options: Options, model: "app.Weights") -> None:
    """Raises InputError for a class that the model's data set lacks."""
    names = model.metadata.get("class_names")
    if names and options.dataset is None:
        for flag, name in options.classes.items():
            index_of_class(name, names, flag)


def find_direction(
    options: Options, glow: "Glow", labels_for: Callable[[int], Sequence[int] | None]
) -> tuple[np.ndarray, tuple[str, str]]:
    """The direction in z that the options define, and names for the image minus and plus the direction.

    `labels_for` takes a number of images and returns the labels to encode them with.
    """
    from glow_tf.evaluation import editing

    if options.direction is not None:
        name = os.path.splitext(os.path.basename(options.direction))[0]
        return editing.load_direction(options.direction, glow), _ends(name)
    negative, positive, ends = _examples(options, glow)
    labels = [labels_for(len(images)) for images in (positive, negative)]
    direction = editing.attribute_direction(glow, positive, negative, *labels)
    _progress.line(f"the direction: {len(positive)} images with the attribute, {len(negative)} without", sys.stdout)
    if options.save_direction:
        editing.save_direction(options.save_direction, direction)
        _progress.line(f"the direction is saved: {options.save_direction}", sys.stdout)
    return direction, ends


def _ends(attribute: str) -> tuple[str, str]:
    return f"less {printable(attribute)}", f"more {printable(attribute)}"


def _examples(options: Options, glow: "Glow") -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """(uint8 images without the attribute, images with it, the ends of the direction)."""
    from glow_tf.data import image_data

    height, width, channels = glow.config.image_shape
    if options.csv is not None and options.attribute is not None:
        files = read_table(options.csv, options.attribute)
        positive, negative = (
            np.stack([named_images.read_file(name, glow.config) for name in names[:MAX_IMAGES]]) for names in files
        )
    elif options.attribute is not None:
        positive, negative = image_data.load_attribute(
            named_images.data_set_of(options, glow),
            options.attribute,
            MAX_IMAGES,
            data_dir=options.data_dir,
            image_size=(height, width),
            channels=channels,
            download=options.download,
        )
    else:
        negative, first = _examples_of(options, glow, "negative")
        positive, last = _examples_of(options, glow, "positive")
        return negative, positive, (first, last)
    return negative, positive, _ends(options.attribute)


def _examples_of(options: Options, glow: "Glow", flag: str) -> tuple[np.ndarray, str]:
    """The images that --positive or --negative names, and a name for them."""
    value = str(getattr(options, flag))
    if not value.startswith(CLASS):
        return named_images.read_folder(value, glow.config, MAX_IMAGES)[0], os.path.basename(os.path.abspath(value))
    source = named_images.data_of(options, glow)
    index = index_of_class(value.removeprefix(CLASS), source.class_names, f"--{flag}")
    images, labels = source.train.random_subset(10 * MAX_IMAGES, seed=0)
    return images[labels == index][:MAX_IMAGES], named_class(source.class_names[index])


def named_class(name: str) -> str:
    """The name of a class in a label: a number needs a noun."""
    return f"class {name}" if name.isdigit() else name


def class_names(model: "Glow | app.Weights") -> list[str]:
    """The class names of a class-conditional model."""
    return metadata.class_names(model.metadata, model.config.num_classes)


def chosen_label(options: Options, model: "Glow | app.Weights") -> int | None:
    """The index of --label, or None without it."""
    if options.label is None:
        return None
    if not model.config.num_classes:
        raise InputError(
            f"--label is {printable(options.label)!r}, but this model has no classes; train one with --conditional"
        )
    return index_of_class(options.label, class_names(model), "--label")


def index_of_class(name: str, names: Sequence[str], flag: str) -> int:
    """The index of a class, from the name or the number in a flag."""
    if name in names:
        return list(names).index(name)
    if name.isascii() and name.isdigit() and int(name) < len(names):
        return int(name)
    if not len(names):
        raise InputError(f"{flag} is {printable(name)!r}, but the images have no classes")
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {printable(near[0])}? The" if near else "the"
    shown = f"classes are {format_names(names, 12)}, or an index from 0 to {len(names) - 1}"
    raise InputError(f"{flag} is {printable(name)!r}; {hint} {shown}")


def read_table(path: str | os.PathLike, attribute: str) -> tuple[list[str], list[str]]:
    """(files with the attribute, files without it) of a table of comma-separated values.

    The first line holds the titles and the first column the image files, relative to the table's own folder. The
    attribute's column holds 1, true or yes, or else 0, -1, false or no; lines with other values are left out.
    """
    text = read_text(path, "table of comma-separated values")
    positive: list[str] = []
    negative: list[str] = []
    try:
        rows = csv.reader(io.StringIO(text))
        titles = [title.strip() for title in next(rows, [])]
        if attribute not in titles[1:]:
            columns = format_names(titles[1:], 10) or "none"
            raise InputError(f"{printable(path)} has no column {attribute!r}; it has {columns}")
        column, folder = titles.index(attribute, 1), os.path.dirname(os.path.abspath(path))
        for row in rows:
            value = row[column].strip().lower() if len(row) > column else ""
            if value in _YES or value in _NO:
                (positive if value in _YES else negative).append(os.path.join(folder, row[0]))
    except csv.Error as error:
        raise InputError(f"{printable(path)} is not a table of comma-separated values: {error}") from error
    for words, files in (("1", positive), ("0 or -1", negative)):
        if not files:
            raise InputError(f"column {attribute!r} of {printable(path)} has no image with {words}; both are needed")
    return positive, negative
