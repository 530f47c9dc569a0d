"""The parts of the architecture "plus": Glow with bounded, symmetric scales and initial 1x1 convolutions from the data.

It differs from OpenAI's in five places:

1. The scale of a coupling is exp(2 tanh(raw / 2)), which starts at one and lies between 0.14 and 7.4, so a coupling
   expands as easily as it contracts, and its inverse never divides by a small number.
2. The scale of the Gaussian at a split is bounded in the same way.
3. The networks of the couplings see values beyond 20 as 20; see `PlusNetwork`.
4. The 1x1 convolutions start from the principal components of the data; see `WhitenedSteps`.
5. Each class has its own Gaussian at every position of the deepest latents.

The variables have the same names as those of "openai" and, except for the class parameters, the same shapes.
`docs/results.md` reports the effect of each part.
"""

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from glow_tf.bijectors import ActNorm, actnorm_init
from glow_tf.bijectors.invertible_conv import plu_decompose
from glow_tf.bijectors.residuals import Residuals
from glow_tf.nn.base import Parameters
from glow_tf.nn.openai import OpenAINetwork
from glow_tf.nn.priors import SplitPrior, TopPrior
from glow_tf.nn.steps import FlowSteps

# The log-scale of a coupling, and that of a Gaussian at a split, lie between minus this and this.
MAX_LOG_SCALE = 2.0
MAX_SPLIT_LOG_SCALE = 3.0

# The networks of the couplings see values between minus this and this; those of typical images stay below 12.
MAX_INPUT = 20.0

# Smaller variances of principal components (of standardised channels) are replaced by this before the division.
LEAST_VARIANCE = 1e-4


class BoundedScaleNetwork(OpenAINetwork):
    """OpenAI's network with the scale exp(2 tanh(raw / 2)).

    References: Nielsen et al. 2020, whose code (SurVAE Flows) has this scale in its image models.
    """

    def log_scale(self, raw: tf.Tensor) -> tf.Tensor:
        """2 tanh(raw / 2)."""
        return _bounded(raw, MAX_LOG_SCALE)


class PlusNetwork(BoundedScaleNetwork):
    """`BoundedScaleNetwork` whose input is clipped; a coupling stays exactly invertible, as it passes x1 on unclipped.

    Without the bound, a value far from the training data makes the network's shift proportionally large and the input
    of the next coupling larger still, until a single test image has millions of bits/dim.
    """

    def output(self, parameters: Parameters, x1: tf.Tensor, residuals: Residuals = None) -> tf.Tensor:
        """As `OpenAINetwork.output` of the clipped x1."""
        return super().output(parameters, tf.clip_by_value(x1, -MAX_INPUT, MAX_INPUT), residuals)


class WhitenedSteps(FlowSteps):
    """Flow steps whose 1x1 convolutions start by whitening the data, if the permutation is "conv1x1".

    A coupling starts as the identity, so a new level is a linear map, made of actnorms and 1x1 convolutions. The first
    convolution maps the standardised channels to their principal components, scaled to variance one, the largest first.
    Those in between are random rotations as in OpenAI's code, and the last one is the inverse of their product. So
    every coupling sees white channels, and the half that a split passes on holds the components of largest variance:
    for smooth images the averages of neighbouring pixels, while their differences leave.
    """

    def initialize(self, batches: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """As `FlowSteps.initialize`, after setting the 1x1 convolutions."""
        if "conv1x1" in self.parameters:
            for name, factor in plu_decompose(self.initial_weights(batches)).items():
                variable = self.parameters["conv1x1"][name]
                variable.assign(tf.cast(factor, variable.dtype))
        return super().initialize(batches)

    def initial_weights(self, batches: Sequence[tf.Tensor]) -> np.ndarray:
        """The matrices of the 1x1 convolutions, float64 [K, C, C], from batches of squeezed images [B, H, W, C]."""
        weights = self.prepared()["conv1x1"]["weight"].numpy().astype(np.float64)
        weights[0] = whitening(batches, *actnorm_init(batches))
        if len(weights) > 1:
            weights[-1] = functools.reduce(np.matmul, weights[1:-1], np.eye(weights.shape[-1])).T
        return weights


class BoundedSplitPrior(SplitPrior):
    """The Gaussian of the half that leaves, whose log-scale lies between -3 and 3."""

    def __call__(self, x1: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """x1 [..., H, W, C/2] -> (mean, log_scale), each [..., H, W, C/2]."""
        mean, raw = super().__call__(x1)
        return mean, _bounded(raw, MAX_SPLIT_LOG_SCALE)


class PositionwiseTopPrior(TopPrior):
    """The Gaussian of the deepest latents, whose mean and scale depend on class and position together.

    In OpenAI's code a class shifts and scales a channel equally at all positions, which cannot express shapes.
    """

    def class_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(H, W, 2 C) for latents (H, W, C)."""
        height, width, channels = shape
        return height, width, 2 * channels


def _bounded(raw: tf.Tensor, bound: float) -> tf.Tensor:
    return bound * tf.tanh(raw / bound)


def whitening(batches: Sequence[tf.Tensor], shift: tf.Tensor, log_scale: tf.Tensor) -> np.ndarray:
    """[C, C], float64: maps standardised channels to their principal components, each scaled to variance one.

    Args:
        batches: tensors [B, H, W, C], not yet standardised.
        shift, log_scale: what standardises them, from `actnorm_init`.
    """
    actnorm = ActNorm(shift, log_scale)
    count, products = 0, 0.0
    for batch in batches:
        rows = tf.reshape(actnorm.inverse_and_log_det(batch)[0], [-1, batch.shape[-1]]).numpy().astype(np.float64)
        count, products = count + len(rows), products + rows.T @ rows
    variances, components = np.linalg.eigh(products / count)
    return (components / np.sqrt(np.maximum(variances, LEAST_VARIANCE)))[:, ::-1]
