"""The map between a diagonal Gaussian and the standard one; used by `Split` and by the top prior."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, as_pair, log_det_of_scale


class Gaussian(ImageBijector):
    """Maps a diagonal Gaussian to a standard one.

    inverse: z = (x - mean) * exp(-log_scale)
    log-det of inverse: -sum(log_scale), shape [...], nats

    So x ~ N(mean, exp(log_scale)^2) where z ~ N(0, 1), and a temperature that scales z leaves the mean unchanged.

    Args:
        mean_and_log_scale: () -> (mean, log_scale), called in every pass, so that it sees the current values of
            variables. Both broadcast to [H, W, C], or to [..., H, W, C] for one Gaussian per image (a class-conditional
            model). The bijector's own batch shape is [] all the same: the base of a distribution has that of the
            Gaussians.

    References: the learned top prior of OpenAI's code.

    >>> layer = Gaussian(lambda: (tf.ones([1, 1, 2]), tf.zeros([1, 1, 2])))
    >>> layer.inverse(tf.constant([[[1.0, 3.0]]])).numpy().tolist()
    [[[0.0, 2.0]]]
    """

    def __init__(
        self, mean_and_log_scale: Callable[[], tuple[Any, Any]], dtype: tf.DType = tf.float32, name: str = "gaussian"
    ) -> None:
        if not callable(mean_and_log_scale):
            raise ValueError("mean_and_log_scale must be a function () -> (mean, log_scale)")
        super().__init__(dtype=dtype, parameters=dict(locals()), is_constant_jacobian=True, name=name)
        self.mean_and_log_scale = mean_and_log_scale

    def _forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return unstandardize(z, *self._mean_and_log_scale())

    def _inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return standardize(x, *self._mean_and_log_scale())

    def _mean_and_log_scale(self) -> tuple[tf.Tensor, tf.Tensor]:
        return as_pair(self.mean_and_log_scale(), "mean_and_log_scale", "mean, log_scale", self.dtype)


def standardize(x: tf.Tensor, mean: tf.Tensor, log_scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(z, log-det [...]): z = (x - mean) * exp(-log_scale), for x [..., H, W, C]."""
    z = (x - mean) * tf.exp(-log_scale)
    return z, -log_det_of_scale(log_scale, x, z)


def unstandardize(z: tf.Tensor, mean: tf.Tensor, log_scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(x, log-det [...]): x = z * exp(log_scale) + mean, the inverse of `standardize`."""
    x = z * tf.exp(log_scale) + mean
    return x, log_det_of_scale(log_scale, z, x)
