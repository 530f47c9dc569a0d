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

import dataclasses
import functools
import os
import sys

import numpy as np
from absl import logging

from glow_tf import _progress
from glow_tf._files import printable
from glow_tf._option import integer, option
from glow_tf.cli import app, attribute, defaults, images
from glow_tf.errors import InputError

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

HIGH_TEMPERATURE = 1.5  # above this, few samples look like the data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(attribute.Options):
    """The flags of sample.py."""

    images: tuple[str, ...] = option(
        (),
        f"{images.HELP} Default: the first images of the test split; for --mode pca, up to {attribute.MAX_IMAGES} at "
        "random.",
    )
    mode: str = option("samples", "The picture to draw.", choices=(*MODES,))
    weights: str | None = option(None, app.NEWEST_WEIGHTS_HELP)
    temp: float = option(
        defaults.TEMPERATURE,
        "Temperature: 0 draws the mode, 1 samples the model's own distribution.",
        "a number from 0 to 100, 0.7 is usual",
        lambda v: 0 <= v <= 100,
    )
    n: int | None = option(None, "The number of images, or of pairs. Default: as many as fit.", *integer(1, 10_000))
    seed: int | None = option(None, "Seed for the noise. Default: a new one every time.", *integer(0, 2**31 - 1))
    out: str | None = option(None, "The file to write: PNG, JPEG or WebP by its ending. Default: <mode>.png.")
    gif: bool = option(
        False, "Also write an animation beside the picture: a frame per column, or per row of --mode temperature."
    )
    columns: int = option(9, "The number of columns; attribute and pca use the next odd number.", *integer(2, 1000))
    steps: int | None = option(None, "The former name of --columns.", *integer(2, 1000))
    spherical: bool = option(False, "For --mode interpolate: follow a great circle instead of a straight line.")
    strength: float = option(
        1.0,
        "Rows go from minus to plus this strength; for --mode pca its unit is three standard deviations.",
        "a number from -1000 to 1000, 1 is usual",
        lambda v: -1000 <= v <= 1000,
    )
    components: int = option(4, "For --mode pca: the number of components.", *integer(2, 1000))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None:
            object.__setattr__(self, "columns", self.steps)

    @functools.cached_property
    def noise_seed(self) -> int:
        """The seed for the noise, drawn at random without --seed."""
        return int(np.random.default_rng().integers(2**31)) if self.seed is None else self.seed

    @property
    def outputs(self) -> tuple[str, str, str]:
        """The files of the picture, of its scatter plot and of its animation."""
        out = self.out or f"{self.mode}.png"
        stem, ending = os.path.splitext(out)
        return out, f"{stem}-scatter{ending}", f"{stem}.gif"

    @property
    def reads_data_set(self) -> bool:
        """Whether the picture needs images of a data set, not only files and samples."""
        if self.mode in ("samples", "temperature"):
            return False
        return super().reads_data_set or (self.mode == "attribute" and self.has_examples_of_data_set)


def main(options: Options) -> int:
    """Draws the picture that the options describe; returns the exit status."""
    check_options(options)
    weights = app.find_weights(options.weights, needs_data=options.reads_data_set and options.data_dir is None)
    check_outputs(options, weights)
    check_model(options, weights)
    app.import_tensorflow(options.debug)
    from glow_tf.cli import drawings
    from glow_tf.dequantization import count_overflows
    from glow_tf.glow import Glow

    with _progress.brief("drawing"), count_overflows() as overflows:
        drawing = drawings.DRAW[options.mode](options, Glow.load(weights.path))
        written = drawings.save(options, drawing, weights)
    print("\n".join(written))
    if overflows and all(broken == total for broken, total in overflows):
        print("error: no image has finite pixels, so the picture is black or white; lower --temp", file=sys.stderr)
        return 1
    return 0


def check_options(options: Options) -> None:
    """Raises InputError for invalid combinations of flags, and then for files and data sets that do not exist."""
    app.check_no_arguments(options)
    for name in sorted(set().union(*MODES.values()) - MODES[options.mode]):
        if name in options.given:
            users = ", ".join(mode for mode, used in MODES.items() if name in used)
            raise InputError(f"--mode {options.mode} does not use --{name}; modes that use it: {users}")
    if options.steps is not None:
        logging.warning("--steps is deprecated; use --columns")
    if options.temp > HIGH_TEMPERATURE:
        logging.warning(
            "--temp %g is high: at 1 samples follow the model's own distribution, far above it they look like noise; "
            "lower --temp",
            options.temp,
        )
    if options.out is not None:
        if options.out.endswith(".gif"):
            raise InputError(
                f"--out is {printable(options.out)}; it names the picture, and --gif writes a GIF beside it"
            )
        from glow_tf.evaluation import visualization

        visualization.check_image_path(options.out)
    if options.mode == "attribute":
        attribute.check_options(options)
    if options.images and images.check(options.images) < 2 and options.mode == "interpolate":
        raise InputError("an interpolation needs pairs of images; name two of them with --images")
    images.check_data_flags(options)


def check_outputs(options: Options, model: app.Weights) -> None:
    """Raises InputError if a file cannot be written, or would replace one that is read."""
    inputs = [*images.files(options.images), *attribute.example_files(options), model.path, options.direction]
    out, scatter, animation = options.outputs
    app.check_output("--out", out, inputs)
    if options.mode == "pca":
        app.check_output("the scatter plot", scatter, inputs)
    if options.gif:
        app.check_output("the animation", animation, inputs)
    app.check_output("--save_direction", options.save_direction, inputs)


def check_model(options: Options, model: app.Weights) -> None:
    """Raises InputError for flags that contradict the model, and for missing data, before TensorFlow is imported."""
    attribute.chosen_label(options, model)
    if options.mode == "attribute":
        attribute.check_model(options, model)
    if options.reads_data_set:
        images.check_data(options, model)


run = functools.partial(app.run, main, Options, __doc__ or "")
