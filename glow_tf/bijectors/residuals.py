"""Residuals of a step: the expensive intermediate results that its backward pass reuses instead of recomputing.

A step calls `checkpoint(residuals, forward, backward, *inputs)` instead of `forward(*inputs)` for its most expensive
computation. The argument `residuals` says how: in the forward pass it is a `SaveResiduals`, which saves the results; in
the backward pass the step runs a second time, with a `UseResiduals`, which returns the saved results, so that only the
cheap rest of the step is recomputed. The idea is that of the policies of `jax.checkpoint`.

Plain autodiff of the loop over steps takes the same time, but saves every intermediate result and has a larger graph.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf


class SaveResiduals:
    """Computes, and saves the tensors that a `UseResiduals` needs.

    Attributes:
        saved: one list per call, [result, *intermediates], in the order of the calls.
    """

    def __init__(self) -> None:
        self.saved: list[list[tf.Tensor]] = []

    def __call__(self, forward: Callable, backward: Callable, *inputs: tf.Tensor) -> tf.Tensor:
        """As `checkpoint`."""
        result, intermediates = forward(*inputs)
        self.saved.append([result, *intermediates])
        return result


class UseResiduals:
    """Returns the results that a `SaveResiduals` saved, for the same calls in the same order.

    Args:
        saved: the attribute `saved` of the SaveResiduals.
    """

    def __init__(self, saved: Sequence[Sequence[tf.Tensor]]) -> None:
        self._saved = iter(saved)

    def __call__(self, forward: Callable, backward: Callable, *inputs: tf.Tensor) -> tf.Tensor:
        """As `checkpoint`, but without calling `forward`; a gradient calls `backward`."""
        result, *intermediates = next(self._saved)

        @tf.custom_gradient
        def saved_result(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            return result, lambda dresult: backward(inputs, intermediates, dresult)

        return saved_result(*inputs)


# The type of arguments called `residuals`; None: nothing is saved or reused.
Residuals: TypeAlias = SaveResiduals | UseResiduals | None


def checkpoint(residuals: Residuals, forward: Callable, backward: Callable, *inputs: tf.Tensor) -> tf.Tensor:
    """The result of `forward(*inputs)`, saved by a SaveResiduals or taken from a UseResiduals.

    Args:
        residuals: a SaveResiduals, a UseResiduals, or None, which only computes.
        forward: inputs -> (result, [intermediate tensors that `backward` needs]).
        backward: (inputs, intermediates, the gradient with respect to the result) -> one gradient per input.
    """
    return forward(*inputs)[0] if residuals is None else residuals(forward, backward, *inputs)


def vjp(function: Callable[..., Any], inputs: Sequence[tf.Tensor], dresult: Any) -> list[tf.Tensor | None]:
    """The vector-Jacobian product: gradients with respect to `inputs`, from that with respect to `function(*inputs)`.

    In a graph, TensorFlow prunes the parts of `function` that the gradients do not need.

    Args:
        function: a function whose result depends at least on the first input.
        inputs: tensors that `function` takes as arguments or captures.
        dresult: the gradient with respect to the result, with the result's structure.

    Raises:
        NotImplementedError: inside a `tf.autodiff.ForwardAccumulator`, where the tape does not record the function.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        result = function(*inputs)
    gradients = tape.gradient(result, inputs, output_gradients=dresult)
    require_gradient(gradients[0])
    return gradients


def require_gradient(gradient: tf.Tensor | None) -> None:
    """Raises NotImplementedError if a gradient is missing that only a ForwardAccumulator can leave out."""
    if gradient is None:
        raise NotImplementedError(
            "tf.autodiff.ForwardAccumulator cannot differentiate a loop over flow steps; use tf.GradientTape"
        )
