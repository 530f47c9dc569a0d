"""Shapes of images [..., H, W, C], whose sizes may be unknown until a graph runs."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

# The axes of an image event: height, width, channels.
EVENT_NDIMS = 3


def image_shape(values: tf.Tensor) -> tuple[Any, Any, Any]:
    """(H, W, C) of values [..., H, W, C]: integers for sizes that are known, scalar tensors for the others."""
    static = event_shape(values.shape).as_list()
    if None in static:
        dynamic = tf.unstack(tf.shape(values)[-EVENT_NDIMS:], num=EVENT_NDIMS)
        static = [dynamic[i] if size is None else size for i, size in enumerate(static)]
    return tuple(static)


def event_shape(shape: tf.TensorShape) -> tf.TensorShape:
    """The static shape [H, W, C] of values [..., H, W, C]; raises ValueError if they have fewer axes."""
    if shape.rank is None:
        return tf.TensorShape([None] * EVENT_NDIMS)
    if shape.rank < EVENT_NDIMS:
        raise ValueError(f"an event has 3 axes, height, width and channels, not {tuple(shape)}")
    return shape[-EVENT_NDIMS:]


def batch_shape(values: tf.Tensor) -> Any:
    """The batch shape of values [..., H, W, C]: a list if all sizes are known (no operation is needed), or a tensor."""
    static = values.shape[:-EVENT_NDIMS]
    return static.as_list() if static.is_fully_defined() else tf.shape(values)[:-EVENT_NDIMS]


def with_batch_shape(values: tf.Tensor, event: Sequence[Any]) -> Any:
    """[..., *event]: the batch shape of values [..., H, W, C] followed by an event shape."""
    batch = batch_shape(values)
    if isinstance(batch, list) and not any(map(tf.is_tensor, event)):
        return [*batch, *event]
    return tf.concat([batch, tf.stack(event)], axis=0)


def halves(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first and the second half of the channels of values [..., H, W, C]."""
    channels = event_shape(values.shape)[-1]
    if channels is not None and channels % 2:
        raise ValueError(f"{channels} channels cannot be split into halves")
    first, second = tf.split(values, 2, axis=-1)
    return first, second


def with_nonempty_batch(function: Callable[[tf.Tensor], Any], values: tf.Tensor) -> Any:
    """function(values), where the function sees one image of zeros instead of an empty batch.

    With oneDNN, TensorFlow's convolution of an empty float32 batch has the wrong shape. A batch whose size is known and
    not 0 is passed on as it is. Where the size is unknown until a graph runs, the padding and the slices of a batch
    with images copy nothing.

    Args:
        function: images [B, H, W, C] -> tensors [B, ...], in any nested structure.
        values: [..., H, W, C].

    Returns:
        The results of the function, [..., ...].
    """
    batch = batch_shape(values)
    if isinstance(batch, list) and 0 not in batch:
        return function(values)
    flat = values if values.shape.rank == EVENT_NDIMS + 1 else tf.reshape(values, [-1, *image_shape(values)])
    size = tf.shape(flat)[0]
    results = function(tf.pad(flat, [[0, tf.cast(size == 0, tf.int32)], [0, 0], [0, 0], [0, 0]]))

    def restored(result: tf.Tensor) -> tf.Tensor:
        result = result[:size]
        return result if flat is values else tf.reshape(result, tf.concat([batch, tf.shape(result)[1:]], axis=0))

    return tf.nest.map_structure(restored, results)
