"""Converts weights of other programs to weights.h5, and weights.h5 to their formats.

    python3 convert.py --from openai PREFIX --img_size 32 --out weights.h5
    python3 convert.py --from glow-tf2 FILE --out weights.h5
    python3 convert.py --from rosinality FILE.pt --img_size 64 --n_bits 5 --out weights.h5
    python3 convert.py --to openai weights.h5 --out PREFIX
    python3 convert.py --to saved-model weights.h5 --out FOLDER     for programs with TensorFlow only

With --to, weights.h5 can also be a run's folder or the name of bundled weights. Files of other programs have no
checksum, so damage cannot be detected: convert only files from people you trust.
"""

import functools
import os
from typing import TYPE_CHECKING

from absl import flags

from glow_tf import _progress
from glow_tf._files import check_file, printable
from glow_tf.cli import app, inspect
from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.glow import Glow

FLAGS = flags.FLAGS

PROGRAMS = ("openai", "glow-tf2", "rosinality")

flags.DEFINE_enum(
    "from", None, PROGRAMS, "Program that wrote the file: openai/glow, GLOW-tf2 or rosinality/glow-pytorch."
)
flags.DEFINE_enum("to", None, ["openai", "saved-model"], "Format to convert a weights.h5 to.")
flags.DEFINE_string("weights", None, "The file to read, in place of the argument.")
flags.DEFINE_string("out", None, "The weights.h5 to write; with --to, the checkpoint's prefix or the folder.")
flags.DEFINE_integer("img_size", None, "Side of the images, which files of openai and rosinality lack.", lower_bound=1)
flags.DEFINE_integer("n_bits", 8, "Bits per channel, which files of openai and rosinality lack.", 1, 8)
flags.DEFINE_bool("ema", False, "Read the moving average of the weights from an OpenAI checkpoint.")


def main(arguments: list[str]) -> None:
    """Reads or writes a checkpoint of another program, as the flags say."""
    program, target = FLAGS["from"].value, FLAGS.to
    source = _check_flags(arguments, program, target)
    app.import_tensorflow()
    with _progress.brief("converting"):
        glow = _read(program, source)
        try:
            os.makedirs(os.path.dirname(os.path.abspath(FLAGS.out)), exist_ok=True)
            lines = _write(glow, target)
        except OSError as error:
            raise InputError(f"{printable(FLAGS.out)} cannot be written: {error.strerror or error}") from error
    print(lines)
    if program:
        print(f"{printable(source)} has no checksum: the result is only as trustworthy as its source")


def _check_flags(arguments: list[str], program: str | None, target: str | None) -> str | os.PathLike:
    """The path to read; raises InputError for contradictory flags, and then for files that do not exist."""
    if bool(program) == bool(target):
        raise InputError("use either --from (openai, glow-tf2 or rosinality) or --to (openai or saved-model)")
    sources = [*arguments, *([FLAGS.weights] if FLAGS.weights else [])]
    if len(sources) != 1:
        raise InputError(f"expected one path to read, not {len(sources)}")
    if not FLAGS.out:
        raise InputError("name the file to write with --out")
    if program in ("openai", "rosinality") and FLAGS.img_size is None:
        raise InputError(f"{program}'s files do not store the size of the images; set it with --img_size")
    if program == "glow-tf2" and FLAGS["n_bits"].present:
        raise InputError("--n_bits cannot be combined with --from glow-tf2, whose models have 8 bits per channel")
    for name in ("img_size", "n_bits"):
        if target and FLAGS[name].present:
            raise InputError(f"--{name} cannot be combined with --to: the weights file stores it")
    if FLAGS.ema and program != "openai":
        raise InputError("--ema is for --from openai: only its checkpoints hold averaged weights")
    if target == "saved-model" and os.path.lexists(FLAGS.out):
        raise InputError(f"--out {printable(FLAGS.out)} exists already; name a folder to make")
    app.check_output("out", sources)
    if target:
        return app.find_weights(sources[0]).path
    if program != "openai":  # whose checkpoints are several files
        check_file(sources[0], f"weights file of {program}")
    return sources[0]


def _read(program: str | None, source: str | os.PathLike) -> "Glow":
    if program == "openai":
        from glow_tf.importers import openai

        return openai.read(source, FLAGS.img_size, FLAGS.n_bits, averaged=FLAGS.ema)
    if program == "glow-tf2":
        from glow_tf.importers import glow_tf2

        return glow_tf2.read(source, FLAGS.img_size)
    if program == "rosinality":
        from glow_tf.importers import rosinality

        return rosinality.read(source, FLAGS.img_size, FLAGS.n_bits)
    from glow_tf.glow import Glow

    return Glow.load(source)


def _write(glow: "Glow", target: str | None) -> str:
    """Writes --out, and describes it in a line."""
    config = glow.config
    if target == "openai":
        from glow_tf.importers import openai

        openai.write(glow, FLAGS.out)
        size, bits = config.image_shape[0], config.num_bits
        return f"{FLAGS.out}.index and its data; read them with --img_size {size} --n_bits {bits}"
    if target == "saved-model":
        from glow_tf.integrations import saved_model

        saved_model.save_model(glow, FLAGS.out)
        return f"{FLAGS.out}: a SavedModel with the signatures sample, bits_per_dim, log_prob, encode and decode"
    glow.save_weights(FLAGS.out)
    return f"{FLAGS.out}: {inspect.model_of(config)}; {inspect.kind_of(config)}; {glow.num_parameters:,} parameters"


run = functools.partial(app.run, main, __doc__ or "")
