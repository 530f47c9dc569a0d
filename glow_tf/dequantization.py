"""Conversion between the bytes of an image and the continuous values that a flow models.

Pixels are uint8 [..., H, W, C]. A model of `num_bits` bits sees their high bits, 2**num_bits bins per channel. Each bin
is an interval of the model's pixel range. Dequantisation maps a byte to a point of its bin, and the density integrated
over the bin is the probability of the byte.

A flow is a density on all real numbers, and part of its mass (16 to 25% in small models) lies outside the pixel range,
where there are no bins. The probabilities of all images therefore sum to less than 1, and the bits/dim computed here
are a conservative bound: renormalising the model to the pixel range would lower them. Samples are clipped.

References: Theis et al. 2016, section 3.1; Kingma & Dhariwal 2018, equation 2; openai/glow `model.py`.
"""

import contextlib
import contextvars
import dataclasses
import enum
import math
from collections.abc import Iterator, Sequence

import tensorflow as tf
from absl import logging

from glow_tf.inputs import Array, as_uint8, floating

# The lists of all active `count_overflows` contexts.
_counted: contextvars.ContextVar[tuple[list, ...]] = contextvars.ContextVar("counted", default=())


class NoiseStream(enum.IntEnum):
    """The second half of a noise seed, (seed, stream): each use of noise has its own stream.

    Training step n draws from (seed, n), n counted from 0. The first few coincide with the streams below, which is
    harmless: the noise is used for other images there, or for another purpose.
    """

    SCORE = 0  # dequantises images whose bits/dim are evaluated
    SAMPLE = 1  # draws the latents of samples
    LATENTS = 2  # dequantises images whose latents are examined
    INITIALIZE = 3  # dequantises the images of the data-dependent initialisation
    RECONSTRUCT = 4  # dequantises images that are reconstructed
    DIAGNOSE = 5  # dequantises images for the diagnostics of a training run


@dataclasses.dataclass(frozen=True)
class Dequantizer:
    """The bins of the model's pixel range, one for each value that a byte can take.

    Args:
        num_bits: 1 to 8; the low 8 - num_bits bits of each byte are dropped.
        low, high: the range that all bins together cover; [-0.5, 0.5) in OpenAI's code.

    >>> dequantizer = Dequantizer(num_bits=1)
    >>> dequantizer.dequantize(np.array([0, 127, 128, 255], np.uint8), noise=0.5).numpy().tolist()
    [-0.25, -0.25, 0.25, 0.25]
    >>> dequantizer.quantize(np.array([-0.25, 0.25, 9.0])).numpy().tolist()
    [0, 128, 255]
    >>> float(dequantizer.bits_per_dim(tf.constant(0.0), num_dims=64))
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
        """The width of one bin in the units of the pixel range."""
        return (self.high - self.low) / self.num_bins

    def dequantize(self, images: Array, noise: float | Array = 0.0, dtype: tf.DType | str = tf.float32) -> tf.Tensor:
        """low + (bin + noise) * bin_width of uint8 images, in [low, high); InputError for another type.

        Args:
            images: uint8 [..., H, W, C].
            noise: values in [0, 1) that broadcast with images: 0 is the lower edge of a bin, 0.5 its middle.
            dtype: type of the result.
        """
        bins = tf.cast(tf.cast(as_uint8(images), tf.int32) // 2 ** (8 - self.num_bits), dtype)
        noise = tf.cast(tf.convert_to_tensor(noise, dtype_hint=dtype), dtype)
        return self.low + (bins + noise) * self.bin_width

    def quantize(self, values: Array) -> tf.Tensor:
        """The byte of the bin that holds each value; values outside the range become black or white.

        Bytes are the bins' lower edges, multiples of 2**(8 - num_bits), but 255 above the range; NaN becomes 0.

        Raises:
            InputError: if the values are not floats.
        """
        bins = tf.floor((floating(values, "pixels") - self.low) / self.bin_width)
        bins = tf.where(tf.math.is_nan(bins), tf.zeros_like(bins), bins)
        return tf.cast(tf.clip_by_value(bins * (256 / self.num_bins), 0.0, 255.0), tf.uint8)

    def bits_per_dim(self, log_prob: tf.Tensor, num_dims: int) -> tf.Tensor:
        """Converts the log density of dequantised images to bits per dimension of the discrete images.

        -(log_prob + num_dims * log(bin_width)) / (num_dims * log 2)

        Here log_prob [...] is in nats and num_dims is H * W * C. With uniform noise the mean is an upper bound on the
        bits/dim of the discrete model.
        """
        return -(log_prob / num_dims + math.log(self.bin_width)) / math.log(2.0)

    def nll_nats(self, bits_per_dim: tf.Tensor, num_dims: int) -> tf.Tensor:
        """Converts bits/dim back to -log_prob in nats: the inverse of `bits_per_dim`."""
        return (bits_per_dim * math.log(2.0) + math.log(self.bin_width)) * num_dims


@contextlib.contextmanager
def count_overflows() -> Iterator[list[tuple[int, int]]]:
    """Collects (number of images that are not finite, number of images) of each decoding inside the context."""
    counts: list[tuple[int, int]] = []
    token = _counted.set((*_counted.get(), counts))
    try:
        yield counts
    finally:
        _counted.reset(token)


def warn_of_overflow(images: tf.Tensor) -> None:
    """Logs a warning for images [B, H, W, C] that are not finite, in eager code."""
    if not tf.executing_eagerly():
        return
    is_finite = tf.reduce_all(tf.math.is_finite(images), axis=[1, 2, 3])
    num_broken = int(tf.math.count_nonzero(~is_finite))
    for counts in _counted.get():
        counts.append((num_broken, len(images)))
    if num_broken:
        logging.warning(
            "%d of %d images have pixels that are not finite, drawn black or white: "
            "usual in the first steps of a training, otherwise a lower temperature helps",
            num_broken,
            len(images),
        )


def uniform_noise(
    shape: Sequence[int] | tf.Tensor, seed: Sequence[int] | tf.Tensor, dtype: tf.DType | str = tf.float32
) -> tf.Tensor:
    """Dequantisation noise in [0, 1), a pure function of its seed, two integers such as (seed, `NoiseStream.SCORE`).

    >>> bool((uniform_noise([4], [0, 1]) == uniform_noise([4], [0, 1])).numpy().all())
    True
    """
    return tf.random.stateless_uniform(shape, seed, dtype=dtype)
