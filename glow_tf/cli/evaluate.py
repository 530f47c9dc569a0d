"""Prints the bits/dim of trained weights on a test split, or scores your own images.

    python3 evaluate.py                                             the newest weights under runs/
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

import functools
import os
from collections.abc import Sequence

from absl import flags

from glow_tf.cli import app
from glow_tf.cli import images as named_images
from glow_tf.errors import InputError

FLAGS = flags.FLAGS

flags.DEFINE_string("weights", None, app.NEWEST_WEIGHTS_HELP)
flags.DEFINE_string("dataset", None, "Data set or folder of images. Default: the data set the weights were trained on.")
flags.DEFINE_string("data_dir", None, app.DATA_DIR_HELP)
flags.DEFINE_bool("download", False, app.DOWNLOAD_HELP)
flags.DEFINE_integer("batch_size", 64, "Images per batch.", lower_bound=1)
flags.DEFINE_integer("eval_images", None, "Number of test images, chosen at random. Default: all.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed for the dequantisation noise.", lower_bound=0, upper_bound=2**31 - 1)
flags.DEFINE_integer(
    "draws", 1, "Noise samples per image; more give a tighter bound on bits/dim.", lower_bound=1, upper_bound=10_000
)
flags.DEFINE_multi_string("images", None, f"Images to score individually, instead of a split. {named_images.HELP}")
flags.DEFINE_string("csv", None, "With --images: the table of scores to write.")
flags.DEFINE_string("html", None, "With --images: the page of images and scores to write.")


def main(arguments: Sequence[str]) -> int:
    """Scores a test split, or single images where --images names some; returns the exit status."""
    check_flags(arguments)
    weights = app.find_weights(FLAGS.weights, needs_data=named_images.reads_data_set())
    if named_images.reads_data_set():
        named_images.check_data(weights)
    app.import_tensorflow()
    from glow_tf.cli import reports
    from glow_tf.glow import Glow

    glow = Glow.load(weights.path)
    report = reports.evaluate_split if FLAGS.images is None else reports.score_images
    return report(glow, weights.note)


def check_flags(arguments: Sequence[str]) -> None:
    """Raises InputError for invalid combinations of flags, and then for files and data sets that do not exist."""
    app.check_no_arguments(arguments)
    if FLAGS.images is None and (FLAGS.csv or FLAGS.html):
        raise InputError("--csv and --html are for scores of single images; name the images with --images")
    if FLAGS.csv and FLAGS.html and os.path.abspath(FLAGS.csv) == os.path.abspath(FLAGS.html):
        raise InputError(f"--csv and --html are both {FLAGS.csv}; name two files")
    app.check_output("csv", FLAGS.images or ())
    app.check_output("html", FLAGS.images or ())
    if FLAGS.images is not None:
        named_images.check(FLAGS.images)
        for name in ("batch_size", "eval_images"):
            if FLAGS[name].present:
                raise InputError(f"--{name} is for a test split; it cannot be combined with --images")
    named_images.check_data_flags(named_images.reads_data_set())


run = functools.partial(app.run, main, __doc__ or "")
