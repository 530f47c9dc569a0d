"""The one gate for images and labels: every entry point checks its arguments here.

Each function returns a tensor of the right type and shape or raises an `InputError` that says what was given and what
is needed. What only the values tell (labels out of range, pixels far outside) is checked where the values are known:
eagerly. Inside a `tf.function` type and shape are checked at once, and label values by an assertion in the graph.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from glow_tf.errors import InputError

# What most functions take: images, latents.
Array: TypeAlias = np.ndarray | tf.Tensor

# One class per image.
Labels: TypeAlias = Sequence[int] | np.ndarray | tf.Tensor


def uint8_images(images: Array, image_shape: Sequence[int], name: str = "images") -> tf.Tensor:
    """uint8 [B, H, W, C]; bytes are never guessed from floats or from other integers.

    Raises:
        InputError: for another type or shape.
    """
    images = _as_tensor(images, name)
    if images.dtype != tf.uint8:
        raise InputError(f"{name} are {images.dtype.name}; uint8 in 0 .. 255 is needed here")
    return _of_shape(images, image_shape, name)


def continuous_images(
    images: Array,
    image_shape: Sequence[int],
    pixel_range: tuple[float, float],
    dtype: tf.DType,
    name: str = "images",
) -> tf.Tensor:
    """[B, H, W, C] of `dtype`, from floats.

    A flow's own samples may lie outside of its pixel range, so a margin of one width of the range is allowed on
    either side; floats of 0 .. 255 and of [0, 1] are refused.

    Raises:
        InputError: for another type or shape, and for values that cannot be pixels of `pixel_range`.
    """
    images = float_values(images, image_shape, dtype, name)
    if tf.executing_eagerly() and tf.size(images):
        low, high = pixel_range
        smallest, largest = float(tf.reduce_min(images)), float(tf.reduce_max(images))
        is_far = smallest < 2 * low - high or largest > 2 * high - low
        if is_far or (smallest >= (low + high) / 2 and largest > high + 0.01 * (high - low)):
            raise InputError(
                f"{name} reach from {smallest:g} to {largest:g}; this model's continuous pixels lie in "
                f"[{low:g}, {high:g}): use `glow.dequantizer.dequantize` on uint8 images"
            )
    return images


def float_values(values: Array, shape: Sequence[int], dtype: tf.DType, name: str) -> tf.Tensor:
    """[B, *shape] of `dtype`, from floats, such as latents.

    Raises:
        InputError: for another type or shape.
    """
    values = _as_tensor(values, name)
    if not values.dtype.is_floating:
        raise InputError(f"{name} are {values.dtype.name}; floats are needed (`glow.dequantizer.dequantize`)")
    return _of_shape(tf.cast(values, dtype), shape, name)


def class_labels(labels: Labels | None, num_classes: int, num_images: int | None = None) -> tf.Tensor | None:
    """int32 [B] in 0 .. num_classes - 1, from any integer type; None for a model without classes.

    Args:
        num_classes: of the model; 0 for a model without classes.
        num_images: how many labels are needed; None: any number.
    Raises:
        InputError: for labels of a model without classes, for no labels of one with classes, and for floats,
            booleans, another shape and values out of range.
    """
    if not num_classes:
        if labels is not None:
            raise InputError("labels were given to a model that is not class-conditional")
        return None
    needed = f"integers from 0 to {num_classes - 1}"
    if labels is None:
        raise InputError(f"this model is class-conditional: give labels, {needed}")
    labels = labels if tf.is_tensor(labels) else np.asarray(labels)
    if isinstance(labels, np.ndarray) and not labels.size:
        labels = labels.astype(np.int32)  # numpy takes an empty list as floats
    labels = _as_tensor(labels, "labels")
    if not labels.dtype.is_integer:
        raise InputError(f"labels are {labels.dtype.name}; {needed} are needed")
    if labels.shape.rank != 1:
        raise InputError(f"labels have shape {tuple(labels.shape)}; {needed}, [B], are needed")
    labels = tf.cast(labels, tf.int64)
    in_range = tf.reduce_all((labels >= 0) & (labels < num_classes))
    if tf.executing_eagerly():
        if num_images is not None and len(labels) != num_images:
            raise InputError(f"{len(labels)} labels were given for {num_images} images")
        if not in_range:
            raise InputError(f"labels reach from {min(labels.numpy())} to {max(labels.numpy())}; they must be {needed}")
        return tf.cast(labels, tf.int32)
    with tf.control_dependencies([tf.debugging.Assert(in_range, [f"labels must be {needed}"])]):
        return tf.cast(labels, tf.int32)


def _as_tensor(values: Array, name: str) -> tf.Tensor:
    try:
        # By way of numpy, which takes Python numbers as float64.
        return tf.convert_to_tensor(values if tf.is_tensor(values) else np.asarray(values))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are not an array of numbers: {error}") from error


def _of_shape(values: tf.Tensor, shape: Sequence[int], name: str) -> tf.Tensor:
    if values.shape.rank != 4 or not values.shape[1:].is_compatible_with(tuple(shape)):
        raise InputError(f"{name} have shape {tuple(values.shape)}; this model needs [B, {', '.join(map(str, shape))}]")
    return tf.ensure_shape(values, [None, *shape])
