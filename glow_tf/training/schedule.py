"""The learning rate schedule: a linear warm-up, a plateau, a linear cool-down."""

import dataclasses
from typing import Self

import tensorflow as tf

from glow_tf.config import TrainConfig
from glow_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The factor of the learning rate in each step.

    factor of update t = 1, 2, ...: min(1, t / warmup_steps, (total_steps - step) / cooldown_steps), where `step`
    counts the batches before it (t - 1, unless steps were skipped); from total_steps on it is 1 / cooldown_steps.

    Args:
        warmup_steps: length of the rise; 0 for none.
        cooldown_steps: length of the fall; 0 for none.
        total_steps: where the fall ends.

    Raises:
        InputError: for a length that is not an integer from 0 on, or a fall that is longer than the run.

    >>> float(Schedule(cooldown_steps=4, total_steps=8).factor(tf.constant(6), tf.constant(6)))
    0.5
    """

    warmup_steps: int = 0
    cooldown_steps: int = 0
    total_steps: int = 0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not hasattr(value, "__index__") or value < 0:
                raise InputError(f"{name} is {value!r}; it must be an integer, 0 or more")
        if self.cooldown_steps > self.total_steps:
            raise InputError(
                f"cooldown_steps is {self.cooldown_steps}; it must be from 0 to the total_steps, {self.total_steps}"
            )

    @classmethod
    def from_config(cls, config: TrainConfig, steps_per_epoch: int) -> Self:
        """The schedule of a run; the cool-down is at most half of the run.

        >>> config = TrainConfig(epochs=10, warmup_epochs=0.5, cooldown_epochs=3)
        >>> Schedule.from_config(config, steps_per_epoch=24)
        Schedule(warmup_steps=12, cooldown_steps=72, total_steps=240)
        """
        total = count_steps(config, steps_per_epoch)
        return cls(
            warmup_steps=round(config.warmup_epochs * steps_per_epoch),
            cooldown_steps=min(round(config.cooldown_epochs * steps_per_epoch), total // 2),
            total_steps=total,
        )

    def factor(self, updates: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """The factor of the next step, [] float32, from the numbers of updates and of batches so far, [] integers."""
        factor = tf.minimum(1.0, tf.cast(updates + 1, tf.float32) / max(1, self.warmup_steps))
        if self.cooldown_steps:
            left = tf.maximum(1.0, self.total_steps - tf.cast(step, tf.float32))
            factor = tf.minimum(factor, left / self.cooldown_steps)
        return factor


def count_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    """Number of steps of a run: those of its epochs, or `config.steps` if that is less."""
    total = config.epochs * steps_per_epoch
    return total if config.steps is None else min(total, config.steps)
