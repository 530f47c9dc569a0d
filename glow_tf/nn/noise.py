"""Variational dequantisation: a small conditional flow learns the noise within the bins of each image.

Uniform noise makes a density explain every point of a bin equally well, which a smooth density cannot do. Noise from
q(u | image) may stay where the density is high, and bits/dim pays for it: E[log p(image + u) - log q(u | image)] is a
lower bound of the log probability of the bytes for every q, and uniform noise is the case log q = 0.
"""

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from glow_tf.bijectors import AffineCoupling, Squeeze
from glow_tf.bijectors.base import halves, sum_except_batch, with_nonempty_batch
from glow_tf.config import GlowConfig
from glow_tf.nn.base import ParameterModule, slice_of
from glow_tf.nn.plus import PlusNetwork

# One coupling for each half of the channels.
NUM_COUPLINGS = 2
WIDTH = 32

# Uniform noise is clipped to [MARGIN, 1 - MARGIN], since the logit is infinite at 0 and 1.
MARGIN = 1e-6

# Learned noise ends this far below 1: in float32, 255 plus a number closer to 1 is 256, the next bin.
BIN_MARGIN = 2.0**-16


class NoiseFlow(ParameterModule):
    """Maps uniform noise to noise in (0, 1) that depends on the image; starts as the identity.

        u = sigmoid(h),  h = two affine couplings of logit(uniform noise), given the image

    Both are squeezed once, so a coupling sees half of the noise and the whole image around a block of 2x2 pixels.

    Args:
        config: the GlowConfig.
        rng: a numpy Generator for the initial values.
        name: the prefix of the variables' names.

    References: Ho et al. 2019 (Flow++), section 3.1.
    """

    def __init__(self, config: GlowConfig, rng: np.random.Generator, name: str) -> None:
        channels = config.squeezed_shapes()[0][-1]
        self._network = PlusNetwork(WIDTH)
        self._squeeze = Squeeze(dtype=tf.as_dtype(config.dtype))
        self._middle, self._range = sum(config.pixel_range) / 2, config.pixel_range[1] - config.pixel_range[0]
        # A network sees half of the noise's channels and all of the image's.
        coupling = self._network.initial_values(rng, NUM_COUPLINGS, channels // 2 + channels, channels)
        super().__init__({"coupling": coupling}, config.dtype, name)

    def __call__(self, uniform: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(u [B, H, W, C] in (0, 1), log q(u | image) [B] in nats).

        Args:
            uniform: [B, H, W, C], uniform noise in [0, 1).
            images: [B, H, W, C], the middle of each pixel's bin.
        """
        h, log_det = self._logit(uniform)
        context = self._context(images)
        for k in range(NUM_COUPLINGS):
            h, log_det_of_coupling = self._coupling(k, context).forward_and_log_det(h)
            h, log_det = _swap_halves(h), log_det + log_det_of_coupling
        log_det += sum_except_batch(tf.math.log_sigmoid(h) + tf.math.log_sigmoid(-h))
        noise = self._squeeze.forward_and_log_det(tf.sigmoid(h))[0]
        return tf.clip_by_value(noise, MARGIN, 1 - BIN_MARGIN), -log_det

    def initialize(self, uniform: Sequence[tf.Tensor], images: Sequence[tf.Tensor]) -> None:
        """Data-dependent initialisation of the networks' actnorms, from batches of a call's arguments; eager only."""
        h = [self._logit(batch)[0] for batch in uniform]
        contexts = [self._context(batch) for batch in images]
        new_values = []
        for k in range(NUM_COUPLINGS):
            inputs = [tf.concat([halves(a)[0], b], axis=-1) for a, b in zip(h, contexts, strict=True)]
            parameters = slice_of(self.parameters["coupling"], k)
            new_values.append({"coupling": self._network.initialize(parameters, inputs)[0]})
            h = [_swap_halves(batch) for batch in h]  # a new coupling is the identity
        self.assign_stacked(new_values)

    def _logit(self, uniform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(logit of squeezed uniform noise, its log-det [B])."""
        u = tf.clip_by_value(self._squeeze.inverse_and_log_det(uniform)[0], MARGIN, 1 - MARGIN)
        return tf.math.log(u) - tf.math.log1p(-u), -sum_except_batch(tf.math.log(u) + tf.math.log1p(-u))

    def _context(self, images: tf.Tensor) -> tf.Tensor:
        """The squeezed image, between -1 and 1."""
        return self._squeeze.inverse_and_log_det((images - self._middle) * (2 / self._range))[0]

    def _coupling(self, k: int, context: tf.Tensor) -> AffineCoupling:
        def conditioner(x1: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            parameters = slice_of(self.parameters["coupling"], k)
            return with_nonempty_batch(functools.partial(self._network.shift_and_log_scale, parameters), x1)

        return AffineCoupling(conditioner, dtype=context.dtype, context=context)


def _swap_halves(values: tf.Tensor) -> tf.Tensor:
    return tf.concat(halves(values)[::-1], axis=-1)
