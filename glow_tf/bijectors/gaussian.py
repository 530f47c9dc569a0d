"""Standardises by a Gaussian: what remains of a latent once its mean and scale are known."""

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, sum_except_batch


class Gaussian(ImageBijector):
    """Maps a diagonal Gaussian to a standard one.

    inverse: x = (y - mean) * exp(-log_scale)
    log-det of inverse: -sum(log_scale), shape [...], nats

    So y ~ N(mean, exp(log_scale)^2) where x ~ N(0, 1), and scaling x by a temperature leaves the mean.

    Args:
        parameters: called at every sweep, so that variables are read anew: () -> (mean, log_scale), each
            [H, W, C], or [..., H, W, C] for one Gaussian an image (a class-conditional model).
    References: the learned top prior of OpenAI's code; Kingma & Dhariwal 2018, section 3.3.

    >>> layer = Gaussian(lambda: (tf.ones([1, 1, 2]), tf.zeros([1, 1, 2])))
    >>> layer.inverse(tf.constant([[[1.0, 3.0]]])).numpy().tolist()
    [[[0.0, 2.0]]]
    """

    def __init__(self, parameters, dtype=tf.float32, name="gaussian"):
        super().__init__(dtype=dtype, name=name)
        self.parameters_of_gaussian = parameters

    def _forward_and_log_det(self, x):
        return unstandardize(x, *self.parameters_of_gaussian())

    def _inverse_and_log_det(self, y):
        return standardize(y, *self.parameters_of_gaussian())


def standardize(y, mean, log_scale):
    """((y - mean) * exp(-log_scale), the log-det [...] of that), for y [..., H, W, C]."""
    x = (y - mean) * tf.exp(-log_scale)
    return x, -sum_except_batch(tf.broadcast_to(log_scale, tf.shape(x)))


def unstandardize(x, mean, log_scale):
    """(x * exp(log_scale) + mean, the log-det [...] of that): the inverse of `standardize`."""
    y = x * tf.exp(log_scale) + mean
    return y, sum_except_batch(tf.broadcast_to(log_scale, tf.shape(y)))
