"""Pixels on the whole real line: the logit transform of RealNVP."""

import math

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, sum_except_batch

# Keeps black and white pixels away from infinity: RealNVP's value.
MARGIN = 0.05


class Logit(ImageBijector):
    """Takes pixels in [low, high) to their logits.

    inverse: u = (y - low) / (high - low);  x = logit(margin + (1 - 2 margin) u)
    log-det of inverse: the sum over the pixels of
        log(1 - 2 margin) - log(high - low) + softplus(x) + softplus(-x), shape [...], nats

    A value outside [low, high) by a `margin` of the range or more has no logit: the result is not finite.

    Args:
        low, high: the range of the pixels.
        margin: how far the images' range stays inside (0, 1).
    References: Dinh et al. 2017, section 4.1, and its code, which keeps the margin at both ends.

    >>> [round(value, 3) for value in Logit().inverse(tf.constant([[[-0.5, 0.0, 0.5]]])).numpy().ravel().tolist()]
    [-2.944, 0.0, 2.944]
    """

    def __init__(self, low=-0.5, high=0.5, margin=MARGIN, dtype=tf.float32, name="logit"):
        super().__init__(dtype=dtype, name=name)
        self.low = low
        self.high = high
        self.margin = margin

    def _forward_and_log_det(self, x):
        unit = (tf.sigmoid(x) - self.margin) / (1 - 2 * self.margin)
        return self.low + unit * (self.high - self.low), -self._log_det_of_inverse(x)

    def _inverse_and_log_det(self, y):
        inside = self.margin + (1 - 2 * self.margin) * (y - self.low) / (self.high - self.low)
        x = tf.math.log(inside) - tf.math.log1p(-inside)
        return x, self._log_det_of_inverse(x)

    def _log_det_of_inverse(self, x):
        slope = math.log((1 - 2 * self.margin) / (self.high - self.low))
        return sum_except_batch(slope + tf.math.softplus(x) + tf.math.softplus(-x))
