"""Converts weights of other programs to weights.h5, and weights.h5 to their formats.

    python3 convert.py --from openai PREFIX --img_size 32 --out weights.h5
    python3 convert.py --from glow-tf2 FILE --out weights.h5
    python3 convert.py --from rosinality FILE.pt --img_size 64 --n_bits 5 --out weights.h5
    python3 convert.py --to openai weights.h5 --out PREFIX
    python3 convert.py --to saved-model weights.h5 --out FOLDER     for programs with TensorFlow only

With --to, weights.h5 can also be a run's folder or the name of bundled weights. Files of other programs have no
checksum, so damage cannot be detected: convert only files from people you trust.
"""

import dataclasses
import functools
import os
from typing import TYPE_CHECKING, cast

from glow_tf import _progress
from glow_tf._files import check_file, printable
from glow_tf._option import integer, option
from glow_tf.cli import app, command_line, inspect
from glow_tf.config import MAX_SIDE
from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.glow import Glow

PROGRAMS = ("openai", "glow-tf2", "rosinality")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(command_line.Options):
    """The flags of convert.py."""

    program: str | None = option(
        None,
        "Program that wrote the file: openai/glow, GLOW-tf2 or rosinality/glow-pytorch.",
        choices=PROGRAMS,
        flag="from",
    )
    target: str | None = option(
        None, "Format to convert a weights.h5 to.", choices=("openai", "saved-model"), flag="to"
    )
    weights: str | None = option(None, "The file to read, in place of the argument.")
    out: str | None = option(None, "The weights.h5 to write; with --to, the checkpoint's prefix or the folder.")
    img_size: int | None = option(
        None, "Side of the images, which files of openai and rosinality lack.", *integer(1, MAX_SIDE)
    )
    n_bits: int = option(8, "Bits per channel, which files of openai and rosinality lack.", *integer(1, 8))
    ema: bool = option(False, "Read the moving average of the weights from an OpenAI checkpoint.")


def main(options: Options) -> None:
    """Reads or writes a checkpoint of another program, as the options say."""
    source, out = _check_options(options)
    app.import_tensorflow(options.debug)
    with _progress.brief("converting"):
        glow = _read(options, source)
        try:
            os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
            line = _write(glow, options.target, out)
        except OSError as error:
            raise InputError(f"{printable(out)} cannot be written: {error.strerror or error}") from error
    print(line)
    if options.program:
        print(f"{printable(source)} has no checksum: the result is only as trustworthy as its source")


def _check_options(options: Options) -> tuple[str | os.PathLike, str]:
    """(the path to read, the path to write).

    Raises:
        InputError: for contradictory flags, and then for files that do not exist.
    """
    program, target = options.program, options.target
    if bool(program) == bool(target):
        raise InputError("use either --from (openai, glow-tf2 or rosinality) or --to (openai or saved-model)")
    sources = [*options.arguments, *([options.weights] if options.weights else [])]
    if len(sources) != 1:
        raise InputError(f"expected one path to read, not {len(sources)}")
    if not options.out:
        raise InputError("name the file to write with --out")
    if program in ("openai", "rosinality") and options.img_size is None:
        raise InputError(f"{program}'s files do not store the size of the images; set it with --img_size")
    if program == "glow-tf2" and "n_bits" in options.given:
        raise InputError("--n_bits cannot be combined with --from glow-tf2, whose models have 8 bits per channel")
    for name in ("img_size", "n_bits"):
        if target and name in options.given:
            raise InputError(f"--{name} cannot be combined with --to: the weights file stores it")
    if options.ema and program != "openai":
        raise InputError("--ema is for --from openai: only its checkpoints hold averaged weights")
    if target == "saved-model" and os.path.lexists(options.out):
        raise InputError(f"--out {printable(options.out)} exists already; name a folder to make")
    app.check_output("--out", options.out, sources)
    if target:
        return app.find_weights(sources[0]).path, options.out
    if program != "openai":  # whose checkpoints are several files
        check_file(sources[0], f"weights file of {program}")
    return sources[0], options.out


def _read(options: Options, source: str | os.PathLike) -> "Glow":
    if options.program is None:
        from glow_tf.glow import Glow

        return Glow.load(source)
    if options.program == "glow-tf2":
        from glow_tf.importers import glow_tf2

        return glow_tf2.read(source, options.img_size)
    size = cast(int, options.img_size)  # _check_options has made sure of it
    if options.program == "openai":
        from glow_tf.importers import openai

        return openai.read(source, size, options.n_bits, averaged=options.ema)
    from glow_tf.importers import rosinality

    return rosinality.read(source, size, options.n_bits)


def _write(glow: "Glow", target: str | None, out: str) -> str:
    """Writes the file or folder `out`, and describes it in a line."""
    config = glow.config
    if target == "openai":
        from glow_tf.importers import openai

        openai.write(glow, out)
        size, bits = config.image_shape[0], config.num_bits
        return f"{out}.index and its data; read them with --img_size {size} --n_bits {bits}"
    if target == "saved-model":
        from glow_tf.integrations import saved_model

        saved_model.save_model(glow, out)
        return f"{out}: a SavedModel with the signatures sample, bits_per_dim, log_prob, encode and decode"
    glow.save_weights(out)
    return f"{out}: {inspect.model_of(config)}; {inspect.kind_of(config)}; {glow.num_parameters:,} parameters"


run = functools.partial(app.run, main, Options, __doc__ or "")
