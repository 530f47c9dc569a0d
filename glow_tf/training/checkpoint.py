"""The state from which a run goes on after it was stopped, wherever that was.

    ckpt-48.index, ckpt-48.data-*   what TensorFlow's checkpoint holds, after batch 48
    ckpt-48.sha256                  the SHA-256 of these files, written last: `sha256sum -c` reads it, too

A state without its .sha256 is one whose save was interrupted. A state that was damaged later, be it by one
bit, is not what its .sha256 says. Neither is restored.
"""

import contextlib
import hashlib
import os
from pathlib import Path

import tensorflow as tf
from absl import logging

from glow_tf._files import write_atomically
from glow_tf.errors import InputError

# Older states are kept to fall back on when the newest turns out to be damaged.
STATES_KEPT = 3

_CHUNK_BYTES = 1 << 20


class Checkpointer:
    """Weights, optimizer slots, moving averages and counters of a trainer, in a run directory.

    Everything else of a step follows from the counters: the order of the images from (seed, epoch), the noise
    from (seed, number of the batch).

    Args:
        trainer: a Trainer.
        folder: where the checkpoints lie.

    Attributes:
        saved_step: batches seen at the last state that was saved or restored; None: there is none.
        reported_step: batches seen when the test split was last evaluated.
        best_bits_per_dim: the best test result so far.
        skipped, skipped_in_a_row: steps without a finite gradient, in all and just now.
        rate_was_halved: whether the learning rate was halved because of such steps.
    """

    def __init__(self, trainer, folder):
        self._trainer = trainer
        self._folder = Path(folder)
        self.saved_step = None
        self.reported_step = 0
        self.best_bits_per_dim = float("inf")
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.rate_was_halved = False
        self._counters = {
            "step_count": tf.Variable(0, dtype=tf.int64, trainable=False),
            "num_replicas": tf.Variable(0, dtype=tf.int64, trainable=False),
            "reported_step": tf.Variable(0, dtype=tf.int64, trainable=False),
            "best_bits_per_dim": tf.Variable(0.0, dtype=tf.float64, trainable=False),
            "skipped": tf.Variable(0, dtype=tf.int64, trainable=False),
            "skipped_in_a_row": tf.Variable(0, dtype=tf.int64, trainable=False),
            "rate_was_halved": tf.Variable(False, trainable=False),
        }
        self._checkpoint = tf.train.Checkpoint(
            variables=trainer.glow.named_variables(), optimizer=trainer.optimizer, **self._counters
        )
        self._list_states()
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(self._folder), max_to_keep=STATES_KEPT)

    def save(self):
        """Writes the state after the trainer's last batch; does nothing if that state is the last one saved.

        Raises:
            OSError: if it cannot be written; the older states stay.
        """
        step = self._trainer.step_count
        if step == self.saved_step:
            return
        for name, variable in self._counters.items():
            variable.assign(getattr(self if hasattr(self, name) else self._trainer, name))
        try:
            prefix = Path(self._manager.save(checkpoint_number=step))
        except tf.errors.OpError as error:
            raise OSError(f"the state could not be written to {self._folder}: {_first_line(error)}") from None
        _seal(prefix)
        self._remove_lone_seals()
        self.saved_step = step

    def restore(self):
        """Takes the newest state that is complete and undamaged.

        Returns:
            the path of what was restored, or None where no state was ever completed.
        Raises:
            InputError: if there are states and none can be read; starting anew over them would lose the run.
        """
        numbers = self._numbers()
        sealed = [number for number in numbers if self._seal_of(number).exists()]
        for number in sealed:
            problem = self._try_to_restore(number)
            if problem is None:
                self._remove_unfinished(set(numbers) - set(sealed))
                return str(self._prefix(number))
            logging.warning("state %s was skipped: %s", self._prefix(number), problem)
        if sealed or len(numbers) > 1:
            raise InputError(
                f"none of the {len(numbers)} states in {self._folder} can be read; move the run directory away "
                f"or give --fresh to start anew"
            )
        self._remove_unfinished(numbers)
        return None

    def _try_to_restore(self, number):
        """Why the state cannot be taken, or None if it was."""
        prefix = self._prefix(number)
        try:
            if _digests(prefix) != self._seal_of(number).read_bytes():
                return "it is damaged: its files are not what its .sha256 says"
            # expect_partial: what does not fit is told here, once, and not by TensorFlow line by line.
            status = self._checkpoint.restore(str(prefix)).expect_partial()
            status.assert_consumed().assert_existing_objects_matched()
        except (tf.errors.OpError, AssertionError, ValueError, OSError) as error:
            return _first_line(error)
        found = {name: variable.numpy().item() for name, variable in self._counters.items()}
        self._trainer.step_count = self.saved_step = found.pop("step_count")
        self._trainer.workers_agree = False
        replicas, before = self._trainer.num_replicas, found.pop("num_replicas")
        if replicas != before:
            logging.warning(
                "the run was on %d devices and goes on with %d: same batches, but sums are rounded differently, so "
                "the result is not bit for bit that of an undisturbed run",
                before,
                replicas,
            )
        for name, value in found.items():
            setattr(self, name, value)
        return None

    def _prefix(self, number):
        return self._folder / f"ckpt-{number}"

    def _seal_of(self, number):
        return self._folder / f"ckpt-{number}.sha256"

    def _numbers(self):
        """Of all states, newest first, complete or not: a lost index must not hide its state."""
        numbers = set()
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                stem = name.split(".")[0]
                if stem.startswith("ckpt-") and stem[5:].isdigit():
                    numbers.add(int(stem[5:]))
        return sorted(numbers, reverse=True)

    def _list_states(self):
        """Writes the manager's own list anew from the files: a damaged one would stop it, or hide states."""
        sealed = [number for number in reversed(self._numbers()) if self._seal_of(number).exists()]
        self._folder.mkdir(parents=True, exist_ok=True)
        if not sealed:
            (self._folder / "checkpoint").unlink(missing_ok=True)
            return
        lines = [f'model_checkpoint_path: "ckpt-{sealed[-1]}"']
        for time, number in enumerate(sealed, start=1):
            # Any times above 0: a state without one would be kept for ever.
            lines += [f'all_model_checkpoint_paths: "ckpt-{number}"', f"all_model_checkpoint_timestamps: {time}.0"]
        write_atomically(self._folder / "checkpoint", "\n".join([*lines, ""]).encode())

    def _remove_unfinished(self, numbers):
        for number in numbers:
            logging.warning("state %s was not saved to its end and is removed", self._prefix(number))
            for file in self._folder.glob(f"ckpt-{number}.*"):
                file.unlink()

    def _remove_lone_seals(self):
        """The manager removes the oldest state, but not the file that it does not know."""
        for number in self._numbers():
            if not Path(f"{self._prefix(number)}.index").exists():
                self._seal_of(number).unlink(missing_ok=True)


def _seal(prefix):
    """Makes a state's files durable and writes down what they are."""
    for file in _files(prefix):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    write_atomically(f"{prefix}.sha256", _digests(prefix))


def _digests(prefix):
    """As `sha256sum` prints them."""
    return b"".join(f"{_sha256(file)}  {file.name}\n".encode() for file in _files(prefix))


def _files(prefix):
    return sorted([*prefix.parent.glob(f"{prefix.name}.data-*"), prefix.with_name(f"{prefix.name}.index")])


def _sha256(file):
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
