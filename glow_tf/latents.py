"""Conversion between z, which has the shape of an image, and the latents of every level.

Level 0 is the finest. At the end of each level but the last, half of the channels leave as the latents of that level.
z holds the latents of all levels, concatenated and unsqueezed level by level.
"""

from collections.abc import Sequence

import tensorflow as tf

from glow_tf.bijectors.shapes import halves
from glow_tf.bijectors.squeeze import Squeeze
from glow_tf.errors import InputError
from glow_tf.inputs import Array, as_tensor


def split(z: Array, num_levels: int) -> list[tf.Tensor]:
    """The latents of each level, level 0 first: OpenAI's eps.

    Returns, for z [..., H, W, C], [[..., H/2, W/2, 2C], [..., H/4, W/4, 4C], ..., [..., H/2^L, W/2^L, 2^(L+1) C]].

    >>> [tuple(level.shape) for level in split(tf.zeros([1, 8, 8, 1]), num_levels=2)]
    [(1, 4, 4, 2), (1, 2, 2, 8)]
    """
    z = tf.convert_to_tensor(z)
    squeeze = Squeeze(dtype=z.dtype)
    levels = []
    for _ in range(num_levels - 1):
        z, leaving = halves(squeeze.inverse_and_log_det(z)[0])
        levels.append(leaving)
    return [*levels, squeeze.inverse_and_log_det(z)[0]]


def merge(levels: Sequence[Array], shapes: Sequence[tuple[int, int, int]]) -> tf.Tensor:
    """z from the latents of each level: the inverse of `split`.

    Raises:
        InputError: if the levels are not those of a model whose flow steps work on images of `shapes`.
    """
    levels = [as_tensor(level, "latents") for level in levels]
    needed = [(h, w, c // 2) for h, w, c in shapes[:-1]] + [shapes[-1]]
    if [tuple(level.shape[-3:]) for level in levels] != needed:
        found = ", ".join(str(level.shape) for level in levels) or "none"
        raise InputError(f"the levels have shapes {found}; this model's have [..., H, W, C] of {needed}")
    *leaving, deepest = levels
    squeeze = Squeeze(dtype=deepest.dtype)
    z = squeeze.forward_and_log_det(deepest)[0]
    for level in reversed(leaving):
        z = squeeze.forward_and_log_det(tf.concat([z, level], axis=-1))[0]
    return z
