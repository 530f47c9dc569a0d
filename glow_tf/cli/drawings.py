"""The drawings of sample.py, one function per mode, and the files that hold them.

sample.py imports this module after TensorFlow.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from glow_tf._files import counted, printable
from glow_tf.cli import app, attribute, defaults, images
from glow_tf.cli.attribute import chosen_label, class_names
from glow_tf.errors import InputError
from glow_tf.evaluation import editing, metrics, visualization
from glow_tf.glow import Glow
from glow_tf.metadata import total_steps

if TYPE_CHECKING:
    from glow_tf.cli.sample import Options

TEMPERATURES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
COLUMNS = 8
MAX_ROWS = 32
MAX_COLUMNS = 16
MAX_NAME_LENGTH = 12  # characters of an image's name over its column


@dataclasses.dataclass(frozen=True)
class Drawing:
    """The content of a picture, before its layout."""

    images: np.ndarray  # uint8 [rows, columns, H, W, C], or [N, H, W, C] for a square grid
    title: str  # first line of the caption
    notes: str = ""  # below the title
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()
    marked_column: int | None = None  # column of the unchanged images
    frames: int = 1  # the axis of `images` that an animation runs through
    scatter: Callable[[str], np.ndarray] | None = None  # takes notes and returns a second picture, a scatter plot


def draw_samples(options: "Options", glow: Glow) -> Drawing:
    """A grid of samples; for a class-conditional model one row per class."""
    classes, at, seed = glow.config.num_classes, f"at temperature {options.temp:g}", f"seed {options.noise_seed}"
    if not classes or options.label is not None:
        count = options.n or defaults.NUM_SAMPLES
        labels, of_class = labels_of_samples(options, glow, count)
        samples = glow.sample(count, options.temp, options.noise_seed, labels).numpy()
        return Drawing(samples, f"{counted(count, 'sample')}{of_class} {at}", seed)
    rows = min(classes, MAX_ROWS)
    columns = math.ceil(options.n / rows) if options.n else COLUMNS
    samples = glow.sample(rows * columns, options.temp, options.noise_seed, np.repeat(np.arange(rows), columns)).numpy()
    shown = f"each of {rows} classes" if rows == classes else f"the first {rows} of {classes} classes"
    title = f"{counted(columns, 'sample')} of {shown} {at}"
    names = [*map(attribute.named_class, class_names(glow)[:rows])]
    return Drawing(samples.reshape(rows, columns, *samples.shape[1:]), title, seed, names)


def draw_temperatures(options: "Options", glow: Glow) -> Drawing:
    """The same noise in every row, scaled by a rising temperature."""
    columns = options.n or COLUMNS
    labels, of_class = labels_of_samples(options, glow, columns)
    rows = editing.temperatures(glow, TEMPERATURES, columns, options.noise_seed, labels)
    row_labels = [f"temperature {temperature:g}" for temperature in TEMPERATURES]
    row_labels[0] += "\nthe mode"
    notes = f"the same noise in every row, seed {options.noise_seed}"
    title = f"{counted(columns, 'sample')}{of_class} at rising temperatures"
    return Drawing(rows, title, notes, row_labels, frames=0)


def draw_reconstructions(options: "Options", glow: Glow) -> Drawing:
    """Images above their reconstructions."""
    chosen, labels, names = chosen_images(options, glow, options.n or COLUMNS)
    rows = editing.reconstruct(glow, chosen, labels)
    differing = int((rows[0] != rows[1]).sum())
    notes = f"{differing:,} of {rows[0].size:,} bytes differ, the model sees {glow.config.num_bits} bits per channel"
    title = "1 image and its reconstruction" if len(chosen) == 1 else f"{len(chosen)} images and their reconstructions"
    return Drawing(rows, title, notes, ("original", "reconstruction"), [short(name) for name in names])


def draw_interpolations(options: "Options", glow: Glow) -> Drawing:
    """From one image to another through z."""
    chosen, labels, names = chosen_images(options, glow, 2 * (options.n or 4), at_least=2)
    if len(chosen) % 2:
        logging.warning("the number of images, %d, is odd; %s is left out", len(chosen), printable(names[-1]))
        chosen, labels = chosen[:-1], None if labels is None else labels[:-1]
    pairs, rows = len(chosen) // 2, editing.interpolate(glow, chosen, options.columns, labels, options.spherical)
    shares = [f"{share:.0%}" for share in np.linspace(0, 1, options.columns)[1:-1]]
    ends = [f"{short(first)} to\n{short(last)}" for first, last in zip(names[::2], names[1::2], strict=False)]
    title = "Interpolation between two images" if pairs == 1 else f"Interpolations between {pairs} pairs of images"
    path = "a great circle" if options.spherical else "a straight line"
    notes = f"columns: share of the second image, along {path} through the latents"
    return Drawing(rows, title, notes, ends, ["first image", *shares, "second image"])


def draw_attribute(options: "Options", glow: Glow) -> Drawing:
    """Images along a direction."""
    direction, ends = attribute.find_direction(options, glow, lambda count: common_labels(options, glow, count))
    chosen, _, names = chosen_images(options, glow, options.n or 6)
    strengths, columns, middle = strengths_with_zero(options.strength, options.columns, "unchanged")
    rows = editing.apply_direction(glow, chosen, direction, strengths, common_labels(options, glow, len(chosen)))
    first, last = ends if options.strength >= 0 else ends[::-1]
    columns[0], columns[-1] = f"{short(first)}\n{columns[0]}", f"{short(last)}\n{columns[-1]}"
    title = f"{counted(len(chosen), 'image')} changed towards {first} (left) and {last} (right)"
    return Drawing(rows, title, "columns: strength of the change", [short(name) for name in names], columns, middle)


def draw_levels(options: "Options", glow: Glow) -> Drawing:
    """The role of each level: in each row the latents of one level are resampled."""
    chosen, labels, names = chosen_images(options, glow, options.n or 2)
    rows = editing.resample_levels(glow, chosen, options.columns, options.temp, options.noise_seed, labels)
    levels = [f"level {level}" for level in range(glow.config.num_levels)]
    if len(levels) > 1:
        levels[0], levels[-1] = f"{levels[0]}, fine", f"{levels[-1]}, coarse"
    row_labels = [f"{short(name)}\n{level}" for name in names for level in levels]
    columns = ["unchanged", *(f"sample {number}" for number in range(1, options.columns))]
    title = f"The role of each level: its latents are replaced by samples at temperature {options.temp:g}"
    notes = f"the other levels keep the latents of the image, seed {options.noise_seed}"
    return Drawing(rows, title, notes, row_labels, columns, 0)


def draw_components(options: "Options", glow: Glow) -> Drawing:
    """The directions in which z varies most, and a scatter plot of the images."""
    chosen, labels, source, names = images_for_components(options, glow)
    count = min(options.components, len(chosen) - 1)
    if count < options.components:
        logging.warning(
            "%d images have %d principal components, not --components %d", len(chosen), count, options.components
        )
    z = editing.encode(glow, chosen, common_labels(options, glow, len(chosen)))
    components = editing.principal_components(z, count)
    strengths, columns, middle = strengths_with_zero(3 * options.strength, options.columns, "mean", "σ")
    rows = editing.along_components(glow, components, strengths, common_labels(options, glow, count))
    shares = [f"{share:.1%} of variance" for share in components.share]

    def scatter(notes: str) -> np.ndarray:
        return visualization.scatter(
            components.scores[:, :2],
            labels if names else None,
            names,
            caption=f"{len(chosen):,} {source} by their first two principal components\n{notes}",
            axis_names=[f"component {i + 1}, {shares[i]} (in standard deviations σ)" for i in range(2)],
        )

    row_labels = [f"component {index}\n{share}" for index, share in enumerate(shares, 1)]
    title = f"{counted(count, 'principal component')} of the latents of {len(chosen):,} {source}"
    notes = "columns: standard deviations σ from the mean"
    return Drawing(rows, title, notes, row_labels, columns, middle, scatter=scatter if count > 1 else None)


DRAW = {
    "samples": draw_samples,
    "temperature": draw_temperatures,
    "reconstruct": draw_reconstructions,
    "interpolate": draw_interpolations,
    "attribute": draw_attribute,
    "levels": draw_levels,
    "pca": draw_components,
}


def save(options: "Options", drawing: Drawing, weights: app.Weights) -> list[str]:
    """Writes the picture, and the scatter plot and the animation that belong to it; returns a line about each."""
    steps = total_steps(weights.metadata)
    model = f"Model: {weights.title}" + ("" if steps is None else f", trained {steps:,} steps")
    caption = f"{drawing.title}\n{'; '.join(filter(None, [model, drawing.notes]))}"
    out, scatter, animation = options.outputs
    visualization.save_image(out, picture_of(drawing, caption))
    written = [f"{out}: {drawing.title} ({weights.note})"]
    if drawing.scatter:
        visualization.save_image(scatter, drawing.scatter(model))
        written.append(f"{scatter}: the images by the first two components")
    if options.gif:
        visualization.save_gif(animation, frames_of(drawing, caption))
        written.append(f"{animation}: the animation")
    return written


def picture_of(drawing: Drawing, caption: str) -> np.ndarray:
    """The picture; more than MAX_COLUMNS columns are wrapped into blocks below one another."""
    images = drawing.images
    if images.ndim == 4:
        return visualization.labelled_grid(images, caption=caption)
    count, marked = images.shape[1], drawing.marked_column
    size = math.ceil(count / math.ceil(count / MAX_COLUMNS))
    blocks: list[np.ndarray] = []
    for start in range(0, count, size):
        block = images[:, start : start + size]
        blocks.append(
            visualization.labelled_grid(
                block.reshape(-1, *block.shape[2:]),
                caption="" if blocks else caption,
                row_labels=drawing.row_labels,
                column_labels=drawing.column_labels[start : start + size],
                columns=block.shape[1],
                marked_column=marked - start if marked is not None and 0 <= marked - start < size else None,
            )
        )
    width = max(block.shape[1] for block in blocks)
    white = [np.pad(block, [(0, 0), (0, width - block.shape[1]), (0, 0)], constant_values=255) for block in blocks]
    return np.concatenate(white)


def frames_of(drawing: Drawing, caption: str) -> list[np.ndarray]:
    """The frames of an animation: one per column, or one per row if the columns are different images."""
    along, across = drawing.column_labels, drawing.row_labels
    if drawing.frames == 0:
        along, across = across, along
    return [
        visualization.labelled_grid(
            content,
            caption=f"{caption}\n{along[index].replace(chr(10), ' ')}",
            row_labels=across,
            columns=1 if across else None,
        )
        for index, content in enumerate(np.moveaxis(drawing.images, drawing.frames, 0))
    ]


# Values of the flags


def strengths_with_zero(
    largest: float, columns: int, middle_label: str, unit: str = ""
) -> tuple[np.ndarray, list[str], int]:
    """(an odd number of strengths from -largest to largest, their labels, the index of 0)."""
    middle = columns // 2
    strengths = largest * np.arange(-middle, middle + 1) / middle
    labels = [f"{strength:+.3g}{unit}" for strength in strengths]
    labels[middle] = middle_label
    return strengths, labels, middle


def labels_of_samples(options: "Options", glow: Glow, count: int) -> tuple[np.ndarray | None, str]:
    """(one label per sample, the words " of class NAME"), or (None, "") without --label."""
    label = chosen_label(options, glow)
    return (None, "") if label is None else (np.full(count, label), f" of class {class_names(glow)[label]}")


def common_labels(options: "Options", glow: Glow, count: int) -> list[int] | None:
    """One label for all images of a class-conditional model, else None.

    With a single label, whichever it is, the latents of all classes are comparable and decode inverts encode.
    """
    return [chosen_label(options, glow) or 0] * count if glow.config.num_classes else None


def chosen_images(
    options: "Options", glow: Glow, count: int, at_least: int = 1
) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
    """(uint8 images, labels to encode them with, names) of --images, or of the first `count` of the data set.

    Args:
        count: the largest number of images without --images, or with folders.
        at_least: with fewer test images than this, training images are used.
    """
    if options.images:
        named = images.read(options, glow, count if options.n or any(map(os.path.isdir, options.images)) else None)
    else:
        data = images.data_of(options, glow)
        split, prefix = data.test, "test:"
        if split.num_images < at_least:
            split, prefix = data.train, "train:"
            logging.warning(
                "the test split has %s; training images are used instead", counted(data.test.num_images, "image")
            )
        numbers = range(min(count, split.num_images))
        named = images.of_split(glow, data, split, numbers, prefix)
    label = chosen_label(options, glow)
    if not glow.config.num_classes:
        return named.images, None, named.names
    labels = named.labels if label is None else np.full(len(named.labels), label, np.int32)
    unknown = labels == images.UNKNOWN
    if unknown.any():
        labels[unknown] = metrics.classify(glow, named.images[unknown])
    return named.images, labels, named.names


def images_for_components(options: "Options", glow: Glow) -> tuple[np.ndarray, np.ndarray, str, Sequence[str]]:
    """(uint8 images, labels, a noun for them, class names); includes training images if there are few test images."""
    count = options.n or attribute.MAX_IMAGES
    names: Sequence[str] = ()
    if options.images:
        named = images.read(options, glow, count)
        chosen, labels, source = named.images, named.labels, "images"
    else:
        data = images.data_of(options, glow)
        chosen, labels = data.test.random_subset(count, seed=0)
        source, names = "test images", data.class_names
        if len(chosen) <= options.components and len(chosen) < count:
            logging.warning("the test split has %s; training images are used as well", counted(len(chosen), "image"))
            more, their_labels = data.train.random_subset(count - len(chosen), seed=0)
            chosen, labels = np.concatenate([chosen, more]), np.concatenate([labels, their_labels])
            source = "test and training images"
    if len(chosen) < 2:
        raise InputError(f"principal components need at least 2 images, not {len(chosen)}")
    return chosen, labels, source, names


def short(name: str) -> str:
    """The last part of an image's name, for a label."""
    base = printable(os.path.basename(name))
    return base if len(base) <= MAX_NAME_LENGTH else base[:3] + "…" + base[4 - MAX_NAME_LENGTH :]
