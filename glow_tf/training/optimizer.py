"""Adamax, Adam and Muon with a moving average of the weights, which skip non-finite gradients.

TensorFlow's fused kernels update a variable and its slots in one pass over the memory. A step whose gradient is not
finite changes nothing: one NaN would stay in the slots forever.

References: Kingma & Ba 2015 (sections 2 and 7.1); `optim.py` of https://github.com/openai/glow.
"""

from collections.abc import Sequence

import tensorflow as tf

from glow_tf.config import TrainConfig
from glow_tf.training import muon
from glow_tf.training.schedule import Schedule

BETA_1 = 0.9
EPSILON = 1e-8  # OpenAI's


class Optimizer(tf.Module):
    """Updates variables and their exponential moving averages (EMA).

    learning rate: `learning_rate` times the schedule's factor
    ema: ema += (1 - decay_t) * (variable - ema), decay_t = min(ema_decay, (1 + t) / (10 + t)) in update t,
    so that the first steps do not average over the initial values; ema_decay 0 makes it equal to the variable
    With "muon", the kernels of the coupling networks use Muon, all other variables use Adam, and the global gradient
    norm is clipped (see `muon.CLIP`).

    It reads the options optimizer, learning_rate, beta_2 and ema_decay.

    Attributes:
        updates: [] int64 variable, number of updates so far, without skipped steps.
        learning_rate: [] float32 variable, to be multiplied by the schedule's factor.
        ema: one moving average per variable.
    """

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        config: TrainConfig = TrainConfig(),  # noqa: B008  (immutable)
        schedule: Schedule = Schedule(),  # noqa: B008
    ) -> None:
        super().__init__(name="optimizer")
        self._variables = list(variables)
        self._config, self._schedule = config, schedule
        self.updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="steps")
        self.learning_rate = tf.Variable(config.learning_rate, dtype=tf.float32, trainable=False, name="learning_rate")
        # Moving average of the gradient norm, 0 before the first update; only Muon clips.
        is_muon = config.optimizer == "muon"
        self.usual_norm = tf.Variable(0.0, trainable=False, name="usual_norm") if is_muon else None
        self.first_moments = [_slot(v, tf.zeros_like(v), "first_moment") for v in self._variables]
        self.second_moments = [_slot(v, tf.zeros_like(v), "second_moment") for v in self._variables]
        self.ema = [_slot(v, tf.convert_to_tensor(v), "average") for v in self._variables]

    def reset_ema(self) -> None:
        """Sets the averages to the variables, after the latter were initialised from data or loaded."""
        for average, variable in zip(self.ema, self._variables, strict=True):
            average.assign(variable)

    def next_learning_rate(self, step: tf.Tensor) -> tf.Tensor:
        """[] float32, the learning rate of the next step, after `step` batches, [] integer."""
        return self.learning_rate * self._schedule.factor(self.updates, step)

    def apply(self, gradients: Sequence[tf.Tensor], is_finite: tf.Tensor, step: tf.Tensor) -> None:
        """One update, in replica context, by gradients summed over the replicas; none if they are not finite."""
        rate = self.next_learning_rate(step)
        tf.cond(is_finite, lambda: self._update(gradients, rate), lambda: None)

    def _update(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor) -> None:
        hyperparameters = {dtype: self._hyperparameters(dtype, rate) for dtype in {v.dtype for v in self._variables}}
        is_adamax = self._config.optimizer == "adamax"
        kernel = tf.raw_ops.ResourceApplyAdaMax if is_adamax else tf.raw_ops.ResourceApplyAdam
        if self.usual_norm is not None:
            gradients = self._clipped(gradients)
        slots = zip(self._variables, self.first_moments, self.second_moments, self.ema, gradients, strict=True)
        for variable, first, second, average, gradient in slots:
            kernel_arguments, one_minus_decay = hyperparameters[variable.dtype]
            if self.usual_norm is not None and muon.is_for(variable):
                _descend(first, 1 - muon.MOMENTUM, first - gradient)
                ahead = muon.MOMENTUM * first + (1 - muon.MOMENTUM) * gradient  # Nesterov's momentum
                _descend(variable, kernel_arguments["lr"], muon.orthogonalized(ahead))
            else:
                kernel(var=variable.handle, m=first.handle, v=second.handle, grad=gradient, **kernel_arguments)
            _descend(average, one_minus_decay, average - variable)
        # `handle` is this replica's copy; all replicas add the same number.
        tf.raw_ops.AssignAddVariableOp(resource=self.updates.handle, value=tf.constant(1, tf.int64))

    def _clipped(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The gradients, scaled down together if their norm is more than CLIP times its moving average.

        In this norm the gradients of the class parameters count image by image: they are IndexedSlices.
        """
        norm = tf.cast(tf.linalg.global_norm(gradients), tf.float32)
        usual = tf.convert_to_tensor(self.usual_norm)
        is_first = tf.equal(usual, 0.0)
        clipped = tf.where(is_first, norm, tf.minimum(norm, muon.CLIP * usual))
        _descend(self.usual_norm, tf.where(is_first, 1.0, muon.CLIP_RATE), usual - clipped)
        factor = tf.math.divide_no_nan(clipped, norm)
        return [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]

    def _hyperparameters(self, dtype: tf.DType, rate: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """(the kernel's arguments in this step, 1 - decay of the moving average), [] of `dtype`."""
        update = tf.cast(self.updates + 1, tf.float32)
        decay = tf.cast(tf.minimum(self._config.ema_decay, (1.0 + update) / (10.0 + update)), dtype)
        update = tf.cast(update, dtype)
        beta_1, beta_2 = tf.constant(BETA_1, dtype), tf.constant(self._config.beta_2, dtype)
        kernel_arguments = {
            "beta1_power": beta_1**update,
            "lr": tf.cast(rate, dtype),
            "beta1": beta_1,
            "beta2": beta_2,
            "epsilon": tf.constant(EPSILON, dtype),
        }
        if self._config.optimizer != "adamax":
            kernel_arguments["beta2_power"] = beta_2**update
        return kernel_arguments, 1 - decay


def _descend(variable: tf.Variable, rate: float | tf.Tensor, direction: tf.Tensor) -> None:
    """variable -= rate * direction, of this replica's copy, in one pass."""
    tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=tf.cast(rate, direction.dtype), delta=direction)


def _slot(variable: tf.Variable, value: tf.Tensor, role: str) -> tf.Variable:
    return tf.Variable(value, trainable=False, name=f"{role}/{variable.name.split(':')[0]}")
