"""The convolutions of OpenAI's Glow, as functions of their parameters.

Kernels are [height, width, in, out], images [..., H, W, C].

Every 3x3 convolution sees where the image ends: OpenAI's code pads its input with zeros and appends an edge channel,
which is one in the padding and zero inside. The kernel's slice for that channel is a separate parameter, `edge`
[3, 3, out].

References: https://github.com/openai/glow, `tfops.py`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.shapes import image_shape, with_batch_shape, with_nonempty_batch
from glow_tf.nn.base import Parameters

# The stored log-scales are multiplied by this: OpenAI's way of letting them learn faster.
LOG_SCALE_FACTOR = 3.0


def conv2d_zeros_shapes(in_channels: int, out_channels: int) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the parameters of `conv2d_zeros`; all start at zero."""
    return {
        "kernel": (3, 3, in_channels, out_channels),
        "edge": (3, 3, out_channels),
        "bias": (out_channels,),
        "log_scale": (out_channels,),
    }


def conv2d_zeros(parameters: Parameters, images: tf.Tensor) -> tf.Tensor:
    """The 3x3 convolution that starts at zero: (conv(images) + bias) * exp(3 log_scale).

    Images are [..., H, W, in], and the result is [..., H, W, out].
    """
    # The scale is multiplied into the kernel, which saves a pass over the result and another in the gradient.
    scale = tf.exp(LOG_SCALE_FACTOR * parameters["log_scale"])
    constant = conv2d_zeros_constant(parameters, *image_shape(images)[:2])
    kernel = tf.cast(parameters["kernel"] * scale, images.dtype)
    result = with_nonempty_batch(lambda images: conv2d(images, kernel, "SAME"), images)
    return tf.cast(result, constant.dtype) + constant


def conv2d_zeros_constant(parameters: Parameters, height: Any, width: Any) -> tf.Tensor:
    """`conv2d_zeros` of an image of zeros, [height, width, out]: (edge channel's contribution + bias) * scale."""
    scale = tf.exp(LOG_SCALE_FACTOR * parameters["log_scale"])
    return (edge_map(parameters["edge"], height, width) + parameters["bias"]) * scale


def linear_zeros_shapes(in_channels: int, out_channels: int) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the parameters of `linear_zeros`; all start at zero."""
    return {"kernel": (in_channels, out_channels), "bias": (out_channels,), "log_scale": (out_channels,)}


def linear_zeros(parameters: Parameters, values: tf.Tensor) -> tf.Tensor:
    """The linear layer that starts at zero: (values @ kernel + bias) * exp(3 log_scale).

    Values are [B, in], or integers [B], which stand for one-hot vectors; the result is [B, out].
    """
    if values.dtype.is_integer:
        product = tf.gather(parameters["kernel"], values)
    else:
        product = tf.matmul(values, parameters["kernel"])
    return (product + parameters["bias"]) * tf.exp(LOG_SCALE_FACTOR * parameters["log_scale"])


def add_edge_padding(images: tf.Tensor) -> tf.Tensor:
    """[..., H, W, C] -> [..., H+2, W+2, C+1]: pads with zeros, and appends a channel that is one in the padding."""
    height, width, channels = image_shape(images)
    batch_axes = tf.rank(images) - 3 if images.shape.rank is None else images.shape.rank - 3
    around = [[1, 1], [1, 1], [0, 1]]
    paddings = tf.pad(around, [[batch_axes, 0], [0, 0]]) if tf.is_tensor(batch_axes) else [[0, 0]] * batch_axes + around

    @tf.custom_gradient
    def pad(images: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        # The gradient of tf.pad is tf.slice, and that of tf.slice is tf.pad: in a second derivative its result would be
        # the input of a convolution. TensorFlow with oneDNN fuses the two in float32, but not for padded channels.
        return tf.pad(images, paddings), lambda dpadded: dpadded[..., 1:-1, 1:-1, :-1]

    padded = pad(images)
    ring = _ring(height, width)
    ring_as_last_channel = (np if isinstance(ring, np.ndarray) else tf).pad(ring, [[0, 0], [0, 0], [channels, 0]])
    return padded + tf.cast(ring_as_last_channel, images.dtype)


def edge_map(edge: tf.Tensor, height: Any, width: Any) -> tf.Tensor:
    """The edge channel's contribution to a 3x3 convolution, [height, width, out]; it is the same for all images.

    `edge` [3, 3, out] is the kernel's slice for that channel. Height and width are integers or scalar tensors.
    """
    ring = tf.cast(_ring(height, width)[np.newaxis], edge.dtype)
    return tf.squeeze(conv2d(ring, tf.expand_dims(edge, 2), "VALID"), axis=0)


def conv2d(
    images: tf.Tensor,
    kernel: tf.Tensor,
    padding: str,
    bias: tf.Tensor | None = None,
    activation: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> tf.Tensor:
    """tf.nn.conv2d with stride 1, then the bias and the activation, for any number of batch axes.

    A 1x1 convolution is a matrix product where `are_products_faster`. The batch must not be empty; see
    `with_nonempty_batch`.
    """
    height, width, channels = image_shape(images)
    flat = images if images.shape.rank == 4 else tf.reshape(images, [-1, height, width, channels])
    kernel_height, kernel_width, _, out = kernel.shape
    if padding == "VALID":
        height, width = height - kernel_height + 1, width - kernel_width + 1
    if kernel_height == kernel_width == 1 and are_products_faster(images.dtype):
        result = tf.matmul(tf.reshape(flat, [-1, channels]), tf.reshape(kernel, [-1, out]))
    else:
        result = tf.nn.conv2d(flat, kernel, strides=1, padding=padding)
    if bias is not None:
        result = tf.nn.bias_add(result, bias)
    if activation is not None:
        result = activation(result)
    if images.shape.rank == result.shape.rank == 4:
        return result
    return tf.reshape(result, with_batch_shape(images, [height, width, out]))


def are_products_faster(dtype: tf.DType) -> bool:
    """Whether 1x1 convolutions are computed as matrix products.

    They are in bfloat16, and on a GPU in every type: see `docs/scaling.md`. In float32 on a CPU the two forms are
    close, and the results stay those of tf.nn.conv2d to the last bit.
    """
    return dtype == tf.bfloat16 or bool(tf.config.list_physical_devices("GPU"))


def _ring(height: Any, width: Any) -> Any:
    """The edge channel, [height+2, width+2, 1]; a numpy constant if the size is known, which needs no operations."""
    around = [[1, 1], [1, 1], [0, 0]]
    if tf.is_tensor(height) or tf.is_tensor(width):
        return tf.pad(tf.zeros([height, width, 1]), around, constant_values=1)
    return np.pad(np.zeros([height, width, 1]), around, constant_values=1)
