"""Serves a page to explore a model, on this machine only: samples, mixtures of two images, attributes.

    python3 -m glow_tf explore                              the newest weights under runs/, or else bundled ones
    python3 -m glow_tf explore --weights weights.h5 --port 8000
    python3 -m glow_tf explore --direction smile=smile.npy  a file of sample.py --save_direction; may be repeated

It prints its address and runs until Ctrl-C. It needs Gradio: pip install -e '.[explore]' in the checkout. The server
listens on 127.0.0.1 only, and no request can name a file. Nothing is downloaded: test images and class directions need
the data set of the weights to be on this machine.
"""

import dataclasses
import functools
import importlib.util
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import logging

from glow_tf import _progress
from glow_tf._files import check_file, printable
from glow_tf._option import integer, option
from glow_tf.cli import app, command_line
from glow_tf.data import registry
from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.data.image_data import ImageData
    from glow_tf.glow import Glow

HOST = "127.0.0.1"  # this machine only


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(command_line.Options):
    """The flags of the page."""

    weights: str | None = option(None, app.NEWEST_WEIGHTS_HELP)
    port: int | None = option(None, "The port. Default: the first free one from 7860.", *integer(1, 65535))
    direction: tuple[str, ...] = option(
        (), "NAME=FILE, a direction that sample.py --save_direction wrote; may be repeated."
    )
    dataset: str | None = option(
        None, "The data set of the test images and classes. Default: the one the weights were trained on."
    )
    data_dir: str | None = option(None, app.DATA_DIR_HELP)


def main(options: Options) -> None:
    """Serves the page until Ctrl-C."""
    app.check_no_arguments(options)
    files = direction_files(options.direction)
    check_port(options.port)
    for file in files.values():
        check_file(file, "direction")
    if options.dataset is not None:
        kind = registry.check_data_set(options.dataset, options.data_dir)
        app.check_data_dir(options.data_dir, kind, options.dataset)
    weights = app.find_weights(options.weights, needs_data=True)
    if options.dataset is None and weights.metadata.get("dataset") == "digits":
        app.check_data_dir(options.data_dir, "digits", "digits")
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs Gradio: run pip install -e '.[explore]' in the checkout of glow_tf")
    app.import_tensorflow(options.debug)
    from glow_tf.demo import page
    from glow_tf.demo.explorer import Explorer
    from glow_tf.evaluation import editing
    from glow_tf.glow import Glow

    with _progress.brief("starting the page"):
        glow = Glow.load(weights.path)
        directions = {name: editing.load_direction(file, glow) for name, file in files.items()}
        explorer = Explorer(glow, data_of(options, glow), directions)
        server = page.serve(explorer, f"glow_tf: {weights.note}", HOST, options.port)
    print(server.local_url, flush=True)
    threading.Event().wait()


def direction_files(values: Sequence[str]) -> dict[str, str]:
    """{name: file} from NAME=FILE values of --direction."""
    files: dict[str, str] = {}
    for value in values:
        name, equals, file = value.partition("=")
        if not (name and equals and file):
            raise InputError(f"--direction is {printable(value)!r}; it must have the form NAME=FILE")
        if name in files:
            raise InputError(f"--direction {printable(name)!r} is used twice; names must differ")
        files[name] = file
    return files


def check_port(port: int | None) -> None:
    """Raises InputError if a port is not free, before the start, which takes seconds."""
    if port is None:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore a page that has just been closed
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"--port {port} cannot be used: {error.strerror}; name another, or none") from error


def data_of(options: Options, glow: "Glow") -> "ImageData | None":
    """The data set of --dataset or of the weights; None if that of the weights is not on this machine."""
    from glow_tf.data import image_data

    try:
        return image_data.of_model(glow, options.dataset, data_dir=options.data_dir)
    except InputError as error:
        if options.dataset is not None:
            raise
        logging.warning("no test images and no classes: %s", error)
        return None


run = functools.partial(app.run, main, Options, __doc__ or "")
