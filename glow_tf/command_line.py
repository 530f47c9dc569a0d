"""What the commands share: flags before TensorFlow, errors as one line, and a quiet start.

TensorFlow takes seconds to import, so the modules that need it are imported inside each command's `main`,
after the flags were read: `--help` and a wrong flag answer at once.
"""

import contextlib
import os
import sys
import tempfile

from absl import flags, logging

from glow_tf.errors import InputError, TrainingFailure

FLAGS = flags.FLAGS

flags.DEFINE_bool("help", False, "Show this help.", short_name="h")
flags.DEFINE_bool("debug", False, "Show tracebacks and TensorFlow's own messages.")


def run(main, usage):
    """Parses the flags and calls `main(arguments)`; does not return.

    Args:
        main: takes the list of what is no flag; returns the exit status or None for 0.
        usage: what `--help` says first.
    """
    try:
        arguments = FLAGS(sys.argv)[1:]
    except flags.Error as error:
        _fail(error)
    if FLAGS.help:
        print(f"{usage}\n{FLAGS.main_module_help()}")
        sys.exit(0)
    _prepare_environment()
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    logging.set_stderrthreshold("warning")
    logging.get_absl_handler().setFormatter(_Plain())
    try:
        status = main(arguments)
    except (InputError, TrainingFailure) as error:
        if FLAGS.debug:
            raise
        _fail(error)
    except MemoryError:
        _fail("out of memory; lower --batch_size, or give --backprop recompute")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:
        if FLAGS.debug or type(error).__name__ != "ResourceExhaustedError":
            raise
        _fail("out of memory on the device; lower --batch_size or --img_size, or give --backprop recompute")
    sys.exit(status)


def import_tensorflow():
    """Imports TensorFlow without the lines that its libraries print while they load."""
    with _quiet_stderr():
        import tensorflow as tf

        # The first look at the devices prints, too.
        tf.config.list_logical_devices()
    return tf


def _fail(error):
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    sys.exit(2)


def _prepare_environment():
    if not FLAGS.debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def _quiet_stderr():
    """Holds back what libraries write to the error stream; it is shown if the block fails."""
    if FLAGS.is_parsed() and FLAGS.debug:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class _Plain:
    """Warnings as plain lines."""

    def format(self, record):
        return f"{record.levelname.lower()}: {record.getMessage()}"
