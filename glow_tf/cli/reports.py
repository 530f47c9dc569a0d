"""The reports of evaluate.py: of a test split, and of single images.

evaluate.py imports this module after TensorFlow.
"""

import contextlib
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from glow_tf._files import counted, printable
from glow_tf.cli import images as named_images
from glow_tf.data import image_data, registry
from glow_tf.data.dataset import ArrayDataset, StreamingDataset
from glow_tf.dequantization import NoiseStream
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics, ood
from glow_tf.glow import Glow
from glow_tf.metadata import caveat, is_decided_by_few
from glow_tf.training import diagnostics

if TYPE_CHECKING:
    from glow_tf.cli.evaluate import Options

# Images from which the moments of the latents are computed; all of their latents are in memory at once.
LATENT_IMAGES = 512

# Rows of a table on the screen.
MAX_ROWS = 20


def evaluate_split(options: "Options", glow: Glow, weights: str) -> int:
    """Prints bits/dim, accuracy, levels and round trip of the test split; returns the exit status."""
    data = named_images.data_of(options, glow)
    check_classes(glow, data)
    split = data.test
    if options.eval_images is not None and options.eval_images < split.num_images:
        split = ArrayDataset(*split.random_subset(options.eval_images, seed=0))
    result = metrics.evaluate(glow, split, options.batch_size, options.seed, options.draws)
    bits = result.bits_per_dim
    # With several noise samples the mean may be finite although a sample, and so a level, is not.
    if explain_not_finite(glow, bits + result.level_bits_per_dim.sum(axis=1), split, options.seed, options.batch_size):
        return 1
    summary = metrics.describe(bits.mean(), metrics.standard_error(bits), len(bits))
    print(f"{summary} of {data.name} ({weights})")
    is_whole = len(bits) == data.test.num_images
    warn_of_few(bits, [f"test:{index}" for index in range(len(bits))] if is_whole else ["one of them"] * len(bits))
    report_conversion(glow, data.name, options.data_dir)
    if not is_whole:
        print(f"a random subset of the {data.test.num_images:,} test images")
    print_bound(glow, options.draws, " (levels: 1)" if options.draws > 1 else "")
    if result.classes is not None:
        print(f"given the class; the generative classifier is right for {result.accuracy:.2%} of {len(bits):,} images")
    print_classes(result, data.class_names)
    print_levels(glow, result.level_bits_per_dim, split, options.seed)
    print(
        f"decode(encode(image)) changes {result.num_wrong_bytes:,} of {result.num_bytes:,} bytes of "
        f"{counted(len(bits), 'image')}; largest error {result.round_trip_error:.2g} of a bin"
    )
    if not math.isfinite(result.round_trip_error):
        print(
            "error: decode(encode(image)) is not finite: the model scores these images but cannot draw them",
            file=sys.stderr,
        )
        return 1
    return 0


def print_bound(glow: Glow, draws: int, of_levels: str = "") -> None:
    """Prints from which noise the bits/dim come, and of how many bits the pixels are."""
    noise = "noise sample" if glow.config.dequantization == "uniform" else "learned noise sample"
    samples = f"1 {noise}" if draws == 1 else f"importance-weighted over {draws} {noise}s"
    seen = f"; the model sees {glow.config.num_bits} bits per channel" if glow.config.num_bits < 8 else ""
    print(f"an upper bound, {samples} per image{of_levels}{seen}")


def report_conversion(glow: Glow, name: str, data_dir: str | None) -> None:
    """Prints a note if images do not have the model's shape, and one if they may have been trained on."""
    if name == glow.metadata.get("dataset"):
        return
    if registry.is_folder(name):
        print(f"the images of {name} are converted to {model_input(glow)}, the input of this model")
        trained = glow.metadata.get("dataset")
        if registry.overlaps(trained, name):  # images are held out by their paths inside the folder
            print(f"the model was trained on {trained}: training images may be among these test images")
        return
    shape = (8, 8, 1)
    if name != "digits":
        from glow_tf.data import tfds

        shape = tfds.find_builder(name, data_dir).info.features["image"].shape
    if shape != glow.config.image_shape:
        size = "x".join("?" if side is None else str(side) for side in shape)
        print(f"the images of {name} are {size}; they are converted to {model_input(glow)}, the input of this model")


def model_input(glow: Glow) -> str:
    """Size and colours of a model's images in words, such as "32x32 RGB"."""
    height, width, channels = glow.config.image_shape
    return f"{height}x{width} {('grey', 'grey and alpha', 'RGB', 'RGBA')[channels - 1]}"


def explain_not_finite(
    glow: Glow, bits: np.ndarray, split: ArrayDataset | StreamingDataset, seed: int, batch_size: int
) -> bool:
    """Prints an error and returns True if some bits/dim of a split are not finite.

    The seed of the noise is `seed` + i for batch i, as for the scores.
    """
    bad = np.flatnonzero(~np.isfinite(bits))
    if not len(bad):
        return False
    batch, row = divmod(int(bad[0]), batch_size)
    images, labels = image_data.pick(split, range(batch * batch_size, min((batch + 1) * batch_size, len(bits))))
    values = glow.dequantize(images, seed + batch)[row : row + 1]
    conditions = labels[row : row + 1] if glow.config.num_classes else None
    place = diagnostics.first_not_finite(glow, values, conditions)
    where = f"; the first value that is not finite comes from {place}" if place else ""
    print(f"error: the bits/dim of {len(bad):,} of {len(bits):,} images is not finite{where}", file=sys.stderr)
    return True


def warn_of_few(bits: np.ndarray, names: Sequence[str]) -> None:
    """Prints a warning if a few images decide the mean of bits/dim [N]; it names the one farthest from the median."""
    if is_decided_by_few(bits.mean(), metrics.standard_error(bits)):
        median = np.median(bits)
        far = int(np.argmax(np.abs(bits - median)))
        print(
            f"warning: a few images decide the mean: the median is {metrics.shown(median)} bits/dim, and "
            f"{printable(names[far])} has {metrics.shown(bits[far])}",
            file=sys.stderr,
        )


def print_classes(result: metrics.SplitResult, names: Sequence[str]) -> None:
    """Prints images, bits/dim and accuracy of the first classes, and whether a few images decide a class's bits/dim."""
    if len(names) < 2:
        return
    rows = result.per_class()
    print(f"images  bits/dim{'' if result.classes is None else '  accuracy'}  class")
    for label, (count, bits, accuracy) in list(rows.items())[:MAX_ROWS]:
        share = "" if accuracy is None else f"  {accuracy:8.2%}"
        few = caveat(bits, metrics.standard_error(result.bits_per_dim[result.labels == label]))
        print(f"{count:>6}  {metrics.shown(bits):>8}{share}  {printable(names[label])}{few}")
    if len(rows) > MAX_ROWS:
        print(f"... and {len(rows) - MAX_ROWS} more classes")


def print_levels(glow: Glow, level_bits: np.ndarray, split: ArrayDataset | StreamingDataset, seed: int) -> None:
    """Prints each level's share of the bits/dim `level_bits` [N, L] and how close its latents are to N(0, 1)."""
    images, labels = split.random_subset(LATENT_IMAGES, seed=0)
    values = glow.dequantize(images, seed, NoiseStream.LATENTS)
    z = glow.encode(values, labels if glow.config.num_classes else None)
    print("level  latents  bits/dim  share  mean of z  variance  skewness  kurtosis  distance from Normal")
    sizes, bits = metrics.latents_per_level(glow.config), level_bits.mean(axis=0)
    for level, latents in enumerate(glow.split_latents(z)):
        n = metrics.normality(latents)
        # Compared with the sum over the levels, since the share of one may be near 0.
        few = is_decided_by_few(bits.sum(), metrics.standard_error(level_bits[:, level]))
        print(
            f"{level:>5}  {sizes[level]:>7}  {metrics.shown(bits[level]):>8}  {bits[level] / bits.sum():5.0%}  "
            f"{n.mean:9.3f}  {n.variance:8.3f}  {n.skewness:8.3f}  {n.kurtosis:8.3f}  {n.ks_statistic:20.4f}"
            f"{'  (its bits/dim are decided by a few images)' if few else ''}"
        )
    print(f"(z of {counted(len(images), 'image')}; the distance is the Kolmogorov-Smirnov statistic)")


def check_classes(glow: Glow, data: image_data.ImageData) -> None:
    """Raises InputError unless the classes of the images are those of the model."""
    if glow.config.num_classes and not data.has_classes_of(glow):
        known = glow.metadata.get("class_names") or []
        mine, others = (", ".join(map(printable, names[:5])) or "no names" for names in (known, data.class_names))
        raise InputError(
            f"the model has {glow.config.num_classes} classes ({mine}, ...), {data.name} has "
            f"{len(data.class_names)} ({others}, ...); name the data it was trained on"
        )


def score_images(options: "Options", glow: Glow, weights: str) -> int:
    """Prints or writes the scores of the images of --images; returns the exit status."""
    read = named_images.read(options, glow)
    scores = ood.score(glow, read.images, read.names, options.draws, options.seed)
    if options.csv:
        ood.write_csv(options.csv, scores)
    if options.html:
        ood.write_html(options.html, scores, read.images, f"{', '.join(options.images)}, scored by {weights}")
    bits, corrected = scores.columns["bits_per_dim"], scores.columns["corrected_bits_per_dim"]
    summary = metrics.describe(bits.mean(), metrics.standard_error(bits), len(bits), "image")
    print(f"{summary}, {metrics.shown(corrected.mean(), '+')} against PNG or WebP ({weights})")
    warn_of_few(bits, scores.names)
    print_bound(glow, options.draws)
    if glow.config.num_classes:
        print(f"under the mixture of the model's {glow.config.num_classes} classes, not given the class")
    report_conversions(glow, read.names)
    files = (value for value in options.images if not value.startswith(named_images.TEST))
    if any(registry.is_in_folder(glow.metadata.get("dataset"), file) for file in files):
        print("this model was trained on most of these images: new images of the same type would score worse")
    if "typicality_p" not in scores.columns:
        print("no typicality: this weights file does not contain the bits/dim of its training images")
    if not options.csv:
        print_scores(scores)
    for written in (options.csv, options.html):
        if written:
            print(f"written: {written}")
    split = ArrayDataset(read.images, np.maximum(read.labels, 0))
    return int(explain_not_finite(glow, bits, split, options.seed, ood.BATCH_SIZE))


def report_conversions(glow: Glow, names: Sequence[str]) -> None:
    """Prints how many image files differ from the model's size or colours, and the largest of them."""
    height, width, channels = glow.config.image_shape
    needed = (width, height), ("L", "LA", "RGB", "RGBA")[channels - 1]
    found = []
    for name in names:
        # An error means that it is not a file (test:0), or was removed since it was read.
        with contextlib.suppress(Exception), Image.open(name) as picture:  # reads the header only
            found.append((picture.size, picture.mode))
    others = [each for each in found if each != needed]
    if others:
        (largest_width, largest_height), mode = max(others, key=lambda each: each[0][0] * each[0][1])
        print(
            f"{len(others):,} of {len(names):,} images are converted to {model_input(glow)}, the input of this model; "
            f"the largest is {largest_height}x{largest_width} {mode}"
        )


def print_scores(scores: ood.Scores) -> None:
    """Prints the scores of the first images, a line each."""
    titles = [name.replace("_", " ") for name in scores.columns]
    print(*titles, "file", sep="  ")
    for name, *values in list(zip(scores.names, *scores.columns.values(), strict=True))[:MAX_ROWS]:
        cells = (
            f"{value if isinstance(value, str) else metrics.shown(value):>{len(title)}}"
            for title, value in zip(titles, values, strict=True)
        )
        print(*cells, printable(name), sep="  ")
    if len(scores.names) > MAX_ROWS:
        print(f"... and {len(scores.names) - MAX_ROWS:,} more; --csv FILE writes all")
