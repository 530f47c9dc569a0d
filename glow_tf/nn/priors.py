"""The Gaussians of the latents in OpenAI's Glow, and its classifier."""

import math

import tensorflow as tf

from glow_tf.bijectors.gaussian import Gaussian
from glow_tf.bijectors.shapes import halves
from glow_tf.config import GlowConfig
from glow_tf.nn.base import ParameterModule, zeros
from glow_tf.nn.layers import (
    conv2d_zeros,
    conv2d_zeros_constant,
    conv2d_zeros_shapes,
    linear_zeros,
    linear_zeros_shapes,
)


class SplitPrior(ParameterModule):
    """The Gaussian of x2, the half that leaves at a split: a zero-initialised convolution of x1, the half that stays.

    Mean and log-scale are halves of the convolution's output (in OpenAI's code they alternate). `channels` is C before
    the split.
    """

    def __init__(self, config: GlowConfig, channels: int, name: str) -> None:
        super().__init__(zeros(conv2d_zeros_shapes(channels // 2, channels)), config.dtype, name)

    def __call__(self, x1: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """x1 [..., H, W, C/2] -> (mean, log_scale), each [..., H, W, C/2]."""
        return halves(conv2d_zeros(self.parameters, x1))


class TopPrior(ParameterModule):
    """The learned Gaussian of the deepest latents: a zero-initialised convolution of an image of zeros.

    Its input is zero, so only the convolution's edge channel, bias and scale matter: a channel's mean and log-scale are
    the same at all positions but those at the border. If there are classes, they also depend on the class. `shape` is
    (H, W, C) of the deepest latents.
    """

    def __init__(self, config: GlowConfig, shape: tuple[int, int, int], name: str) -> None:
        self._shape = tuple(shape)
        self._dtype = tf.as_dtype(config.dtype)
        shapes: dict = conv2d_zeros_shapes(0, 2 * shape[-1]) if config.learned_top else {}
        shapes.pop("kernel", None)
        self._class_shape = self.class_shape(shape)
        if config.num_classes:
            shapes["class"] = linear_zeros_shapes(config.num_classes, math.prod(self._class_shape))
        super().__init__(zeros(shapes), config.dtype, name)

    def class_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape of a class's parameters, means and log-scales together, for latents (H, W, C)."""
        return 1, 1, 2 * shape[-1]

    def bijector(self, labels: tf.Tensor | None = None) -> Gaussian:
        """The Gaussian bijector; with labels [B] of a class-conditional model, one Gaussian per label."""
        return Gaussian(_FixedLabels(self, labels), dtype=self._dtype, name="top_prior")

    def mean_and_log_scale(self, labels: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Each [H, W, C], or [..., H, W, C] with labels [...]."""
        h, w, c = self._shape
        outputs = tf.zeros([h, w, 2 * c], self._dtype)
        if "edge" in self.parameters:
            outputs += conv2d_zeros_constant(self.parameters, h, w)
        if labels is not None:
            class_outputs = linear_zeros(self.parameters["class"], labels)
            outputs += tf.reshape(class_outputs, tf.concat([tf.shape(labels), self._class_shape], axis=0))
        return halves(outputs)


class _FixedLabels(tf.Module):
    """`TopPrior.mean_and_log_scale` for fixed labels: a tf.Module, so that TFP finds the variables."""

    def __init__(self, top: TopPrior, labels: tf.Tensor | None) -> None:
        super().__init__(name="top_prior")
        self._top = top
        self._labels = labels

    def __call__(self) -> tuple[tf.Tensor, tf.Tensor]:
        return self._top.mean_and_log_scale(self._labels)


class Classifier(ParameterModule):
    """Class logits from the deepest latents, averaged over positions (OpenAI's `weight_y` term)."""

    def __init__(self, config: GlowConfig, channels: int, name: str) -> None:
        super().__init__(zeros(linear_zeros_shapes(channels, config.num_classes)), config.dtype, name)

    def __call__(self, deepest: tf.Tensor) -> tf.Tensor:
        """[B, num_classes] from [B, H, W, C]."""
        return linear_zeros(self.parameters, tf.reduce_mean(deepest, axis=[1, 2]))
