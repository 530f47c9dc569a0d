"""What the commands share: flags before TensorFlow, errors as one line, and a quiet start.

TensorFlow takes seconds to import, so the modules that need it are imported inside each command's `main`,
after the flags were read: `--help` and a wrong flag answer at once.
"""

import contextlib
import logging as python_logging
import os
import re
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NoReturn, TextIO

from absl import flags, logging

from glow_tf import _progress
from glow_tf._gc import importing
from glow_tf.errors import InputError, TrainingFailure

FLAGS = flags.FLAGS

flags.DEFINE_bool("help", False, "Show this help.", short_name="h")
flags.DEFINE_bool("debug", False, "Show tracebacks and TensorFlow's own messages.")


def run(main: Callable[[list[str]], int | None], usage: str) -> NoReturn:
    """Parses the flags and calls `main(arguments)`; does not return.

    Exit status: what `main` returns; 2 and one line for what the user can mend, 1 and one line where training
    cannot go on, 130 after Ctrl-C, 1 and a traceback for a fault of the program. `--debug` gives a traceback
    for everything.

    Args:
        main: takes the list of what is no flag; returns the exit status or None for 0.
        usage: what `--help` says first.
    """
    _secure_streams()
    try:
        arguments = FLAGS(sys.argv)[1:]
    except flags.Error as error:
        _fail(error)
    if FLAGS.help:
        print(f"{usage}\n{_help_of(main)}")
        sys.exit(0)
    _prepare_environment()
    _progress.show()
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    logging.set_stderrthreshold("warning")
    logging.get_absl_handler().setFormatter(LevelFormatter())
    try:
        status = main(arguments)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except Exception as error:
        if FLAGS.debug or not _is_for_the_user(error):
            raise
        _fail(error, error.exit_status if isinstance(error, TrainingFailure) else 2)
    if status is not None and status > 128:
        # Stopped by a signal: TensorFlow would take seconds to take itself apart.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _help_of(main: Callable) -> str:
    """The flags of a command's module; absl knows the module that was started by its path."""
    module = main.__module__
    return FLAGS.main_module_help() if module == "__main__" else FLAGS.module_help(module)


def resume_command(without: Sequence[str] = ()) -> str:
    """What to type to run this command again, quoted for a shell.

    Args:
        without: flags to leave out, such as "fresh".
    """
    left_out = re.compile(rf"--?({'|'.join(without)})(=.*)?") if without else re.compile("(?!)")
    return shlex.join(word for word in sys.orig_argv if not left_out.fullmatch(word))


def import_tensorflow(starts_devices: bool = True) -> Any:
    """Imports TensorFlow without the lines that its libraries print while they load.

    Args:
        starts_devices: whether to start its devices at once, which prints, too. A multi-worker strategy does so
            itself.
    """
    with importing("tensorflow"), _quiet_stderr():
        import tensorflow as tf

        if starts_devices:
            tf.config.list_logical_devices()
    return tf


def _is_for_the_user(error: Exception) -> bool:
    """Whether the message is all that is needed to mend it: no fault of the program."""
    if isinstance(error, (InputError, TrainingFailure, MemoryError)):
        return True
    # A file that was named and cannot be read or written; the error says which one and why.
    return isinstance(error, OSError) and error.filename is not None and error.strerror is not None


def _fail(error: Exception, status: int = 2) -> NoReturn:
    message = str(error)
    if isinstance(error, MemoryError):
        message = "out of memory; a smaller --batch_size or --img_size needs less"
    elif isinstance(error, OSError):
        # Of a rename the second name is the one that was given.
        message = f"{error.filename2 or error.filename}: {error.strerror}"
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)


def _secure_streams() -> None:
    """Printing must not end a run: where nobody reads any more, or a terminal lacks a letter."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass  # closed at the start: the next file that is opened would become the output
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115  (for the life of the process)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, BrokenPipeSafeStream(stream))


class BrokenPipeSafeStream:
    """A text stream that goes to /dev/null once it cannot be written to."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int | None:
        return self._attempt(self._stream.write, text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, method: Callable, *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            return None


def _prepare_environment() -> None:
    if not FLAGS.debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Holds back what libraries write to the error stream; it is shown if the block fails."""
    if FLAGS.is_parsed() and FLAGS.debug:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with _temporary_file() as held:
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


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # a full disk: what would be held back is lost
        return open(os.devnull, "r+b")


class LevelFormatter(python_logging.Formatter):
    """Warnings as plain lines."""

    def format(self, record: python_logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"
