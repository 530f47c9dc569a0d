"""The squeeze: every 2x2 block of pixels becomes one position with four times the channels."""

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, constant_log_det
from glow_tf.bijectors.shapes import event_shape, image_shape, with_batch_shape


class Squeeze(ImageBijector):
    """Moves each 2x2 block of pixels into the channels of one position.

    inverse: z[h, w, 4c + 2i + j] = x[2h + i, 2w + j, c], so [..., H, W, C] -> [..., H/2, W/2, 4C]
    log-det: 0

    The old channel c varies slowest in the new channel index, as in OpenAI's code; in `tf.nn.space_to_depth` it varies
    fastest.

    Raises:
        ValueError: if a height or width is odd, or (forward) the number of channels is not divisible by 4.

    References: Dinh et al. 2017, section 3.6.

    >>> x = tf.reshape(tf.range(8.0), [2, 2, 2])
    >>> Squeeze().inverse(x).numpy().tolist()
    [[[0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]]]
    """

    def __init__(self, dtype: tf.DType = tf.float32, name: str = "squeeze") -> None:
        super().__init__(dtype=dtype, parameters=dict(locals()), is_constant_jacobian=True, name=name)

    def _forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shape = self._forward_event_shape(z.shape)
        h, w, c = image_shape(z)
        blocks = tf.reshape(z, [-1, h, w, c // 4, 2, 2])
        blocks = tf.transpose(blocks, [0, 1, 4, 2, 5, 3])
        x = tf.ensure_shape(tf.reshape(blocks, with_batch_shape(z, [2 * h, 2 * w, c // 4])), shape)
        return x, constant_log_det(tf.zeros([], z.dtype), z)

    def _inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shape = self._inverse_event_shape(x.shape)
        h, w, c = image_shape(x)
        blocks = tf.reshape(x, [-1, h // 2, 2, w // 2, 2, c])
        blocks = tf.transpose(blocks, [0, 1, 3, 5, 2, 4])
        z = tf.ensure_shape(tf.reshape(blocks, with_batch_shape(x, [h // 2, w // 2, 4 * c])), shape)
        return z, constant_log_det(tf.zeros([], x.dtype), x)

    def _forward_event_shape(self, input_shape: tf.TensorShape) -> tf.TensorShape:
        h, w, c = event_shape(input_shape)
        if c is not None and c % 4:
            raise ValueError(f"{c} channels cannot be unsqueezed: not divisible by 4")
        return input_shape[:-3].concatenate([h and 2 * h, w and 2 * w, c and c // 4])

    def _inverse_event_shape(self, output_shape: tf.TensorShape) -> tf.TensorShape:
        h, w, c = event_shape(output_shape)
        if (h or 0) % 2 or (w or 0) % 2:
            raise ValueError(f"an image of {h}x{w} cannot be squeezed: height and width must be even")
        return output_shape[:-3].concatenate([h and h // 2, w and w // 2, c and 4 * c])

    def _forward_event_shape_tensor(self, input_shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([input_shape[:-3], input_shape[-3:-1] * 2, input_shape[-1:] // 4], axis=0)

    def _inverse_event_shape_tensor(self, output_shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([output_shape[:-3], output_shape[-3:-1] // 2, output_shape[-1:] * 4], axis=0)
