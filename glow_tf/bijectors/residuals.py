"""Remembers what a step's backward pass needs, so that only the dear part of a step is kept and not computed again.

A step that is handed a memory calls `memory(forward, backward, *inputs)` where it would call `forward(*inputs)`
for its most expensive computation. On the way there a `SaveResiduals` notes the results; on the way back the step is
run again and a `UseResiduals` gives them back without computing them. What is cheap is not kept: it is computed twice.

The idea is that of the policies of `jax.checkpoint`.
"""

import tensorflow as tf


class SaveResiduals:
    """Computes, and keeps what a `UseResiduals` will need.

    Attributes:
        kept: [[result, *residuals] of each call], in their order.
    """

    def __init__(self):
        self.kept = []

    def __call__(self, forward, backward, *inputs):
        """As `through`."""
        result, residuals = forward(*inputs)
        self.kept.append([result, *residuals])
        return result


class UseResiduals:
    """Gives back what a `SaveResiduals` kept of the same calls, made again in the same order.

    Args:
        kept: the SaveResiduals's.
    """

    def __init__(self, kept):
        self._kept = iter(kept)

    def __call__(self, forward, backward, *inputs):
        """As `through`, but computes nothing: only the gradient asks for more than what was kept."""
        result, *residuals = next(self._kept)

        @tf.custom_gradient
        def again(*inputs):
            return result, lambda dresult: backward(inputs, residuals, dresult)

        return again(*inputs)


def through(memory, forward, backward, *inputs):
    """`forward`'s result, kept or given back by `memory` where there is one.

    Args:
        memory: a SaveResiduals, a UseResiduals, or None.
        forward: inputs -> (result, [residuals]), tensors.
        backward: (inputs, residuals, the loss's gradient with respect to the result) -> those with respect to the
            inputs, one each.
    """
    return forward(*inputs)[0] if memory is None else memory(forward, backward, *inputs)


def vjp(function, inputs, dresult):
    """The gradients with respect to `inputs` of a loss whose gradient with respect to `function(*inputs)` is known.

    In a graph the value of `function` is left out where its gradient does not need it.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        result = function(*inputs)
    return tape.gradient(result, inputs, output_gradients=dresult)
