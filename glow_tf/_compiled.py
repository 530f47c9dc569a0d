"""Compiled functions of images: traced once for all batch sizes, applied to a batch in chunks of bounded size."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from glow_tf._gc import paused

# 64 images of 32x32, or fewer larger ones with the same total number of pixels.
MAX_IMAGES = 64
MAX_PIXELS = MAX_IMAGES * 32 * 32


class CompiledFunction:
    """A compiled function from tensors [B, ...] to a tensor [B, ...] or a tuple of them.

    In eager code a large batch is split into chunks, which bounds the memory. Inside another `tf.function` the whole
    batch runs at once, as part of that function.

    It takes one tensor for each of `specs`, [None, ...], images [None, H, W, C] first.
    """

    def __init__(self, function: Callable[..., Any], *specs: tf.TensorSpec) -> None:
        self._function = tf.function(paused()(function), input_signature=specs, autograph=False)

    def __call__(self, images: tf.Tensor, *others: tf.Tensor) -> Any:
        """The function's result for all images."""
        size = images_per_chunk(images.shape[1:])
        if not tf.executing_eagerly() or len(images) <= size:
            return self._function(images, *others)
        parts = zip(*(chunks(values, size) for values in (images, *others)), strict=True)
        results = [self._function(*part) for part in parts]
        return tf.nest.map_structure(lambda *each: tf.concat(each, axis=0), *results)


def images_per_chunk(image_shape: Sequence[int]) -> int:
    """The number of images [H, W, C] per chunk."""
    height, width, _ = image_shape
    return max(1, min(MAX_IMAGES, MAX_PIXELS // (height * width)))


def chunks(values: tf.Tensor, size: int) -> list[tf.Tensor]:
    """Splits values [N, ...] into chunks of at most `size`.

    >>> [len(part) for part in chunks(tf.zeros([7, 2]), 3)]
    [3, 3, 1]
    """
    return [values[i : i + size] for i in range(0, len(values), size)]
