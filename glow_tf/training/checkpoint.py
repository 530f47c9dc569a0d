"""Saves and restores the states from which a run resumes.

    ckpt-48.index, ckpt-48.data-*   TensorFlow's checkpoint after batch 48
    ckpt-48.sha256                  checksums of these files, written last; `sha256sum --check` reads it

Without its .sha256, a state was not completely saved; if it does not match its .sha256, it is damaged. Neither is
restored. Files are written and removed by name, never by glob pattern: a run in the folder `ex[pq] 1` would match the
files of other runs.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from glow_tf._files import MAX_FILE_BYTES, open_regular, sync, unambiguous_prefix, write_atomically
from glow_tf.errors import InputError
from glow_tf.training.state import RunRecord, TrainState

# Older states are a fallback if the newest turns out to be damaged.
NUM_STATES = 3

MAX_STATE_BYTES = 5 * MAX_FILE_BYTES  # the weights, their averages and two slots take less

_STATE_FILE = re.compile(r"ckpt-(\d{1,18})\.(index|sha256|data-\d{5}-of-\d{5})")
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # end of a variable's name in TensorFlow's checkpoints
_DTYPES = {bool: tf.bool, int: tf.int64, float: tf.float64, str: tf.string}

# Exceptions that reading a damaged state may raise.
_ERRORS = (tf.errors.OpError, AssertionError, IndexError, ValueError, RuntimeError, OSError)


@dataclasses.dataclass(eq=False)
class Checkpointer:
    """Saves and restores the states of a run."""

    state: TrainState
    record: RunRecord
    folder: Path
    num_replicas: int = 1
    check: Callable[[], None] = lambda: None  # called before every write; raises if this process may not write there
    saved_step: int | None = None  # step count of the state that was last saved or restored

    def save(self) -> None:
        """Saves the current state, unless it is the one that was last saved; after an OSError the older ones remain."""
        step = self.state.step_count
        if step == self.saved_step:
            return
        self.check()
        self.record.num_replicas = self.num_replicas
        self.record.count_time()
        self._remove(step)  # a damaged state of the same step
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint = tf.train.Checkpoint(**self.state.variables(), **_variables(self._values()))
            checkpoint.write(str(self._prefix(step)))
        except tf.errors.OpError as error:
            raise OSError(f"the state could not be written to {self.folder}: {_first_line(error)}") from None
        self._write_checksum(step)
        self.saved_step = step
        complete = [number for number, files in self._states().items() if "sha256" in files]
        for number in sorted(complete, reverse=True)[NUM_STATES:]:
            self._remove(number)

    def restore(self) -> str | None:
        """Restores the newest complete, undamaged state of this run, and returns its path; None if there was never one.

        Raises:
            InputError: if there are states but none is readable; starting over would lose the run.
        """
        states = self._states()
        complete = sorted((number for number, files in states.items() if "sha256" in files), reverse=True)
        for number in complete:
            try:
                values = self._read(number)
            except _ERRORS as error:
                logging.warning("state %s is skipped: %s", self._prefix(number), _first_line(error))
                continue
            self.state.step_count = self.saved_step = values.pop("step_count")
            for name, value in values.items():
                setattr(self.record, name, value)
            if self.record.num_replicas != self.num_replicas:
                logging.warning(
                    "the run was on %d devices and resumes on %d: the batches are the same, but sums are rounded "
                    "differently, so the result is not bit for bit that of an undisturbed run",
                    self.record.num_replicas,
                    self.num_replicas,
                )
            self._remove_unfinished(set(states) - set(complete))
            return str(self._prefix(number))
        if complete or len(states) > 1:
            raise InputError(
                f"none of the {len(states)} states in {self.folder} can be restored; use another run directory, or "
                f"--fresh to archive this run and start over"
            )
        self._remove_unfinished(set(states))
        return None

    def roll_back(self) -> str | None:
        """Restores weights, averages and optimizer from the newest undamaged state, and returns its path, if any.

        The run's record and the step count stay as they are: with the same noise, the same steps would fail again.
        """
        for number in sorted(self._states(), reverse=True):
            with contextlib.suppress(*_ERRORS):
                self._read(number)
                return str(self._prefix(number))
        return None

    def _values(self) -> dict[str, Any]:
        """The step count and the record, which become variables only for a checkpoint."""
        return {"step_count": self.state.step_count, **dataclasses.asdict(self.record)}

    def _read(self, number: int) -> dict[str, Any]:
        """Assigns a state's variables; returns its step count and the fields of its record, except for the run_id.

        Raises one of `_ERRORS`, whose message says why the state is unusable.
        """
        with open_regular(self._checksum_file(number), "list of checksums") as file:
            recorded = file.read()
        if self._checksums(number) != recorded:
            raise ValueError("it is damaged: its files do not match its .sha256")
        endings = [file.suffix for file in self._data_files(number)]
        with unambiguous_prefix(str(self._prefix(number)), endings) as prefix:
            return self._read_from(prefix)

    def _read_from(self, prefix: str) -> dict[str, Any]:
        reader = tf.train.load_checkpoint(prefix)
        # Earlier versions recorded fewer values.
        values = {k: v for k, v in _variables(self._values()).items() if reader.has_tensor(f"{k}{_VALUE}")}
        if "run_id" in values:
            run_id = reader.get_tensor(f"run_id{_VALUE}").decode(errors="replace")
            if run_id != self.record.run_id and self.record.run_id:
                raise ValueError(f"it belongs to another run, {run_id!r}; this is run {self.record.run_id!r}")
        checkpoint = tf.train.Checkpoint(**self.state.variables(), **values)
        # They also used a CheckpointManager, which adds a counter.
        read = checkpoint.restore if reader.has_tensor(f"save_counter{_VALUE}") else checkpoint.read
        # expect_partial silences TensorFlow's log, a line per variable; the assertions below raise one error.
        status = read(prefix).expect_partial()
        status.assert_existing_objects_matched()
        status.assert_consumed()
        return {name: variable.numpy().item() for name, variable in values.items() if name != "run_id"}

    def _prefix(self, number: int) -> Path:
        return self.folder / f"ckpt-{number}"

    def _checksum_file(self, number: int) -> Path:
        return self.folder / f"ckpt-{number}.sha256"

    def _states(self) -> dict[int, list[str]]:
        """{number: suffixes of its files} of all states, complete or not: even a state without its index is listed."""
        states: dict[int, list[str]] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in sorted(os.listdir(self.folder)):
                match = _STATE_FILE.fullmatch(name)
                if match and f"ckpt-{int(match[1])}.{match[2]}" == name:
                    states.setdefault(int(match[1]), []).append(match[2])
        return states

    def _data_files(self, number: int) -> list[Path]:
        endings = self._states().get(number, [])
        return [self.folder / f"ckpt-{number}.{ending}" for ending in endings if ending != "sha256"]

    def _remove(self, number: int) -> None:
        """Removes a state, its checksum first, so that a partly removed state counts as unfinished."""
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
            sync(file)
        write_atomically(self._checksum_file(number), self._checksums(number))

    def _checksums(self, number: int) -> bytes:
        """The checksums of a state's files in the format of `sha256sum`."""
        lines = []
        for file in self._data_files(number):
            with open_regular(file, "file of a state", limit=MAX_STATE_BYTES) as stream:
                lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {file.name}\n")
        return "".join(lines).encode()


def _variables(values: Mapping[str, Any]) -> dict[str, tf.Variable]:
    return {k: tf.Variable(v, dtype=_DTYPES[type(v)], trainable=False, name=k) for k, v in values.items()}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
