"""Data-dependent initialisation: the shift and scale that standardise every channel of some data."""

import numpy as np
import tensorflow as tf

# OpenAI's scale is 1 / (std + this).
STD_EPSILON = 1e-6


def actnorm_init(batches):
    """shift = -mean and log_scale = -log(std + 1e-6), a channel, of all batches taken together. For eager code.

    Args:
        batches: an iterable of tensors [N, ..., C]; each is looked at once, so a generator may compute them.
    Returns:
        (shift [C], log_scale [C]) such that (batch + shift) * exp(log_scale) has mean 0 and variance 1.
    References: Kingma & Dhariwal 2018, section 3.1; `actnorm` of OpenAI's `tfops.py`.
    """
    count, mean, squares = 0, 0.0, 0.0
    for batch in batches:
        batch_count, batch_mean, batch_squares = _moments(batch)
        # Merged as in Chan, Golub & LeVeque 1979: no large sums cancel.
        total = count + batch_count
        difference = batch_mean - mean
        mean += difference * batch_count / total
        squares += batch_squares + difference * difference * count * batch_count / total
        count = total
        dtype = batch.dtype
    log_scale = -np.log(np.sqrt(squares / count) + STD_EPSILON)
    return tf.constant(-mean, dtype), tf.constant(log_scale, dtype)


def _moments(batch):
    """(count, mean, sum of squares around the mean) of a batch [N, ..., C], the latter two numpy float64 [C].

    Summed in the batch's type within an image, in float64 over the images: a cast of all would take thrice as long.
    """
    images = tf.reshape(batch, [batch.shape[0], -1, batch.shape[-1]])
    # Near the mean, so that little cancels below; a difference of near numbers is exact.
    center = tf.reduce_mean(images[0], axis=0)
    centered = images - center
    count = images.shape[0] * images.shape[1]
    offset, squares = (
        tf.reduce_sum(values, axis=1).numpy().sum(axis=0, dtype=np.float64)
        for values in (centered, tf.square(centered))  # ** 2 would be a power, 30 times slower
    )
    offset /= count
    return count, center.numpy().astype(np.float64) + offset, np.maximum(squares - count * offset * offset, 0)
