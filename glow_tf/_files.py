"""Helpers for files: replace them atomically, open only regular ones, and print their names safely in messages."""

import contextlib
import difflib
import errno
import io
import itertools
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from glow_tf.errors import InputError

# Larger folders are not searched for similar names; listing this many entries takes a tenth of a second.
MOST_ENTRIES = 2000

MAX_FILE_BYTES = 4_400_000_000  # 1e9 parameters in float32 plus 10% for tables; bounds the time of a digest

# The first characters of formulas, in East Asian width, too.
_FORMULA = r"=+\-@\uff1d\uff0b\uff0d\uff20"

_GLOB = set("*?[]\\")  # the special characters of patterns

MAX_PRINTED = 300  # characters of untrusted text in a message


# ------------------------------------------------------------------------------------------- writing


def write_file(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """As `write_atomically`, and creates the folder."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_atomically(path, data)


def write_atomically(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Replaces the content of a file atomically and durably: a reader sees either the old content or the new.

    The data is first written to `<name>.tmp-<pid>` in the same folder.

    Raises:
        OSError: the file cannot be written, or `path` is a folder, a pipe or a device. The old file remains, and the
            temporary file is removed.
    """
    path = Path(path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):  # a rename would replace /dev/null itself
            raise OSError(errno.EINVAL, f"is {_kind(path.stat())}, not a regular file", str(path))
    short = os.fsdecode(os.fsencode(path.name)[:230])  # a file system's names have up to 255 bytes
    temporary = path.with_name(f"{short}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # the caller knows nothing of the temporary file
        raise
    sync(path.parent)


def sync(path: str | os.PathLike) -> None:
    """Makes a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems do not support it for folders: FUSE, CIFS
            raise
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------- reading


def check_file(path: str | os.PathLike, what: str = "file") -> None:
    """Raises InputError unless `path` is a regular file that can be opened; for the arguments see `open_regular`."""
    open_regular(path, what).close()


def open_regular(path: str | os.PathLike, what: str = "file", limit: int = MAX_FILE_BYTES) -> io.FileIO:
    """Opens a regular file for reading, and nothing else: a pipe would block, and a device might never end.

    Args:
        what: a noun for the file in messages, such as "weights file".
        limit: the largest allowed size in bytes.

    Raises:
        InputError: the file is missing, too large, not readable, or not a regular file.
    """
    try:
        _check_regular(path, os.stat(path), what, limit)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise InputError(f"{printable(path)} does not exist{suggestion(path)}") from error
    except OSError as error:
        raise InputError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a name that contains a null byte
        raise error if isinstance(error, InputError) else InputError(f"{printable(path)} is not a file name") from error
    file = io.FileIO(descriptor, "rb")
    try:
        _check_regular(path, os.fstat(descriptor), what, limit)  # the file may have been replaced since
    except InputError:
        file.close()
        raise
    return file


def _check_regular(path: str | os.PathLike, status: os.stat_result, what: str, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{printable(path)} is {_kind(status)}, not a {what}")
    if status.st_size > limit:
        raise InputError(f"{printable(path)} has {status.st_size:,} bytes; a {what} has at most {limit:,}")


def _kind(status: os.stat_result) -> str:
    names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return names.get(stat.S_IFMT(status.st_mode), "a device")


def read_text(path: str | os.PathLike, what: str = "text file", limit: int = 100_000_000) -> str:
    """Reads a regular UTF-8 file of at most `limit` bytes, such as CSV or JSON.

    Raises:
        InputError: as `open_regular`, or the file is not UTF-8.
    """
    with open_regular(path, what, limit) as file:
        try:
            return file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{printable(path)} is not a {what}: it is not UTF-8 text") from error


def load_npy(path: str | os.PathLike, what: str = "NumPy file (.npy)") -> np.ndarray:
    """Reads floats or integers from a `.npy` file, after checking its header against the file's size.

    Raises:
        InputError: as `open_regular`, or the file is damaged or not a `.npy` file of numbers.
    """
    with open_regular(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            version = np.lib.format.read_magic(file)
            reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, is_fortran, dtype = reader[version](file)
        except Exception as error:  # the header is a Python literal, and parsing it can raise nearly anything
            raise InputError(f"{printable(path)} is not a {what}") from error
        left = size - file.tell()
        if dtype.kind not in "fiu" or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
            raise InputError(
                f"{printable(path)} is damaged: its header says {printable(dtype)} of shape {printable(shape)}, "
                f"and {left:,} bytes follow"
            )
        values = np.frombuffer(bytearray(file.read()), dtype)
    return values.reshape(shape[::-1]).T if is_fortran else values.reshape(shape)


@contextlib.contextmanager
def unambiguous_prefix(prefix: str, endings: Iterable[str]) -> Iterator[str]:
    """Yields a prefix under which TensorFlow finds the files of a checkpoint, whose own prefix may look like a pattern.

    `endings` are the rest of each file's name.
    """
    if not _GLOB & set(prefix):
        yield prefix
        return
    parent = next(folder for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp") if not _GLOB & set(folder))
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        for ending in endings:
            os.symlink(os.path.abspath(prefix + ending), os.path.join(folder, "link" + ending))
        yield os.path.join(folder, "link")


# ------------------------------------------------------------------------------------------- similar names


def suggestion(path: str | os.PathLike) -> str:
    """A hint for the message about a missing path: a similar path that exists, or an empty string."""
    close = nearest(path)
    return "" if close is None else f"; did you mean {printable(close)}?"


def nearest(path: str | os.PathLike) -> str | None:
    """An existing path that is spelled like `path`, folder by folder, or None."""
    if not os.fspath(path):
        return None
    result = ""
    for part in os.path.normpath(path).split(os.sep):
        candidate = os.path.join(result, part) if part else os.sep
        if not os.path.lexists(candidate):
            close = difflib.get_close_matches(part, _entries(result or os.curdir), n=1, cutoff=0.7)
            if not close:
                return None
            candidate = os.path.join(result, close[0])
        result = candidate
    return None if result == os.path.normpath(path) else result


def _entries(folder: str) -> list[str]:
    """The names in a folder; empty if there are too many to compare."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, MOST_ENTRIES + 1)]
    except OSError:
        return []
    return [name for name in names if name.isprintable()] if len(names) <= MOST_ENTRIES else []


# ------------------------------------------------------------------------------------------- untrusted text


def printable(value: object, limit: int = MAX_PRINTED) -> str:
    r"""Formats untrusted text for a one-line message: truncated to `limit` characters, unprintable ones escaped.

    Line feeds, terminal escapes, bidirectional controls and bytes that are not UTF-8 are escaped as in a Python
    string.

    >>> printable("a\x1b[2J\nb"), printable("x" * 9, limit=4)
    ('a\\x1b[2J\\nb', 'xxxx...')
    """
    try:
        text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
    except ValueError:  # an integer of thousands of digits
        text = f"<{type(value).__name__}>"
    text = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: object) -> str:
    """Formats a value as Python writes it, such as `'text'`, for a one-line message; see `printable`."""
    try:
        return printable(repr(value))
    except ValueError:  # an integer of thousands of digits
        return f"<{type(value).__name__}>"


def counted(count: int, noun: str) -> str:
    """Formats a number with its noun.

    >>> counted(1, "image"), counted(2000, "image")
    ('1 image', '2,000 images')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_names(names: Iterable[object], count: int = 3) -> str:
    """Lists up to `count` names in a printable form, and counts the rest.

    >>> format_names("abcde")
    'a, b, c and 2 more'
    """
    listed = list(names)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(printable(name, 80) for name in listed[:count]) + more


def spreadsheet_safe(text: str) -> str:
    """Escapes text for a CSV cell: a leading apostrophe keeps a spreadsheet from evaluating it as a formula.

    >>> spreadsheet_safe("=1+1"), spreadsheet_safe("cat.png")
    ("'=1+1", 'cat.png')
    """
    text = re.sub(rf";(?=[\s'\"]*[{_FORMULA}])", r"\\x3b", text)  # it separates cells where a comma is a decimal point
    return f"'{text}" if re.match(rf"[{_FORMULA}\t\r\n]", text) else text
