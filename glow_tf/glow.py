"""Glow: images to Gaussian noise and back, exactly."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf import classes, dequantization, initialization, inputs, latents, persistence, summary
from glow_tf._compiled import CompiledFunction
from glow_tf.config import GlowConfig
from glow_tf.dequantization import NoiseStream
from glow_tf.distribution import FlowBijector, ImageDistribution
from glow_tf.flow import Flow, generator
from glow_tf.inputs import Array, Labels


class Glow(tf.Module):
    """A normalizing flow of images.

    `images` are continuous pixels [B, H, W, C] in `config.pixel_range`, except where a method asks for uint8. `z` holds
    the standardised latents of every level in the images' shape. Log densities are in nats. A class-conditional model
    needs labels, except where a method says what it does without them. The methods are compiled, traced once for any
    batch size, and work in eager code, inside a `tf.function` and in `dataset.map`.

    Args:
        seed: seed of the initial weights; None for placeholder weights, to be replaced by loaded ones.
        network: the coupling network, a `CouplingNetwork`. Default: that of `config.architecture`.

    Attributes:
        flow: the `Flow`, which owns the variables.
        dequantizer: the `Dequantizer` between bytes and pixels.
        metadata: JSON values that `save_weights` writes to the file and `load` reads.
        is_initialized: whether the actnorms have been set, by `initialize` or from a file.

    >>> glow = Glow(GlowConfig(image_shape=(4, 4, 1), num_levels=1, num_steps=2, width=4))
    >>> images = glow.sample(3, temperature=0.7, seed=1)
    >>> images.shape, images.dtype.name
    (TensorShape([3, 4, 4, 1]), 'uint8')
    >>> z = glow.encode(glow.dequantize(images))
    >>> bool((glow.dequantizer.quantize(glow.decode(z)) == images).numpy().all())
    True
    """

    def __init__(self, config: GlowConfig, seed: int | None = 0, network: Any = None) -> None:
        super().__init__(name="glow")
        self.flow = Flow(config, generator(seed), network)
        self.dequantizer = self.flow.dequantizer
        self.config = config
        self.network = network
        self.metadata: dict[str, Any] = {}
        self.is_initialized = False
        self._dtype = tf.as_dtype(config.dtype)
        images, labels = tf.TensorSpec([None, *config.image_shape], self._dtype), tf.TensorSpec([None], tf.int32)
        specs = [images, labels] if config.num_classes else [images]
        self._log_prob = CompiledFunction(lambda x, y=None: self.transformed_distribution(y).log_prob(x), *specs)
        self._encode = CompiledFunction(lambda x, y=None: self.bijector(y).inverse(x), *specs)
        self._decode = CompiledFunction(lambda z, y=None: self.bijector(y).forward(z), *specs)
        self._level_log_probs = CompiledFunction(self.flow.level_log_probs, *specs)
        self._dequantize: Any = self.flow.dequantize  # too little work to compile, unless a network makes the noise
        if self.flow.noise is not None:
            self._dequantize = CompiledFunction(self.flow.dequantize, images, tf.TensorSpec(images.shape, tf.uint8))
        self._class_log_probs = CompiledFunction(lambda x: classes.class_log_probs(self.flow, x), images)

    @property
    def distribution(self) -> tfp.distributions.Distribution:
        """The distribution of images; a class-conditional model has `conditional_distribution` instead."""
        return self.transformed_distribution()

    def conditional_distribution(self, labels: Labels) -> tfp.distributions.Distribution:
        """The distributions of images of the classes `labels`, integers [B], as one distribution of batch shape [B]."""
        return self.transformed_distribution(labels)

    def transformed_distribution(
        self,
        labels: Labels | None = None,
        temperature: float | tf.Tensor = 1.0,
        backprop: str = "recompute",
        network_dtype: tf.DType | None = None,
    ) -> tfp.distributions.Distribution:
        """A new `tfd.TransformedDistribution` of images, which reads this model's variables.

        Args:
            labels: [B] classes for a class-conditional model, else None.
            temperature: standard deviation of z.
            backprop: see `Scan`. The default stores little, since a gradient is not always taken; training, which
                always takes one, is faster with "stored".
            network_dtype: dtype in which the coupling networks compute, such as bfloat16. Default: the model's.
        """
        return ImageDistribution(self.bijector(labels, backprop, network_dtype), temperature)

    def bijector(
        self, labels: Labels | None = None, backprop: str = "recompute", network_dtype: tf.DType | None = None
    ) -> tfp.bijectors.Bijector:
        """The `tfb.Chain` from z (the input of `forward`) to images; see `Flow.bijectors`."""
        labels = inputs.class_labels(labels, self.config.num_classes)
        return FlowBijector(self.flow, labels, backprop, network_dtype)

    def initialize(self, images: Array) -> None:
        """Sets every actnorm from images [N, H, W, C], once, before training: eagerly, outside `strategy.run`.

        InputError for a model that was initialised or loaded before, whose actnorms this would overwrite.
        """
        initialization.initialize(self, images)

    def with_learned_noise(self, images: Array) -> "Glow":
        """A copy with learned noise, initialised from uint8 training images [N, H, W, C]; its scores are the same."""
        return initialization.with_learned_noise(self, images)

    def dequantize(
        self, images: Array, seed: int | tf.Tensor | None = None, stream: int | tf.Tensor = NoiseStream.SCORE
    ) -> tf.Tensor:
        """Continuous pixels of uint8 images [B, H, W, C].

        Args:
            seed: seed of the noise within each bin; None for the middle of each bin.
            stream: the second half of the seed, a `NoiseStream` or the number of a training step.
        """
        if seed is None:
            images = inputs.uint8_images(images, self.config.image_shape)
            return self.dequantizer.dequantize(images, 0.5, self._dtype)
        return self.dequantize_and_log_prob(images, seed, stream)[0]

    def dequantize_and_log_prob(
        self, images: Array, seed: int | tf.Tensor, stream: int | tf.Tensor = NoiseStream.SCORE
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(continuous pixels [B, H, W, C] of uint8 images, log q(noise | image) [B] in nats, 0 for uniform noise)."""
        images = inputs.uint8_images(images, self.config.image_shape)
        inputs.check_seed(seed)
        inputs.check_seed(stream, name="stream")
        seeds = [tf.cast(seed, tf.int64), tf.cast(stream, tf.int64)]
        uniform = dequantization.uniform_noise(tf.shape(images), seeds, self._dtype)
        return self._dequantize(uniform, images)

    def log_prob(self, images: Array, labels: Labels | None = None) -> tf.Tensor:
        """[B], nats: the log density of images; without labels, under the mixture of all classes in equal parts."""
        return self._density(inputs.continuous_images(images, self.config), labels)

    def class_log_probs(self, images: Array) -> tf.Tensor:
        """[B, num_classes], nats: log p(image | class), from one pass through the flow for all classes."""
        return self._class_log_probs(inputs.continuous_images(images, self.config))

    def level_log_probs(self, images: Array, labels: Labels | None = None) -> tf.Tensor:
        """[B, L], nats: the contribution of each level, level 0 (the finest) first, to `log_prob`.

        A contribution is the sum of the level's log-dets and of the log density of the latents that leave there.
        """
        return self._run(self._level_log_probs, inputs.continuous_images(images, self.config), labels)

    def bits_per_dim(self, images: Array, labels: Labels | None = None, seed: int | tf.Tensor = 0) -> tf.Tensor:
        """[B], bits/dim of uint8 images, dequantised with noise from `seed`; labels are as in `log_prob`.

        This is a conservative bound, since part of the model's mass lies outside the pixel range; see `dequantization`.
        """
        values, noise_log_prob = self.dequantize_and_log_prob(images, seed)
        return self.dequantizer.bits_per_dim(self._density(values, labels) - noise_log_prob, self.config.num_dims)

    def encode(self, images: Array, labels: Labels | None = None) -> tf.Tensor:
        """z [B, H, W, C] of images: the standardised latents of every level."""
        return self._run(self._encode, inputs.continuous_images(images, self.config), labels)

    def decode(self, z: Array, labels: Labels | None = None) -> tf.Tensor:
        """Continuous images [B, H, W, C] from z: the inverse of `encode`. Values may lie outside the pixel range."""
        return self._run(self._decode, inputs.latents(z, self.config), labels)

    def decode_to_uint8(self, z: Array, labels: Labels | None = None) -> tf.Tensor:
        """uint8 images [B, H, W, C] from z: those of `decode`, clipped to the pixel range; NaN becomes black."""
        images = self.decode(z, labels)
        dequantization.warn_of_overflow(images)
        return self.dequantizer.quantize(images)

    def sample(
        self,
        num_images: int | tf.Tensor,
        temperature: float | tf.Tensor = 0.7,
        seed: int | tf.Tensor | None = None,
        labels: Labels | None = None,
    ) -> tf.Tensor:
        """uint8 [num_images, H, W, C], 1 or more images.

        Args:
            temperature: standard deviation of z; 0 for the mode of every level, 1 for the model itself.
            seed: an integer; None for a new one at each call.
            labels: [num_images] classes; None cycles through all classes.
        """
        num_images = inputs.check_sampling(num_images, seed)
        temperature = inputs.temperature_of(temperature, self._dtype)
        if labels is None and self.config.num_classes:
            labels = tf.range(num_images) % self.config.num_classes
        seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        shape = [num_images, *self.config.image_shape]
        z = tf.random.stateless_normal(shape, [seed, NoiseStream.SAMPLE], dtype=self._dtype)
        return self.decode_to_uint8(z * temperature, labels)

    def classify(self, images: Array) -> tf.Tensor:
        """[B, num_classes]: the logits of the classifier (`config.classifier`) for continuous images."""
        return classes.classify(self, images)

    def split_latents(self, z: Array) -> list[tf.Tensor]:
        """The latents of each level, level 0 (the finest) first; see `latents.split`."""
        return latents.split(inputs.image_events(z, self.config, "z"), self.config.num_levels)

    def merge_latents(self, levels: Sequence[Array]) -> tf.Tensor:
        """z from the latents of each level: the inverse of `split_latents`."""
        return latents.merge(levels, self.config.squeezed_shapes())

    def named_variables(self) -> dict[str, tf.Variable]:
        """{readable name: variable}, in a fixed order: the contents of `weights.h5`."""
        return self.flow.named_variables()

    @property
    def num_parameters(self) -> int:
        """The number of trainable scalars."""
        return sum(int(np.prod(v.shape)) for v in self.trainable_variables)

    def save_weights(self, path: str | os.PathLike, *, stored_dtype: str | None = None, **metadata: Any) -> None:
        """Writes `weights.h5`: every variable, the configuration and `metadata`. The write is atomic.

        Floats are stored as `stored_dtype`, such as "float16"; None for the model's type.
        """
        persistence.save(self, path, self.metadata | metadata, stored_dtype)

    @classmethod
    def load(cls, name: str | os.PathLike) -> "Glow":
        """The Glow from a weights file, from a run's folder, or from bundled weights such as "digits"."""
        return persistence.load(cls, name)

    def load_weights(self, name: str | os.PathLike) -> None:
        """Reads weights of a model with the same configuration; `name` is as in `load`."""
        persistence.load_into(self, name)

    def __reduce__(self) -> tuple:
        return persistence.reduce(self)

    def __repr__(self) -> str:
        return summary.line(self)

    def summary(self) -> None:
        """Prints the levels, their shapes and their numbers of parameters."""
        print(summary.table(self))

    def _density(self, values: tf.Tensor, labels: Labels | None) -> tf.Tensor:
        if labels is None and self.config.num_classes:
            return classes.mixture_log_prob(self._class_log_probs(values))
        return self._run(self._log_prob, values, labels)

    def _run(self, function: CompiledFunction, values: tf.Tensor, labels: Labels | None) -> tf.Tensor:
        labels = inputs.class_labels(labels, self.config.num_classes, tf.shape(values)[0])
        return function(values) if labels is None else function(values, labels)
