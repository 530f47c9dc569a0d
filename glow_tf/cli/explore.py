"""A page to explore a model with, on this machine only: samples, mixtures of two images, attributes.

    python3 -m glow_tf explore                              the newest weights under runs/, else the bundled digits
    python3 -m glow_tf explore --weights weights.h5 --port 8000
    python3 -m glow_tf explore --direction smile=smile.npy  saved by sample.py --save_direction; may be given again

It prints its address and answers until Ctrl-C. It needs Gradio: pip install 'glow_tf[explore]'. The server listens to
127.0.0.1 alone; no request can name a file. Nothing is downloaded: test images, and the directions of classes, are
there where the data set of the weights is.
"""

import importlib.util
import socket
import threading

from absl import flags, logging

from glow_tf import pretrained
from glow_tf.cli import app, defaults
from glow_tf.errors import InputError

FLAGS = flags.FLAGS

# That it listens to: this machine alone.
HOST = "127.0.0.1"

flags.DEFINE_string("weights", None, "A weights.h5, or a run's folder; None: the newest run, else the bundled digits.")
flags.DEFINE_integer("port", None, "Of the page; None: the first free one from 7860.", lower_bound=1, upper_bound=65535)
flags.DEFINE_multi_string("direction", [], "NAME=FILE, a direction saved by sample.py; may be given again.")
flags.DEFINE_string("dataset", None, "Where test images and classes come from; None: what the weights were trained on.")
flags.DEFINE_string("data_dir", None, "Where prepared TFDS data sets lie.")


def main(arguments):
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}; a weights file is named by --weights")
    files = direction_files(FLAGS.direction)
    if importlib.util.find_spec("gradio") is None:
        raise InputError(
            "the page needs Gradio: pip install 'glow_tf[explore]', in a checkout pip install -e '.[explore]'"
        )
    check_port(FLAGS.port)
    path, why = pretrained.find(FLAGS.weights, defaults.RUNS)
    app.import_tensorflow()
    from glow_tf.demo.explorer import Explorer
    from glow_tf.evaluation import editing
    from glow_tf.glow import Glow

    glow = Glow.load(path)
    directions = {name: editing.load_direction(file, glow) for name, file in files.items()}
    explorer = Explorer(glow, data_of(glow), directions)
    from glow_tf.demo import page

    title = f"glow_tf: {path if FLAGS.weights is not None else why}"
    server = page.serve(explorer, title, HOST, FLAGS.port)
    print(server.local_url, flush=True)
    threading.Event().wait()


def direction_files(values):
    """{name: file} of --direction's NAME=FILE."""
    files = {}
    for value in values:
        name, equals, file = value.partition("=")
        if not (name and equals and file):
            raise InputError(f"--direction is {value!r}; it must be like NAME=FILE")
        if name in files:
            raise InputError(f"--direction {name!r} is given twice; names must differ")
        files[name] = file
    return files


def check_port(port):
    """InputError if a port that was named cannot be had: before the seconds that a start takes."""
    if port is None:
        return
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"--port {port} cannot be used: {error.strerror}; name another, or none") from error


def data_of(glow):
    """The ImageData of --dataset or of the weights; None where the latter is not here, which is no error."""
    from glow_tf.data import image_data

    try:
        return image_data.of_model(glow, FLAGS.dataset, data_dir=FLAGS.data_dir)
    except InputError as error:
        if FLAGS.dataset is not None:
            raise
        logging.warning("no test images and no classes: %s", error)
        return None


def run():
    """The command, from the command line; does not return."""
    app.run(main, __doc__)
