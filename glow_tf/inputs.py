"""The one gate for images, latents and labels: every entry point checks its arguments here.

Each function returns a tensor of the right type and shape or raises an `InputError` that names the argument and the
valid values. Types and shapes are checked at once, in eager code and inside a `tf.function` or `dataset.map`. Values
(labels out of range, images of another scale) are known at once in eager code only; in a graph an assertion checks
them when the graph runs, with the same message.
"""

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from glow_tf.errors import InputError

# What most functions take: images, latents.
Array: TypeAlias = np.ndarray | tf.Tensor

# One class per image.
Labels: TypeAlias = Sequence[int] | np.ndarray | tf.Tensor

# A flow is a density on all real numbers and its own samples overshoot the pixel range, most of all those of a model
# with random weights. Values further outside than this many widths of the range are no sample of any use.
MAX_WIDTHS_OUTSIDE = 64

# Fewer values than this are not judged by their scale: they may all be bright by chance.
MIN_VALUES_TO_JUDGE = 32


def uint8_images(images: Array, image_shape: Sequence[int], name: str = "images") -> tf.Tensor:
    """Checks uint8 images [B, H, W, C]; floats and other integers are never converted.

    Raises:
        InputError: for another type or shape.

    >>> uint8_images(np.zeros([1, 2, 2, 1]), (2, 2, 1))
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: images are float64; uint8 in 0 .. 255 is needed here
    """
    images = as_tensor(images, name)
    if images.dtype != tf.uint8:
        raise InputError(f"{name} are {images.dtype.name}; uint8 in 0 .. 255 is needed here")
    return _ensure_event_shape(images, image_shape, name)


def continuous_images(
    images: Array,
    image_shape: Sequence[int],
    pixel_range: tuple[float, float],
    dtype: tf.DType | str,
    name: str = "images",
) -> tf.Tensor:
    """Converts float images [B, H, W, C] to `dtype`.

    Samples of a flow may lie outside of its pixel range and are valid. Not valid are NaN, values more than
    `MAX_WIDTHS_OUTSIDE` widths of the range away from it, and images that are evidently scaled to [0, 1] or 0 .. 255.

    Raises:
        InputError: for another type or shape, or for invalid values.
    """
    images = floats(images, image_shape, dtype, name)
    low, high = pixel_range
    smallest, largest = _extremes(images)
    width = high - low
    # Written so that NaN is not inside.
    is_inside = (smallest >= low - MAX_WIDTHS_OUTSIDE * width) & (largest <= high + MAX_WIDTHS_OUTSIDE * width)
    is_valid = is_inside & ~_has_other_scale(images, smallest, largest, pixel_range)
    return _valid(images, is_valid, f"{name} reach from %g to %g; {_pixels_needed(pixel_range)}", [smallest, largest])


def image_events(
    values: Any, event_shape: Sequence[int], pixel_range: tuple[float, float], name: str = "images"
) -> tf.Tensor:
    """Checks floats [..., H, W, C] for a density on all real numbers, which TFP's algorithms evaluate anywhere.

    A tensor is returned as it is: TFP's cache goes by its identity. Of the values only the scales [0, 1] and 0 .. 255
    are refused, in eager code.

    Raises:
        InputError: for another type or event shape, or for images of another scale.
    """
    values = _floating(values, name)
    if not tf.TensorShape(event_shape).is_compatible_with(values.shape[-3:]):
        needed = ", ".join(map(str, event_shape))
        raise InputError(f"{name} have shape {_shape_text(values)}; this model needs [..., {needed}]")
    if tf.executing_eagerly():
        smallest, largest = _extremes(values)
        if _has_other_scale(values, smallest, largest, pixel_range):
            raise InputError(f"{name} reach from {smallest:g} to {largest:g}; {_pixels_needed(pixel_range)}")
    return values


def floats(values: Array, event_shape: Sequence[int], dtype: tf.DType | str, name: str) -> tf.Tensor:
    """Converts floats [B, *event_shape], such as latents, to `dtype`.

    Raises:
        InputError: for another type or shape.
    """
    return _ensure_event_shape(tf.cast(_floating(values, name), dtype), event_shape, name)


def class_labels(labels: Labels | None, num_classes: int, num_images: int | None = None) -> tf.Tensor | None:
    """Checks labels [B] of any integer type and converts them to int32; None for a model without classes.

    Args:
        num_classes: classes of the model; 0 for a model without classes.
        num_images: the number of labels needed; None for any number.

    Raises:
        InputError: for labels of a model without classes, for missing labels of a class-conditional model, and for
            floats, booleans, another shape or number, or values out of range.

    >>> class_labels(np.array([0, 2], np.uint8), num_classes=3).numpy().tolist()
    [0, 2]
    >>> class_labels([0, 3], num_classes=3)
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: labels reach from 0 to 3; integers from 0 to 2 are needed
    """
    if not num_classes:
        if labels is not None:
            raise InputError("labels were given to a model that is not class-conditional")
        return None
    needed = f"integers from 0 to {num_classes - 1}"
    if labels is None:
        raise InputError(f"this model is class-conditional: give labels, {needed}")
    values = as_tensor(labels, "labels")
    if not tf.is_tensor(labels) and values.shape == (0,):
        values = tf.cast(values, tf.int32)  # numpy makes floats of an empty list
    if not values.dtype.is_integer:
        raise InputError(f"labels are {values.dtype.name}; {needed} are needed")
    if values.shape.rank != 1:
        raise InputError(f"labels have shape {_shape_text(values)}; {needed} of shape [B] are needed")
    if None not in (num_images, values.shape[0]) and values.shape[0] != num_images:
        raise InputError(f"{values.shape[0]} labels were given for {num_images} images")
    values = tf.cast(values, tf.int64)  # of uint64 too large for it, a negative number
    smallest, largest = _extremes(values)
    is_valid = (smallest >= 0) & (largest < num_classes)
    values = _valid(values, is_valid, f"labels reach from %d to %d; {needed} are needed", [smallest, largest])
    return tf.cast(values, tf.int32)


def check_sampling(num_images: int, temperature: float, seed: int | None) -> None:
    """Checks the arguments of `Glow.sample`.

    Raises:
        InputError: for fewer than one image, a temperature that is negative or not finite, or a missing seed inside a
            `tf.function`, which would draw the same samples at every call.
    """
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature is {temperature}; it must be a number from 0 up, 1 is the model itself")
    if num_images < 1:
        raise InputError(f"{num_images} images were asked for; ask for 1 or more")
    if seed is None and not tf.executing_eagerly():
        raise InputError("sample needs a seed inside a tf.function; without one, every call would draw the same images")


def error_of_assertion(error: Exception) -> InputError | None:
    """The InputError of a failed assertion of this module in a graph; None for any other error."""
    failed = re.search(r"assertion failed: ((\[.*?\] ?)+)", str(error), re.DOTALL)
    message = "".join(re.findall(r"\[(.*?)\](?: |$)", failed[1])) if failed else ""
    return InputError(message) if " reach from " in message else None


def as_tensor(values: Any, name: str) -> tf.Tensor:
    """Converts arrays, lists and tensors to a tensor.

    Raises:
        InputError: for anything else.
    """
    try:
        # By way of numpy, which takes Python numbers as float64 and int64.
        return tf.convert_to_tensor(values if tf.is_tensor(values) else np.asarray(values))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are {type(values).__name__}, not an array of numbers") from error


def _floating(values: Any, name: str) -> tf.Tensor:
    values = as_tensor(values, name)
    if not values.dtype.is_floating:
        raise InputError(
            f"{name} are {values.dtype.name}; continuous values are needed (`glow.dequantize` makes them from uint8)"
        )
    return values


def _pixels_needed(pixel_range: tuple[float, float]) -> str:
    low, high = pixel_range
    return f"continuous pixels in [{low:g}, {high:g}) are needed (`glow.dequantize` makes them from uint8)"


def _ensure_event_shape(values: tf.Tensor, event_shape: Sequence[int], name: str) -> tf.Tensor:
    if not values.shape.is_compatible_with([None, *event_shape]):
        needed = ", ".join(map(str, event_shape))
        raise InputError(f"{name} have shape {_shape_text(values)}; this model needs [B, {needed}]")
    return tf.ensure_shape(values, [None, *event_shape])


def _shape_text(values: tf.Tensor) -> str:
    return "unknown" if values.shape.rank is None else str(tuple(values.shape))


def _extremes(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The smallest and the largest of all values; 0 and 0 of none."""
    flat = tf.reshape(values, [-1])
    is_empty = tf.equal(tf.size(flat), 0)
    flat = tf.pad(flat, [[0, tf.cast(is_empty, tf.int32)]])
    return tf.reduce_min(flat), tf.reduce_max(flat)


def _has_other_scale(
    images: tf.Tensor, smallest: tf.Tensor, largest: tf.Tensor, pixel_range: tuple[float, float]
) -> tf.Tensor:
    """Whether images are evidently scaled to [0, 1] or to 0 .. 255 rather than to `pixel_range`: a bool []."""
    low, high = pixel_range
    width = high - low
    is_unit = (smallest < 0.05) & (largest > high + 0.1 * width) & (largest <= 1.0)
    is_bytes = (largest > high + 4 * width) & (largest <= 256.0)
    return (tf.size(images) >= MIN_VALUES_TO_JUDGE) & (smallest >= 0.0) & (is_unit | is_bytes)


def _valid(values: tf.Tensor, is_valid: tf.Tensor, message: str, numbers: Sequence[tf.Tensor]) -> tf.Tensor:
    """The values; an InputError, or in a graph an assertion, with `message` % `numbers` where they are not valid."""
    if tf.executing_eagerly():
        if not is_valid:
            raise InputError(message % tuple(number.numpy() for number in numbers))
        return values
    texts = message.replace("%g", "%").replace("%d", "%").split("%")
    data = [part for pair in zip(texts, [*numbers, ""], strict=True) for part in pair][:-1]
    with tf.control_dependencies([tf.debugging.Assert(is_valid, data)]):
        return tf.identity(values)
