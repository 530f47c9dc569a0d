"""Residuals of a step: the expensive intermediate results that its backward pass reuses instead of recomputing.

A step calls `checkpoint(residuals, forward, backward, *inputs)` in the place of `forward(*inputs)` for its most
expensive computation. In the forward pass `residuals` is a `SaveResiduals`, which saves the results. In the backward
pass the step runs a second time with a `UseResiduals`, which returns the saved results; only what is cheap is
recomputed. The idea is that of the policies of `jax.checkpoint`.

Plain autodiff of the loop over steps takes the same time but saves every intermediate result: 218 MB instead of 154 MB
for 16 images of 32x32x3, K=8, width 128, and a larger graph.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf


class SaveResiduals:
    """Computes, and saves what a `UseResiduals` needs.

    Attributes:
        saved: [[result, *residuals] of each call], in the order of the calls.
    """

    def __init__(self) -> None:
        self.saved: list[list[tf.Tensor]] = []

    def __call__(self, forward: Callable, backward: Callable, *inputs: tf.Tensor) -> tf.Tensor:
        """As `checkpoint`."""
        result, residuals = forward(*inputs)
        self.saved.append([result, *residuals])
        return result


class UseResiduals:
    """Returns what a `SaveResiduals` saved, for the same calls in the same order.

    Args:
        saved: the attribute of the SaveResiduals.
    """

    def __init__(self, saved: Sequence[Sequence[tf.Tensor]]) -> None:
        self._saved = iter(saved)

    def __call__(self, forward: Callable, backward: Callable, *inputs: tf.Tensor) -> tf.Tensor:
        """As `checkpoint`, but computes nothing: only the gradient needs more than the saved results."""
        result, *residuals = next(self._saved)

        @tf.custom_gradient
        def saved_result(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            return result, lambda dresult: backward(inputs, residuals, dresult)

        return saved_result(*inputs)


Residuals: TypeAlias = SaveResiduals | UseResiduals | None


def checkpoint(residuals: Residuals, forward: Callable, backward: Callable, *inputs: tf.Tensor) -> tf.Tensor:
    """The result of `forward`, saved or reused by `residuals` if there are any.

    Args:
        residuals: a SaveResiduals, a UseResiduals, or None.
        forward: inputs -> (result, [residuals]), tensors.
        backward: (inputs, residuals, the gradient with respect to the result) -> one gradient per input.
    """
    return forward(*inputs)[0] if residuals is None else residuals(forward, backward, *inputs)


def vjp(function: Callable[..., Any], inputs: Sequence[tf.Tensor], dresult: Any) -> list[tf.Tensor | None]:
    """The gradients with respect to `inputs`, from that with respect to `function(*inputs)`.

    In a graph the value of `function` is left out where its gradient does not need it.

    Args:
        function: its result depends on the first input.
        inputs: tensors, on which the result depends or of which `function` is a closure.
        dresult: as the result of `function`.

    Raises:
        NotImplementedError: in forward mode, where TensorFlow does not record the function.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        result = function(*inputs)
    gradients = tape.gradient(result, inputs, output_gradients=dresult)
    require_gradient(gradients[0])
    return gradients


def require_gradient(gradient: tf.Tensor | None) -> None:
    """NotImplementedError in forward mode, where a gradient that always exists was not recorded."""
    if gradient is None:
        raise NotImplementedError(
            "tf.autodiff.ForwardAccumulator cannot differentiate a loop over flow steps; use tf.GradientTape"
        )
