"""The split between two levels: half of the channels leave as latents, the other half goes to the levels below."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf.bijectors.base import ImageBijector, as_pair, check_event
from glow_tf.bijectors.gaussian import standardize, unstandardize
from glow_tf.bijectors.shapes import EVENT_NDIMS, halves


class Split(ImageBijector):
    """Standardises the second half of the channels given the first, and transforms the first by the levels below.

    inverse: x1, x2 = halves of x;  mean, log_scale = prior(x1)
             z = [deeper.inverse(x1), (x2 - mean) * exp(-log_scale)]
    log-det of inverse: that of `deeper` - sum(log_scale), shape [...], nats

    Args:
        prior: x1 [..., H, W, C/2] -> (mean, log_scale), which broadcast to x2 [..., H, W, C/2].
        deeper: the levels below, a TFP bijector that preserves the shape [..., H, W, C/2]; in `Flow` a `tfb.Chain`.

    References: Dinh et al. 2017, section 3.6, where x2 is "factored out"; the conditional Gaussian is that of OpenAI's
        code.
    """

    def __init__(
        self, prior: Callable[[tf.Tensor], tuple[Any, Any]], deeper: tfp.bijectors.Bijector, name: str = "split"
    ) -> None:
        if not isinstance(deeper, tfp.bijectors.Bijector):
            raise ValueError(f"deeper is of type {type(deeper).__name__}; it must be a bijector")
        super().__init__(dtype=deeper.dtype, parameters=dict(locals()), name=name)
        self.prior = prior
        self.deeper = deeper

    def _forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        z1, z2 = halves(z)
        x1 = self.deeper.forward(z1)  # its log-det comes from TFP's cache below
        check_event(z1, x1, "deeper maps")
        x2, log_det = unstandardize(z2, *self._mean_and_log_scale(x1))
        log_det += self.deeper.forward_log_det_jacobian(z1, event_ndims=EVENT_NDIMS)
        return tf.concat([x1, x2], axis=-1), log_det

    def _inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x1, x2 = halves(x)
        z2, log_det = standardize(x2, *self._mean_and_log_scale(x1))
        z1 = self.deeper.inverse(x1)
        check_event(x1, z1, "deeper maps")
        log_det += self.deeper.inverse_log_det_jacobian(x1, event_ndims=EVENT_NDIMS)
        if z1.shape[:-1] != z2.shape[:-1]:
            # A class-conditional top prior has one Gaussian per label: images may broadcast with the labels.
            z2 = tf.broadcast_to(z2, tf.shape(z1))
        return tf.concat([z1, z2], axis=-1), log_det

    def _mean_and_log_scale(self, x1: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return as_pair(self.prior(x1), "the prior", "mean, log_scale", self.dtype)
