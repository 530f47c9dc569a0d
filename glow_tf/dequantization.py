"""Between the bytes of an image and the continuous values that a flow models.

Pixels are uint8 [..., H, W, C]. A model of `num_bits` bits sees their high bits, 2**num_bits bins a channel.
Each bin is an interval of the model's pixel range; a byte becomes a point of its bin (dequantisation), and
the density integrated over the bin is the probability of the byte.

References: Theis et al. 2016, section 3.1; Kingma & Dhariwal 2018, equation 2; openai/glow `model.py`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf

# What most functions take: images, latents.
Array: TypeAlias = np.ndarray | tf.Tensor

# One class an image.
Labels: TypeAlias = Sequence[int] | np.ndarray | tf.Tensor


@dataclasses.dataclass(frozen=True)
class Dequantizer:
    """How bytes lie in the model's pixel range.

    Args:
        num_bits: 1 to 8; the low 8 - num_bits bits of each byte are dropped.
        low, high: the range that all bins together cover; [-0.5, 0.5) in OpenAI's code.

    >>> scale = Dequantizer(num_bits=1)
    >>> scale.dequantize(np.array([0, 127, 128, 255], np.uint8), noise=0.5).numpy().tolist()
    [-0.25, -0.25, 0.25, 0.25]
    >>> scale.quantize(np.array([-0.25, 0.25, 9.0])).numpy().tolist()
    [0, 128, 255]
    >>> float(scale.bits_per_dim(tf.constant(0.0), num_dims=64))
    1.0
    """

    num_bits: int = 8
    low: float = -0.5
    high: float = 0.5

    @property
    def num_bins(self) -> int:
        """2**num_bits."""
        return 2**self.num_bits

    @property
    def bin_width(self) -> float:
        """Of one bin, in the units of the model's pixel range."""
        return (self.high - self.low) / self.num_bins

    def dequantize(self, images: Array, noise: float | Array = 0.0, dtype: tf.DType | str = tf.float32) -> tf.Tensor:
        """low + (bin + noise) * bin_width.

        Args:
            images: uint8 [..., H, W, C].
            noise: in [0, 1), broadcast against images: 0 is the lower edge of a bin, 0.5 its middle.
        Returns:
            [..., H, W, C] of `dtype` in [low, high).
        """
        bins = tf.cast(tf.cast(images, tf.int32) // 2 ** (8 - self.num_bits), dtype)
        return self.low + (bins + noise) * self.bin_width

    def quantize(self, values: Array) -> tf.Tensor:
        """The byte of the bin that holds each value; what is outside the range becomes black or white.

        Bytes are the bins' lower edges, multiples of 2**(8 - num_bits), but 255 above the range; NaN becomes 0.
        """
        bins = tf.floor((values - self.low) / self.bin_width)
        bins = tf.where(tf.math.is_nan(bins), tf.zeros_like(bins), bins)
        return tf.cast(tf.clip_by_value(bins * (256 / self.num_bins), 0.0, 255.0), tf.uint8)

    def bits_per_dim(self, log_prob: tf.Tensor, num_dims: int) -> tf.Tensor:
        """From the log density of continuous values to bits per dimension of the discrete image.

        -(log_prob + num_dims * log(bin_width)) / (num_dims * log 2)

        With uniform noise its mean is an upper bound on the bits/dim of the discrete model.

        Args:
            log_prob: [...], nats.
            num_dims: H * W * C.
        """
        return -(log_prob / num_dims + math.log(self.bin_width)) / math.log(2.0)

    def nll_nats(self, bits_per_dim: tf.Tensor, num_dims: int) -> tf.Tensor:
        """-log_prob from bits/dim, nats: the inverse of `bits_per_dim`."""
        return (bits_per_dim * math.log(2.0) + math.log(self.bin_width)) * num_dims


def uniform_noise(
    shape: Sequence[int] | tf.Tensor, seed: Sequence[int] | tf.Tensor, dtype: tf.DType | str = tf.float32
) -> tf.Tensor:
    """Dequantisation noise in [0, 1), a pure function of `seed` ([2] integers).

    >>> bool((uniform_noise([4], [0, 1]) == uniform_noise([4], [0, 1])).numpy().all())
    True
    """
    return tf.random.stateless_uniform(shape, seed, dtype=dtype)
