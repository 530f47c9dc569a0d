"""Variational dequantisation: a small conditional flow learns the noise within the bins of each image.

Uniform noise makes a density explain every point of a bin equally well, which a smooth density cannot do. Noise from
q(u | image) may stay where the density is high, and bits/dim pays for it: E[log p(image + u) - log q(u | image)] is a
lower bound of the log probability of the bytes for every q, and uniform noise is the case log q = 0.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from glow_tf.bijectors import Squeeze, actnorm_init
from glow_tf.bijectors.base import sum_except_batch
from glow_tf.bijectors.shapes import with_nonempty_batch
from glow_tf.config import GlowConfig
from glow_tf.nn.base import ParameterModule, slice_of
from glow_tf.nn.plus import BoundedScaleNetwork, whitening

WIDTH = 64

# Uniform noise is clipped to [MARGIN, 1 - MARGIN], since the logit is infinite at 0 and 1.
MARGIN = 1e-6

# Learned noise ends this far below 1: in float32, 255 plus a number closer to 1 is 256, the next bin.
BIN_MARGIN = 2.0**-16


class NoiseFlow(ParameterModule):
    """Maps uniform noise to noise in (0, 1) that depends on the image; starts as the identity.

        u = sigmoid(shift(image) + scale(image) * logit(uniform noise))

    The network that computes shift and scale sees the squeezed image, whitened: the noise depends on the differences
    of neighbouring pixels, which are small beside the pixels themselves.

    Args:
        config: the GlowConfig.
        rng: a numpy Generator for the initial values.
        name: the prefix of the variables' names.

    References: Ho et al. 2019 (Flow++), section 3.1, whose noise flow also has couplings between the pixels' noise;
        `docs/results.md` reports what these add here.
    """

    def __init__(self, config: GlowConfig, rng: np.random.Generator, name: str) -> None:
        channels = config.squeezed_shapes()[0][-1]
        self._network = BoundedScaleNetwork(WIDTH)
        self._squeeze = Squeeze(dtype=tf.as_dtype(config.dtype))
        values = {
            "whitening": {"shift": np.zeros(channels), "kernel": np.eye(channels)},
            "coupling": self._network.initial_values(rng, 1, channels, 2 * channels),
        }
        super().__init__(values, config.dtype, name)

    def __call__(self, uniform: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(u [B, H, W, C] in (0, 1), log q(u | image) [B] in nats).

        Args:
            uniform: [B, H, W, C], uniform noise in [0, 1).
            images: [B, H, W, C], the middle of each pixel's bin.
        """
        uniform = self._squeezed(tf.clip_by_value(uniform, MARGIN, 1 - MARGIN))
        shift, log_scale = with_nonempty_batch(self._shift_and_log_scale, self._squeezed(images))
        log, log_complement = tf.math.log(uniform), tf.math.log1p(-uniform)
        logit = shift + tf.exp(log_scale) * (log - log_complement)
        log_det = log_scale - (log + log_complement) + tf.math.log_sigmoid(logit) + tf.math.log_sigmoid(-logit)
        noise = self._squeeze.forward_and_log_det(tf.sigmoid(logit))[0]
        return tf.clip_by_value(noise, MARGIN, 1 - BIN_MARGIN), -sum_except_batch(log_det)

    def initialize(self, images: Sequence[tf.Tensor]) -> None:
        """Sets the whitening and the network's actnorms, eagerly, from batches of images as in `__call__`."""
        batches = [self._squeezed(batch) for batch in images]
        shift, log_scale = actnorm_init(batches)
        kernel = tf.exp(log_scale)[:, tf.newaxis] * tf.cast(whitening(batches, shift, log_scale), log_scale.dtype)
        self.parameters["whitening"]["shift"].assign(shift)
        self.parameters["whitening"]["kernel"].assign(kernel)
        network = slice_of(self.parameters["coupling"], 0)
        whitened = [self._whitened(batch) for batch in batches]
        self.assign_stacked([{"coupling": self._network.initialize(network, whitened)[0]}])

    def _squeezed(self, images: tf.Tensor) -> tf.Tensor:
        return self._squeeze.inverse_and_log_det(images)[0]

    def _whitened(self, squeezed: tf.Tensor) -> tf.Tensor:
        parameters = self.parameters["whitening"]
        return tf.tensordot(squeezed + parameters["shift"], parameters["kernel"], axes=1)

    def _shift_and_log_scale(self, squeezed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._network.shift_and_log_scale(slice_of(self.parameters["coupling"], 0), self._whitened(squeezed))
