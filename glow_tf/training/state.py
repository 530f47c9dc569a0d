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

    Attributes:
        weights: the model's variables by name.
        optimizer: the Optimizer, with its slots and moving averages.
        step_count: batches so far.
    """

    weights: Mapping[str, tf.Variable]
    optimizer: Optimizer
    step_count: int = 0

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
    """The progress of a run; a roll-back leaves it unchanged.

    Attributes:
        run_id: identifier of the run.
        num_replicas: number of devices that shared a batch when the state was saved.
        reported_step: number of batches at the last evaluation.
        best_bits_per_dim: the best test result so far.
        skipped: number of steps that were skipped because of a non-finite gradient.
        skipped_in_a_row: the skipped steps since the last finite one.
        rate_was_halved: whether the run has rolled back and halved its learning rate.
        seconds: wall-clock time of the run, including evaluations and earlier sessions.
        cpu_seconds: CPU time of the run over all cores; with several workers, the chief's.
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
        """Adds the time since the last call, or since this object was created, to `seconds` and `cpu_seconds`."""
        now = time.monotonic(), time.process_time()
        self.seconds += now[0] - self._counted[0]
        self.cpu_seconds += now[1] - self._counted[1]
        self._counted = now
