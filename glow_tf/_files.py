"""Files: replaced atomically, opened only if regular, and named in messages in a printable form."""

import contextlib
import difflib
import errno
import io
import itertools
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from glow_tf.errors import InputError

# Larger folders are not searched for similar names: listing this many takes a tenth of a second.
MOST_ENTRIES = 2000

MAX_FILE_BYTES = 4_400_000_000  # 1e9 parameters in float32 and a tenth for tables; bounds the time of a digest

MAX_PRINTED = 300  # characters of a name from outside in a message


def write_atomically(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Replaces the file at `path` by `data`, durably; a reader at any moment sees the old or the new file.

    The data waits in `<name>.tmp-<pid>` beside it. HDF5 itself never writes to a disk: a full one kills it.

    Raises:
        OSError: the old file stays, the temporary one is gone.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot (FUSE, CIFS)
            raise
    finally:
        os.close(descriptor)


def check_file(path: str | os.PathLike) -> None:
    """InputError for what is missing or no file: opening a pipe would wait for ever."""
    if not os.path.lexists(path):
        raise InputError(f"{path} does not exist{suggestion(path)}")
    if not os.path.isfile(path):
        raise InputError(f"{path} is no regular file")


def open_regular(path: str | os.PathLike) -> io.FileIO:
    """Opens a regular file, or says what it is: a pipe would block, a device might never end."""
    try:
        _check_regular(path, os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        file = io.FileIO(descriptor, "rb")
    except FileNotFoundError as error:
        raise InputError(f"{printable(path)} does not exist; a weights file is wanted{suggestion(path)}") from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{printable(path)} cannot be read: {getattr(error, 'strerror', error)}") from error
    try:
        _check_regular(path, os.fstat(descriptor))  # another file may have taken its place
    except InputError:
        file.close()
        raise
    return file


def _check_regular(path, status: os.stat_result):
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise InputError(f"{printable(path)} is {kind}, not a weights file")
    if status.st_size > MAX_FILE_BYTES:
        raise InputError(f"{printable(path)} has {status.st_size} bytes; at most {MAX_FILE_BYTES} are read")


def suggestion(path: str | os.PathLike) -> str:
    """For the end of a message about a path that is missing: what may have been meant, or ""."""
    found = nearest(path)
    return "" if found is None else f"; did you mean {found}?"


def nearest(path: str | os.PathLike) -> str | None:
    """Another path that is there and spelt nearly as `path`, folder by folder; None where there is none."""
    if not os.fspath(path):
        return None
    found = ""
    for part in os.path.normpath(path).split(os.sep):
        candidate = os.path.join(found, part) if part else os.sep
        if not os.path.lexists(candidate):
            close = difflib.get_close_matches(part, _entries(found or os.curdir), n=1, cutoff=0.7)
            if not close:
                return None
            candidate = os.path.join(found, close[0])
        found = candidate
    return None if found == os.path.normpath(path) else found


def _entries(folder: str) -> list[str]:
    """Names to compare with; none of a folder so full that it would take long."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, MOST_ENTRIES + 1)]
    except OSError:
        return []
    return [name for name in names if name.isprintable()] if len(names) <= MOST_ENTRIES else []


def format_names(names: Sequence) -> str:
    """Up to 3 names and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(printable(name) for name in names[:3]) + more


def printable(value) -> str:
    """Text from outside as part of a one-line message."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= MAX_PRINTED else text[:MAX_PRINTED] + "..."
