"""Data-dependent initialisation: the shift and scale that standardise every channel of some data."""

import numpy as np
import tensorflow as tf

# OpenAI's scale is 1 / (std + this).
STD_EPSILON = 1e-6


def standardizing_shift_and_log_scale(batches):
    """shift = -mean and log_scale = -log(std + 1e-6), a channel, of all batches taken together. For eager code.

    Args:
        batches: an iterable of tensors [..., C]; each is looked at once, so a generator may compute them.
    Returns:
        (shift [C], log_scale [C]) such that (batch + shift) * exp(log_scale) has mean 0 and variance 1.
    References: Kingma & Dhariwal 2018, section 3.1; `actnorm` of OpenAI's `tfops.py`.
    """
    count, mean, squares = 0, 0.0, 0.0
    for batch in batches:
        # Centred within the batch, then merged (Chan, Golub & LeVeque 1979): no large sums cancel.
        flat = tf.cast(tf.reshape(batch, [-1, batch.shape[-1]]), tf.float64)
        batch_mean = tf.reduce_mean(flat, axis=0)
        batch_squares = tf.reduce_sum(tf.square(flat - batch_mean), axis=0)  # ** 2 would be a power, 30 times slower
        dtype = batch.dtype
        # A channel's numbers are few: numpy is a hundred times faster at them than TensorFlow's eager operations.
        difference = batch_mean.numpy() - mean
        total = count + flat.shape[0]
        mean += difference * flat.shape[0] / total
        squares += batch_squares.numpy() + difference * difference * count * flat.shape[0] / total
        count = total
    log_scale = -np.log(np.sqrt(squares / count) + STD_EPSILON)
    return tf.constant(-mean, dtype), tf.constant(log_scale, dtype)
