"""The parts of samuelmat19/GLOW-tf2 that differ from OpenAI's: its network and its Gaussians.

GLOW-tf2 exchanges the roles of the two halves of the channels: its couplings transform the first half, by a network of
the second, and its splits let the first half leave. So that `AffineCoupling` and `Split` apply unchanged, the halves of
a level's channels are exchanged here from the first step's 1x1 convolution on. The importer absorbs the exchange into
the 1x1 matrices; `TopPrior` below undoes it for the deepest latents, so that z is GLOW-tf2's z.

Its dropout in training is left out.

References: https://github.com/samuelmat19/GLOW-tf2, `model.py`.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf.bijectors import ChannelPermutation, Gaussian
from glow_tf.bijectors.residuals import Residuals
from glow_tf.bijectors.shapes import halves, with_nonempty_batch
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.nn import base
from glow_tf.nn.base import ParameterModule, Parameters
from glow_tf.nn.layers import conv2d

tfb = tfp.bijectors

# The two outer convolutions of the network are 4x4, padded "SAME": one before, two after.
KERNEL_SIDE = 4

# The raw scales of a new model start here; the scale is sigmoid(2.0) = 0.88. GLOW-tf2's own initial value gives a scale
# of exactly one, with a gradient of exactly zero.
FIRST_RAW_SCALE = 2.0


class CouplingNetwork(base.CouplingNetwork):
    """The coupling network of GLOW-tf2.

    4x4 convolution, ReLU6, actnorm, 1x1 convolution, ReLU6, actnorm, 4x4 convolution, whose output is the raw scales
    and then the raw shifts. The actnorms follow the activation, so convolutions have a bias. They start at the
    identity, as GLOW-tf2's do.

    Raises:
        InputError: if the configuration asks for a feature that GLOW-tf2 does not have.
    """

    def __init__(self, config: GlowConfig) -> None:
        fixed = {"coupling": "affine", "permutation": "conv1x1", "learned_top": True, "num_classes": 0}
        for key, value in fixed.items():
            if getattr(config, key) != value:
                raise InputError(f"{key} is {getattr(config, key)!r}; the architecture glow_tf2 has only {value!r}")
        self.width = config.width

    def initial_values(self, rng: np.random.Generator, num_steps: int, channels: int, out_channels: int) -> Parameters:
        """He-normal kernels, and a last convolution with a kernel of zeros."""
        width, side = self.width, KERNEL_SIDE

        def he_normal(*shape: int) -> np.ndarray:
            deviation = np.sqrt(2 / np.prod(shape[:-1]))
            return deviation * rng.standard_normal([num_steps, *shape], dtype=np.float32)

        def constant(value: float, *shape: int) -> np.ndarray:
            return np.full([num_steps, *shape], value, np.float32)

        half = out_channels // 2
        return {
            "conv1": {"kernel": he_normal(side, side, channels, width), "bias": constant(0, width)},
            "actnorm1": {"scale": constant(1, width), "bias": constant(0, width)},
            "conv2": {"kernel": he_normal(1, 1, width, width), "bias": constant(0, width)},
            "actnorm2": {"scale": constant(1, width), "bias": constant(0, width)},
            "conv3": {
                "kernel": constant(0, side, side, width, out_channels),
                "bias": np.concatenate([constant(FIRST_RAW_SCALE, half), constant(0, half)], axis=-1),
            },
        }

    def output(self, parameters: Parameters, x1: tf.Tensor, residuals: Residuals = None) -> tf.Tensor:
        """x1 [..., H, W, C/2] -> [..., H, W, C]: raw scales, raw shifts. `residuals` are not used."""
        values = x1
        for i in ("1", "2"):
            actnorm = parameters[f"actnorm{i}"]
            values = tf.nn.relu6(_conv(parameters[f"conv{i}"], values)) * actnorm["scale"] + actnorm["bias"]
        return _conv(parameters["conv3"], values)

    def shift_and_log_scale(
        self, parameters: Parameters, x1: tf.Tensor, residuals: Residuals = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """GLOW-tf2's x2 * scale + shift, where both are sigmoids, is (x2 + shift / scale) * scale."""
        raw_scale, raw_shift = tf.split(self.output(parameters, x1), 2, axis=-1)
        log_scale = tf.math.log_sigmoid(raw_scale)
        return tf.sigmoid(raw_shift) * tf.exp(-log_scale), log_scale


class SplitPrior(ParameterModule):
    """The Gaussian of the half that leaves: a 1x1 convolution of the half that stays, means and then log-scales."""

    def __init__(self, config: GlowConfig, channels: int, name: str) -> None:
        values = base.zeros({"kernel": (1, 1, channels // 2, channels), "bias": (channels,)})
        super().__init__(values, config.dtype, name)

    def __call__(self, x1: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """x1 [..., H, W, C/2] -> (mean, log_scale), each [..., H, W, C/2]."""
        return halves(with_nonempty_batch(lambda x1: _conv(self.parameters, x1), x1))


class TopPrior(ParameterModule):
    """The learned Gaussian of the deepest latents: a mean and a log-scale for every channel of every position.

    Its latent side and its variables have the halves in GLOW-tf2's order, its image side has them exchanged.
    """

    def __init__(self, config: GlowConfig, shape: tuple[int, int, int], name: str) -> None:
        super().__init__(base.zeros({"mean": shape, "log_scale": shape}), config.dtype, name)

    def bijector(self, labels: tf.Tensor | None = None) -> tfp.bijectors.Chain:
        """The Gaussian, and the exchange of the halves; `labels` is always None, since there are no classes."""
        mean = self.parameters["mean"]
        exchange = ChannelPermutation(exchanged_halves(mean.shape[-1]), dtype=mean.dtype, name="exchange_halves")
        gaussian = Gaussian(self, dtype=mean.dtype, name="top_prior")
        return tfb.Chain([exchange, gaussian], name="top")

    def __call__(self) -> tuple[tf.Tensor, tf.Tensor]:
        """(mean, log_scale), each [H, W, C]."""
        return self.parameters["mean"], self.parameters["log_scale"]


def exchanged_halves(channels: int) -> np.ndarray:
    """[C] int32: the second half's indices, then the first's. It is its own inverse."""
    return np.roll(np.arange(channels, dtype=np.int32), channels // 2)


def _conv(parameters: Parameters, values: tf.Tensor) -> tf.Tensor:
    return conv2d(values, parameters["kernel"], "SAME") + parameters["bias"]
