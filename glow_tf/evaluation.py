"""Numbers of a trained model: bits/dim, and how Gaussian its latents are."""

import numpy as np
import tensorflow as tf


def bits_per_dim(glow, split, batch_size=64, seed=0, limit=None, check=lambda: None):
    """Mean bits/dim over a split, and its standard error.

    Args:
        glow: a Glow.
        split: a `data.Split`.
        seed: of the dequantisation noise; batch i draws with seed + i.
        limit: at most this many images, the first ones; None: all.
        check: called before each batch; what it raises ends the evaluation.
    Returns:
        (mean, standard error, number of images).
    """
    values, seen = [], 0
    for index, (images, labels) in enumerate(split.batches(batch_size)):
        check()
        if limit is not None:
            images, labels = images[: limit - seen], labels[: limit - seen]
        seen += len(images)
        values.append(glow.bits_per_dim(images, labels if glow.config.num_classes else None, seed=seed + index).numpy())
        if seen == limit:
            break
    values = np.concatenate(values)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return float(values.mean()), float(error), len(values)


def latent_statistics(glow, images, labels=None, seed=0):
    """Mean and variance of z, over everything and level by level; a good model has 0 and 1.

    Args:
        images: uint8 [B, H, W, C].
    Returns:
        {"z/mean", "z/variance", "z/level0/mean", "z/level0/variance", ...: float}.
    """
    noise = tf.random.stateless_uniform(images.shape, [seed, 2], dtype=glow.config.dtype)
    z = glow.encode(glow.pixels.to_continuous(images, noise, glow.config.dtype), labels)
    named = {"z": z} | {f"z/level{i}": level for i, level in enumerate(glow.per_level(z))}
    found = {}
    for name, values in named.items():
        found[f"{name}/mean"] = float(tf.reduce_mean(values))
        found[f"{name}/variance"] = float(tf.math.reduce_variance(values))
    return found
