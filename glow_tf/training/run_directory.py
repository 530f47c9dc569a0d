"""What a training run writes and where, and who may write there.

<run>/.lock                           held by the trainer; its process id
<run>/checkpoints/weights.h5          the latest weights
<run>/checkpoints/weights-best.h5     those of the best test result
<run>/checkpoints/MODEL_CARD.md       what they are, in words
<run>/checkpoints/state/              what training resumes from (tf.train.CheckpointManager)
<run>/logs/train, <run>/logs/test     TensorBoard
<run>/results/                        pictures
<run>/settings.json                   what must not change when the run goes on
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from glow_tf._files import write_atomically
from glow_tf.errors import InputError

PROBE_BYTES = 1 << 20  # a full or read-only disk shows on the first block, a quota on the first few

# What runs had that were begun before there was such a setting: they go on.
LEGACY_DEFAULTS = {"beta_2": 0.999}

_TEMPORARY = re.compile(r".*\.tmp-(\d+)")
_TENSORFLOW_TEMPORARY = re.compile(r"_temp|\.tempstate|\.tmp[0-9a-f]{32}$")


@dataclasses.dataclass(frozen=True, init=False)
class RunDirectory:
    """The folder of one run; nothing is made or changed on disk until a method says so.

    Args:
        path: of the folder; it need not exist.
    """

    path: Path

    def __init__(self, path: str | os.PathLike) -> None:
        object.__setattr__(self, "path", Path(path))

    @property
    def checkpoints(self) -> Path:
        """The folder of all weights and the state."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """The newest weights."""
        return self.checkpoints / "weights.h5"

    @property
    def best_weights(self) -> Path:
        """Those of the best test result."""
        return self.checkpoints / "weights-best.h5"

    def snapshot(self, epoch: int) -> Path:
        """The weights kept of one epoch."""
        return self.checkpoints / f"weights-epoch{epoch:04d}.h5"

    @property
    def model_card(self) -> Path:
        """What the weights are, in words."""
        return self.checkpoints / "MODEL_CARD.md"

    @property
    def state(self) -> Path:
        """The folder of what training resumes from."""
        return self.checkpoints / "state"

    @property
    def train_logs(self) -> Path:
        """TensorBoard's, of the training."""
        return self.path / "logs" / "train"

    @property
    def test_logs(self) -> Path:
        """TensorBoard's, of the evaluations."""
        return self.path / "logs" / "test"

    @property
    def results(self) -> Path:
        """The folder of the pictures."""
        return self.path / "results"

    @property
    def _folders(self) -> tuple[Path, ...]:
        return (self.state, self.train_logs, self.test_logs, self.results)

    def create(self) -> None:
        """Makes every folder.

        Raises:
            InputError: one cannot be made.
        """
        for folder in self._folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"the folder {folder} cannot be made: {error.strerror}") from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other trainers out for the duration of a `with`; the system lets go when the process dies.

        Makes the run's folder where needed.

        Raises:
            InputError: another trainer is at work, in this process or another; it comes at once.
        """
        descriptor = self._open_lock()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)  # the file stays: removing it would let two trainers lock two files

    def check_unused(self) -> None:
        """Refuses at once if another trainer is at work; writes nothing.

        Raises:
            InputError: as `lock`.
        """
        if (self.path / ".lock").exists():
            with self.lock():
                pass

    def _open_lock(self) -> int:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"the run directory {self.path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = re.match(rb"\d+", os.pread(descriptor, 20, 0))
            os.close(descriptor)
            pid = int(holder[0]) if holder else "unknown"
            raise InputError(f"the run directory {self.path} is in use by pid {pid}; name another one") from None
        except OSError as error:
            os.close(descriptor)
            raise InputError(f"the run directory {self.path} cannot be locked: {error.strerror}") from error
        return descriptor

    def remove_stale_files(self) -> list[Path]:
        """Removes what writers left that were killed; to be called under the lock.

        These are `*.tmp-<pid>` of processes that are gone, and what tf.train.Checkpoint left in `state` under a
        temporary name.

        Returns:
            What was removed.
        """
        removed = []
        for folder in (self.path, self.checkpoints, self.state, self.test_logs, self.results):
            for file in _entries(folder):
                match = _TEMPORARY.fullmatch(file.name)
                if match and not file.is_dir() and not _is_alive(int(match[1])):
                    file.unlink()
                    removed.append(file)
        for entry in _entries(self.state):
            if _TENSORFLOW_TEMPORARY.search(entry.name):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
                removed.append(entry)
        return removed

    def remove_snapshots(self, keep: int) -> None:
        """Removes all but the newest `keep` epoch snapshots."""
        snapshots = sorted(self.checkpoints.glob("weights-epoch*.h5"))
        for path in snapshots[: max(0, len(snapshots) - keep)]:
            path.unlink()

    def check_settings(self, settings: Mapping) -> None:
        """Notes a new run's settings, or compares with those that the run began with.

        A run that has saved nothing yet has nothing to lose: its settings are replaced.

        Args:
            settings: JSON values; dictionaries may nest.
        Raises:
            InputError: the run began with others; the message names each and both values.
        """
        file = self.path / "settings.json"
        settings = json.loads(json.dumps(settings))
        if not self._has_saved():
            write_atomically(file, json.dumps(settings, indent=1).encode())
            return
        try:
            before = json.loads(file.read_text())
            if not isinstance(before, dict):
                raise ValueError("no JSON object")
        except (OSError, ValueError) as error:
            raise InputError(f"{file} cannot be read ({error}); move {self.path} away or give --fresh") from None
        new = _flat(settings)
        old = {key: value for key, value in LEGACY_DEFAULTS.items() if key in new} | _flat(before)
        differing = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
        if differing:
            shown = "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in differing)
            raise InputError(
                f"{self.path} holds a run with other settings: {shown}; name another --run_dir or give --fresh"
            )

    def _has_saved(self) -> bool:
        return bool(_entries(self.state)) or os.path.lexists(self.weights)

    def archive(self) -> Path | None:
        """Renames the run's folder to `<run>.old-<n>`, so that a new run can begin; nothing is lost.

        Returns:
            the new path, or None where there was no run.
        """
        if not (self.path / "settings.json").exists() and not self.checkpoints.exists():
            return None
        with self.lock():
            numbers = itertools.count(1)
            target = next(p for n in numbers if not (p := self.path.with_name(f"{self.path.name}.old-{n}")).exists())
            self.path.rename(target)
        return target

    def check_writable(self, needed_bytes: int) -> None:
        """Whether the run can write where it will; nothing is left behind, folders are not made.

        Args:
            needed_bytes: free space that the run wants, such as two checkpoints.
        Raises:
            InputError: no permission, not a folder, a full disk, or fewer bytes free than needed.
        """
        for folder in dict.fromkeys(_nearest_existing(folder) for folder in self._folders):
            try:
                status = os.statvfs(folder)
                _probe(folder)
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


def _nearest_existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if os.path.lexists(parent))


def _probe(folder: Path) -> None:
    path = folder / f".probe.tmp-{os.getpid()}"
    try:
        with open(path, "wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _flat(settings: Mapping, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
