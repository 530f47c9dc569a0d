"""The files of a training run, and who may write them.

<run>/.lock            held by the trainer; its process id
<run>/checkpoints/     the newest and the best weights, their model card, and state/, from which training resumes
<run>/logs/            TensorBoard, of the training and of the evaluations
<run>/results/         pictures
<run>/metrics.csv      a row for each evaluation, drawn in curves.png and diagnostics.png
<run>/settings.json    what must stay the same when the run is resumed
"""

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from glow_tf._files import printable, read_text, write_atomically
from glow_tf.errors import InputError

PROBE_BYTES = 1 << 20  # a full or read-only disk shows on the first block, a quota on the first few

_TEMPORARY = re.compile(r".*\.tmp-(\d+)")
_TENSORFLOW_TEMPORARY = re.compile(r"_temp|\.tempstate|\.tmp[0-9a-f]{32}$")
_SNAPSHOT = re.compile(r"weights-epoch\d{4,}\.h5")


class RunDirectory:
    """The folder of one run, which need not exist: nothing is created or changed on disk until a method is called.

    Raises:
        InputError: if the path is not UTF-8, which TensorFlow cannot write to.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            os.fspath(self.path).encode()
        except UnicodeEncodeError:
            raise InputError(f"the run directory {printable(self.path)} is not UTF-8; name another one") from None
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.checkpoints / "weights.h5"
        self.best_weights = self.checkpoints / "weights-best.h5"
        self.model_card = self.checkpoints / "MODEL_CARD.md"
        self.state = self.checkpoints / "state"
        self.train_logs = self.path / "logs" / "train"
        self.test_logs = self.path / "logs" / "test"
        self.results = self.path / "results"
        self.settings = self.path / "settings.json"
        self._folders = (self.state, self.train_logs, self.test_logs, self.results)
        self._held: int | None = None

    def snapshot(self, epoch: int) -> Path:
        """The weights saved at the end of an epoch."""
        return self.checkpoints / f"weights-epoch{epoch:04d}.h5"

    def create(self) -> None:
        """Creates every folder; raises InputError if one cannot be created."""
        for folder in self._folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"the folder {folder} cannot be created: {error.strerror}") from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other trainers out for the duration of a `with`; the system unlocks when the process dies.

        Creates the run's folder if needed.

        Raises:
            InputError: at once if another trainer is running, in this process or another.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", flags, 0o644)
        except OSError as error:
            raise InputError(f"the run directory {self.path} cannot be used: {error.strerror}") from error
        try:
            self._acquire(descriptor)
            self._held = descriptor
            yield
        finally:
            if self._held == descriptor:
                self._held = None
            os.close(descriptor)  # the file stays: removing it would let two trainers lock two files

    def check_unused(self) -> None:
        """Raises InputError at once if another trainer is running; creates no file."""
        if os.path.lexists(self.path / ".lock"):
            with self.lock():
                pass

    def check_lock(self) -> None:
        """Refuses to write if the folder at the run's path is no longer the one that was locked.

        A lock is held on a file, but files are written by path: after `mv run elsewhere` a second trainer can lock a
        new folder at the old path.

        Raises:
            InputError: if the folder was moved, removed or replaced.
        """
        if self._held is None:
            return
        try:
            at_path = os.stat(self.path / ".lock", follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            at_path = None
        if at_path is None or not os.path.samestat(at_path, os.fstat(self._held)):
            raise InputError(
                f"the run directory {self.path} was moved, removed or replaced while its trainer was running; nothing "
                f"more is written there. Resume with --run_dir and its new path"
            )

    def _acquire(self, descriptor: int) -> None:
        """Locks an open lock file and writes this process's id into it."""
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"{self.path / '.lock'} is not a regular file; remove it or name another run directory")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = re.match(rb"\d+", os.pread(descriptor, 20, 0))
            pid = int(holder[0]) if holder else "unknown"
            raise InputError(f"the run directory {self.path} is in use by pid {pid}; name another one") from None
        except OSError as error:
            raise InputError(f"the run directory {self.path} cannot be locked: {error.strerror}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def remove_stale_files(self) -> list[Path]:
        """Removes what killed writers left behind, and returns its paths; to be called under the lock.

        These are `*.tmp-<pid>` of dead processes, and temporary files of tf.train.Checkpoint in `state`.
        """
        removed = []
        for folder in (self.path, self.checkpoints, self.state, self.test_logs, self.results):
            for entry in _entries(folder):
                match = _TEMPORARY.fullmatch(entry.name)
                is_orphan = match and not entry.is_dir() and not _is_alive(int(match[1]))
                if is_orphan or (folder == self.state and _TENSORFLOW_TEMPORARY.search(entry.name)):
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
                    removed.append(entry)
        return removed

    def remove_snapshots(self, keep: int) -> None:
        """Removes all but the newest `keep` epoch snapshots."""
        snapshots = [path for path in _entries(self.checkpoints) if _SNAPSHOT.fullmatch(path.name)]
        snapshots.sort(key=lambda path: (len(path.name), path.name))  # 10000 follows 9999
        for path in snapshots[: max(0, len(snapshots) - keep)]:
            path.unlink()

    def has_saved(self) -> bool:
        """Whether there is a state or a weights file. A run that has saved nothing has nothing to lose."""
        return bool(_entries(self.state)) or os.path.lexists(self.weights)

    def read_json(self, file: Path) -> dict[str, Any]:
        """The object in a JSON file of the run; raises InputError if it is missing or damaged."""
        try:
            value = json.loads(read_text(file, "JSON file"))
            if not isinstance(value, dict):
                raise ValueError("it does not hold a JSON object")
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{file} cannot be read ({printable(error)}); use another run directory, or --fresh to archive this "
                f"run and start over"
            ) from None
        return value

    def write_json(self, file: Path, value: Mapping[str, Any]) -> None:
        """Replaces a JSON file of the run."""
        self.check_lock()
        write_atomically(file, json.dumps(value, indent=1).encode())

    def archive(self) -> Path | None:
        """Renames the run's folder to `<run>.old-<n>`, so that a new run can begin; nothing is lost.

        Returns the new path, or None if there was no run; raises InputError if the folder cannot be renamed.
        """
        if not self.settings.exists() and not self.checkpoints.exists():
            return None
        self.check_movable()
        path = _absolute(self.path)
        with self.lock():
            targets = (path.with_name(f"{path.name}.old-{number}") for number in itertools.count(1))
            target = next(target for target in targets if not os.path.lexists(target))
            try:
                path.rename(target)
            except OSError as error:
                raise InputError(f"--fresh cannot move {self.path}: {error.strerror}") from error
        return self.path.with_name(target.name)

    def check_movable(self) -> None:
        """Raises InputError for a folder that `archive` cannot rename: the working directory, or one that holds it."""
        path = _absolute(self.path)
        if path in (Path.cwd(), *Path.cwd().parents):
            raise InputError(
                f"--fresh cannot archive {self.path}, which holds the working directory; name another --run_dir"
            )

    def check_outside(self, folder: str | os.PathLike) -> None:
        """Raises InputError if the run is inside a folder of images, of which its pictures would become a part."""
        inner, outer = Path(os.path.realpath(self.path)), os.path.realpath(os.path.expanduser(folder))
        if inner.is_relative_to(outer) and not any(part.startswith(".") for part in inner.relative_to(outer).parts):
            raise InputError(
                f"the run directory {self.path} is inside the folder of images {printable(folder)}, so that the run's "
                f"pictures would be trained on; name another --run_dir"
            )

    def check_writable(self, needed_bytes: int) -> None:
        """Raises InputError unless the run can write its files and this many bytes, such as two checkpoints, are free.

        Nothing is left behind, and folders are not created.
        """
        existing = (next(filter(os.path.lexists, (each, *_absolute(each).parents))) for each in self._folders)
        for folder in dict.fromkeys(existing):
            try:
                status = os.statvfs(folder)
                with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                    file.write(bytes(PROBE_BYTES))
                    os.fsync(file.fileno())
            except OSError as error:
                raise InputError(f"cannot write to {folder}: {error.strerror}") from error
            free = status.f_bavail * status.f_frsize
            if free < needed_bytes:
                raise InputError(f"{folder} has {_megabytes(free)} free; this run needs {_megabytes(needed_bytes)}")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _absolute(path: Path) -> Path:
    try:
        return Path(os.path.abspath(path))
    except FileNotFoundError:
        raise InputError("the working directory no longer exists; change to one that does") from None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
