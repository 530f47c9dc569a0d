"""Goes through a Glow level by level, so that every term can be compared with another program's."""

import math
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.gaussian import standardize
from glow_tf.bijectors.squeeze import Squeeze


class Terms(NamedTuple):
    """What `walk` finds; B images, L levels, K steps.

    Attributes:
        log_dets: [L, K, B], of each flow step, nats.
        log_priors: [L, B], the log density of each level's latents, nats.
        latents: L tensors, the latents of each level before they are standardised.
    """

    log_dets: np.ndarray
    log_priors: np.ndarray
    latents: list


def walk(glow, images, labels=None):
    """The terms of `glow.log_prob`, by its own bijectors."""
    log_dets, log_priors, latents = [], [], []
    values = tf.convert_to_tensor(images)
    for level, steps in enumerate(glow.flow.steps):
        values = Squeeze(dtype=values.dtype).inverse_and_log_det(values)[0]
        for step in steps.each_step():
            values, log_det = step.inverse_and_log_det(values)
            log_dets.append(log_det)
        if level < glow.config.num_levels - 1:
            values, latent = tf.split(values, 2, axis=-1)
            noise, log_det = standardize(latent, *glow.flow.splits[level](values))
        else:
            latent = values
            top = glow.flow.top.bijector(labels)
            noise, log_det = top.inverse(latent), top.inverse_log_det_jacobian(latent, event_ndims=3)
        log_normal = -0.5 * tf.reduce_sum(noise**2 + math.log(2 * math.pi), axis=[1, 2, 3])
        log_priors.append(log_normal + log_det)
        latents.append(latent)
    shape = [glow.config.num_levels, glow.config.num_steps, -1]
    # In float64, so that adding them up rounds no more.
    return Terms(np.reshape(log_dets, shape).astype(np.float64), np.float64(log_priors), latents)


def from_flat(glow, flat):
    """z from latents [B, D]: the levels, finest first, each flattened, as other programs hand them over."""
    height, width, channels = glow.config.image_shape
    levels, start = [], 0
    for level, (h, w, c) in enumerate(glow.config.squeezed_shapes()):
        leaving = c // 2 if level < glow.config.num_levels - 1 else c
        stop = start + h * w * leaving
        levels.append(tf.constant(flat[:, start:stop].reshape(-1, h, w, leaving), glow.config.dtype))
        start = stop
    assert start == height * width * channels == flat.shape[1]
    return glow.merge_latents(levels)


def largest_difference(found, expected, what=""):
    """max|found - expected|; `pytest -rP` shows it, which is where docs/results.md has its numbers from."""
    difference = float(np.max(np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64))))
    test = os.environ["PYTEST_CURRENT_TEST"].split("/")[-1].removesuffix(" (call)")
    print(f"largest difference {difference:.1e} {test} {what}")
    return difference
