"""The contents of a checkpoint: the training state and the record of the run.

When a run rolls back after non-finite gradients, `TrainState` returns to an earlier value, while `RunRecord`, which
describes the whole run, does not.
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
    """Everything that a step changes: weights, optimizer slots, moving averages, and the number of batches.

    The order of the images is a function of (seed, epoch) and the dequantisation noise one of (seed, step), so
    resuming needs nothing else.
    """

    weights: Mapping[str, tf.Variable]  # the model's variables by name
    optimizer: Optimizer
    step_count: int = 0  # batches so far

    def variables(self) -> dict[str, Any]:
        """The variables by their names in a checkpoint."""
        optimizer = self.optimizer
        slots = {"_first": optimizer.first_moments, "_second": optimizer.second_moments, "averages": optimizer.ema}
        scalars = {"steps": optimizer.updates, "learning_rate": optimizer.learning_rate}
        if optimizer.usual_norm is not None:
            scalars["usual_norm"] = optimizer.usual_norm
        return {"variables": dict(self.weights), "optimizer": scalars | slots}


@dataclasses.dataclass
class RunRecord:
    """The progress of a run; a roll-back leaves it unchanged."""

    run_id: str = ""
    num_replicas: int = 0  # devices that shared a batch when the state was saved
    reported_step: int = 0  # batches at the last evaluation
    best_bits_per_dim: float = math.inf  # lowest mean over the test images
    skipped: int = 0  # steps whose gradient was not finite
    skipped_in_a_row: int = 0  # since the last finite one
    rate_was_halved: bool = False  # by a roll-back
    seconds: float = 0.0  # by the clock, evaluations and earlier sessions included
    cpu_seconds: float = 0.0  # over all cores; with several workers, the chief's

    def __post_init__(self) -> None:
        self._counted = time.monotonic(), time.process_time()

    def count_time(self) -> None:
        """Adds the time since the last call, or since this object was created, to `seconds` and `cpu_seconds`."""
        now = time.monotonic(), time.process_time()
        self.seconds += now[0] - self._counted[0]
        self.cpu_seconds += now[1] - self._counted[1]
        self._counted = now
