"""The parts of samuelmat19/GLOW-tf2 that differ from OpenAI's: its network and its Gaussians.

GLOW-tf2 moves the first half of the channels by what the second half says, and the first half leaves at a
split. Here the two halves of a level's channels are held in the other order from the first step's 1x1
convolution on, so that `AffineCoupling` and `Split` serve as they are: the importer absorbs the exchange
into the 1x1 matrices, and only `TopPrior` below undoes it, so that z is GLOW-tf2's z.

Its dropout in training is left out.

References: https://github.com/samuelmat19/GLOW-tf2, `model.py`.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf.bijectors.gaussian import Gaussian
from glow_tf.bijectors.permutation import ChannelPermutation
from glow_tf.errors import InputError
from glow_tf.nn.openai import conv2d
from glow_tf.nn.steps import Part

tfb = tfp.bijectors

# The two outer convolutions of the network are 4x4, padded "SAME": one before, two after.
KERNEL_SIDE = 4

# A new model's raw scales start here, sigmoid of which is 0.88. GLOW-tf2's own start gives a scale of exactly
# one with a gradient of exactly zero.
FIRST_RAW_SCALE = 2.0


class CouplingNetwork:
    """What a coupling asks of the half that it keeps.

    4x4 convolution, ReLU6, actnorm, 1x1 convolution, ReLU6, actnorm, 4x4 convolution, whose output is the
    raw scales and then the raw shifts. The actnorms follow the activation, so convolutions have a bias.

    Args:
        config: a GlowConfig.
    Raises:
        InputError: the configuration asks for what GLOW-tf2 has not.
    """

    def __init__(self, config):
        fixed = {"coupling": "affine", "permutation": "conv1x1", "learned_top": True, "num_classes": 0}
        for key, value in fixed.items():
            if getattr(config, key) != value:
                raise InputError(f"{key} is {getattr(config, key)!r}; the architecture glow_tf2 has {value!r} only")
        self.width = config.width

    def initial_values(self, rng, num_steps, channels, out_channels):
        """As `networks.OpenAINetwork`: He-normal kernels, and a last convolution that starts at zero."""
        width, side = self.width, KERNEL_SIDE

        def he_normal(*shape):
            deviation = np.sqrt(2 / np.prod(shape[:-1]))
            return deviation * rng.standard_normal([num_steps, *shape], dtype=np.float32)

        def constant(value, *shape):
            return np.full([num_steps, *shape], value, np.float32)

        half = out_channels // 2
        return {
            "conv1_kernel": he_normal(side, side, channels, width),
            "conv1_bias": constant(0, width),
            "actnorm1_scale": constant(1, width),
            "actnorm1_bias": constant(0, width),
            "conv2_kernel": he_normal(1, 1, width, width),
            "conv2_bias": constant(0, width),
            "actnorm2_scale": constant(1, width),
            "actnorm2_bias": constant(0, width),
            "conv3_kernel": constant(0, side, side, width, out_channels),
            "conv3_bias": np.concatenate([constant(FIRST_RAW_SCALE, half), constant(0, half)], axis=-1),
        }

    def output(self, parameters, kept, memory=None):
        """kept [..., H, W, C/2] -> [..., H, W, C]: raw scales, raw shifts; `memory` is not used."""
        del memory
        values = kept
        for i in ("1", "2"):
            values = tf.nn.relu6(_conv(parameters, f"conv{i}", values))
            values = values * parameters[f"actnorm{i}_scale"] + parameters[f"actnorm{i}_bias"]
        return _conv(parameters, "conv3", values)

    def shift_and_log_scale(self, parameters, kept, memory=None):
        """The two of an affine coupling: its y * scale + shift, both sigmoids, is (y + shift / scale) * scale."""
        raw_scale, raw_shift = tf.split(self.output(parameters, kept), 2, axis=-1)
        log_scale = tf.math.log_sigmoid(raw_scale)
        return tf.sigmoid(raw_shift) * tf.exp(-log_scale), log_scale

    def initialize(self, parameters, batches, memories):
        """Nothing: the inner actnorms start at the identity, as GLOW-tf2's do."""
        del parameters, batches, memories
        return {}


class SplitPrior(Part):
    """The Gaussian of the half that leaves: a 1x1 convolution of the half that stays, means and then log-scales.

    Args:
        config: the GlowConfig.
        channels: C before the split.
        name: the prefix of the variables' names.
    """

    def __init__(self, config, channels, name):
        values = {
            "kernel": np.zeros([1, 1, channels // 2, channels], np.float32),
            "bias": np.zeros([channels], np.float32),
        }
        super().__init__(values, config.dtype, name)

    def __call__(self, kept):
        """kept [..., H, W, C/2] -> (mean, log_scale), each [..., H, W, C/2]."""
        return tf.split(conv2d(kept, self["kernel"], "SAME") + self["bias"], 2, axis=-1)


class TopPrior(Part):
    """The learned Gaussian of the deepest latents: a mean and a log-scale for every channel of every position.

    Its latent side and its variables have the halves in GLOW-tf2's order, the image side in the other one.

    Args:
        config: the GlowConfig.
        shape: (H, W, C) of the deepest latents.
        name: the prefix of the variables' names.
    """

    def __init__(self, config, shape, name):
        values = {"mean": np.zeros(shape, np.float32), "log_scale": np.zeros(shape, np.float32)}
        super().__init__(values, config.dtype, name)

    def bijector(self, labels=None):
        """The Gaussian and the exchange of the halves; there are no classes, so `labels` is None."""
        del labels
        mean = self["mean"]
        exchange = ChannelPermutation(exchanged_halves(mean.shape[-1]), dtype=mean.dtype, name="exchange_halves")
        gaussian = Gaussian(self, dtype=mean.dtype, name="top_prior")
        return tfb.Chain([exchange, gaussian], name="top")

    def __call__(self):
        """(mean, log_scale), each [H, W, C]."""
        return self["mean"], self["log_scale"]


def exchanged_halves(channels):
    """[C] int32: the second half's indices, then the first's. It is its own inverse."""
    return np.roll(np.arange(channels, dtype=np.int32), channels // 2)


def _conv(parameters, name, values):
    return conv2d(values, parameters[f"{name}_kernel"], "SAME") + parameters[f"{name}_bias"]
