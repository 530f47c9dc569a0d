"""Multi-scale: half of the channels leave as latents, the other half go deeper."""

import tensorflow as tf

from glow_tf.bijectors.base import EVENT_NDIMS, ImageBijector
from glow_tf.bijectors.gaussian import standardize, unstandardize


class Split(ImageBijector):
    """Standardises the second half of the channels given the first, and sends the first half deeper.

    inverse: kept, leaving = halves of y
             mean, log_scale = network(kept)
             x = [deeper.inverse(kept), (leaving - mean) * exp(-log_scale)]
    log-det of inverse: that of `deeper` - sum(log_scale), shape [...], nats

    Args:
        network: [..., H, W, C/2] -> (mean, log_scale), each [..., H, W, C/2].
        deeper: a bijector that keeps the shape [..., H, W, C/2]: the levels below.
    References: Dinh et al. 2017, section 3.6; the conditional Gaussian is that of OpenAI's code.
    """

    def __init__(self, network, deeper, name="split"):
        super().__init__(dtype=deeper.dtype, name=name)
        self.network = network
        self.deeper = deeper

    def _forward_and_log_det(self, x):
        kept_latent, noise = tf.split(x, 2, axis=-1)
        kept = self.deeper.forward(kept_latent)
        leaving, log_det = unstandardize(noise, *self.network(kept))
        log_det += self.deeper.forward_log_det_jacobian(kept_latent, event_ndims=EVENT_NDIMS)
        return tf.concat([kept, leaving], axis=-1), log_det

    def _inverse_and_log_det(self, y):
        kept, leaving = tf.split(y, 2, axis=-1)
        noise, log_det = standardize(leaving, *self.network(kept))
        kept_latent = self.deeper.inverse(kept)
        log_det += self.deeper.inverse_log_det_jacobian(kept, event_ndims=EVENT_NDIMS)
        if kept_latent.shape[:-1] != noise.shape[:-1]:
            # The levels below hold a batch of Gaussians, with which a smaller batch of images broadcasts.
            noise = tf.broadcast_to(noise, tf.shape(kept_latent))
        return tf.concat([kept_latent, noise], axis=-1), log_det
