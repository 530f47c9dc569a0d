"""What a checkpoint holds: the state of the training and the record of the run.

The two differ when a run rolls back after steps without a finite gradient: `TrainState` returns to an earlier
value, `RunRecord` stays, because what a run has reached is never taken back.
"""

import math
from collections.abc import Mapping
from typing import Any, overload

import tensorflow as tf

from glow_tf.training.optimizer import Optimizer


class Counter:
    """An attribute that reads and is assigned like a Python value, and lives in a variable."""

    def __init__(self, initial: int | float | str) -> None:
        self.initial = initial

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> "Counter": ...

    @overload
    def __get__(self, instance: "_Counters", owner: type) -> Any: ...

    def __get__(self, instance: "_Counters | None", owner: type) -> Any:
        if instance is None:
            return self
        value = instance.counters[self._name].numpy()
        return value.decode() if isinstance(value, bytes) else value.item()

    def __set__(self, instance: "_Counters", value: Any) -> None:
        instance.counters[self._name].assign(value)


class _Counters:
    """Holds the variables of its class's `Counter`s, by name."""

    def __init__(self) -> None:
        dtypes = {bool: tf.bool, int: tf.int64, float: tf.float64, str: tf.string}
        self.counters = {
            name: tf.Variable(counter.initial, dtype=dtypes[type(counter.initial)], trainable=False, name=name)
            for name, counter in vars(type(self)).items()
            if isinstance(counter, Counter)
        }


class TrainState(_Counters):
    """What a step changes: weights, optimizer slots, moving averages, and the number of batches.

    Everything else that a step depends on follows from these: the order of the images from (seed, epoch), the
    dequantisation noise from (seed, step).

    Args:
        weights: the model's variables by name.
        optimizer: their Optimizer.

    Attributes:
        step_count: batches so far.
    """

    step_count = Counter(0)

    def __init__(self, weights: Mapping[str, tf.Variable], optimizer: Optimizer) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.optimizer = optimizer

    def items(self) -> dict[str, Any]:
        """Variables under the names that a checkpoint gives them."""
        optimizer = self.optimizer
        slots = {"_first": optimizer.first_moments, "_second": optimizer.second_moments, "averages": optimizer.ema}
        scalars = {"steps": optimizer.updates, "learning_rate": optimizer.learning_rate}
        if optimizer.usual_norm is not None:
            scalars["usual_norm"] = optimizer.usual_norm
        return {"variables": self.weights, "optimizer": scalars | slots, **self.counters}


class RunRecord(_Counters):
    """What a run has reached; a roll-back of the training leaves it unchanged.

    Attributes:
        run_id: identifier of the run.
        num_replicas: devices that shared a batch when the state was saved.
        reported_step: batches seen when the test images were last evaluated.
        best_bits_per_dim: the best test result so far.
        skipped: steps without a finite gradient, in total.
        skipped_in_a_row: those since the last finite one.
        rate_was_halved: whether the run has rolled back and halved its learning rate.
    """

    run_id = Counter("")
    num_replicas = Counter(0)
    reported_step = Counter(0)
    best_bits_per_dim = Counter(math.inf)
    skipped = Counter(0)
    skipped_in_a_row = Counter(0)
    rate_was_halved = Counter(False)

    def items(self) -> dict[str, Any]:
        """Variables under the names that a checkpoint gives them."""
        return dict(self.counters)
