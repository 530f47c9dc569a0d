"""Activation normalisation: one shift and one scale per channel, and their data-dependent initial values."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, as_parameters, log_det_of_scale
from glow_tf.errors import InputError

# OpenAI's initial scale is 1 / (std + this).
STD_EPSILON = 1e-6


class ActNorm(ImageBijector):
    """Shifts and scales each channel.

    inverse: z = (x + shift) * exp(log_scale)
    log-det of inverse: H * W * sum(log_scale), shape [...], nats

    Args:
        shift, log_scale: [C], or anything that broadcasts to an event [H, W, C].

    References: Kingma & Dhariwal 2018, section 3.1; (x + shift) * scale is the order of OpenAI's code.

    >>> layer = ActNorm(shift=tf.constant([1.0, 2.0]), log_scale=tf.constant([0.0, 0.5]))
    >>> z, log_det = layer.inverse_and_log_det(tf.zeros([3, 4, 4, 2]))
    >>> z.shape, log_det.numpy().tolist()
    (TensorShape([3, 4, 4, 2]), [8.0, 8.0, 8.0])
    """

    def __init__(self, shift: Any, log_scale: Any, name: str = "actnorm") -> None:
        parameters = dict(locals())
        self.shift, self.log_scale = as_parameters(shift, log_scale)
        super().__init__(dtype=self.log_scale.dtype, parameters=parameters, is_constant_jacobian=True, name=name)

    def _forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = z * tf.exp(-self.log_scale) - self.shift
        return x, log_det_of_scale(-self.log_scale, z, x)

    def _inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        z = (x + self.shift) * tf.exp(self.log_scale)
        return z, log_det_of_scale(tf.convert_to_tensor(self.log_scale), x, z)


def actnorm_init(batches: Iterable[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """The shift and log-scale that standardise each channel over all batches together.

    `Glow.initialize` calls this function, actnorm by actnorm, eagerly, before the first training step.

    Args:
        batches: tensors [N, ..., C]; a generator is possible, since each is used only once.

    Returns:
        (shift [C], log_scale [C]): shift = -mean, log_scale = -log(std + 1e-6), so that
        (batch + shift) * exp(log_scale) has mean 0 and variance 1.

    Raises:
        InputError: if there are no images.
        ValueError: if a batch has another type, shape or number of channels.

    References: Kingma & Dhariwal 2018, section 3.1; `actnorm` of OpenAI's `tfops.py`.
    """
    count, mean, squares = 0, np.zeros([]), np.zeros([])
    for batch in batches:
        batch = tf.convert_to_tensor(batch)
        if not batch.dtype.is_floating or batch.shape.rank < 2 or 0 in batch.shape:
            raise ValueError(f"a batch is {batch.dtype.name} {tuple(batch.shape)}; floats [N, ..., C] are needed")
        batch_count, batch_mean, batch_squares = _moments(batch)
        if count and batch_mean.shape != mean.shape:
            raise ValueError(f"a batch has {len(batch_mean)} channels, and one before it has {len(mean)}")
        # Merged as in Chan, Golub & LeVeque 1979: no large sums cancel.
        total = count + batch_count
        difference = batch_mean - mean
        mean = mean + difference * batch_count / total
        squares = squares + batch_squares + difference * difference * count * batch_count / total
        count = total
        dtype = batch.dtype
    if not count:
        raise InputError("0 images were given to initialise from; 1 or more are needed")
    log_scale = -np.log(np.sqrt(squares / count) + STD_EPSILON)
    return tf.constant(-mean, dtype), tf.constant(log_scale, dtype)


def _moments(batch: tf.Tensor) -> tuple[int, np.ndarray, np.ndarray]:
    """(count, mean, sum of squares around the mean) of a batch [N, ..., C], the latter two float64 [C].

    The sums within an image are in the batch's dtype, those over images in float64: casting everything takes three
    times as long.
    """
    images = tf.reshape(batch, [batch.shape[0], -1, batch.shape[-1]])
    # Close to the mean, so little cancels below; the difference of two close floats is exact.
    center = tf.reduce_mean(images[0], axis=0)
    centered = images - center
    count = images.shape[0] * images.shape[1]
    offset, squares = (
        tf.reduce_sum(values, axis=1).numpy().sum(axis=0, dtype=np.float64)
        for values in (centered, tf.square(centered))  # ** 2 would call pow, which is 30 times slower
    )
    offset /= count
    return count, center.numpy().astype(np.float64) + offset, np.maximum(squares - count * offset * offset, 0)
