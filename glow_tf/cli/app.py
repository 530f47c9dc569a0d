"""The common frame of the commands: parse flags before importing TensorFlow, report errors in one line, start quietly.

TensorFlow takes seconds to import, so a command imports the modules that need it inside its `main`, after the flags
are parsed: `--help` and an invalid flag are answered at once.
"""

import contextlib
import dataclasses
import logging
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from glow_tf import _progress, pretrained
from glow_tf._files import printable
from glow_tf._gc import importing
from glow_tf._option import by_flag
from glow_tf.cli import command_line, defaults, streams
from glow_tf.config import AUTO, GlowConfig
from glow_tf.errors import InputError, TrainingFailure
from glow_tf.weights import open_weights

# Help texts of flags that several commands define.
WEIGHTS_HELP = f"A weights file, a run's folder, or the name of bundled weights ({', '.join(pretrained.BUNDLED)})."
NEWEST_WEIGHTS_HELP = f"{WEIGHTS_HELP} Default: the newest run under runs/, or else bundled weights."
DATA_DIR_HELP = "Folder of prepared TensorFlow Datasets (TFDS). Default: TFDS's own."
DOWNLOAD_HELP = "Download the TFDS data set that --dataset names if it is not prepared."

# Flags whose name differs from that of the setting in the code.
FLAG_NAMES = {field.name: flag for flag, field in by_flag(GlowConfig).items() if flag != field.name}
FLAG_NAMES |= {"image_shape": "img_size"}

# {a word after a switch: the value that it means}.
_SWITCH_VALUES = {word: word for word in ("true", "false", AUTO)} | dict.fromkeys(("yes", "on", "1"), "true")
_SWITCH_VALUES |= dict.fromkeys(("no", "off", "0"), "false")

MAX_MESSAGE = 1000  # characters

_PACKAGE = str(Path(__file__).parents[1])

_Options = TypeVar("_Options", bound=command_line.Options)


def run(main: Callable[[_Options], int | None], options: type[_Options], usage: str) -> NoReturn:
    """Calls `main` with the options of the command line; does not return.

    Exit status: what `main` returns; 2 and one line for invalid input; 1 and one line if training cannot continue;
    130 after Ctrl-C; 1 and a traceback for a bug. `--debug` shows a traceback for every error. `usage` is the text that
    `--help` prints before the flags.
    """
    streams.secure()
    try:
        values = options.parse(sys.argv[1:])
        if values.help:
            print(f"{usage.strip()}\n\nFlags:\n{command_line.help_of(options)}")
            sys.exit(0)
        os.getcwd()
    except InputError as error:
        _fail(str(error))
    except FileNotFoundError:
        _fail("the working directory no longer exists; change to another one")
    _configure_messages(values.debug)
    _progress.show()
    try:
        status = main(values)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except Exception as error:
        message = _message(error)
        if values.debug or message is None:
            raise
        for name, flag in FLAG_NAMES.items():
            if flag in options.flags():
                message = re.sub(rf"\b{name}\b", f"--{flag}", message)
        _fail(message, error.exit_status if isinstance(error, TrainingFailure) else 2)
    sys.stdout.flush()
    if status is not None and status > 128:
        sys.stderr.flush()
        os._exit(status)  # stopped by a signal: TensorFlow would take seconds to shut down
    sys.exit(status or streams.status_of_output())


@dataclasses.dataclass(frozen=True)
class Weights:
    """The configuration and the metadata of a weights file, read without TensorFlow."""

    path: str | os.PathLike
    title: str  # the file's name in messages and captions
    note: str  # the title, and a remark if it was chosen as the newest run
    config: GlowConfig
    metadata: dict[str, Any]
    digest: str  # the SHA-256 that the file states


def find_weights(name: str | None, needs_data: bool = False) -> Weights:
    """The weights of `--weights`, or the default ones; for the arguments and errors see `pretrained.find`."""
    path = pretrained.find(name, defaults.RUNS, needs_data)
    bundled = [known for known, file in pretrained.BUNDLED.items() if file == path]
    title = f"bundled {bundled[0]}" if bundled else printable(path)
    note = title if bundled or name is not None else f"{title}, the newest run"
    with open_weights(path) as file:
        return Weights(path, title, note, GlowConfig.from_dict(file.config), file.metadata, file.digest)


def check_no_arguments(options: command_line.Options, hint: str = "a weights file is named by --weights") -> None:
    """Raises InputError for an argument without a flag, with a hint at what was meant.

    A shell makes such arguments of `--images *.png`, and `--gif true` is one, too.
    """
    if not options.arguments:
        return
    word = options.arguments[0]
    before = sys.argv[sys.argv.index(word) - 1] if word in sys.argv else ""  # it may come from a --flagfile
    if word.lower() in _SWITCH_VALUES and before.startswith("-"):
        hint = f"write {before}={_SWITCH_VALUES[word.lower()]}"
    elif "images" in options.given:
        hint = "repeat --images for each image"
    raise InputError(f"unexpected argument {printable(word)!r}; {hint}")


def check_output(name: str, path: str | None, inputs: Sequence[str | os.PathLike | None]) -> None:
    """Raises InputError if an output file cannot be written, or would replace one of the input files.

    Its folder need not exist. `name` is the flag that names the file, or other words for it.
    """
    if path is None:
        return
    existing = [each for each in inputs if each is not None and os.path.exists(each)] if os.path.exists(path) else []
    if any(os.path.samefile(path, each) for each in existing):
        raise InputError(f"{name} is {printable(path)}, which is also an input; name another file")
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    try:
        if not os.path.isfile(path):
            os.stat(path)
            what = "a folder" if os.path.isdir(path) else "not a regular file"
            raise InputError(f"{name} is {printable(path)}, which is {what}; name a file")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # the name is too long, or a link leads to itself
        raise InputError(f"{name} is {printable(path)}, which cannot be written: {error.strerror}") from error
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise InputError(f"{name} is {printable(path)}, but {printable(folder)} is not a writable folder")


def check_data_dir(data_dir: str | None, kind: str, dataset: str) -> None:
    """Raises InputError for --data_dir with a data set that is not one of TFDS, which would ignore it."""
    if data_dir is not None and kind != "tfds":
        raise InputError(
            f"--data_dir has no effect, since {printable(dataset)} is not a data set of TFDS; leave it out, or name a "
            "folder of images by --dataset"
        )


def resume_command() -> str:
    """The command line that runs this command again, without --fresh, quoted for a shell."""
    return " ".join(_quoted(word) for word in sys.orig_argv if not re.fullmatch("--?fresh(=.*)?", word))


def import_tensorflow(debug: bool = False, starts_devices: bool = True) -> Any:
    """Imports TensorFlow.

    Args:
        debug: whether to show the lines that its libraries print while they load.
        starts_devices: whether to initialise its devices, which also prints. A multi-worker strategy initialises them
            itself.
    """
    with _progress.brief("importing TensorFlow"), importing("tensorflow"), _quiet_stderr(debug):
        import tensorflow as tf

        if starts_devices:
            tf.config.list_logical_devices()
        import glow_tf.glow  # noqa: F401  (imports TFP, which takes another second)
    return tf


@contextlib.contextmanager
def _quiet_stderr(debug: bool = False) -> Iterator[None]:
    """Redirects the error stream of C++ libraries to /dev/null, unless `debug` is set.

    TF_CPP_MIN_LOG_LEVEL does not affect the lines that are printed before TensorFlow reads it.
    """
    if debug:
        yield
        return
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


# Errors


def _message(error: Exception) -> str | None:
    """The message that is all a user needs; None for a bug, which needs a traceback."""
    # TensorFlow's error goes by its name, since TensorFlow may not have been imported.
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return "out of memory; a smaller --batch_size or fewer and smaller images need less"
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        # The second name of a rename is the one that the user knows.
        return f"{error.filename2 or error.filename}: {error.strerror}"
    return str(error) if isinstance(error, (InputError, TrainingFailure)) else None


def _fail(message: str, status: int = 2) -> NoReturn:
    print("error: " + _one_line(message), file=sys.stderr)
    sys.exit(status)


def _one_line(text: str) -> str:
    """The text on one line, without control characters; of a long one the middle is left out."""
    line, half = " ".join(text.split()), MAX_MESSAGE // 2
    return printable(line if len(line) <= MAX_MESSAGE else f"{line[:half]} ... {line[-half:]}", MAX_MESSAGE + 5)


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in "'\\" else f"\\x{b:02x}" for b in os.fsencode(word))
    return f"$'{''.join(plain)}'"


# Streams


def _configure_messages(debug: bool) -> None:
    """Prints this package's warnings as single lines and, unless `debug` is set, hides those of libraries."""
    handler = _LineHandler()
    if not debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        handler.addFilter(lambda record: record.levelno >= logging.ERROR or record.pathname.startswith(_PACKAGE))
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
    # absl's own handler would print each line twice, since sys.stderr is no longer the stream that it was created with.
    logging.basicConfig(handlers=[handler], force=True)


class _LineHandler(logging.Handler):
    """Prints a warning as one plain line above a progress bar, unless only its numbers differ from an earlier one."""

    def __init__(self) -> None:
        super().__init__()
        self._printed: set[tuple] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        words = record.msg, *(str(arg) for arg in record.args or () if not isinstance(arg, (int, float)))
        if words not in self._printed:
            self._printed.add(words)
            _progress.line(f"{record.levelname.lower()}: {_one_line(record.getMessage())}")
