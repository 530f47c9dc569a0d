"""The state from which a run goes on after it was stopped, wherever that was."""

import contextlib
import os

import tensorflow as tf
from absl import logging

from glow_tf.errors import InputError

# Older states are kept to fall back on when the newest turns out to be damaged.
STATES_KEPT = 3


class ResumeState:
    """Weights, optimizer slots, moving averages and counters of a trainer, in a run directory.

    Everything else of a step follows from the counters: the order of the images from (seed, epoch), the noise
    from (seed, number of the batch).

    Args:
        trainer: a Trainer.
        folder: where the checkpoints lie.
    """

    def __init__(self, trainer, folder):
        self._trainer = trainer
        self._folder = str(folder)
        self._counters = {
            "batches_seen": tf.Variable(0, dtype=tf.int64, trainable=False),
            "epochs_reported": tf.Variable(0, dtype=tf.int64, trainable=False),
            "best_bits_per_dim": tf.Variable(float("inf"), dtype=tf.float64, trainable=False),
            "rate_was_halved": tf.Variable(False, trainable=False),
        }
        self._checkpoint = tf.train.Checkpoint(
            variables=trainer.glow.named_variables(), optimizer=trainer.optimizer, **self._counters
        )
        self._manager = tf.train.CheckpointManager(self._checkpoint, self._folder, max_to_keep=STATES_KEPT)
        self.epochs_reported = 0
        self.best_bits_per_dim = float("inf")
        self.rate_was_halved = False

    def save(self):
        """Writes the state after the trainer's last batch.

        Raises:
            OSError: if it cannot be written; the older states stay.
        """
        for name, variable in self._counters.items():
            variable.assign(getattr(self._trainer if name == "batches_seen" else self, name))
        try:
            self._manager.save(checkpoint_number=self._trainer.batches_seen)
        except tf.errors.OpError as error:
            raise OSError(f"the state could not be written to {self._folder}: {error.message.splitlines()[0]}") from None

    def restore(self):
        """Takes the newest state that can be read.

        Returns:
            the path of what was restored, or None where there is no state.
        Raises:
            InputError: if there are states and none can be read; starting anew over them would lose the run.
        """
        prefixes = self._found()
        for prefix in prefixes:
            try:
                self._checkpoint.restore(prefix).assert_consumed()
            except (tf.errors.OpError, AssertionError, ValueError, OSError) as error:
                logging.warning("state %s was skipped: %s", prefix, str(error).splitlines()[0][:200])
                continue
            for name, variable in self._counters.items():
                setattr(self._trainer if name == "batches_seen" else self, name, variable.numpy().item())
            return prefix
        if prefixes:
            raise InputError(
                f"none of the {len(prefixes)} states in {self._folder} can be read; move the run directory away "
                f"or give --fresh to start anew"
            )
        return None

    def _found(self):
        """Prefixes of all states, newest first, complete or not: a lost index must not hide its state."""
        numbers = set()
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                stem = name.split(".")[0]
                if stem.startswith("ckpt-") and stem[5:].isdigit():
                    numbers.add(int(stem[5:]))
        return [os.path.join(self._folder, f"ckpt-{number}") for number in sorted(numbers, reverse=True)]
