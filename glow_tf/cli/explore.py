"""Serves a page to explore a model, on this machine only: samples, mixtures of two images, attributes.

    python3 -m glow_tf explore                              the newest weights under runs/, or else bundled ones
    python3 -m glow_tf explore --weights weights.h5 --port 8000
    python3 -m glow_tf explore --direction smile=smile.npy  a file of sample.py --save_direction; may be repeated

It prints its address and runs until Ctrl-C. It needs Gradio: pip install -e '.[explore]' in the checkout. The server
listens on 127.0.0.1 only, and no request can name a file. Nothing is downloaded: test images and class directions need
the data set of the weights to be on this machine.
"""

import functools
import importlib.util
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags, logging

from glow_tf import _progress
from glow_tf._files import check_file, printable
from glow_tf.cli import app
from glow_tf.data import registry
from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.data.image_data import ImageData
    from glow_tf.glow import Glow

FLAGS = flags.FLAGS

HOST = "127.0.0.1"  # this machine only

flags.DEFINE_string("weights", None, app.NEWEST_WEIGHTS_HELP)
flags.DEFINE_integer("port", None, "The port. Default: the first free one from 7860.", lower_bound=1, upper_bound=65535)
flags.DEFINE_multi_string(
    "direction", [], "NAME=FILE, a direction that sample.py --save_direction wrote; may be repeated."
)
flags.DEFINE_string(
    "dataset", None, "The data set of the test images and classes. Default: the one the weights were trained on."
)
flags.DEFINE_string("data_dir", None, app.DATA_DIR_HELP)


def main(arguments: list[str]) -> None:
    """Serves the page until Ctrl-C."""
    app.check_no_arguments(arguments)
    files = direction_files(FLAGS.direction)
    check_port(FLAGS.port)
    for file in files.values():
        check_file(file, "direction")
    if FLAGS.dataset is not None:
        app.check_data_dir(registry.check_data_set(FLAGS.dataset, FLAGS.data_dir), FLAGS.dataset)
    weights = app.find_weights(FLAGS.weights, needs_data=True)
    if FLAGS.dataset is None and weights.metadata.get("dataset") == "digits":
        app.check_data_dir("digits", "digits")
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs Gradio: run pip install -e '.[explore]' in the checkout of glow_tf")
    app.import_tensorflow()
    from glow_tf.demo import page
    from glow_tf.demo.explorer import Explorer
    from glow_tf.evaluation import editing
    from glow_tf.glow import Glow

    with _progress.brief("starting the page"):
        glow = Glow.load(weights.path)
        directions = {name: editing.load_direction(file, glow) for name, file in files.items()}
        explorer = Explorer(glow, data_of(glow), directions)
        server = page.serve(explorer, f"glow_tf: {weights.note}", HOST, FLAGS.port)
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


def data_of(glow: "Glow") -> "ImageData | None":
    """The data set of --dataset or of the weights; None if that of the weights is not on this machine."""
    from glow_tf.data import image_data

    try:
        return image_data.of_model(glow, FLAGS.dataset, data_dir=FLAGS.data_dir)
    except InputError as error:
        if FLAGS.dataset is not None:
            raise
        logging.warning("no test images and no classes: %s", error)
        return None


run = functools.partial(app.run, main, __doc__ or "")
