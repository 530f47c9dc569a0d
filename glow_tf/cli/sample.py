"""Samples images from trained weights, and edits images through their latents.

    python3 sample.py --temp 0.7                            the newest weights under runs/, or else bundled ones
    python3 sample.py --label cat --n 16                    one class of a class-conditional model
    python3 sample.py --mode temperature                    the same noise at rising temperatures
    python3 sample.py --mode reconstruct --images test:0,5,17
    python3 sample.py --mode interpolate --images a.png --images b.png --gif
    python3 sample.py --mode attribute --positive smiling/ --negative serious/ --save_direction smile.npy
    python3 sample.py --mode attribute --dataset celeb_a --attribute Smiling --images me.png
    python3 sample.py --mode attribute --direction smile.npy --images me.png --gif
    python3 sample.py --mode levels --images test:3         the role of each level of the model
    python3 sample.py --mode pca                            where the latents of the test images vary most

Each mode writes a picture; docs/pictures.md shows one of each.
"""

import functools
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags, logging

from glow_tf import _progress
from glow_tf._files import printable
from glow_tf.cli import app, attribute, defaults, images
from glow_tf.errors import InputError

FLAGS = flags.FLAGS

_DATA = {"images", "dataset", "data_dir", "download"}
_ROWS = {"columns", "steps", "gif"}

# The flags that each mode uses, in addition to those that all modes use.
MODES = {
    "samples": {"temp", "seed"},
    "temperature": {"seed", "gif"},
    "reconstruct": _DATA,
    "interpolate": _DATA | _ROWS | {"spherical"},
    "attribute": _DATA | _ROWS | {"strength", "save_direction"}.union(*attribute.WAYS.values()),
    "levels": _DATA | _ROWS | {"temp", "seed"},
    "pca": _DATA | _ROWS | {"strength", "components"},
}

flags.DEFINE_enum("mode", "samples", [*MODES], "The picture to draw.")
flags.DEFINE_string("weights", None, app.NEWEST_WEIGHTS_HELP)
flags.DEFINE_float(
    "temp", defaults.TEMPERATURE, "Temperature: 0 draws the mode, 1 samples the model's own distribution."
)
flags.DEFINE_integer(
    "n", None, "The number of images, or of pairs. Default: as many as fit.", lower_bound=1, upper_bound=10_000
)
flags.DEFINE_string("label", None, "The class, by name or index. Default: all classes, one row each.")
flags.DEFINE_integer("seed", None, "Seed for the noise. Default: a new one every time.", 0, 2**31 - 1)
flags.DEFINE_string("out", None, "The file to write: PNG, JPEG or WebP by its ending. Default: <mode>.png.")
flags.DEFINE_bool("gif", False, "Also write an animation that runs through the columns, beside the picture.")
flags.DEFINE_multi_string("images", None, f"{images.HELP} Default: the first images of the test split.")
flags.DEFINE_string(
    "dataset", None, "The data set of test: and class:NAME. Default: the one the weights were trained on."
)
flags.DEFINE_string("data_dir", None, app.DATA_DIR_HELP)
flags.DEFINE_bool("download", False, app.DOWNLOAD_HELP)
flags.DEFINE_integer(
    "columns", 9, "The number of columns; attribute and pca use the next odd number.", lower_bound=2, upper_bound=1000
)
flags.DEFINE_alias("steps", "columns")
flags.DEFINE_bool("spherical", False, "For --mode interpolate: follow a great circle instead of a straight line.")
flags.DEFINE_string(
    "positive",
    None,
    "For --mode attribute: a folder of images with the attribute, or class:NAME of the data set.",
)
flags.DEFINE_string("negative", None, "For --mode attribute: the same for images without the attribute.")
flags.DEFINE_string("csv", None, "For --mode attribute: a table whose first column names image files.")
flags.DEFINE_string(
    "attribute",
    None,
    "For --mode attribute: a feature of the TFDS data set, or the column of the --csv table that holds 1, or 0 or -1.",
)
flags.DEFINE_string("direction", None, "For --mode attribute: a file that --save_direction wrote.")
flags.DEFINE_string("save_direction", None, "For --mode attribute: the file to save the direction in.")
flags.DEFINE_float(
    "strength",
    1.0,
    "Rows go from minus to plus this strength; for --mode pca its unit is three standard deviations.",
)
flags.DEFINE_integer("components", 4, "For --mode pca: the number of components.", lower_bound=2, upper_bound=1000)

HIGH_TEMPERATURE = 1.5  # above this, few samples look like the data


def main(arguments: list[str]) -> int:
    """Draws the picture that the flags describe; returns the exit status."""
    check_flags(arguments)
    weights = app.find_weights(FLAGS.weights, needs_data=reads_data_set() and FLAGS.data_dir is None)
    check_model(weights)
    app.import_tensorflow()
    from glow_tf.cli import drawings
    from glow_tf.dequantization import count_overflows
    from glow_tf.glow import Glow

    if FLAGS.seed is None:
        FLAGS["seed"].value = int(np.random.default_rng().integers(2**31))
    with _progress.brief("drawing"), count_overflows() as overflows:
        written = drawings.save(drawings.DRAW[FLAGS.mode](Glow.load(weights.path)), weights)
    print("\n".join(written))
    if overflows and all(broken == total for broken, total in overflows):
        print("error: no image has finite pixels, so the picture is black or white; lower --temp", file=sys.stderr)
        return 1
    return 0


def check_flags(arguments: Sequence[str]) -> None:
    """Raises InputError for invalid flags and combinations, and then for files and data sets that do not exist."""
    app.check_no_arguments(arguments)
    for name in sorted(set().union(*MODES.values()) - MODES[FLAGS.mode]):
        if FLAGS[name].present and not (name == "columns" and FLAGS["steps"].present):
            users = ", ".join(mode for mode, used in MODES.items() if name in used)
            raise InputError(f"--mode {FLAGS.mode} does not use --{name}; modes that use it: {users}")
    if FLAGS["steps"].present:
        logging.warning("--steps is deprecated; use --columns")
    if not 0 <= FLAGS.temp <= 100:
        raise InputError(f"--temp is {FLAGS.temp}; it must be from 0 to 100, 0.7 is usual")
    if FLAGS.temp > HIGH_TEMPERATURE:
        logging.warning(
            "--temp %g is high: at 1 samples follow the model's own distribution, far above it they look like noise; "
            "lower --temp",
            FLAGS.temp,
        )
    if not -1000 <= FLAGS.strength <= 1000:
        raise InputError(f"--strength is {FLAGS.strength}; it must be from -1000 to 1000, 1 is usual")
    if FLAGS.out is not None:
        if FLAGS.out.endswith(".gif"):
            raise InputError(f"--out is {printable(FLAGS.out)}; it names the picture, and --gif writes a GIF beside it")
        from glow_tf.evaluation import visualization

        visualization.check_image_path(FLAGS.out)
        app.check_output("out", FLAGS.images or ())
    app.check_output("save_direction")
    if FLAGS.mode == "attribute":
        attribute.check_flags()
    if FLAGS.images and images.check(FLAGS.images) < 2 and FLAGS.mode == "interpolate":
        raise InputError("an interpolation needs pairs of images; name two of them with --images")
    images.check_data_flags(reads_data_set())


def check_model(model: app.Weights) -> None:
    """Raises InputError for flags that contradict the model, and for missing data, before TensorFlow is imported."""
    attribute.chosen_label(model)
    if FLAGS.mode == "attribute":
        attribute.check_model(model)
    if reads_data_set():
        images.check_data(model)


def reads_data_set() -> bool:
    """Whether the picture needs images of a data set, not only files and samples."""
    if FLAGS.mode in ("samples", "temperature"):
        return False
    return images.reads_data_set() or (FLAGS.mode == "attribute" and attribute.reads_data_set())


run = functools.partial(app.run, main, __doc__ or "")
