"""The parts of the architecture "plus": Glow's layers, started from the data and with a bounded, symmetric scale.

It differs from OpenAI's in four places. The scale of a coupling is exp(2 tanh(raw / 2)), which starts at one and lies
between 0.14 and 7.4, so that a coupling expands as easily as it contracts and its inverse divides by nothing small.
The scale of what leaves at a split is bounded in the same way. The 1x1 convolutions start from the data's principal
components: see `WhitenedSteps`. And each class has its own Gaussian at every place of the deepest latents. Variables
have the names that they have in "openai", and but for those of the classes the shapes. `docs/results.md` says what
each part is worth.
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

# A principal component of standardised channels with a smaller variance is not scaled up any further.
LEAST_VARIANCE = 1e-4


class PlusNetwork(OpenAINetwork):
    """OpenAI's network with the scale exp(2 tanh(raw / 2)).

    References: Nielsen et al. 2020, whose code (SurVAE Flows) has this scale in its image models.
    """

    def shift_and_log_scale(
        self, parameters: Parameters, x1: tf.Tensor, residuals: Residuals = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Halves of the output: the shift, and log_scale = 2 tanh(raw / 2)."""
        shift, raw = tf.split(self.output(parameters, x1, residuals), 2, axis=-1)
        return shift, _bounded(raw, MAX_LOG_SCALE)


class WhitenedSteps(FlowSteps):
    """Flow steps whose 1x1 convolutions start as the whitening of the data, where the permutation is "conv1x1".

    A new coupling changes nothing, so actnorms and 1x1 convolutions make a linear map. The first convolution takes the
    standardised channels to their principal components, each of variance one, the largest first; those between are
    random rotations as in OpenAI's code; and the last one turns back what they turned. So every coupling sees white
    channels, and what a split sends deeper is the half with the largest variance: where neighbouring pixels are alike,
    their averages, while differences leave.
    """

    def initialize(self, batches: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """As `FlowSteps.initialize`, after the 1x1 convolutions were set."""
        if "conv1x1" in self.parameters:
            weights = self.prepared()["conv1x1"]["weight"].numpy().astype(np.float64)
            weights[0] = _whitening(batches)
            if len(weights) > 1:
                weights[-1] = functools.reduce(np.matmul, weights[1:-1], np.eye(weights.shape[-1])).T
            for name, factor in plu_decompose(weights).items():
                variable = self.parameters["conv1x1"][name]
                variable.assign(tf.cast(factor, variable.dtype))
        return super().initialize(batches)


class BoundedSplitPrior(SplitPrior):
    """The Gaussian of the half that leaves, whose log-scale lies between -3 and 3."""

    def __call__(self, x1: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """x1 [..., H, W, C/2] -> (mean, log_scale), each [..., H, W, C/2]."""
        mean, raw = super().__call__(x1)
        return mean, _bounded(raw, MAX_SPLIT_LOG_SCALE)


class PlaceWiseTopPrior(TopPrior):
    """The Gaussian of the deepest latents, with one of its own at every place for each class.

    A class of OpenAI's shifts and scales a channel by the same everywhere, which leaves little room for its shape.
    """

    def class_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape of a class's mean and log-scale together, for latents (H, W, C)."""
        height, width, channels = shape
        return height, width, 2 * channels


def _bounded(raw: tf.Tensor, bound: float) -> tf.Tensor:
    return bound * tf.tanh(raw / bound)


def _whitening(batches: Sequence[tf.Tensor]) -> np.ndarray:
    """[C, C], float64: standardised channels times this are their principal components, each divided by its deviation.

    Args:
        batches: tensors [B, H, W, C], which are standardised here.
    """
    actnorm = ActNorm(*actnorm_init(batches))
    count, products = 0, 0.0
    for batch in batches:
        rows = tf.reshape(actnorm.inverse_and_log_det(batch)[0], [-1, batch.shape[-1]]).numpy().astype(np.float64)
        count, products = count + len(rows), products + rows.T @ rows
    variances, components = np.linalg.eigh(products / count)
    return (components / np.sqrt(np.maximum(variances, LEAST_VARIANCE)))[:, ::-1]
