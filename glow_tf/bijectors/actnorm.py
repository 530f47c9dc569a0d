"""Activation normalisation: one shift and one scale a channel."""

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, constant_log_det


class ActNorm(ImageBijector):
    """Shifts and scales each channel.

    inverse: x = (y + shift) * exp(log_scale)
    log-det of inverse: H * W * sum(log_scale), shape [...], nats

    Args:
        shift: [C].
        log_scale: [C].
    References: Kingma & Dhariwal 2018, section 3.1; (y + shift) * scale is the order of OpenAI's code.

    >>> layer = ActNorm(shift=tf.constant([1.0, 2.0]), log_scale=tf.constant([0.0, 0.5]))
    >>> x, log_det = layer.inverse_and_log_det(tf.zeros([3, 4, 4, 2]))
    >>> x.shape, log_det.numpy().tolist()
    (TensorShape([3, 4, 4, 2]), [8.0, 8.0, 8.0])
    """

    def __init__(self, shift, log_scale, name="actnorm"):
        super().__init__(dtype=log_scale.dtype, name=name)
        self.shift = shift
        self.log_scale = log_scale

    def _forward_and_log_det(self, x):
        y = x * tf.exp(-self.log_scale) - self.shift
        return y, constant_log_det(-tf.reduce_sum(self.log_scale), x)

    def _inverse_and_log_det(self, y):
        x = (y + self.shift) * tf.exp(self.log_scale)
        return x, constant_log_det(tf.reduce_sum(self.log_scale), y)
