"""The channel permutations that the 1x1 convolution replaced: reversal, and a fixed shuffle."""

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, constant_log_det


class ChannelPermutation(ImageBijector):
    """Reorders the channels.

    inverse: x[..., j] = y[..., indices[j]]
    log-det: 0

    Args:
        indices: [C] int32, a permutation of 0..C-1. Reversal (RealNVP's) is C-1..0, a shuffle any fixed order.
        dtype: of events.
    References: Kingma & Dhariwal 2018, section 3.2 and figure 3.

    >>> ChannelPermutation(tf.constant([2, 0, 1])).inverse(tf.constant([[[1.0, 2.0, 3.0]]])).numpy().tolist()
    [[[3.0, 1.0, 2.0]]]
    """

    def __init__(self, indices, dtype=tf.float32, name="permutation"):
        super().__init__(dtype=dtype, name=name)
        self.indices = indices

    def _forward_and_log_det(self, x):
        return tf.gather(x, tf.math.invert_permutation(self.indices), axis=-1), _no_change(x)

    def _inverse_and_log_det(self, y):
        return tf.gather(y, self.indices, axis=-1), _no_change(y)


def _no_change(values):
    return constant_log_det(tf.zeros([], values.dtype), values)
