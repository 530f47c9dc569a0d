"""What a checkpoint holds: the state of the training and the record of the run.

The two differ when a run rolls back after steps without a finite gradient: `TrainState` returns to an earlier
value, `RunRecord` stays, because what a run has reached is never taken back.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from glow_tf.training.optimizer import Optimizer


@dataclasses.dataclass(eq=False)
class TrainState:
    """What a step changes: weights, optimizer slots, moving averages, and the number of batches.

    Everything else that a step depends on follows from these: the order of the images from (seed, epoch), the
    dequantisation noise from (seed, step).

    Attributes:
        weights: the model's variables by name.
        optimizer: their Optimizer.
        step_count: batches so far.
    """

    weights: Mapping[str, tf.Variable]
    optimizer: Optimizer
    step_count: int = 0

    def variables(self) -> dict[str, Any]:
        """The variables under the names that a checkpoint gives them."""
        optimizer = self.optimizer
        slots = {"_first": optimizer.first_moments, "_second": optimizer.second_moments, "averages": optimizer.ema}
        scalars = {"steps": optimizer.updates, "learning_rate": optimizer.learning_rate}
        if optimizer.usual_norm is not None:
            scalars["usual_norm"] = optimizer.usual_norm
        return {"variables": dict(self.weights), "optimizer": scalars | slots}


@dataclasses.dataclass
class RunRecord:
    """What a run has reached; a roll-back of the training leaves it unchanged.

    Attributes:
        run_id: identifier of the run.
        num_replicas: devices that shared a batch when the state was saved.
        reported_step: batches seen when the test images were last evaluated.
        best_bits_per_dim: the best test result so far.
        skipped: steps without a finite gradient, in total.
        skipped_in_a_row: those since the last finite one.
        rate_was_halved: whether the run has rolled back and halved its learning rate.
        seconds: time by the clock that the run took, evaluations and earlier sessions included.
        cpu_seconds: time of all CPU cores that it took; with several workers, the chief's.
    """

    run_id: str = ""
    num_replicas: int = 0
    reported_step: int = 0
    best_bits_per_dim: float = math.inf
    skipped: int = 0
    skipped_in_a_row: int = 0
    rate_was_halved: bool = False
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._counted = time.monotonic(), time.process_time()

    def count_time(self) -> None:
        """Adds the time since the last call, or since this object was made, to `seconds` and `cpu_seconds`."""
        now = time.monotonic(), time.process_time()
        self.seconds += now[0] - self._counted[0]
        self.cpu_seconds += now[1] - self._counted[1]
        self._counted = now
