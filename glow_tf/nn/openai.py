"""The coupling network of OpenAI's Glow: first written plainly, then a faster version that fuses operations.

References: https://github.com/openai/glow, `f` of `model.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.actnorm import actnorm_init
from glow_tf.bijectors.residuals import Residuals, UseResiduals, checkpoint, vjp
from glow_tf.bijectors.shapes import image_shape
from glow_tf.nn import products
from glow_tf.nn.base import CouplingNetwork, Parameters, zeros
from glow_tf.nn.layers import (
    LOG_SCALE_FACTOR,
    add_edge_padding,
    conv2d,
    conv2d_zeros,
    conv2d_zeros_constant,
    conv2d_zeros_shapes,
)

# The scale of an affine coupling is sigmoid(raw + this), so that it starts near one (0.88).
SCALE_OFFSET = 2.0

# Standard deviation of a convolution's initial weights.
KERNEL_STD = 0.05


def plain_network(parameters: Parameters, x1: tf.Tensor) -> tf.Tensor:
    """The network as in OpenAI's code: x1 [..., H, W, C/2] -> [..., H, W, out_channels].

    3x3 convolution, actnorm, ReLU, 1x1 convolution, actnorm, ReLU, zero-initialised 3x3 convolution.

    For reading and for tests; `OpenAINetwork.output`, which the model uses, returns the same values.
    """

    def actnorm(hidden: tf.Tensor, shift: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
        return (hidden + shift) * tf.exp(LOG_SCALE_FACTOR * log_scale)

    kernel1 = tf.concat([parameters["conv1"]["kernel"], parameters["conv1"]["edge"][:, :, tf.newaxis]], axis=2)
    hidden = conv2d(add_edge_padding(x1), kernel1, "VALID")
    hidden = tf.nn.relu(actnorm(hidden, **parameters["actnorm1"]))
    hidden = tf.tensordot(hidden, parameters["conv2"]["kernel"], axes=1)
    hidden = tf.nn.relu(actnorm(hidden, **parameters["actnorm2"]))
    return conv2d_zeros(parameters["conv3"], hidden)


class OpenAINetwork(CouplingNetwork):
    """`plain_network` with scales multiplied into kernels, convolutions fused with activations, and residuals."""

    def __init__(self, width: int) -> None:
        self.width = width

    def initial_values(self, rng: np.random.Generator, num_steps: int, channels: int, out_channels: int) -> Parameters:
        """Normal kernels with standard deviation 0.05; everything else starts at zero."""

        def normal(*shape: int) -> np.ndarray:
            values = rng.standard_normal([num_steps, *shape], dtype=np.float32)
            values *= KERNEL_STD  # in place: copying a large model's kernels takes longer than the product
            return values

        k, width = num_steps, self.width
        conv3 = conv2d_zeros_shapes(width, out_channels)
        return {
            "conv1": {"kernel": normal(3, 3, channels, width), "edge": normal(3, 3, width)},
            "conv2": {"kernel": normal(width, width)},
            "actnorm1": zeros({"shift": (k, width), "log_scale": (k, width)}),
            "actnorm2": zeros({"shift": (k, width), "log_scale": (k, width)}),
            "conv3": zeros({name: (k, *shape) for name, shape in conv3.items()}),
        }

    def output(self, parameters: Parameters, x1: tf.Tensor, residuals: Residuals = None) -> tf.Tensor:
        """As `plain_network`. The convolutions compute in the dtype of x1: bfloat16 under mixed precision."""
        # Scales are multiplied into kernels, which are smaller than the images.
        scale1 = tf.exp(LOG_SCALE_FACTOR * parameters["actnorm1"]["log_scale"])
        layers = (
            _first_kernel(parameters) * scale1,
            parameters["actnorm1"]["shift"] * scale1,
            _second_kernel(parameters),
            parameters["actnorm2"]["shift"],
            _last_kernel(parameters),
        )
        layers = tuple(tf.cast(tensor, x1.dtype) for tensor in layers)
        result = checkpoint(residuals, _layers, _layers_backward, add_edge_padding(x1), *layers)
        constant = conv2d_zeros_constant(parameters["conv3"], *image_shape(x1)[:2])
        return tf.cast(result, constant.dtype) + constant

    def shift_and_log_scale(
        self, parameters: Parameters, x1: tf.Tensor, residuals: Residuals = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Halves of the output: the shift, and `log_scale` of the raw scale.

        In OpenAI's code the two alternate, channel by channel. Taking every other channel of a tensor costs an eighth
        of a training step, so the importer reorders the weights instead.
        """
        shift, raw = tf.split(self.output(parameters, x1, residuals), 2, axis=-1)
        return shift, self.log_scale(raw)

    def log_scale(self, raw: tf.Tensor) -> tf.Tensor:
        """log sigmoid(raw + 2), which is negative."""
        return tf.math.log_sigmoid(raw + SCALE_OFFSET)

    def initialize(
        self, parameters: Parameters, batches: Sequence[tf.Tensor]
    ) -> tuple[dict[str, Any], Sequence[Residuals]]:
        """The two actnorms, so that they standardise their inputs over all batches; reuses the last convolution."""
        # Each result replaces its input, so only one layer of the network is in memory at a time.
        values = [add_edge_padding(batch) for batch in batches]
        first, second = _first_kernel(parameters), _second_kernel(parameters)
        for i, padded in enumerate(values):
            values[i] = conv2d(padded, first, "VALID")
        new = {"actnorm1": _stored_actnorm(values)}
        shift, scale = new["actnorm1"]["shift"], tf.exp(LOG_SCALE_FACTOR * new["actnorm1"]["log_scale"])
        for i, hidden in enumerate(values):
            values[i] = conv2d(tf.nn.relu((hidden + shift) * scale), second, "VALID")
        new["actnorm2"] = _stored_actnorm(values)
        last = _last_kernel({**parameters, **new})
        for i, hidden in enumerate(values):
            values[i] = conv2d(tf.nn.relu(hidden + new["actnorm2"]["shift"]), last, "SAME")
        return new, [UseResiduals([[result]]) for result in values]


def _first_kernel(parameters: Parameters) -> tf.Tensor:
    # The edge channel is appended to the input, which has few channels. Adding `edge_map` to the result, which has
    # many, would be another pass and would keep TensorFlow from fusing the convolution with its bias and ReLU.
    conv1 = parameters["conv1"]
    return tf.concat([conv1["kernel"], tf.expand_dims(conv1["edge"], 2)], axis=2)


def _second_kernel(parameters: Parameters) -> tf.Tensor:
    kernel = parameters["conv2"]["kernel"]
    return tf.reshape(kernel, [1, 1, *kernel.shape])  # indexing with new axes is equivalent, but its gradient copies


def _last_kernel(parameters: Parameters) -> tf.Tensor:
    # The second actnorm's scale is positive and so commutes with the ReLU after it. It is multiplied into the last
    # kernel, which is scaled anyway; so the second kernel, the largest of the three, needs no scaling.
    scale2, scale3 = (tf.exp(LOG_SCALE_FACTOR * parameters[name]["log_scale"]) for name in ("actnorm2", "conv3"))
    return parameters["conv3"]["kernel"] * (tf.expand_dims(scale2, -1) * scale3)


def _stored_actnorm(batches: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
    shift, log_scale = actnorm_init(batches)
    return {"shift": shift, "log_scale": log_scale / LOG_SCALE_FACTOR}


def _layers(
    padded: tf.Tensor, kernel1: tf.Tensor, bias1: tf.Tensor, kernel2: tf.Tensor, bias2: tf.Tensor, kernel3: tf.Tensor
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """(the last convolution's result, [the two hidden layers]); TensorFlow fuses convolution, bias and ReLU."""
    hidden1 = conv2d(padded, kernel1, "VALID", bias1, tf.nn.relu)
    hidden2 = conv2d(hidden1, kernel2, "VALID", bias2, tf.nn.relu)
    return conv2d(hidden2, kernel3, "SAME"), [hidden1, hidden2]


def _layers_backward(
    inputs: Sequence[tf.Tensor], hidden: Sequence[tf.Tensor], dresult: tf.Tensor
) -> tuple[tf.Tensor | None, ...]:
    """One gradient per input of `_layers`, from its hidden layers and the gradient of its result."""
    padded, kernel1, bias1, kernel2, bias2, kernel3 = inputs
    if products.are_gradients_faster(padded.dtype):
        return products.layers_backward(inputs, hidden, dresult)
    hidden1, hidden2 = hidden
    dhidden, dkernel3 = vjp(lambda values, kernel: conv2d(values, kernel, "SAME"), [hidden2, kernel3], dresult)
    dhidden = tf.raw_ops.ReluGrad(gradients=dhidden, features=hidden2)
    dhidden, dkernel2, dbias2 = vjp(_conv_bias, [hidden1, kernel2, bias2], dhidden)
    dhidden = tf.raw_ops.ReluGrad(gradients=dhidden, features=hidden1)
    dpadded, dkernel1, dbias1 = vjp(_conv_bias, [padded, kernel1, bias1], dhidden)
    return dpadded, dkernel1, dbias1, dkernel2, dbias2, dkernel3


def _conv_bias(images: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    return conv2d(images, kernel, "VALID", bias)
