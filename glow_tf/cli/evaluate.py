"""Prints the bits/dim of trained weights on a test split, or scores your own images.

    python3 evaluate.py                          the newest weights under runs/, or else bundled ones
    python3 evaluate.py --weights weights.h5 --dataset cifar10 --draws 16
    python3 evaluate.py --images path/to/images --csv scores.csv --html scores.html

For a test split: bits/dim with its standard error, per level and per class, the largest round-trip error, and how
Gaussian the latents are; for a class-conditional model also the accuracy of the generative classifier
argmax p(image | class). Weights that main.py wrote are averages over the last steps (EMA).

For your own images, one line each: log-likelihood in nats, bits/dim, bits/dim minus those of a lossless PNG or
WebP of the same image (the corrected score), and a two-sided p-value among the training images (typicality).

A high likelihood alone is poor evidence that an image is like the training images: simple and smooth images (a
grey wall, a blurred photograph) are more likely than the training images themselves. Use the corrected score instead:
a high one means unlike the training images. Typicality detects images that are too likely, but not those that happen
to be as likely.
"""

import dataclasses
import functools
import os

from glow_tf._option import integer, option
from glow_tf.cli import app
from glow_tf.cli import images as named_images
from glow_tf.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(named_images.Options):
    """The flags of evaluate.py."""

    weights: str | None = option(None, app.NEWEST_WEIGHTS_HELP)
    dataset: str | None = option(
        None, "Data set or folder of images. Default: the data set the weights were trained on."
    )
    batch_size: int = option(64, "Images per batch.", *integer(1, 2**31 - 1))
    eval_images: int | None = option(
        None, "Number of test images, chosen at random. Default: all.", *integer(1, 2**31 - 1)
    )
    seed: int = option(0, "Seed for the dequantisation noise.", *integer(0, 2**31 - 1))
    draws: int = option(1, "Noise samples per image; more give a tighter bound on bits/dim.", *integer(1, 10_000))
    images: tuple[str, ...] = option((), f"Images to score individually, instead of a split. {named_images.HELP}")
    csv: str | None = option(None, "With --images: the table of scores to write.")
    html: str | None = option(None, "With --images: the page of images and scores to write.")


def main(options: Options) -> int:
    """Scores a test split, or single images where --images names some; returns the exit status."""
    check_options(options)
    weights = app.find_weights(options.weights, needs_data=options.reads_data_set)
    for flag, path in (("--csv", options.csv), ("--html", options.html)):
        app.check_output(flag, path, [*named_images.files(options.images), weights.path])
    if options.reads_data_set:
        named_images.check_data(options, weights)
    app.import_tensorflow(options.debug)
    from glow_tf.cli import reports
    from glow_tf.glow import Glow

    glow = Glow.load(weights.path)
    report = reports.score_images if options.images else reports.evaluate_split
    return report(options, glow, weights.note)


def check_options(options: Options) -> None:
    """Raises InputError for invalid combinations of flags, and then for files and data sets that do not exist."""
    app.check_no_arguments(options)
    if not options.images and (options.csv or options.html):
        raise InputError("--csv and --html are for scores of single images; name the images with --images")
    if options.csv and options.html and os.path.abspath(options.csv) == os.path.abspath(options.html):
        raise InputError(f"--csv and --html are both {options.csv}; name two files")
    if options.images:
        named_images.check(options.images)
        for name in ("batch_size", "eval_images"):
            if name in options.given:
                raise InputError(f"--{name} is for a test split; it cannot be combined with --images")
    named_images.check_data_flags(options)


run = functools.partial(app.run, main, Options, __doc__ or "")
