"""Validation of images, latents and labels, which every entry point calls.

Each function returns a tensor of the right type and shape or raises an `InputError` that names the argument and the
valid values. Types and shapes are checked immediately, in eager code and inside a `tf.function` or `dataset.map`.
Values (labels out of range, images of another scale) are known immediately in eager code only; in a graph an assertion
with the same message checks them when the graph runs.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import tensorflow as tf

from glow_tf._files import shown
from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.config import GlowConfig

# Images or latents.
Array: TypeAlias = np.ndarray | tf.Tensor

# One class per image.
Labels: TypeAlias = Sequence[int] | np.ndarray | tf.Tensor

# A flow is a density on all real numbers and its own samples overshoot the pixel range, most of all those of a model
# with random weights. Values further outside than this many widths of the range are not useful samples.
MAX_WIDTHS_OUTSIDE = 64

# The scale of fewer values than this is not checked: they may all be bright by chance.
MIN_VALUES_TO_JUDGE = 32


def uint8_images(images: Array, image_shape: Sequence[int]) -> tf.Tensor:
    """Checks uint8 images [B, H, W, C]; InputError for another shape or type, which is never converted.

    >>> uint8_images(np.zeros([1, 2, 2, 1]), (2, 2, 1))
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: images are float64; uint8 in 0 .. 255 is needed here
    """
    return _ensure_event_shape(as_uint8(images), image_shape, "images")


def as_uint8(images: Array) -> tf.Tensor:
    """Converts uint8 images of any shape to a tensor; InputError for another type."""
    images = as_tensor(images, "images")
    if images.dtype != tf.uint8:
        raise InputError(f"images are {images.dtype.name}; uint8 in 0 .. 255 is needed here")
    return images


def continuous_images(images: Array, config: "GlowConfig") -> tf.Tensor:
    """Converts float images [B, H, W, C] to the model's type.

    Samples of a flow may lie outside its pixel range and are valid. NaN is not valid, nor are values more than
    `MAX_WIDTHS_OUTSIDE` widths of the range away from it, nor images that are evidently scaled to [0, 1], [-1, 1] or
    0 .. 255.

    Raises:
        InputError: for another type or shape, or for invalid values.
    """
    images = _ensure_event_shape(tf.cast(floating(images, "images"), config.dtype), config.image_shape, "images")
    low, high = config.pixel_range
    extremes = smallest, largest = _extremes(images)
    width = high - low
    # Written so that NaN is not inside.
    is_inside = (smallest >= low - MAX_WIDTHS_OUTSIDE * width) & (largest <= high + MAX_WIDTHS_OUTSIDE * width)
    is_valid = is_inside & ~_has_other_scale(images, extremes, config.pixel_range)
    return _valid(images, is_valid, f"images reach from %g to %g; {_pixels_needed(config)}", extremes)


def latents(z: Array, config: "GlowConfig") -> tf.Tensor:
    """Converts floats z [B, H, W, C] to the model's type; InputError for another type or shape."""
    return _ensure_event_shape(tf.cast(floating(z, "z"), config.dtype), config.image_shape, "z")


def image_events(values: Any, config: "GlowConfig", name: str = "images") -> tf.Tensor:
    """Checks floats [..., H, W, C] for a bijector or a density, which TFP's algorithms evaluate anywhere.

    Arrays and lists are converted to the model's type. A tensor of that type is returned as it is, since TFP's cache
    goes by its identity. Values are checked in eager code only, and only for evident scales of other programs.

    Args:
        name: "images"; or "z", whose values are not checked.

    Raises:
        InputError: for another type or event shape, or for images of another scale.
    """
    tensor = floating(values, name)
    if not tf.is_tensor(values):
        tensor = tf.cast(tensor, config.dtype)
    if tensor.dtype != config.dtype:
        raise InputError(f"{name} are {tensor.dtype.name}; this model computes in {config.dtype}")
    if not tf.TensorShape(config.image_shape).is_compatible_with(tensor.shape[-3:]):
        needed = ", ".join(map(str, config.image_shape))
        raise InputError(f"{name} have shape {_shape_text(tensor)}; this model needs [..., {needed}]")
    if name == "images" and tf.executing_eagerly():
        extremes = _extremes(tensor)
        is_valid = ~_has_other_scale(tensor, extremes, config.pixel_range)
        return _valid(tensor, is_valid, f"images reach from %g to %g; {_pixels_needed(config)}", extremes)
    return tensor


def class_labels(
    labels: Labels | None, num_classes: int, num_images: int | tf.Tensor | None = None
) -> tf.Tensor | None:
    """Checks labels [B] of any integer type and converts them to int32; None for a model without classes.

    Args:
        num_classes: classes of the model; 0 for a model without classes.
        num_images: the number of labels that is needed. Default: any.

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
    if not values.shape.is_compatible_with([None]):
        raise InputError(f"labels have shape {_shape_text(values)}; {needed} of shape [B] are needed")
    values = tf.cast(tf.ensure_shape(values, [None]), tf.int64)  # uint64 beyond int64 becomes negative: refused
    if num_images is not None:
        counts = [tf.size(values), tf.convert_to_tensor(num_images)]
        values = _valid(values, tf.equal(*counts), "%d labels were given for %d images", counts)
    extremes = smallest, largest = _extremes(values)
    is_valid = (smallest >= 0) & (largest < num_classes)
    values = _valid(values, is_valid, f"labels reach from %d to %d; {needed} are needed", extremes)
    return tf.cast(values, tf.int32)


def check_sampling(num_images: int | tf.Tensor, seed: int | tf.Tensor | None) -> int | tf.Tensor:
    """Checks the arguments of `Glow.sample`; for a number of images that only a graph knows, just its type.

    Returns:
        num_images, as int64 unless it is a Python integer: TensorFlow's shapes and ranges do not take every integer.

    Raises:
        InputError: for fewer than one image, an invalid seed, or a missing seed inside a `tf.function`, which would
            draw the same samples at every call.
    """
    if not _is_scalar(num_images, integer=True):
        raise InputError(f"num_images is {shown(num_images)}; it must be an integer, 1 or more")
    if not _is_symbolic(num_images) and num_images < 1:
        raise InputError(f"{shown(num_images)} images were asked for; ask for 1 or more")
    if seed is not None:
        check_seed(seed)
    elif not tf.executing_eagerly():
        raise InputError("sample needs a seed inside a tf.function; without one, every call would draw the same images")
    return num_images if isinstance(num_images, int) else tf.cast(num_images, tf.int64)


def check_seed(seed: int | tf.Tensor, name: str = "seed", lowest: int = -(2**63)) -> None:
    """Raises InputError for a seed, or half of one, that is not an integer from `lowest` to 2**63."""
    if not _is_scalar(seed, integer=True) or not (_is_symbolic(seed) or lowest <= int(seed) < 2**63):
        text = "-2**63" if lowest < 0 else str(lowest)
        raise InputError(f"{name} is {shown(seed)}; it must be an integer between {text} and 2**63")


def temperature_of(value: float | tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Converts a temperature to a tensor [] of type `dtype`; InputError if it is negative, not finite or no number."""
    needed = "it must be a number from 0 up, 1 is the model itself"
    if not _is_scalar(value, integer=False):
        raise InputError(f"temperature is {shown(value)}; {needed}")
    # `tf.cast` alone would round a Python number to float32 first.
    temperature = tf.cast(tf.convert_to_tensor(value, dtype_hint=dtype), dtype)
    is_valid = (temperature >= 0) & tf.math.is_finite(temperature)
    return _valid(temperature, is_valid, f"temperature is %g; {needed}", [temperature])


def error_of_assertion(error: Exception) -> InputError | None:
    """The InputError of a failed assertion of this module in a graph; None for any other error."""
    failed = re.search(r"assertion failed: ((\[.*?\] ?)+)", str(error), re.DOTALL)
    message = "".join(re.findall(r"\[(.*?)\](?: |$)", failed[1])) if failed else ""
    return InputError(message) if re.search(" reach from | were given for |temperature is ", message) else None


def as_tensor(values: Any, name: str) -> tf.Tensor:
    """Converts arrays, lists and tensors to a tensor; InputError for anything else."""
    if type(values).__name__ == "KerasTensor":  # Keras would wrap each operation in a layer that has no variables
        raise InputError(f"{name} are a symbolic input of Keras; use the model in the `call` of a layer of your own")
    try:
        # Via numpy, which converts Python numbers to float64 and int64.
        return tf.convert_to_tensor(values if tf.is_tensor(values) else np.asarray(values))
    except (TypeError, ValueError, NotImplementedError) as error:
        kind = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise InputError(f"{name} are {kind}, not an array of numbers") from error


def floating(values: Any, name: str) -> tf.Tensor:
    """Converts arrays, lists and tensors to a tensor; InputError if its type is not a floating-point one."""
    values = as_tensor(values, name)
    if not values.dtype.is_floating:
        hint = " (`glow.dequantize` makes them from uint8)" if name == "images" else ""
        raise InputError(f"{name} are {values.dtype.name}; continuous values are needed{hint}")
    return values


def _is_scalar(value: Any, integer: bool) -> bool:
    try:
        scalar = as_tensor(value, "value")
    except InputError:
        return False
    return scalar.shape.rank == 0 and (scalar.dtype.is_integer or (not integer and scalar.dtype.is_floating))


def _is_symbolic(value: Any) -> bool:
    return tf.is_tensor(value) and not hasattr(value, "numpy")


def _pixels_needed(config: "GlowConfig") -> str:
    low, high = config.pixel_range
    return f"continuous pixels in [{low:g}, {high:g}) are needed (`glow.dequantize` makes them from uint8)"


def _ensure_event_shape(values: tf.Tensor, event_shape: Sequence[int], name: str) -> tf.Tensor:
    if not values.shape.is_compatible_with([None, *event_shape]):
        needed = ", ".join(map(str, event_shape))
        raise InputError(f"{name} have shape {_shape_text(values)}; this model needs [B, {needed}]")
    return tf.ensure_shape(values, [None, *event_shape])


def _shape_text(values: tf.Tensor) -> str:
    return "unknown" if values.shape.rank is None else str(tuple(values.shape))


def _extremes(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The smallest and the largest of all values; 0 and 0 if there are none."""
    flat = tf.reshape(values, [-1])
    is_empty = tf.equal(tf.size(flat), 0)
    flat = tf.pad(flat, [[0, tf.cast(is_empty, tf.int32)]])
    return tf.reduce_min(flat), tf.reduce_max(flat)


def _has_other_scale(
    images: tf.Tensor, extremes: tuple[tf.Tensor, tf.Tensor], pixel_range: tuple[float, float]
) -> tf.Tensor:
    """Whether images are evidently scaled to [0, 1], [-1, 1] or 0 .. 255 rather than to `pixel_range`: a bool []."""
    smallest, largest = extremes
    low, high = pixel_range
    width = high - low
    is_bright = largest > high + 0.1 * width
    is_unit = (smallest >= 0.0) & (smallest < 0.05) & is_bright & (largest <= 1.0)
    # The smallest sample of a flow is exactly -1 only if it was clipped to it.
    is_signed = (smallest == -1.0) & is_bright & (largest <= 1.0)
    is_bytes = (smallest >= 0.0) & (largest > high + 4 * width) & (largest <= 256.0)
    return (tf.size(images) >= MIN_VALUES_TO_JUDGE) & (is_unit | is_signed | is_bytes)


def _valid(values: tf.Tensor, is_valid: tf.Tensor, message: str, numbers: Sequence[tf.Tensor]) -> tf.Tensor:
    """The values; if not valid, an InputError (or in a graph an assertion) with `message` % `numbers`."""
    known = [tf.get_static_value(tensor) for tensor in (is_valid, *numbers)]
    if None not in known:
        if not known[0]:
            raise InputError(message % tuple(known[1:]))
        return values
    texts = message.replace("%g", "%").replace("%d", "%").split("%")
    data = [part for pair in zip(texts, [*numbers, ""], strict=True) for part in pair][:-1]
    with tf.control_dependencies([tf.debugging.Assert(is_valid, data)]):
        return tf.identity(values)
