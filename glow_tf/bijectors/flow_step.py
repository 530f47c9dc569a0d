"""One step of flow: actnorm, then the 1x1 convolution or another permutation, then the coupling."""

from collections.abc import Sequence

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector


class FlowStep(ImageBijector):
    """Chains the three layers of a step, in this order from image to latent.

    inverse: z = coupling(permutation(actnorm(x)))
    log-det of inverse: the sum of the three, shape [...], nats

    Args:
        actnorm, permutation, coupling: bijectors that preserve the shape [..., H, W, C]; `permutation` is an
            `InvertibleConv1x1` or a `ChannelPermutation`.

    References: Kingma & Dhariwal 2018, figure 2a.

    >>> from glow_tf.bijectors import ActNorm, AdditiveCoupling, ChannelPermutation
    >>> step = FlowStep(
    ...     ActNorm(tf.zeros([2]), tf.ones([2])),
    ...     ChannelPermutation([1, 0]),
    ...     AdditiveCoupling(lambda x1: 10 * x1),
    ... )
    >>> float(step.inverse_log_det_jacobian(tf.zeros([4, 4, 2]), event_ndims=3))
    32.0
    """

    def __init__(
        self, actnorm: ImageBijector, permutation: ImageBijector, coupling: ImageBijector, name: str = "flow_step"
    ) -> None:
        parameters = dict(locals())
        self.layers = [actnorm, permutation, coupling]
        for layer in self.layers:
            if not isinstance(layer, ImageBijector):
                raise ValueError(f"a layer is of type {type(layer).__name__}; it must be an ImageBijector")
        super().__init__(dtype=actnorm.dtype, parameters=parameters, name=name)

    def _forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        total = 0.0
        for layer in reversed(self.layers):
            z, log_det = layer.forward_and_log_det(z)
            total += log_det
        return z, total

    def _inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        total = 0.0
        for layer in self.layers:
            x, log_det = layer.inverse_and_log_det(x)
            total += log_det
        return x, total

    def inverse_vjp(
        self, z: tf.Tensor, dz: tf.Tensor, dlog_det: tf.Tensor, parameters: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor | None]]:
        """As in the base class, but layer by layer, so that the coupling's conditioner runs only once."""
        totals: list[tf.Tensor | None] = [None] * len(parameters)
        for layer in reversed(self.layers):
            z, dz, gradients = layer.inverse_vjp(z, dz, dlog_det, parameters)
            totals = [_add(total, gradient) for total, gradient in zip(totals, gradients, strict=True)]
        return z, dz, totals


def _add(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
