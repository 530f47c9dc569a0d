"""Converts weights of other programs to weights.h5, and weights.h5 to their formats.

python3 convert.py --from openai PREFIX --img_size 32 --out weights.h5
python3 convert.py --from glow-tf2 FILE --out weights.h5
python3 convert.py --from rosinality FILE.pt --img_size 64 --n_bits 5 --out weights.h5
python3 convert.py --to openai weights.h5 --out PREFIX
python3 convert.py --to saved-model weights.h5 --out FOLDER     runs without this package

With --to, weights.h5 can also be a run's folder or the name of bundled weights. Files of other programs have no
checksum, so damage cannot be detected: convert only files from people you trust.
"""

import os
from typing import TYPE_CHECKING, NoReturn

from absl import flags

from glow_tf._files import printable
from glow_tf.cli import app
from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.glow import Glow

FLAGS = flags.FLAGS

PROGRAMS = ("openai", "glow-tf2", "rosinality")

flags.DEFINE_enum("from", None, PROGRAMS, "Program that wrote the weights: openai/glow, GLOW-tf2 or rosinality's.")
flags.DEFINE_enum("to", None, ["openai", "saved-model"], "Format to write a weights.h5 in.")
flags.DEFINE_string("out", None, "The weights.h5 to write; with --to, the checkpoint's prefix or the folder.")
flags.DEFINE_integer("img_size", None, "Side of the images, which openai and rosinality do not store.", lower_bound=1)
flags.DEFINE_integer("n_bits", 8, "Bits per channel, which openai and rosinality do not store.", 1, 8)
flags.DEFINE_bool("ema", False, "Read the moving average of the weights from an OpenAI checkpoint.")


def main(arguments: list[str]) -> None:
    """Reads or writes a checkpoint of another program, as the flags say."""
    program, target = FLAGS["from"].value, FLAGS.to
    _check_flags(arguments, program, target)
    source = arguments[0]
    app.import_tensorflow()
    try:
        if target == "saved-model":
            _write_saved_model(source)
        elif target:
            _write_openai(source)
        elif program:
            _write_weights(program, source)
    except OSError as error:
        raise InputError(f"{printable(FLAGS.out)} cannot be written: {error.strerror or error}") from error


def _check_flags(arguments: list[str], program: str | None, target: str | None) -> None:
    if bool(program) == bool(target):
        raise InputError(f"use either --from, one of {', '.join(PROGRAMS)}, or --to openai or saved-model")
    if len(arguments) != 1:
        raise InputError(f"expected one path to read, not {len(arguments)}")
    if not FLAGS.out:
        raise InputError("name the file to write with --out")
    if program in ("openai", "rosinality") and FLAGS.img_size is None:
        raise InputError(f"{program}'s files do not store the size of the images; set it with --img_size")
    if program == "glow-tf2" and FLAGS["n_bits"].present:
        raise InputError("--n_bits cannot be combined with --from glow-tf2, whose models have 8 bits per channel")
    if FLAGS.ema and program != "openai":
        raise InputError("--ema is for --from openai: only its checkpoints hold averaged weights")
    if os.path.isdir(FLAGS.out):
        raise InputError(f"--out {printable(FLAGS.out)} is a folder; name a file")


def _write_weights(program: str, source: str) -> None:
    glow = _read(program, source)
    glow.save_weights(FLAGS.out)
    c = glow.config
    print(
        f"{FLAGS.out}: images {'x'.join(map(str, c.image_shape))} of {c.num_bits} bits, L={c.num_levels} levels of "
        f"K={c.num_steps} steps, width {c.width}, {c.coupling}, {c.permutation}"
        + (f", {c.num_classes} classes" if c.num_classes else "")
        + f", {glow.num_parameters:,} parameters"
    )
    print(f"{printable(source)} has no checksum: the result is only as trustworthy as its source")


def _read(program: str, source: str) -> "Glow":
    if program == "openai":
        from glow_tf.importers import openai

        return openai.read(source, FLAGS.img_size, FLAGS.n_bits, averaged=FLAGS.ema)
    if program == "glow-tf2":
        from glow_tf.importers import glow_tf2

        return glow_tf2.read(source, FLAGS.img_size)
    from glow_tf.importers import rosinality

    return rosinality.read(source, FLAGS.img_size, FLAGS.n_bits)


def _write_openai(source: str) -> None:
    from glow_tf.glow import Glow
    from glow_tf.importers import openai

    glow = Glow.load(source)
    openai.write(glow, FLAGS.out)
    size = glow.config.image_shape[0]
    print(f"{FLAGS.out}.index and its data; read them with --img_size {size} --n_bits {glow.config.num_bits}")


def _write_saved_model(source: str) -> None:
    from glow_tf.glow import Glow
    from glow_tf.integrations import saved_model

    saved_model.save_model(Glow.load(source), FLAGS.out)
    print(f"{FLAGS.out}: a SavedModel with the signatures sample, bits_per_dim, log_prob, encode and decode")


def run() -> NoReturn:
    """Runs the command with the arguments of the command line; does not return."""
    app.run(main, __doc__)
