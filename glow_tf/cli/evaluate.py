"""Prints what trained weights are worth on a test split, or what they say about your own images.

    python3 evaluate.py                                             the newest weights under runs/
    python3 evaluate.py --weights weights.h5 --dataset cifar10 --draws 16
    python3 evaluate.py --images path/to/images --csv scores.csv --html scores.html

Of a split: bits/dim and its standard error, what each level contributes, how Gaussian its latents are, the
largest round-trip error; of a class-conditional model also how many images the generative classifier
argmax p(image | class) gets right. Weights that main.py wrote are averages over the last steps (EMA).

Of your own images, one line each: log-likelihood in nats, bits/dim, bits/dim minus those of a lossless PNG or
WebP of the same image (the corrected score), and how often a training image is as unusual (typicality).

A high likelihood alone is a bad sign that an image is like the training images: smooth and simple images (a
blurred one, a grey wall) get a higher likelihood than the training images themselves, because a likelihood
rewards pixels that are easy to predict from their neighbours, whatever they show. Rather use the corrected
score (high is foreign); typicality finds images that are too likely, but not those that happen to be as likely.
"""

import os

from absl import flags

from glow_tf import pretrained
from glow_tf.cli import app, defaults
from glow_tf.data import registry
from glow_tf.errors import InputError

FLAGS = flags.FLAGS

flags.DEFINE_string("weights", None, "A weights.h5, or a run's folder; None: the newest run, else the bundled digits.")
flags.DEFINE_string("dataset", None, "A data set or a folder of images; None: what the weights were trained on.")
flags.DEFINE_string("data_dir", None, "Where prepared TFDS data sets lie.")
flags.DEFINE_bool("download", True, "Download a TFDS data set that is not prepared yet.")
flags.DEFINE_integer("batch_size", 64, "Images scored at once.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of the dequantisation noise.", lower_bound=0, upper_bound=2**31 - 1)
flags.DEFINE_integer(
    "draws", 1, "Of the noise, an image: more give a tighter bound on the bits/dim.", lower_bound=1, upper_bound=10_000
)
flags.DEFINE_string("images", None, "A folder of images to score one by one, instead of a split.")
flags.DEFINE_string("csv", None, "With --images: the table to write.")
flags.DEFINE_string("html", None, "With --images: the sheet of the least and the most likely images to write.")

# Test images of the latents' statistics and the round trip.
WATCHED_IMAGES = 512

# Lines of a table that goes to the screen.
SHOWN = 10


def main(arguments):
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}; a weights file is named by --weights")
    if FLAGS.images is None and (FLAGS.csv or FLAGS.html):
        raise InputError("--csv and --html tell about single images; name their folder with --images")
    if FLAGS.images is not None and FLAGS.dataset is not None:
        raise InputError("give --dataset (a split as a whole) or --images (one by one), not both")
    if FLAGS.csv and FLAGS.html and os.path.abspath(FLAGS.csv) == os.path.abspath(FLAGS.html):
        raise InputError(f"--csv and --html are both {FLAGS.csv}; they are two files")
    if FLAGS.dataset is not None:
        registry.check_data_set(FLAGS.dataset, FLAGS.data_dir)
    if FLAGS.images is not None:
        registry.check_folder(FLAGS.images)
    path, _ = pretrained.find(FLAGS.weights, defaults.RUNS)
    app.import_tensorflow()
    from glow_tf.glow import Glow

    glow = Glow.load(path)
    if FLAGS.images is not None:
        score_images(glow, path)
    else:
        evaluate_split(glow, path)


def evaluate_split(glow, path):
    from glow_tf.data import image_data
    from glow_tf.evaluation import metrics

    name = FLAGS.dataset or glow.metadata.get("dataset")
    if name is None:
        raise InputError(f"{path} does not say what it was trained on; name the data with --dataset")
    height, width, channels = glow.config.image_shape
    images = image_data.load(
        name, data_dir=FLAGS.data_dir, image_size=(height, width), channels=channels, download=FLAGS.download
    )
    check_classes(glow, images)
    result = metrics.evaluate(glow, images.test, FLAGS.batch_size, FLAGS.seed, FLAGS.draws)
    bits = result.bits_per_dim
    print(
        f"{bits.mean():.4f} bits/dim, standard error {metrics.standard_error(bits):.4f}, on the {len(bits)} test "
        f"images of {images.name} ({path})"
    )
    if FLAGS.draws > 1:
        print(f"(importance-weighted over {FLAGS.draws} draws of the noise; levels: one draw)")
    if glow.config.num_classes:
        print(
            f"given the class; the generative classifier is right in {result.accuracy:.2%} of {len(bits)} "
            f"({glow.config.num_classes} classes)"
        )
    watched, labels = images.test.random_subset(WATCHED_IMAGES, seed=0)
    given = labels if glow.config.num_classes else None
    print_levels(glow, result.level_bits_per_dim.mean(axis=0), watched, given)
    error, wrong = metrics.round_trip(glow, watched, given)
    print(
        f"largest round-trip error {error:.2g} of a bin; {wrong} of {watched.size} bytes of {len(watched)} images "
        f"do not come back"
    )


def print_levels(glow, bits, images, labels):
    from glow_tf import dequantization
    from glow_tf.evaluation import metrics

    noise = dequantization.uniform_noise(images.shape, [FLAGS.seed, 2], glow.config.dtype)
    z = glow.encode(glow.dequantizer.dequantize(images, noise, glow.config.dtype), labels)
    print("level  latents  bits/dim  share  mean of z  variance  skewness  kurtosis  distance from Normal")
    sizes = metrics.latents_of_levels(glow.config)
    for level, latents in enumerate(glow.split_latents(z)):
        n = metrics.normality(latents)
        print(
            f"{level:>5}  {sizes[level]:>7}  {bits[level]:8.4f}  {bits[level] / bits.sum():5.0%}  {n.mean:9.3f}  "
            f"{n.variance:8.3f}  {n.skewness:8.3f}  {n.kurtosis:8.3f}  {n.distance:20.4f}"
        )


def check_classes(glow, images):
    """InputError if the labels of the images are not those that the model was trained with."""
    if not glow.config.num_classes:
        return
    known = list(glow.metadata.get("class_names") or [])
    if len(images.class_names) != glow.config.num_classes or known not in ([], list(images.class_names)):
        mine, others = (", ".join(map(str, names[:5])) or "no names" for names in (known, images.class_names))
        raise InputError(
            f"the model has {glow.config.num_classes} classes ({mine}, ...), {images.name} has "
            f"{len(images.class_names)} ({others}, ...); name the data it was trained on"
        )


def score_images(glow, path):
    from glow_tf.data import image_folder
    from glow_tf.evaluation import ood

    height, width, channels = glow.config.image_shape
    read = image_folder.read_folder(FLAGS.images, image_size=(height, width), channels=channels)
    scores = ood.score(glow, read.images, read.paths, FLAGS.draws, FLAGS.seed)
    if FLAGS.csv:
        ood.write_csv(FLAGS.csv, scores)
    if FLAGS.html:
        ood.write_html(FLAGS.html, scores, read.images, f"{FLAGS.images}, scored by {path}")
    bits, corrected = scores.columns["bits_per_dim"], scores.columns["corrected_bits_per_dim"]
    print(f"{bits.mean():.4f} bits/dim, {corrected.mean():+.4f} against PNG or WebP, {len(bits)} images ({path})")
    if registry.is_same_folder(glow.metadata.get("dataset"), FLAGS.images):
        print("this model was trained on most of these images: new ones of their kind would score worse")
    if "typicality_p" not in scores.columns:
        print("no typicality: this weights file does not hold the bits/dim of its training images")
    if not FLAGS.csv:
        print(*scores.columns, "file", sep="  ")
        for index in range(min(SHOWN, len(bits))):
            print(*(cell(title, values[index]) for title, values in scores.columns.items()), sep="  ", end="  ")
            print(repr(scores.names[index]))
        if len(bits) > SHOWN:
            print(f"... and {len(bits) - SHOWN} more; --csv FILE writes all")
    for written in (FLAGS.csv, FLAGS.html):
        if written:
            print(f"written: {written}")


def cell(title, value):
    return f"{value:>{len(title)}}" if isinstance(value, str) else f"{value:{len(title)}.4f}"


def run():
    """The command, from the command line; does not return."""
    app.run(main, __doc__)
