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

from glow_tf.bijectors.residuals import through, vjp
from glow_tf.initialization import actnorm_init

# The stored log-scales count three times: OpenAI's way of letting them learn faster.
LOG_SCALE_FACTOR = 3.0

# The scale of an affine coupling is sigmoid(raw + this), so that it starts near one (0.88).
SCALE_OFFSET = 2.0

# Standard deviation of a convolution's first weights.
KERNEL_STD = 0.05


class OpenAINetwork:
    """What a coupling asks of the half that it keeps.

    3x3 convolution, actnorm, ReLU, 1x1 convolution, actnorm, ReLU, zero-initialised 3x3 convolution. Any
    object with these four methods can take its place (`glow_tf.Glow` says how); one that makes no use of `memory`
    is evaluated once more for its gradient, even where `backprop` is "stored".

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
            **{f"conv3_{name}": shape for name, shape in conv2d_zeros_shapes(width, out_channels).items()},
        }
        return {name: _random_kernels(rng, (num_steps, *shape)) for name, shape in hidden.items()} | {
            name: np.zeros((num_steps, *shape), np.float32) for name, shape in zero.items()
        }

    def output(self, parameters, kept, memory=None):
        """kept [..., H, W, C/2] -> [..., H, W, out], of the parameters' type.

        The convolutions compute in the type of `kept`: bfloat16 under mixed precision.

        Args:
            memory: see `bijectors.memory`; None keeps nothing.
        """
        # Scales are multiplied into kernels, which are smaller than what they make.
        scale1 = tf.exp(LOG_SCALE_FACTOR * parameters["actnorm1_log_scale"])
        layers = (
            self._first_kernel(parameters) * scale1,
            parameters["actnorm1_shift"] * scale1,
            self._second_kernel(parameters),
            parameters["actnorm2_shift"],
            self._last_kernel(parameters),
        )
        layers = [tf.cast(tensor, kept.dtype) for tensor in layers]
        result = through(memory, _layers, _layers_backward, add_edge_padding(kept), *layers)
        of_conv3 = {name: parameters[f"conv3_{name}"] for name in CONV2D_ZEROS_NAMES}
        constant = conv2d_zeros_constant(of_conv3, *kept.shape[-3:-1])
        return tf.cast(result, constant.dtype) + constant

    def shift_and_log_scale(self, parameters, kept, memory=None):
        """The two of an affine coupling, halves of the output: shift, and log sigmoid(raw + 2) < 0.

        In OpenAI's code the two take turns, channel by channel; taking every other channel of a tensor costs an
        eighth of a training step, so the order is changed once, where its weights are read.
        """
        shift, raw = tf.split(self.output(parameters, kept, memory), 2, axis=-1)
        return shift, tf.math.log_sigmoid(raw + SCALE_OFFSET)

    def initialize(self, parameters, batches, memories):
        """The hidden actnorms' parameters that standardise their inputs over all of `batches`.

        Args:
            parameters: {name: tensor}, one step's slice.
            batches: a list of kept halves [B, H, W, C/2].
            memories: a SaveResiduals for each batch, which afterwards holds what `output` would compute of it with the
                parameters found: nothing is computed twice. A network may leave them empty.
        Returns:
            {name: tensor} of the four that change.
        """
        # What is computed of a batch takes its place: one layer of the network is held at a time.
        values = [add_edge_padding(batch) for batch in batches]
        first, second = self._first_kernel(parameters), self._second_kernel(parameters)
        for i, padded in enumerate(values):
            values[i] = conv2d(padded, first, "VALID")
        found = _standardizing(1, values)
        shift, scale = found["actnorm1_shift"], tf.exp(LOG_SCALE_FACTOR * found["actnorm1_log_scale"])
        for i, hidden in enumerate(values):
            values[i] = conv2d(tf.nn.relu((hidden + shift) * scale), second, "VALID")
        found |= _standardizing(2, values)
        last = self._last_kernel(parameters | found)
        for hidden, memory in zip(values, memories, strict=True):
            memory.kept.append([conv2d(tf.nn.relu(hidden + found["actnorm2_shift"]), last, "SAME")])
        return found

    def _first_kernel(self, parameters):
        # The input is narrow, so the edge channel is appended to it: adding what it contributes to the wide
        # result would be one more pass, and would part the convolution from its bias and ReLU.
        return tf.concat([parameters["conv1_kernel"], tf.expand_dims(parameters["conv1_edge"], 2)], axis=2)

    def _second_kernel(self, parameters):
        # Indexing with new axes would say the same, but its gradient copies.
        return tf.reshape(parameters["conv2_kernel"], [1, 1, self.width, self.width])

    def _last_kernel(self, parameters):
        # The second actnorm's scale commutes with the ReLU behind it, since it is positive: so it goes into the last
        # kernel, which has to be scaled anyway, and the largest kernel of all is used as it stands.
        scale2, scale3 = (tf.exp(LOG_SCALE_FACTOR * parameters[f"{name}_log_scale"]) for name in ("actnorm2", "conv3"))
        return parameters["conv3_kernel"] * (tf.expand_dims(scale2, -1) * scale3)


def _random_kernels(rng, shape):
    values = rng.standard_normal(shape, dtype=np.float32)
    values *= KERNEL_STD  # in place: a copy of a large model's kernels takes longer than their product
    return values


def _layers(padded, kernel1, bias1, kernel2, bias2, kernel3):
    """(what the three convolutions make, [the two hidden layers]); fused kernels of TensorFlow where it has them."""
    hidden1 = _conv_relu(padded, kernel1, bias1)
    hidden2 = _conv_relu(hidden1, kernel2, bias2)
    return conv2d(hidden2, kernel3, "SAME"), [hidden1, hidden2]


def _layers_backward(inputs, hidden, dresult):
    padded, kernel1, bias1, kernel2, bias2, kernel3 = inputs
    hidden1, hidden2 = hidden
    dhidden, dkernel3 = vjp(lambda values, kernel: conv2d(values, kernel, "SAME"), [hidden2, kernel3], dresult)
    dhidden, dkernel2, dbias2 = vjp(_conv_bias, [hidden1, kernel2, bias2], _relu_gradient(hidden2, dhidden))
    dpadded, dkernel1, dbias1 = vjp(_conv_bias, [padded, kernel1, bias1], _relu_gradient(hidden1, dhidden))
    return dpadded, dkernel1, dbias1, dkernel2, dbias2, dkernel3


def _conv_bias(images, kernel, bias):
    return tf.nn.bias_add(conv2d(images, kernel, "VALID"), bias)


def _conv_relu(images, kernel, bias):
    return tf.nn.relu(_conv_bias(images, kernel, bias))


def _relu_gradient(result, dresult):
    """Of what entered a ReLU, from what it gave."""
    return tf.raw_ops.ReluGrad(gradients=dresult, features=result)


CONV2D_ZEROS_NAMES = ("kernel", "edge", "bias", "log_scale")


def conv2d_zeros_shapes(in_channels, out_channels):
    """{name: shape} of the parameters of `conv2d_zeros`; all start at zero."""
    return {
        "kernel": (3, 3, in_channels, out_channels),
        "edge": (3, 3, out_channels),
        "bias": (out_channels,),
        "log_scale": (out_channels,),
    }


def conv2d_zeros(parameters, images):
    """The 3x3 convolution that starts at zero: (conv(images) + bias) * exp(3 log_scale).

    Args:
        parameters: the tensors of `conv2d_zeros_shapes`.
        images: [..., H, W, in].
    Returns:
        [..., H, W, out].
    """
    # The scale is multiplied into the kernel, which saves a pass over the result and one in the gradient.
    scale = tf.exp(LOG_SCALE_FACTOR * parameters["log_scale"])
    constant = conv2d_zeros_constant(parameters, *images.shape[-3:-1])
    result = conv2d(images, tf.cast(parameters["kernel"] * scale, images.dtype), "SAME")
    return tf.cast(result, constant.dtype) + constant


def conv2d_zeros_constant(parameters, height, width):
    """`conv2d_zeros` of an image of zeros, [height, width, out]: the edge channel, the bias and the scale."""
    scale = tf.exp(LOG_SCALE_FACTOR * parameters["log_scale"])
    return (edge_map(parameters["edge"], height, width) + parameters["bias"]) * scale


def linear_zeros_shapes(in_channels, out_channels):
    """{name: shape} of the parameters of `linear_zeros`; all start at zero."""
    return {"kernel": (in_channels, out_channels), "bias": (out_channels,), "log_scale": (out_channels,)}


def linear_zeros(parameters, values):
    """The linear layer that starts at zero: (values @ kernel + bias) * exp(3 log_scale).

    Args:
        parameters: the tensors of `linear_zeros_shapes`.
        values: [B, in]; or [B] integers, which stand for one-hot vectors.
    Returns:
        [B, out].
    """
    if values.dtype.is_integer:
        product = tf.gather(parameters["kernel"], values)
    else:
        product = tf.matmul(values, parameters["kernel"])
    return (product + parameters["bias"]) * tf.exp(LOG_SCALE_FACTOR * parameters["log_scale"])


def add_edge_padding(images):
    """[..., H, W, C] -> [..., H+2, W+2, C+1]: zeros around it, and a channel that is one there, zero inside."""
    height, width, channels = images.shape[-3:]
    padded = tf.pad(images, [[0, 0]] * (images.shape.rank - 3) + [[1, 1], [1, 1], [0, 1]])
    around_zeros = np.pad(_ring(height, width), [[0, 0], [0, 0], [channels, 0]])
    return padded + tf.constant(around_zeros, images.dtype)


def edge_map(edge, height, width):
    """What the edge channel adds at each position of an image, [height, width, out].

    Args:
        edge: [3, 3, out], the kernel's slice for the edge channel.
    """
    ring = tf.constant(_ring(height, width)[np.newaxis], edge.dtype)
    return tf.squeeze(conv2d(ring, tf.expand_dims(edge, 2), "VALID"), axis=0)


def conv2d(images, kernel, padding):
    """tf.nn.conv2d with stride 1 for any number of batch axes, none included."""
    if images.shape.rank == 4:
        return tf.nn.conv2d(images, kernel, strides=1, padding=padding)
    flat = tf.reshape(images, [-1, *images.shape[-3:]])
    result = tf.nn.conv2d(flat, kernel, strides=1, padding=padding)
    return tf.reshape(result, tf.concat([tf.shape(images)[:-3], result.shape[-3:]], axis=0))


def _ring(height, width):
    """The edge channel, numpy [height+2, width+2, 1]: a constant, which TensorFlow would make in several operations."""
    return np.pad(np.zeros([height, width, 1]), [[1, 1], [1, 1], [0, 0]], constant_values=1)


def _standardizing(index, batches):
    shift, log_scale = actnorm_init(batches)
    return {f"actnorm{index}_shift": shift, f"actnorm{index}_log_scale": log_scale / LOG_SCALE_FACTOR}
