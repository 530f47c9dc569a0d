"""The multi-scale architecture: the variables of all levels, and the bijectors made from them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf.bijectors import Split, Squeeze
from glow_tf.bijectors.base import sum_except_batch
from glow_tf.bijectors.gaussian import standardize
from glow_tf.bijectors.shapes import EVENT_NDIMS, batch_shape, halves
from glow_tf.config import GlowConfig
from glow_tf.dequantization import Dequantizer
from glow_tf.errors import InputError
from glow_tf.inputs import check_seed
from glow_tf.nn.architectures import ARCHITECTURES
from glow_tf.nn.base import CouplingNetwork
from glow_tf.nn.noise import NoiseFlow
from glow_tf.nn.priors import Classifier

tfb = tfp.bijectors

# Before the logit, images are scaled to [margin, 1 - margin]; the value is RealNVP's.
LOGIT_MARGIN = 0.05


class Flow(tf.Module):
    """L levels of a squeeze, K flow steps and a split; the last level has the top prior instead of a split.

    Args:
        config: the GlowConfig.
        rng: a numpy Generator for the initial values, or `ZeroGenerator`.
        network: the coupling network. Default: that of `config.architecture`.

    Attributes:
        steps: the `FlowSteps` of each level, level 0 (the finest) first.
        splits: for each level but the last, the prior of the latents that leave there.
        top: the prior of the deepest latents.
        classifier: OpenAI's classifier of the deepest latents, or None.
        noise: the `NoiseFlow` of variational dequantisation, or None.
        dequantizer: the `Dequantizer` between bytes and pixels.
        config: the argument.

    References: Kingma & Dhariwal 2018, figure 2b; Dinh et al. 2017, section 3.6.
    """

    def __init__(self, config: GlowConfig, rng: Any, network: CouplingNetwork | None = None) -> None:
        super().__init__(name="flow")
        if not isinstance(config, GlowConfig):
            raise InputError(f"config is of type {type(config).__name__}; give a GlowConfig((height, width, channels))")
        if network is not None and not isinstance(network, CouplingNetwork):
            raise InputError(f"network is of type {type(network).__name__}; it must be a CouplingNetwork")
        architecture = ARCHITECTURES[config.architecture]
        network = network or architecture.coupling_network(config)
        shapes = config.squeezed_shapes()
        self.steps = [architecture.flow_steps(config, s[-1], network, rng, f"level{i}") for i, s in enumerate(shapes)]
        self.splits = [architecture.split_prior(config, s[-1], f"split{i}") for i, s in enumerate(shapes[:-1])]
        self.top = architecture.top_prior(config, shapes[-1], "top")
        self.classifier = Classifier(config, shapes[-1][-1], "classifier") if config.classifier else None
        self.noise = NoiseFlow(config, rng, "noise") if config.dequantization == "variational" else None
        self.dequantizer = Dequantizer(config.num_bits, *config.pixel_range)
        self.config = config
        self._dtype = tf.as_dtype(config.dtype)
        self._logit = _logit(*config.pixel_range, self._dtype) if config.pixels == "logit" else None

    def named_variables(self) -> dict[str, tf.Variable]:
        """{name in weights files: variable}, in a fixed order."""
        parts = [*self.steps, *self.splits, self.top, *filter(None, (self.classifier, self.noise))]
        return {name: variable for part in parts for name, variable in part.named_variables().items()}

    def bijectors(
        self, top: tfp.bijectors.Bijector, backprop: str = "recompute", network_dtype: tf.DType | None = None
    ) -> list[tfp.bijectors.Bijector]:
        """The layers of the flow, the one nearest to the image first: the arguments of a `tfb.Chain` from z to images.

        A `Split` contains the levels below it, which keep the shape. Each level ends by undoing its squeeze, so that z
        has the shape of the images.

        Args:
            top: the bijector of the deepest latents, such as `self.top.bijector(labels)`.
            backprop: see `Scan`.
            network_dtype: dtype in which the coupling networks compute. Default: the model's.
        """
        squeeze = Squeeze(dtype=self._dtype)
        layers = [top]
        for level in reversed(range(len(self.steps))):
            if level < len(self.splits):
                layers = [Split(self.splits[level], tfb.Chain(layers, name=f"level{level + 1}"), name=f"split{level}")]
            layers = [squeeze, self.steps[level].bijector(backprop, network_dtype), *layers, tfb.Invert(squeeze)]
        return layers if self._logit is None else [self._logit, *layers]

    def preprocess(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(logit of continuous images, the log-det [...]) if `config.pixels` is "logit"; else (the images, 0)."""
        if self._logit is None:
            return images, tf.zeros(batch_shape(images), images.dtype)
        return self._logit.inverse(images), self._logit.inverse_log_det_jacobian(images, event_ndims=EVENT_NDIMS)

    def dequantize(self, uniform: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(continuous pixels [B, H, W, C], log q(noise | image) [B] in nats) of uint8 images.

        Args:
            uniform: [B, H, W, C], uniform noise in [0, 1), which a `NoiseFlow` turns into that of the images.
            images: uint8 [B, H, W, C].
        """
        noise, log_prob = uniform, tf.zeros(tf.shape(images)[:1], self._dtype)
        if self.noise is not None:
            noise, log_prob = self.noise(uniform, self.dequantizer.dequantize(images, 0.5, self._dtype))
        return self.dequantizer.dequantize(images, noise, self._dtype), log_prob

    def initialize(self, batches: list[tf.Tensor]) -> None:
        """Sets every actnorm, those of the noise's network too, from continuous images. Works only in eager code.

        Args:
            batches: continuous images [B, H, W, C]; each layer runs on one batch at a time, which bounds the memory.

        References: Kingma & Dhariwal 2018, section 3.1.
        """
        if self.noise is not None:
            quantize, dequantize = self.dequantizer.quantize, self.dequantizer.dequantize
            self.noise.initialize([dequantize(quantize(x), 0.5, self._dtype) for x in batches])
        batches = [self.preprocess(batch)[0] for batch in batches]
        for level, steps in enumerate(self.steps):
            batches = [Squeeze(dtype=self._dtype).inverse_and_log_det(batch)[0] for batch in batches]
            batches = steps.initialize(batches)
            if level < len(self.splits):
                batches = [halves(batch)[0] for batch in batches]

    def level_log_probs(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        """[B, L], nats: the contribution of each level to the log density; see `Glow.level_log_probs`."""
        x, log_det = self.preprocess(images)
        log_probs = []
        for level, steps in enumerate(self.steps):
            x = Squeeze(dtype=self._dtype).inverse_and_log_det(x)[0]
            x, log_det_of_steps = steps.bijector().inverse_and_log_det(x)
            if level < len(self.splits):
                x, x2 = halves(x)
                z, log_det_of_prior = standardize(x2, *self.splits[level](x))
            else:
                top = self.top.bijector(labels)
                z = top.inverse(x)
                log_det_of_prior = top.inverse_log_det_jacobian(x, event_ndims=EVENT_NDIMS)
            log_probs.append(log_det + log_det_of_steps + log_det_of_prior + standard_normal_log_prob(z))
            log_det = tf.zeros_like(log_det)  # that of `preprocess` counts for level 0 only
        return tf.stack(log_probs, axis=-1)


def generator(seed: int | None) -> "np.random.Generator | ZeroGenerator":
    """The generator of initial values; None for those that will be overwritten."""
    if seed is None:
        return ZeroGenerator()
    check_seed(seed, lowest=0)
    return np.random.default_rng(int(seed))  # it may be a tensor


class ZeroGenerator:
    """Stands in for a numpy Generator if the initial values will be overwritten: drawing random ones takes time."""

    def standard_normal(self, shape: Sequence[int], dtype: type = np.float64) -> np.ndarray:
        """Zeros in place of random numbers."""
        return np.zeros(shape, dtype)

    def permutation(self, size: int) -> np.ndarray:
        """The identity."""
        return np.arange(size)


def standard_normal_log_prob(values: tf.Tensor) -> tf.Tensor:
    """[...], nats: the log density of values [..., H, W, C] under the standard Normal."""
    return sum_except_batch(-0.5 * tf.square(values) - 0.5 * math.log(2 * math.pi))


def _logit(low: float, high: float, dtype: tf.DType) -> tfp.bijectors.Bijector:
    """Maps the real line to pixels: `inverse` is logit(0.05 + 0.9 (x - low) / (high - low)).

    The logit is not finite for values that lie more than 0.05 / 0.9 of the pixel range's width outside it.

    References: Dinh et al. 2017, section 4.1, and its code, which has the margin at both ends.
    """
    excess = LOGIT_MARGIN / (1 - 2 * LOGIT_MARGIN) * (high - low)  # the margin in units of pixels
    return tfb.Sigmoid(tf.constant(low - excess, dtype), tf.constant(high + excess, dtype), name="logit")
