"""One step of flow: actnorm, permutation, coupling."""

from glow_tf.bijectors.base import ImageBijector


class FlowStep(ImageBijector):
    """Chains the three layers of a step, in this order from image to latent.

    inverse: x = coupling(permutation(actnorm(y)))
    log-det of inverse: the sum of the three, shape [...], nats

    Args:
        actnorm, permutation, coupling: bijectors that keep the shape [..., H, W, C].
    References: Kingma & Dhariwal 2018, figure 2a.

    >>> from glow_tf.bijectors import actnorm, coupling, permutation
    >>> step = FlowStep(
    ...     actnorm.ActNorm(tf.zeros([2]), tf.ones([2])),
    ...     permutation.ChannelPermutation(tf.constant([1, 0])),
    ...     coupling.AdditiveCoupling(lambda kept: 10 * kept),
    ... )
    >>> float(step.inverse_log_det_jacobian(tf.zeros([4, 4, 2]), event_ndims=3))
    32.0
    """

    def __init__(self, actnorm, permutation, coupling, name="flow_step"):
        super().__init__(dtype=actnorm.dtype, name=name)
        self.layers = [actnorm, permutation, coupling]

    def _forward_and_log_det(self, x):
        total = 0.0
        for layer in reversed(self.layers):
            x, log_det = layer.forward_and_log_det(x)
            total += log_det
        return x, total

    def _inverse_and_log_det(self, y):
        total = 0.0
        for layer in self.layers:
            y, log_det = layer.inverse_and_log_det(y)
            total += log_det
        return y, total

    def inverse_vjp(self, x, dx, dlog_det, parameters):
        """Layer by layer, so that the coupling's network runs once."""
        totals = [None] * len(parameters)
        for layer in reversed(self.layers):
            x, dx, gradients = layer.inverse_vjp(x, dx, dlog_det, parameters)
            totals = [_add(total, gradient) for total, gradient in zip(totals, gradients, strict=True)]
        return x, dx, totals


def _add(a, b):
    if a is None or b is None:
        return b if a is None else a
    return a + b
