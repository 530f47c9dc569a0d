"""Errors in place of gradients that a `Scan` would miss, because its argument `step` uses a tensor in a wrong way."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import tensorflow as tf


def captured_floats(result: tf.Tensor, known: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The floating-point tensors, other than constants and the known ones, that a loop in a graph reads.

    Args:
        result: a result of `tf.while_loop`. In eager code, where nothing shows what a loop has read, there are none.
        known: the initial values of the loop, and the tensors that it reads on purpose.
    """
    if tf.executing_eagerly() or "While" not in result.op.type:
        return []
    references = {tensor.ref() for tensor in known}
    unknown = [t for t in result.op.inputs if t.dtype.is_floating and t.ref() not in references]
    return [t for t in unknown if t.op.type not in ("Const", "StopGradient")]


def refusing_gradients_of(captured: Sequence[tf.Tensor], results: Sequence[tf.Tensor]) -> Any:
    """The results, with a gradient that raises an error if it needs that of a captured tensor."""
    if not captured:
        return results

    @tf.custom_gradient
    def refused(tensor: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        return tf.identity(tensor), lambda _: refuse_captured(f"a tensor of shape {tuple(tensor.shape)}")

    @tf.custom_gradient
    def depending(*tensors: tf.Tensor) -> tuple[Any, Callable]:
        return tensors[: len(results)], lambda *dresults: (*dresults, *map(tf.zeros_like, captured))

    return depending(*results, *map(refused, captured))


def refuse_captured(what: str) -> NoReturn:
    """Raises ValueError, which names the alternatives to capturing."""
    raise ValueError(
        f"`step` captures {what}, for which Scan has no gradient; hand it over by Scan's argument `shared`, "
        "or through tf.stop_gradient if it is constant"
    )


def refuse_consumers(tensors: Sequence[tf.Tensor]) -> None:
    """Raises ValueError if something was computed from one of the tensors; eager tensors do not know."""
    if not tf.executing_eagerly() and any(tensor.consumers() for tensor in tensors):
        raise ValueError(
            'with backprop="reversible", `step` must hand its tensors to the bijector unchanged; compute in the '
            "bijector's methods, or in `prepare`"
        )
