"""Adamax and Adam with a moving average of the weights, in one pass, and all or nothing.

TensorFlow's fused kernels update a variable and its slots in one pass over the memory; a Keras optimizer
makes a pass an operation. A step whose gradient is not finite changes nothing: one NaN would stay in the
slots for ever.

References: Kingma & Ba 2015 (sections 2 and 7.1); `optim.py` of https://github.com/openai/glow.
"""

import tensorflow as tf

from glow_tf.errors import InputError

KINDS = ("adamax", "adam")


class Optimizer(tf.Module):
    """Updates variables and their moving averages.

    learning rate of step t = 1, 2, ...:
    learning_rate * min(1, t / warmup_steps, (total_steps - batches) / cooldown_steps), where `batches` were seen before
    (t - 1 of them, unless steps were left out or made again); from total_steps on learning_rate / cooldown_steps
    average: average += (1 - decay_t) * (variable - average), decay_t = min(ema_decay, (1 + t) / (10 + t)),
    so that the first steps do not average over the initial values.

    Args:
        variables: what is trained.
        kind: "adamax" or "adam".
        learning_rate: between warm-up and cool-down.
        warmup_steps: of the linear warm-up; 0 for none.
        cooldown_steps: of the linear fall to almost nothing, the last of `total_steps`; 0 for none.
        total_steps: where the fall ends; needed for it alone.
        beta_1, beta_2, epsilon: of the method; 1e-8 is OpenAI's epsilon.
        ema_decay: of the average; 0 keeps the average equal to the variable.
    """

    def __init__(
        self,
        variables,
        kind="adamax",
        learning_rate=1e-3,
        warmup_steps=0,
        cooldown_steps=0,
        total_steps=0,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        ema_decay=0.999,
    ):
        super().__init__(name="optimizer")
        if kind not in KINDS:
            raise InputError(f"optimizer is {kind!r}; it can be {', '.join(KINDS)}")
        if not 0 < learning_rate < float("inf"):
            raise InputError(f"learning_rate is {learning_rate}; it must be a number above 0, 0.001 is usual")
        if not 0 <= beta_2 < 1:
            raise InputError(f"beta_2 is {beta_2}; it must be from 0 to below 1, 0.999 is usual, 0.99 for short runs")
        if not 0 <= cooldown_steps <= total_steps:
            raise InputError(f"cooldown_steps is {cooldown_steps}; it must be from 0 to the total_steps, {total_steps}")
        if not 0 <= ema_decay < 1:
            raise InputError(f"ema_decay is {ema_decay}; it must be from 0 (no average) to below 1")
        self._variables = list(variables)
        self._kind = kind
        self._warmup_steps, self._cooldown_steps, self._total_steps = warmup_steps, cooldown_steps, total_steps
        self._beta_1, self._beta_2, self._epsilon, self._ema_decay = beta_1, beta_2, epsilon, ema_decay
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="steps")
        self.learning_rate = tf.Variable(learning_rate, dtype=tf.float32, trainable=False, name="learning_rate")
        self._first = [_slot(v, tf.zeros_like(v), "first_moment") for v in self._variables]
        self._second = [_slot(v, tf.zeros_like(v), "second_moment") for v in self._variables]
        self.ema = [_slot(v, tf.convert_to_tensor(v), "average") for v in self._variables]

    def reset_ema(self):
        """Sets the averages to the variables: after these were initialised from data or loaded."""
        for average, variable in zip(self.ema, self._variables, strict=True):
            average.assign(variable)

    def learning_rate_of_next_step(self, batches=None):
        """[] float32: with the warm-up and the cool-down.

        Args:
            batches: [] integer, seen before this step, by which the cool-down counts: a run ends after so many, also
                where steps were left out. None: as many as steps.
        """
        factor = tf.minimum(1.0, tf.cast(self.steps + 1, tf.float32) / max(1, self._warmup_steps))
        if self._cooldown_steps:
            seen = tf.cast(self.steps if batches is None else batches, tf.float32)
            factor = tf.minimum(factor, tf.maximum(1.0, self._total_steps - seen) / self._cooldown_steps)
        return self.learning_rate * factor

    def apply(self, gradients, is_finite, batches=None):
        """One step, in replica context; gradients are already summed over the replicas.

        Args:
            gradients: as the variables; None leaves a variable as it is.
            is_finite: [] bool; where false nothing changes.
            batches: see `learning_rate_of_next_step`.
        """
        rate = self.learning_rate_of_next_step(batches)
        tf.cond(is_finite, lambda: self._update(gradients, rate), lambda: None)

    def _update(self, gradients, rate):
        settings = {dtype: self._settings(dtype, rate) for dtype in {v.dtype for v in self._variables}}
        for slots in zip(self._variables, self._first, self._second, self.ema, gradients, strict=True):
            if slots[-1] is not None:
                self._update_one(*slots, *settings[slots[0].dtype])
        # The handle is this replica's copy; every replica adds the same.
        tf.raw_ops.AssignAddVariableOp(resource=self.steps.handle, value=tf.constant(1, tf.int64))

    def _settings(self, dtype, rate):
        """(the kernel's numbers of this step by name, 1 - decay of the moving average), [] of `dtype`."""
        step = tf.cast(self.steps + 1, tf.float32)
        decay = tf.cast(tf.minimum(self._ema_decay, (1.0 + step) / (10.0 + step)), dtype)
        step = tf.cast(step, dtype)
        beta_1, beta_2 = (tf.constant(value, dtype) for value in (self._beta_1, self._beta_2))
        numbers = {
            "beta1_power": beta_1**step,
            "lr": tf.cast(rate, dtype),
            "beta1": beta_1,
            "beta2": beta_2,
            "epsilon": tf.constant(self._epsilon, dtype),
        }
        if self._kind == "adam":
            numbers["beta2_power"] = beta_2**step
        return numbers, 1 - decay

    def _update_one(self, variable, first, second, average, gradient, numbers, rest):
        kernel = tf.raw_ops.ResourceApplyAdam if self._kind == "adam" else tf.raw_ops.ResourceApplyAdaMax
        kernel(var=variable.handle, m=first.handle, v=second.handle, grad=gradient, **numbers)
        # average -= (1 - decay) * (average - variable), fused as a step of gradient descent.
        tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=rest, delta=average - variable)


def _slot(variable, value, kind):
    return tf.Variable(value, trainable=False, name=f"{kind}/{variable.name.split(':')[0]}")
