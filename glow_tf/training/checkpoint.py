"""The states that a run resumes from, wherever it was stopped.

    ckpt-48.index, ckpt-48.data-*   TensorFlow's checkpoint after batch 48
    ckpt-48.sha256                  checksums of these files, written last; `sha256sum --check` reads it

A state without its .sha256 is one whose save was interrupted; a state that no longer matches its .sha256 is damaged.
Neither is restored. Files are written and removed by name: a pattern such as `ex[pq] 1/ckpt-*` would match the files
of other runs.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from absl import logging

from glow_tf._files import write_atomically
from glow_tf.errors import InputError
from glow_tf.training.state import RunRecord, TrainState

# Older states remain to fall back on if the newest turns out to be damaged.
NUM_STATES = 3

_STATE_FILE = re.compile(r"ckpt-(\d{1,18})\.(index|sha256|data-\d{5}-of-\d{5})")
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # end of a variable's name in TensorFlow's checkpoints


class Checkpointer:
    """Saves and restores the states of a run.

    Args:
        state: what the training changes.
        record: what the run has reached.
        folder: folder of the states.
        num_replicas: devices that share a batch.
        check: called before anything is written; raises if this process may no longer write there.

    Attributes:
        saved_step: batches so far in the state that was last saved or restored; None if there is none.
    """

    def __init__(
        self,
        state: TrainState,
        record: RunRecord,
        folder: str | os.PathLike,
        num_replicas: int = 1,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._state, self._record = state, record
        self._folder = Path(folder)
        self._num_replicas = num_replicas
        self._check = check
        self.saved_step: int | None = None

    def save(self) -> None:
        """Writes the state after the last batch, unless that state is the last one saved.

        Raises:
            OSError: if it cannot be written; the older states stay.
        """
        step = self._state.step_count
        if step == self.saved_step:
            return
        self._check()
        self._record.num_replicas = self._num_replicas
        self._remove(step)  # a damaged state of the same step
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._checkpoint().write(str(self._prefix(step)))
        except tf.errors.OpError as error:
            raise OSError(f"the state could not be written to {self._folder}: {_first_line(error)}") from None
        self._write_checksum(step)
        self.saved_step = step
        complete = [number for number, files in self._states().items() if "sha256" in files]
        for number in sorted(complete, reverse=True)[NUM_STATES:]:
            self._remove(number)

    def restore(self) -> str | None:
        """Restores the newest state that is complete, undamaged and of this run.

        Returns:
            the path of the restored state, or None if no state was ever completed.

        Raises:
            InputError: if there are states but none can be read; starting over would lose the run.
        """
        states = self._states()
        complete = sorted((number for number, files in states.items() if "sha256" in files), reverse=True)
        for number in complete:
            problem = self._problem(number) or self._try_to_restore(number)
            if problem is None:
                self._after_restore()
                self._remove_unfinished(set(states) - set(complete))
                return str(self._prefix(number))
            logging.warning("state %s is skipped: %s", self._prefix(number), problem)
        if complete or len(states) > 1:
            raise InputError(
                f"none of the {len(states)} states in {self._folder} can be restored; use another run directory, or "
                f"--fresh to archive this run and start over"
            )
        self._remove_unfinished(set(states))
        return None

    def roll_back(self) -> str | None:
        """Restores weights, averages and optimizer from the newest undamaged state, but not the run's record.

        Returns:
            the path of that state, or None if there is none.
        """
        step = self._state.step_count
        for number in sorted(self._states(), reverse=True):
            if self._problem(number) is None and self._read(number, tf.train.Checkpoint(**self._state.items())) is None:
                # Later steps use other noise: with the same noise they would fail in the same place.
                self._state.step_count = step
                return str(self._prefix(number))
        return None

    def _checkpoint(self, *, has_run_id: bool = True) -> tf.train.Checkpoint:
        record = self._record.items()
        if not has_run_id:
            del record["run_id"]
        return tf.train.Checkpoint(**self._state.items(), **record)

    def _problem(self, number: int) -> str | None:
        """Why a state cannot be restored, from its files alone; None if nothing speaks against it."""
        try:
            if self._checksums(number) != self._checksum_file(number).read_bytes():
                return "it is damaged: its files do not match its .sha256"
            reader = tf.train.load_checkpoint(str(self._prefix(number)))
            if reader.has_tensor(f"run_id{_VALUE}"):
                run_id = reader.get_tensor(f"run_id{_VALUE}").decode(errors="replace")
                if run_id != self._record.run_id and self._record.run_id:
                    return f"it belongs to another run, {run_id!r}; this is run {self._record.run_id!r}"
        except (tf.errors.OpError, ValueError, RuntimeError, OSError) as error:
            return _first_line(error)
        return None

    def _try_to_restore(self, number: int) -> str | None:
        """Why the state cannot be restored, or None if it was."""
        reader = tf.train.load_checkpoint(str(self._prefix(number)))
        run_id = self._record.run_id
        checkpoint = self._checkpoint(has_run_id=reader.has_tensor(f"run_id{_VALUE}"))
        # Earlier versions saved through a CheckpointManager, which adds a counter.
        problem = self._read(number, checkpoint, is_managed=reader.has_tensor(f"save_counter{_VALUE}"), is_whole=True)
        self._record.run_id = run_id
        return problem

    def _read(
        self, number: int, checkpoint: tf.train.Checkpoint, *, is_managed: bool = False, is_whole: bool = False
    ) -> str | None:
        """Why the state does not fit the checkpoint's objects, or None if it was read into them."""
        try:
            read = checkpoint.restore if is_managed else checkpoint.read
            # expect_partial: the assertions below report once what TensorFlow would log line by line.
            status = read(str(self._prefix(number))).expect_partial()
            status.assert_existing_objects_matched()
            if is_whole:
                status.assert_consumed()
        except (tf.errors.OpError, AssertionError, ValueError, OSError) as error:
            return _first_line(error)
        return None

    def _after_restore(self) -> None:
        self.saved_step = self._state.step_count
        before = self._record.num_replicas
        if before != self._num_replicas:
            logging.warning(
                "the run was on %d devices and resumes on %d: the batches are the same, but sums are rounded "
                "differently, so the result is not bit for bit that of an undisturbed run",
                before,
                self._num_replicas,
            )

    def _prefix(self, number: int) -> Path:
        return self._folder / f"ckpt-{number}"

    def _checksum_file(self, number: int) -> Path:
        return self._folder / f"ckpt-{number}.sha256"

    def _states(self) -> dict[int, list[str]]:
        """{number: endings of its files} of all states, complete or not: a lost index must not hide its state."""
        states: dict[int, list[str]] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in sorted(os.listdir(self._folder)):
                match = _STATE_FILE.fullmatch(name)
                if match and f"ckpt-{int(match[1])}.{match[2]}" == name:
                    states.setdefault(int(match[1]), []).append(match[2])
        return states

    def _data_files(self, number: int) -> list[Path]:
        endings = self._states().get(number, [])
        return [self._folder / f"ckpt-{number}.{ending}" for ending in endings if ending != "sha256"]

    def _remove(self, number: int) -> None:
        """Removes a state, its checksum first: a state that is removed in part counts as unfinished."""
        self._checksum_file(number).unlink(missing_ok=True)
        for file in self._data_files(number):
            file.unlink(missing_ok=True)

    def _remove_unfinished(self, numbers: set[int]) -> None:
        for number in numbers:
            logging.warning("state %s was not completely saved and is removed", self._prefix(number))
            self._remove(number)

    def _write_checksum(self, number: int) -> None:
        """Makes a state's files durable and marks it complete."""
        for file in self._data_files(number):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        write_atomically(self._checksum_file(number), self._checksums(number))

    def _checksums(self, number: int) -> bytes:
        """As `sha256sum` prints them."""
        return b"".join(f"{_sha256(file)}  {file.name}\n".encode() for file in self._data_files(number))


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
