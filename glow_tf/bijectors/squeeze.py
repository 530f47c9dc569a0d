"""Trades space for channels: every 2x2 block of pixels becomes one position."""

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, constant_log_det


class Squeeze(ImageBijector):
    """Moves each 2x2 block of pixels into the channels of one position.

    inverse: x[h, w, 4c + 2dy + dx] = y[2h + dy, 2w + dx, c], so [..., H, W, C] -> [..., H/2, W/2, 4C]
    log-det: 0

    The channel is the slow index, as in OpenAI's code; `tf.nn.space_to_depth` has it fast.

    Raises:
        ValueError: if a height or width is odd, or (forward) the channels are no multiple of four.
    References: Dinh et al. 2017, section 3.6.

    >>> y = tf.reshape(tf.range(8.0), [2, 2, 2])
    >>> Squeeze().inverse(y).numpy().tolist()
    [[[0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]]]
    """

    def __init__(self, dtype=tf.float32, name="squeeze"):
        super().__init__(dtype=dtype, name=name)

    def _forward_and_log_det(self, x):
        h, w, c = x.shape[-3:]
        self._forward_event_shape(x.shape[-3:])
        blocks = tf.reshape(x, _shape(x, [h, w, c // 4, 2, 2]))
        y = tf.reshape(_swap_axes(blocks, [0, 3, 1, 4, 2]), _shape(x, [2 * h, 2 * w, c // 4]))
        return y, constant_log_det(tf.zeros([], x.dtype), x)

    def _inverse_and_log_det(self, y):
        h, w, c = y.shape[-3:]
        self._inverse_event_shape(y.shape[-3:])
        blocks = tf.reshape(y, _shape(y, [h // 2, 2, w // 2, 2, c]))
        x = tf.reshape(_swap_axes(blocks, [0, 2, 4, 1, 3]), _shape(y, [h // 2, w // 2, 4 * c]))
        return x, constant_log_det(tf.zeros([], y.dtype), y)

    def _forward_event_shape(self, input_shape):
        h, w, c = input_shape[-3:]
        if c % 4:
            raise ValueError(f"{c} channels cannot be unsqueezed: not divisible by 4")
        return input_shape[:-3].concatenate([2 * h, 2 * w, c // 4])

    def _inverse_event_shape(self, output_shape):
        h, w, c = output_shape[-3:]
        if h % 2 or w % 2:
            raise ValueError(f"an image of {h}x{w} cannot be squeezed: height and width must be even")
        return output_shape[:-3].concatenate([h // 2, w // 2, 4 * c])

    def _forward_event_shape_tensor(self, input_shape):
        h, w, c = tf.unstack(input_shape[-3:])
        return tf.concat([input_shape[:-3], [2 * h, 2 * w, c // 4]], axis=0)

    def _inverse_event_shape_tensor(self, output_shape):
        h, w, c = tf.unstack(output_shape[-3:])
        return tf.concat([output_shape[:-3], [h // 2, w // 2, 4 * c]], axis=0)


def _shape(values, event_shape):
    """values' batch shape, then event_shape."""
    if values.shape[:-3].is_fully_defined():
        return [*values.shape[:-3], *event_shape]
    return tf.concat([tf.shape(values)[:-3], event_shape], axis=0)


def _swap_axes(blocks, order):
    """Transposes the last five axes by `order`, leaving the batch axes where they are."""
    batch = blocks.shape.rank - 5
    return tf.transpose(blocks, [*range(batch), *(batch + axis for axis in order)])
