"""The networks of OpenAI's Glow, as functions of their parameters.

Each takes its parameters as a dictionary of tensors, so that one function serves one step and a slice of K
stacked steps. Kernels are [height, width, in, out], images [..., H, W, C].

Every 3x3 convolution sees where the image ends: OpenAI's code pads its input with zeros and appends a
channel that is one in the padding and zero inside. The kernel's slice for that channel is kept apart here,
as `edge` [3, 3, out].

References: https://github.com/openai/glow, `tfops.py` and `model.py`.
"""

import numpy as np
import tensorflow as tf

from glow_tf.initialization import standardizing_shift_and_log_scale

# The stored log-scales count three times: OpenAI's way of letting them learn faster.
LOG_SCALE_FACTOR = 3.0

# The scale of an affine coupling is sigmoid(raw + this), so that it starts near one (0.88).
SCALE_OFFSET = 2.0

# Standard deviation of a convolution's first weights.
KERNEL_STD = 0.05


class OpenAINetwork:
    """What a coupling asks of the half that it keeps.

    3x3 convolution, actnorm, ReLU, 1x1 convolution, actnorm, ReLU, zero-initialised 3x3 convolution. Any
    object with these four methods can take its place (`glow_tf.Glow` says how).

    Args:
        width: channels of the two hidden layers.
    """

    def __init__(self, width):
        self.width = width

    def initial_values(self, rng, num_steps, channels, out_channels):
        """{name: numpy array [num_steps, ...]}: what to stack for `num_steps` networks, as they start.

        Args:
            rng: a numpy Generator.
            channels: of the kept half.
            out_channels: of `output`; twice `channels` under an affine coupling.
        """
        width = self.width
        hidden = {
            "conv1_kernel": (3, 3, channels, width),
            "conv1_edge": (3, 3, width),
            "conv2_kernel": (width, width),
        }
        zero = {
            "actnorm1_shift": (width,),
            "actnorm1_log_scale": (width,),
            "actnorm2_shift": (width,),
            "actnorm2_log_scale": (width,),
            **{f"conv3_{name}": shape for name, shape in zero_conv_shapes(width, out_channels).items()},
        }
        return {
            name: KERNEL_STD * rng.standard_normal((num_steps, *shape), dtype=np.float32)
            for name, shape in hidden.items()
        } | {name: np.zeros((num_steps, *shape), np.float32) for name, shape in zero.items()}

    def output(self, parameters, kept):
        """kept [..., H, W, C/2] -> [..., H, W, out], of the parameters' type.

        The convolutions compute in the type of `kept`: bfloat16 under mixed precision.
        """
        hidden = tf.nn.relu(self._conv1(parameters, kept))
        hidden = tf.nn.relu(self._conv2(parameters, hidden))
        return zero_conv({name: parameters[f"conv3_{name}"] for name in ZERO_CONV_NAMES}, hidden)

    def shift_and_log_scale(self, parameters, kept):
        """The two of an affine coupling, halves of the output: shift, and log sigmoid(raw + 2) < 0.

        In OpenAI's code the two take turns, channel by channel; taking every other channel of a tensor costs an
        eighth of a training step, so the order is changed once, where its weights are read.
        """
        shift, raw = tf.split(self.output(parameters, kept), 2, axis=-1)
        return shift, tf.math.log_sigmoid(raw + SCALE_OFFSET)

    def initialize(self, parameters, batches):
        """The hidden actnorms' parameters that standardise their inputs over all of `batches`.

        Args:
            parameters: {name: tensor}, one step's slice.
            batches: a list of kept halves [B, H, W, C/2].
        Returns:
            {name: tensor} of the four that change.
        """
        found = {name: tf.zeros_like(parameters[name]) for name in parameters if name.startswith("actnorm")}
        found |= _standardizing(1, (self._conv1(parameters | found, kept) for kept in batches))
        hidden = (tf.nn.relu(self._conv1(parameters | found, kept)) for kept in batches)
        return found | _standardizing(2, (self._conv2(parameters | found, values) for values in hidden))

    def _conv1(self, parameters, kept):
        # The input is narrow, so the edge channel is appended to it: adding what it contributes to the wide
        # result would be one more pass, and would part the convolution from its bias and ReLU.
        edge = parameters["conv1_edge"][:, :, tf.newaxis, :]
        kernel = tf.concat([parameters["conv1_kernel"], edge], axis=2)
        return _conv_actnorm(with_edge_channel(kept), kernel, *_actnorm_of(1, parameters))

    def _conv2(self, parameters, hidden):
        kernel = parameters["conv2_kernel"][tf.newaxis, tf.newaxis]
        return _conv_actnorm(hidden, kernel, *_actnorm_of(2, parameters))


ZERO_CONV_NAMES = ("kernel", "edge", "bias", "log_scale")


def zero_conv_shapes(in_channels, out_channels):
    """{name: shape} of the parameters of `zero_conv`; all start at zero."""
    return {
        "kernel": (3, 3, in_channels, out_channels),
        "edge": (3, 3, out_channels),
        "bias": (out_channels,),
        "log_scale": (out_channels,),
    }


def zero_conv(parameters, images):
    """The 3x3 convolution that starts at zero: (conv(images) + bias) * exp(3 log_scale).

    Args:
        parameters: the tensors of `zero_conv_shapes`.
        images: [..., H, W, in].
    Returns:
        [..., H, W, out].
    """
    # The scale is multiplied into the kernel, which saves a pass over the result and one in the gradient.
    scale = tf.exp(LOG_SCALE_FACTOR * parameters["log_scale"])
    constant = zero_conv_of_zeros(parameters, *images.shape[-3:-1])
    result = conv2d(images, tf.cast(parameters["kernel"] * scale, images.dtype), "SAME")
    return tf.cast(result, constant.dtype) + constant


def zero_conv_of_zeros(parameters, height, width):
    """`zero_conv` of an image of zeros, [height, width, out]: the edge channel, the bias and the scale."""
    scale = tf.exp(LOG_SCALE_FACTOR * parameters["log_scale"])
    return (edge_map(parameters["edge"], height, width) + parameters["bias"]) * scale


def zero_linear_shapes(in_channels, out_channels):
    """{name: shape} of the parameters of `zero_linear`; all start at zero."""
    return {"kernel": (in_channels, out_channels), "bias": (out_channels,), "log_scale": (out_channels,)}


def zero_linear(parameters, values):
    """The linear layer that starts at zero: (values @ kernel + bias) * exp(3 log_scale).

    Args:
        parameters: the tensors of `zero_linear_shapes`.
        values: [B, in]; or [B] integers, which stand for one-hot vectors.
    Returns:
        [B, out].
    """
    if values.dtype.is_integer:
        product = tf.gather(parameters["kernel"], values)
    else:
        product = tf.matmul(values, parameters["kernel"])
    return (product + parameters["bias"]) * tf.exp(LOG_SCALE_FACTOR * parameters["log_scale"])


def with_edge_channel(images):
    """[..., H, W, C] -> [..., H+2, W+2, C+1]: zeros around it, and a channel that is one there, zero inside."""
    channels = images.shape[-1]
    padded = tf.pad(images, [[0, 0]] * (images.shape.rank - 3) + _AROUND + [[0, 1]])
    return padded + tf.pad(_ring(*images.shape[-3:-1], images.dtype), [[0, 0], [0, 0], [channels, 0]])


def edge_map(edge, height, width):
    """What the edge channel adds at each position of an image, [height, width, out].

    Args:
        edge: [3, 3, out], the kernel's slice for the edge channel.
    """
    ring = _ring(height, width, edge.dtype)
    return conv2d(ring[tf.newaxis], edge[:, :, tf.newaxis, :], "VALID")[0]


def conv2d(images, kernel, padding):
    """tf.nn.conv2d with stride 1 for any number of batch axes, none included."""
    if images.shape.rank == 4:
        return tf.nn.conv2d(images, kernel, strides=1, padding=padding)
    flat = tf.reshape(images, [-1, *images.shape[-3:]])
    result = tf.nn.conv2d(flat, kernel, strides=1, padding=padding)
    return tf.reshape(result, tf.concat([tf.shape(images)[:-3], result.shape[-3:]], axis=0))


_AROUND = [[1, 1], [1, 1]]


def _ring(height, width, dtype):
    """The edge channel, [height+2, width+2, 1]."""
    return tf.pad(tf.zeros([height, width, 1], dtype), _AROUND + [[0, 0]], constant_values=1)


def _conv_actnorm(images, kernel, shift, log_scale):
    """(conv(images) + shift) * exp(3 log_scale), unpadded; the scale is multiplied into kernel and shift.

    With the ReLU that follows, convolution and bias are one fused kernel of TensorFlow.
    """
    scale = tf.exp(LOG_SCALE_FACTOR * log_scale)
    result = conv2d(images, tf.cast(kernel * scale, images.dtype), "VALID")
    return tf.nn.bias_add(result, tf.cast(shift * scale, images.dtype))


def _actnorm_of(index, parameters):
    return parameters[f"actnorm{index}_shift"], parameters[f"actnorm{index}_log_scale"]


def _standardizing(index, batches):
    shift, log_scale = standardizing_shift_and_log_scale(batches)
    return {f"actnorm{index}_shift": shift, f"actnorm{index}_log_scale": log_scale / LOG_SCALE_FACTOR}
