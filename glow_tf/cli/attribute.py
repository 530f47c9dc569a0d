"""Finds the direction of `sample.py --mode attribute`: from a file, or from images with and without the attribute.

sample.py defines the flags.
"""

import csv
import difflib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from glow_tf import _progress, metadata
from glow_tf._files import check_file, format_names, printable, read_text
from glow_tf.cli import images as named_images
from glow_tf.data import listing, registry
from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.cli import app
    from glow_tf.glow import Glow

FLAGS = flags.FLAGS

# The flags of each way to define the attribute.
WAYS = {"direction": ("direction",), "positive": ("positive", "negative"), "attribute": ("csv", "attribute")}

CLASS = "class:"

MAX_IMAGES = 2000  # with the attribute, and as many without it

_YES, _NO = {"1", "true", "yes", "y"}, {"-1", "0", "false", "no", "n"}


def check_flags() -> None:
    """Raises InputError for contradictory flags, and then for files that do not exist."""
    ways = [way for way, names in WAYS.items() if any(FLAGS[name].value is not None for name in names)]
    if len(ways) > 1:
        raise InputError(f"--{' and --'.join(ways)} each define the attribute; use only one of them")
    if not ways:
        raise InputError(
            "an attribute needs examples: --positive and --negative (folders, or class:NAME), --attribute (of a TFDS "
            "data set, or of a table with --csv), or --direction"
        )
    if ways == ["positive"] and None in (FLAGS.positive, FLAGS.negative):
        raise InputError("--positive and --negative must be used together: images with the attribute and without it")
    if FLAGS.direction is not None and FLAGS.save_direction is not None:
        raise InputError("--save_direction is for a direction computed from images, not for one read by --direction")
    if FLAGS.csv is not None and FLAGS.attribute is None:
        raise InputError("--csv needs the name of a column: --attribute NAME")
    for file, what in ((FLAGS.csv, "table of comma-separated values"), (FLAGS.direction, "direction")):
        if file is not None:
            check_file(file, what)
    for folder in (FLAGS.positive, FLAGS.negative):
        if folder is not None and not folder.startswith(CLASS):
            listing.check_not_empty(registry.check_folder(folder))


def reads_data_set() -> bool:
    """Whether the examples come from a data set."""
    return bool(_classes()) or (FLAGS.attribute is not None and FLAGS.csv is None)


def _classes() -> dict[str, str]:
    """{flag: name} of the classes that --positive and --negative name."""
    values = {f"--{flag}": FLAGS[flag].value or "" for flag in ("positive", "negative")}
    return {flag: value.removeprefix(CLASS) for flag, value in values.items() if value.startswith(CLASS)}


def check_model(model: "app.Weights") -> None:
    """Raises InputError for a class that the model's data set lacks."""
    names = model.metadata.get("class_names")
    if names and FLAGS.dataset is None:
        for flag, name in _classes().items():
            index_of_class(name, names, flag)


def find_direction(
    glow: "Glow", labels_for: Callable[[int], Sequence[int] | None]
) -> tuple[np.ndarray, tuple[str, str]]:
    """The direction in z that the flags define, and names for the image minus and plus the direction.

    `labels_for` takes a number of images and returns the labels to encode them with.
    """
    from glow_tf.evaluation import editing

    if FLAGS.direction is not None:
        name = os.path.splitext(os.path.basename(FLAGS.direction))[0]
        return editing.load_direction(FLAGS.direction, glow), _ends(name)
    negative, positive, ends = _examples(glow)
    labels = [labels_for(len(images)) for images in (positive, negative)]
    direction = editing.attribute_direction(glow, positive, negative, *labels)
    _progress.line(f"the direction: {len(positive)} images with the attribute, {len(negative)} without", sys.stdout)
    if FLAGS.save_direction:
        editing.save_direction(FLAGS.save_direction, direction)
        _progress.line(f"the direction is saved: {FLAGS.save_direction}", sys.stdout)
    return direction, ends


def _ends(attribute: str) -> tuple[str, str]:
    return f"less {printable(attribute)}", f"more {printable(attribute)}"


def _examples(glow: "Glow") -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """(uint8 images without the attribute, images with it, the ends of the direction)."""
    from glow_tf.data import image_data

    height, width, channels = glow.config.image_shape
    if FLAGS.csv is not None:
        files = read_table(FLAGS.csv, FLAGS.attribute)
        positive, negative = (
            np.stack([named_images.read_file(name, glow.config) for name in names[:MAX_IMAGES]]) for names in files
        )
    elif FLAGS.attribute is not None:
        positive, negative = image_data.load_attribute(
            named_images.data_set_of(glow),
            FLAGS.attribute,
            MAX_IMAGES,
            data_dir=FLAGS.data_dir,
            image_size=(height, width),
            channels=channels,
            download=FLAGS.download,
        )
    else:
        (negative, first), (positive, last) = (_examples_of(glow, flag) for flag in ("negative", "positive"))
        return negative, positive, (first, last)
    return negative, positive, _ends(FLAGS.attribute)


def _examples_of(glow: "Glow", flag: str) -> tuple[np.ndarray, str]:
    """The images that --positive or --negative names, and a name for them."""
    value = str(FLAGS[flag].value)
    if not value.startswith(CLASS):
        return named_images.read_folder(value, glow.config, MAX_IMAGES)[0], os.path.basename(os.path.abspath(value))
    source = named_images.data_of(glow)
    index = index_of_class(value.removeprefix(CLASS), source.class_names, f"--{flag}")
    images, labels = source.train.random_subset(10 * MAX_IMAGES, seed=0)
    return images[labels == index][:MAX_IMAGES], named_class(source.class_names[index])


def named_class(name: str) -> str:
    """The name of a class in a label: a number needs a noun."""
    return f"class {name}" if name.isdigit() else name


def class_names(model: "Glow | app.Weights") -> list[str]:
    """The class names of a class-conditional model."""
    return metadata.class_names(model.metadata, model.config.num_classes)


def chosen_label(model: "Glow | app.Weights") -> int | None:
    """The index of --label, or None without it."""
    if FLAGS.label is None:
        return None
    if not model.config.num_classes:
        raise InputError(
            f"--label is {printable(FLAGS.label)!r}, but this model has no classes; train one with --conditional"
        )
    return index_of_class(FLAGS.label, class_names(model), "--label")


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
