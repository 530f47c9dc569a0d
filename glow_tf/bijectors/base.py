"""What every bijector of this package is: one sweep that returns the value and its log-determinant.

Direction is TFP's: `forward` makes images (x, the latent side, to y, the image side), `inverse` scores
them (y to x). The paper's "forward" is our `inverse`.
"""

import abc

import tensorflow as tf
import tensorflow_probability as tfp

# TFP's own one-sweep bijector, tfb.FFJORD, shares its second result in this way. The module is internal:
# the test that counts network evaluations tells when a new TFP changes it.
from tensorflow_probability.python.internal import cache_util

tfb = tfp.bijectors

# An image event: height, width, channels.
EVENT_NDIMS = 3
EVENT_AXES = [-3, -2, -1]


class ImageBijector(tfb.Bijector, metaclass=abc.ABCMeta):
    """A bijector of images whose subclasses write one method a direction.

    A subclass defines `_forward_and_log_det` and `_inverse_and_log_det`. TFP asks for a value and for its
    log-det one after the other; the second answer waits in TFP's cache beside the first, so that a network
    inside runs once. Without the cache the answers are the same and the work is done again.

    Args:
        dtype: of events, float32 or float64.
        name: of the bijector and of its operations.
    """

    _cache = cache_util.BijectorCacheWithGreedyAttrs(
        forward_name="_augmented_forward", inverse_name="_augmented_inverse"
    )

    def __init__(self, *, dtype=tf.float32, name=None):
        # `parameters` stays None: with a dictionary, two instances with equal entries would share cached
        # results, and variables that are assigned to do not change the dictionary.
        super().__init__(forward_min_event_ndims=EVENT_NDIMS, dtype=dtype, parameters=None, name=name)

    @abc.abstractmethod
    def _forward_and_log_det(self, x):
        """x [..., H, W, C] -> (y [..., H', W', C'], log|det dy/dx| [...] in nats)."""

    @abc.abstractmethod
    def _inverse_and_log_det(self, y):
        """y [..., H', W', C'] -> (x [..., H, W, C], log|det dx/dy| [...] in nats)."""

    def forward_and_log_det(self, x):
        """The image side and log|det dy/dx|, in one sweep that neither reads nor writes TFP's cache."""
        return self._forward_and_log_det(x)

    def inverse_and_log_det(self, y):
        """The latent side and log|det dx/dy|, in one sweep that neither reads nor writes TFP's cache."""
        return self._inverse_and_log_det(y)

    def inverse_vjp(self, x, dx, dlog_det, parameters):
        """Goes back through `inverse` knowing its result only.

        This default computes y again and then `inverse` under a tape; a subclass that can do with less
        work overrides it.

        Args:
            x: [..., H, W, C], what `inverse` gave.
            dx: the loss's gradient with respect to x.
            dlog_det: [...], the loss's gradient with respect to log|det dx/dy|.
            parameters: the tensors to differentiate with respect to; this bijector was made from them.
        Returns:
            (y, dy, dparameters): the input, its gradient, and a list of gradients as `parameters`, None
            where the result does not depend on one.
        """
        y, _ = self._forward_and_log_det(x)
        y = tf.stop_gradient(y)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([y, *parameters])
            x_again, log_det = self._inverse_and_log_det(y)
        dy, *dparameters = tape.gradient(
            [x_again, log_det],
            [y, *parameters],
            output_gradients=[dx, dlog_det],
        )
        return y, dy, dparameters

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        # None that TFP should broadcast: the parameters of all subclasses belong to the event.
        return {}

    def _augmented_forward(self, x):
        y, log_det = self._forward_and_log_det(x)
        return y, {"ildj": -log_det}

    def _augmented_inverse(self, y):
        x, log_det = self._inverse_and_log_det(y)
        return x, {"ildj": log_det}

    # TFP's cache calls the augmented methods; these two say that both directions exist.
    def _forward(self, x):
        return self._augmented_forward(x)[0]

    def _inverse(self, y):
        return self._augmented_inverse(y)[0]

    def _forward_log_det_jacobian(self, x):
        attributes = self._cache.forward_attributes(x)
        if "ildj" not in attributes:
            attributes.update(self._augmented_forward(x)[1])
        return -attributes["ildj"]

    def _inverse_log_det_jacobian(self, y):
        attributes = self._cache.inverse_attributes(y)
        if "ildj" not in attributes:
            attributes.update(self._augmented_inverse(y)[1])
        return attributes["ildj"]


def sum_except_batch(values):
    """The sum over an image: [..., H, W, C] -> [...]."""
    return tf.reduce_sum(values, axis=EVENT_AXES)


def constant_log_det(log_det_per_position, y):
    """H * W times what one position contributes, as [...], the batch shape of y [..., H, W, C]."""
    height, width = y.shape[-3:-1]
    if height is None or width is None:
        positions = tf.cast(tf.reduce_prod(tf.shape(y)[-3:-1]), y.dtype)
    else:
        positions = height * width
    return tf.fill(batch_shape(y), positions * log_det_per_position)


def batch_shape(values):
    """[...] of values [..., H, W, C]: known sizes where all are known, which needs no operations, else a tensor."""
    static = values.shape[:-3]
    return static.as_list() if static.is_fully_defined() else tf.shape(values)[:-3]
