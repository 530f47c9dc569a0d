"""What can go wrong inside a flow while its bits/dim still look fine, and where a NaN comes from.

Every number has a range that a healthy model stays in (`RANGES`); they were set so that a model which leaves
one has not yet lost its float32 inverse.
"""

import math

import numpy as np
import tensorflow as tf

from glow_tf import dequantization
from glow_tf.bijectors.squeeze import Squeeze

# {last part of the tag: (lowest, highest, what it is)}.
RANGES = {
    # |s| is a factor of the determinant: near 0 the matrix loses a channel.
    "smallest_s": (1e-3, math.inf, "smallest |s| of the 1x1 matrices"),
    # float32 keeps 7 digits, of which the inverse of a matrix loses log10(condition).
    "condition": (1.0, 1e4, "largest condition number of the 1x1 matrices"),
    # Constant channels of 8-bit images start at a scale of 900: the reciprocal of their dequantisation noise.
    "actnorm_scale": (0.0, 1e4, "largest scale of the actnorms"),
    # At half a bin a byte in the middle of its bin no longer survives encode and decode.
    "round_trip_error": (0.0, 0.1, "largest round-trip error, in bins of a pixel"),
    "mean": (-0.5, 0.5, "mean of z"),
    "variance": (0.5, 2.0, "variance of z"),
}

# Images of the round trip.
ROUND_TRIP_IMAGES = 64


def examine(glow, images, labels=None, seed=0):
    """{tag: float}: the extremes of every level's matrices and actnorms, and the round-trip error.

    Args:
        images: uint8 [B, H, W, C].
        labels: of the images, for a class-conditional model.
        seed: of the dequantisation noise.
    """
    found = {}
    for level, steps in enumerate(glow.flow_steps):
        for name, values in _of_each_step(steps).items():
            extreme = np.min if name == "smallest_s" else np.max
            found[f"doctor/level{level}/{name}"] = float(extreme(values))
    found["doctor/round_trip_error"] = round_trip_error(
        glow, images[:ROUND_TRIP_IMAGES], labels[:ROUND_TRIP_IMAGES] if glow.config.num_classes else None, seed
    )
    return found


def round_trip_error(glow, images, labels=None, seed=0):
    """max |decode(encode(images)) - images| in units of a bin's width.

    Args:
        images: uint8 [B, H, W, C].
    """
    noise = dequantization.uniform_noise(images.shape, [seed, 5], glow.config.dtype)
    values = glow.dequantizer.dequantize(images, noise, glow.config.dtype)
    again = glow.decode(tf.identity(glow.encode(values, labels)), labels)
    return float(tf.reduce_max(tf.abs(again - values))) / glow.dequantizer.bin_width


def complaints(found):
    """A plain line for every number that is outside its range, or is none.

    Args:
        found: {tag: float}, of `examine` and of `evaluation.latent_statistics`.
    """
    lines = []
    for tag, value in found.items():
        low, high, what = RANGES[tag.split("/")[-1]]
        if not low <= value <= high:
            place = next((f" in level {part[5:]}" for part in tag.split("/") if part.startswith("level")), "")
            early = ", once some hundred steps were made" if tag.startswith("z/") else ""
            lines.append(f"{what}{place} is {value:.3g}; a healthy model has {_range(low, high)}{early}")
    return lines


def first_not_finite(glow, values, labels=None):
    """The first layer from the image on whose result is not finite, in words; None if all are.

    Args:
        values: continuous pixels [B, H, W, C].
    """
    images, place = values, None
    if not _is_finite(images):
        return "the pixels"
    images = glow.preprocess(images)[0]
    for level, steps in enumerate(glow.flow_steps):
        images = Squeeze(dtype=images.dtype).inverse_and_log_det(images)[0]
        images, place = _through_steps(steps, images)
        if place is not None:
            return f"level {level}, {place}"
        if level < len(glow.flow_steps) - 1:
            images = tf.split(images, 2, axis=-1)[0]
    if not _is_finite(glow.log_prob(values, labels)):
        return "the Gaussians of the latents"
    return None


def _through_steps(steps, images):
    for k, step in enumerate(steps.each_step()):
        for name, layer in zip(("actnorm", "permutation", "coupling"), step.layers, strict=True):
            images, log_det = layer.inverse_and_log_det(images)
            if not (_is_finite(images) and _is_finite(log_det)):
                return images, f"step {k}, {name}"
    return images, None


def _of_each_step(steps):
    """{name: [K]} of the matrices and actnorms of one level."""
    tensors = steps.prepared()
    found = {"actnorm_scale": np.exp(np.max(tensors["actnorm"]["log_scale"], axis=-1))}
    if "conv1x1" in tensors:
        weights = np.asarray(tensors["conv1x1"]["weight"], np.float64)
        is_finite = np.isfinite(weights).all(axis=(1, 2))
        found["condition"] = np.where(is_finite, np.linalg.cond(np.nan_to_num(weights, posinf=0, neginf=0)), np.inf)
        found["smallest_s"] = np.exp(np.min(steps.parameters["conv1x1"]["log_abs_s"].numpy(), axis=-1))
    return found


def _is_finite(values):
    return bool(tf.reduce_all(tf.math.is_finite(values)))


def _range(low, high):
    if high == math.inf:
        return f"at least {low:g}"
    return f"{low:g} to {high:g}"
