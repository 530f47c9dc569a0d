"""Glow: images to Gaussian noise and back, exactly."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from absl import logging

from glow_tf import dequantization, weights
from glow_tf._gc import paused
from glow_tf.bijectors.base import EVENT_NDIMS, batch_shape, sum_except_batch
from glow_tf.bijectors.gaussian import standardize
from glow_tf.bijectors.logit import Logit
from glow_tf.bijectors.split import Split
from glow_tf.bijectors.squeeze import Squeeze
from glow_tf.config import GlowConfig
from glow_tf.dequantization import NoiseStream
from glow_tf.errors import InputError
from glow_tf.inputs import Array, Labels, uint8_images
from glow_tf.nn import openai
from glow_tf.nn.architectures import ARCHITECTURES
from glow_tf.nn.steps import Classifier, FlowSteps

tfb = tfp.bijectors
tfd = tfp.distributions

# Images that a compiled call or the initialisation works on at once; more are cut into chunks, which bounds the
# memory: of large images so many as have the pixels of 64 images of 32x32.
CHUNK = 64
CHUNK_PIXELS = CHUNK * 32 * 32


class Glow(tf.Module):
    """A normalizing flow of images.

    `images` are continuous pixels [B, H, W, C] in `config.pixel_range` unless uint8 is said; `z` holds the
    standardised latents of every level in the images' shape; log densities are in nats.

    The public methods run compiled, traced once for any batch size. They are for eager code; inside a
    `tf.function` use `distribution`.

    Args:
        config: a GlowConfig.
        seed: of the initial weights.
        network: the couplings' network, an object like `networks.OpenAINetwork`; None: the architecture's.

    >>> glow = Glow(GlowConfig(image_shape=(4, 4, 1), num_levels=1, num_steps=2, width=4))
    >>> images = glow.sample(3, temperature=0.7, seed=1)
    >>> images.shape, images.dtype.name
    (TensorShape([3, 4, 4, 1]), 'uint8')
    >>> glow.bits_per_dim(images).shape
    TensorShape([3])
    >>> z = glow.encode(glow.dequantizer.dequantize(images, noise=0.5))
    >>> bool((glow.dequantizer.quantize(glow.decode(z)) == images).numpy().all())
    True
    """

    def __init__(self, config: GlowConfig, seed: int = 0, network: Any = None) -> None:
        super().__init__(name="glow")
        self.config = config
        self.dequantizer = dequantization.Dequantizer(config.num_bits, *config.pixel_range)
        self.metadata: dict[str, Any] = {}
        # Whether the actnorms are set: by `initialize`, or with all other weights from a file.
        self.is_initialized = False
        rng = np.random.default_rng(seed)
        architecture = ARCHITECTURES[config.architecture]
        network = network or architecture.coupling_network(config)
        shapes = config.squeezed_shapes()
        self._steps = [FlowSteps(config, s[-1], network, rng, f"level{i}") for i, s in enumerate(shapes)]
        self._splits = [architecture.split_prior(config, s[-1], f"split{i}") for i, s in enumerate(shapes[:-1])]
        self._top = architecture.top_prior(config, shapes[-1], "top")
        low, high = config.pixel_range
        self._logit = Logit(low, high, dtype=tf.as_dtype(config.dtype)) if config.pixels == "logit" else None
        self._classifier = Classifier(config, shapes[-1][-1], "classifier") if config.classifier else None
        self._dtype = tf.as_dtype(config.dtype)
        self._compile()

    @property
    def distribution(self) -> tfp.distributions.TransformedDistribution:
        """The tfd.TransformedDistribution of images; of a class-conditional model use `conditional_distribution`."""
        self._check_labels(None)
        return self.transformed_distribution()

    def conditional_distribution(self, labels: Labels) -> tfp.distributions.TransformedDistribution:
        """The distribution of images of the given classes, batch shape [B].

        Args:
            labels: [B] integers in 0 .. num_classes - 1.
        Raises:
            InputError: if the model is not class-conditional, or a label is out of range.

        >>> glow.conditional_distribution([0])
        Traceback (most recent call last):
        ...
        glow_tf.errors.InputError: labels were given to a model that is not class-conditional
        """
        return self.transformed_distribution(self._check_labels(labels))

    def transformed_distribution(
        self,
        labels: tf.Tensor | None = None,
        temperature: float | tf.Tensor = 1.0,
        backprop: str = "recompute",
        network_dtype: tf.DType | None = None,
    ) -> tfp.distributions.TransformedDistribution:
        """A new tfd.TransformedDistribution over this model's variables.

        Args:
            labels: [B] integer tensor for a class-conditional model, else None.
            temperature: standard deviation of z.
            backprop: see `Scan`. The default keeps little, since a gradient is not always asked for; a trainer,
                which always asks, is faster with "stored".
            network_dtype: that the couplings' networks compute in, such as bfloat16; None: the model's. It belongs
                to a computation, not to a model: the weights stay what they are.
        """
        batch = [] if labels is None else [tf.shape(labels)[0]]
        loc = tf.zeros([*batch, *self.config.image_shape], self._dtype)
        # A Python number given to tf.cast would be rounded to float32 first.
        scale = tf.cast(tf.convert_to_tensor(temperature, dtype_hint=self._dtype), self._dtype)
        base = tfd.Independent(tfd.Normal(loc, scale), EVENT_NDIMS)
        return tfd.TransformedDistribution(base, self.bijector(labels, backprop, network_dtype), name="glow")

    def bijector(
        self, labels: tf.Tensor | None = None, backprop: str = "recompute", network_dtype: tf.DType | None = None
    ) -> tfp.bijectors.Chain:
        """The tfb.Chain from z (forward's input) to images.

        Squeeze, K steps and Split at every level; Split holds the levels below. The half that leaves and
        what the levels below give are unsqueezed again, so z keeps the images' shape.
        """
        return self._above(self._top.bijector(labels), backprop, network_dtype)

    def _above(
        self, chain: tfp.bijectors.Bijector, backprop: str = "recompute", network_dtype: tf.DType | None = None
    ) -> tfp.bijectors.Chain:
        """`bijector` with `chain` in the place of the top Gaussian."""
        for level in reversed(range(self.config.num_levels)):
            if level < self.config.num_levels - 1:
                chain = Split(self._splits[level], chain, name=f"split{level}")
            squeeze = Squeeze(dtype=self._dtype)
            steps = self._steps[level].bijector(backprop, network_dtype)
            chain = tfb.Chain([squeeze, steps, chain, tfb.Invert(squeeze)], name=f"level{level}")
        return chain if self._logit is None else tfb.Chain([self._logit, chain], name="pixels")

    def initialize(self, images: Array) -> None:
        """Sets every actnorm from data, once, before training: eagerly, outside of `strategy.run`.

        Args:
            images: [N, H, W, C]; statistics are those of all N, which are looked at in chunks.
        References: Kingma & Dhariwal 2018, section 3.1.
        """
        images = self._images(images)
        if not len(images):
            raise InputError("0 images were given to initialize from; it needs 1 or more")
        chunk = self._chunk
        batches = [self.preprocess(images[i : i + chunk])[0] for i in range(0, len(images), chunk)]
        for level, steps in enumerate(self._steps):
            batches = [Squeeze(dtype=self._dtype).inverse_and_log_det(batch)[0] for batch in batches]
            batches = steps.initialize(batches)
            if level < len(self._splits):
                batches = [tf.split(batch, 2, axis=-1)[0] for batch in batches]
        self.is_initialized = True

    def dequantize(
        self, images: Array, seed: int | tf.Tensor | None = None, stream: int | tf.Tensor = NoiseStream.SCORE
    ) -> tf.Tensor:
        """Continuous pixels [B, H, W, C] of uint8 images.

        Args:
            images: uint8 [B, H, W, C].
            seed: seed of uniform noise within each bin; None for the middle of each bin.
            stream: the second half of the seed, a `NoiseStream` or the number of a training step.

        >>> values = glow.dequantize(images, seed=0)
        >>> bool((glow.dequantizer.quantize(values) == images).numpy().all())
        True
        """
        images = uint8_images(images, self.config.image_shape)
        noise = 0.5 if seed is None else dequantization.uniform_noise(tf.shape(images), [seed, stream], self._dtype)
        return self.dequantizer.dequantize(images, noise, self._dtype)

    def preprocess(self, images: Array) -> tuple[tf.Tensor, tf.Tensor]:
        """(what the first squeeze sees of continuous images, the log-det [...] of that): see `config.pixels`."""
        if self._logit is None:
            return images, tf.zeros(batch_shape(images), images.dtype)
        return self._logit.inverse_and_log_det(images)

    def log_prob(self, images: Array, labels: Labels | None = None) -> tf.Tensor:
        """[B], nats: the log density of continuous images.

        Of a class-conditional model without labels it is that of the mixture of all classes in equal parts.

        >>> x = glow.dequantizer.dequantize(images, noise=0.5)
        >>> glow.log_prob(x).shape
        TensorShape([6])
        >>> bool(np.allclose(glow.log_prob(x), glow.distribution.log_prob(x), rtol=1e-4))
        True
        """
        if labels is None and self.config.num_classes:
            return _of_mixture(self.class_log_probs(images))
        return self._in_chunks(self._log_prob, [self._images(images)], labels)

    def class_log_probs(self, images: Array) -> tf.Tensor:
        """[B, num_classes], nats: log p(image | class), with one pass through the flow for all classes.

        The most likely class is the generative classifier's answer (classes being equally frequent).

        Raises:
            InputError: if the model is not class-conditional.
        """
        if not self.config.num_classes:
            raise InputError("this model is not class-conditional: it knows no classes")
        images = self._images(images)
        chunk = self._chunk
        chunks = [self._class_log_probs(images[i : i + chunk]) for i in range(0, max(len(images), 1), chunk)]
        return tf.concat(chunks, axis=0)

    def level_log_probs(self, images: Array, labels: Labels | None = None) -> tf.Tensor:
        """[B, L], nats: what each level, level 0 first, contributes to `log_prob`.

        The log-dets of a level's steps, and the log density of the latents that leave there; what
        `config.pixels` contributes belongs to level 0.
        """
        return self._in_chunks(self._level_log_probs, [self._images(images)], labels)

    def encode(self, images: Array, labels: Labels | None = None) -> tf.Tensor:
        """z [B, H, W, C] of continuous images: the standardised latents of every level."""
        return self._in_chunks(self._encode, [self._images(images)], labels)

    def decode(self, z: Array, labels: Labels | None = None) -> tf.Tensor:
        """Continuous images [B, H, W, C] from z: the inverse of `encode`."""
        return self._in_chunks(self._decode, [self._images(z, "z")], labels)

    def decode_to_uint8(self, z: Array, labels: Labels | None = None) -> tf.Tensor:
        """uint8 images [B, H, W, C] of z.

        Latents too far from those of any training image can overflow: NaN is drawn black, and a warning says so.
        """
        images = self.decode(z, labels)
        is_finite = tf.reduce_all(tf.math.is_finite(images), axis=[1, 2, 3])
        broken = len(images) - int(tf.math.count_nonzero(is_finite))
        if broken:
            logging.warning(
                "%d of %d images have pixels that are not finite, drawn black or white: their latents are too far out",
                broken,
                len(images),
            )
        return self.dequantizer.quantize(images)

    def bits_per_dim(self, images: Array, labels: Labels | None = None, seed: int = 0) -> tf.Tensor:
        """[B], bits/dim of uint8 images, dequantised with uniform noise.

        Args:
            images: uint8 [B, H, W, C].
            labels: as in `log_prob`.
            seed: of the noise.
        """
        images = self._bytes(images)
        noise = dequantization.uniform_noise(images.shape, [seed, 0], self._dtype)
        if labels is None and self.config.num_classes:
            log_prob = self.log_prob(self.dequantizer.dequantize(images, noise, self._dtype))
            return self.dequantizer.bits_per_dim(log_prob, self.config.num_dims)
        return self._in_chunks(self._bits_per_dim, [images, noise], labels)

    def sample(
        self, num_images: int, temperature: float = 0.7, seed: int | None = None, labels: Labels | None = None
    ) -> tf.Tensor:
        """uint8 [num_images, H, W, C].

        Args:
            temperature: standard deviation of z; 0 gives the mode of every level, 1 the model itself.
            seed: an integer; None draws another one at each call.
            labels: [num_images] classes for a class-conditional model; None goes through the classes in turn.
        """
        if not 0 <= temperature < float("inf"):
            raise InputError(f"temperature is {temperature}; it must be a number from 0 up, 1 is the model itself")
        if num_images < 1:
            raise InputError(f"{num_images} images were asked for; ask for 1 or more")
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        if labels is None and self.config.num_classes:
            labels = np.arange(num_images) % self.config.num_classes
        noise = tf.random.stateless_normal([num_images, *self.config.image_shape], [seed, 1], dtype=self._dtype)
        return self.decode_to_uint8(noise * temperature, labels)

    def classify(self, images: Array) -> tf.Tensor:
        """Class logits [B, num_classes] of continuous images, by the classifier of the deepest latents.

        Raises:
            InputError: if the model has no classifier (`config.classifier`).
        """
        self._needed_classifier()
        images = self._images(images)
        labels = tf.zeros([len(images)], tf.int32)
        return self.class_logits(self.encode(images, labels), labels)

    def class_logits(self, z: Array, labels: Labels) -> tf.Tensor:
        """[B, num_classes], the classifier's, of latents z [B, H, W, C] that were encoded under these labels."""
        classifier = self._needed_classifier()
        deepest = self._top.bijector(labels).forward(self.split_latents(z)[-1])
        parameters = {key: classifier[key] for key in ("kernel", "bias", "log_scale")}
        return openai.linear_zeros(parameters, tf.reduce_mean(deepest, axis=[1, 2]))

    def _needed_classifier(self) -> Classifier:
        if self._classifier is None:
            raise InputError("this model has no classifier: its configuration says classifier=False")
        return self._classifier

    def split_latents(self, z: Array) -> list[tf.Tensor]:
        """The latents level by level, level 0 (the finest) first: OpenAI's eps.

        Args:
            z: [..., H, W, C].
        Returns:
            [[..., H/2, W/2, 2C], [..., H/4, W/4, 4C], ..., the deepest [..., H/2^L, W/2^L, 2^(L+1) C]].

        >>> two = Glow(GlowConfig((8, 8, 1), num_levels=2, num_steps=1, width=4))
        >>> [tuple(level.shape) for level in two.split_latents(np.zeros([1, 8, 8, 1]))]
        [(1, 4, 4, 2), (1, 2, 2, 8)]
        """
        z = tf.convert_to_tensor(z)
        levels = []
        for _ in range(self.config.num_levels - 1):
            z, leaving = tf.split(Squeeze(dtype=z.dtype).inverse_and_log_det(z)[0], 2, axis=-1)
            levels.append(leaving)
        return [*levels, Squeeze(dtype=z.dtype).inverse_and_log_det(z)[0]]

    def merge_latents(self, levels: Sequence[Array]) -> tf.Tensor:
        """z from the latents level by level: the inverse of `split_latents`."""
        *leaving, deepest = map(tf.convert_to_tensor, levels)
        z = Squeeze(dtype=deepest.dtype).forward_and_log_det(deepest)[0]
        for level in reversed(leaving):
            z = Squeeze(dtype=z.dtype).forward_and_log_det(tf.concat([z, level], axis=-1))[0]
        return z

    def named_variables(self) -> dict[str, tf.Variable]:
        """{readable name: variable}, in a fixed order: the contents of `weights.h5`."""
        parts = [*self._steps, *self._splits, self._top, *([self._classifier] if self._classifier else [])]
        return {name: variable for part in parts for name, variable in part.named_variables().items()}

    @property
    def flow_steps(self) -> tuple[FlowSteps, ...]:
        """The `FlowSteps` of each level, level 0 (the finest) first."""
        return tuple(self._steps)

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(int(np.prod(v.shape)) for v in self.trainable_variables)

    def save_weights(self, path: str | os.PathLike, **metadata: Any) -> None:
        """Writes `weights.h5`: every variable, the configuration, and `metadata` (plain JSON values).

        The file is replaced as a whole or not at all.

        Raises:
            OSError: if it cannot be written.

        >>> glow.save_weights("weights.h5", dataset="mine")
        >>> again = Glow.load("weights.h5")
        >>> again.config == glow.config, again.metadata["dataset"]
        (True, 'mine')
        """
        arrays = {name: variable.numpy() for name, variable in self.named_variables().items()}
        weights.write(path, arrays, self.config.to_dict(), self.metadata | metadata)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Glow":
        """The Glow of a weights file; what else the file says is in its `metadata`.

        Raises:
            InputError: if the file is missing, damaged, or another program's.
        """
        with weights.open_weights(path) as file:
            glow = cls(GlowConfig.from_dict(file.config))
            glow.metadata = dict(file.metadata)
            glow._assign(file)
        return glow

    def load_weights(self, path: str | os.PathLike) -> None:
        """Takes the values of a weights file of the same configuration.

        Raises:
            InputError: as `load`, and naming the keys where the file's configuration differs.
        """
        with weights.open_weights(path) as file:
            mine, other = self.config.to_dict(), GlowConfig.from_dict(file.config).to_dict()
            differing = sorted(key for key in mine | other if mine.get(key) != other.get(key))
            if differing:
                pairs = "; ".join(f"{key}: {other.get(key)!r} there, {mine.get(key)!r} here" for key in differing)
                raise InputError(f"{path} holds another model: {pairs}")
            self._assign(file)
            self.metadata = dict(file.metadata)

    def _assign(self, file: weights.WeightsFile) -> None:
        self.is_initialized = True
        variables = self.named_variables()
        values = file.read({name: (tuple(v.shape), v.dtype.as_numpy_dtype) for name, v in variables.items()})
        for name, variable in variables.items():
            variable.assign(values[name])

    def _compile(self) -> None:
        """Makes the compiled functions: traced once, for any batch size."""
        shape = [None, *self.config.image_shape]
        floats, uint8 = tf.TensorSpec(shape, self._dtype), tf.TensorSpec(shape, tf.uint8)
        labels = [tf.TensorSpec([None], tf.int32)] if self.config.num_classes else []

        def compiled(function: Callable, *specs: tf.TensorSpec) -> Callable:
            return tf.function(paused()(function), input_signature=[*specs, *labels], autograph=False)

        def class_log_probs(images: tf.Tensor) -> tf.Tensor:
            flow = self._above(tfb.Identity())
            z = flow.inverse(images)
            *leaving, deepest = self.split_latents(z)
            log_dets = flow.inverse_log_det_jacobian(images, event_ndims=EVENT_NDIMS)
            shared = sum((_log_prob_of_standard(level) for level in leaving), log_dets)
            gaussians = self._top.mean_and_log_scale(tf.range(self.config.num_classes))
            per_class = tf.repeat(deepest[:, tf.newaxis], self.config.num_classes, axis=1)
            top, log_det = standardize(per_class, *gaussians)
            return shared[:, tf.newaxis] + _log_prob_of_standard(top) + log_det

        def level_log_probs(images: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
            images, log_det = self.preprocess(images)
            found = []
            for level, steps in enumerate(self._steps):
                images = Squeeze(dtype=self._dtype).inverse_and_log_det(images)[0]
                images, of_steps = steps.bijector().inverse_and_log_det(images)
                if level < len(self._splits):
                    images, leaving = tf.split(images, 2, axis=-1)
                    leaving, of_gaussian = standardize(leaving, *self._splits[level](images))
                else:
                    leaving, of_gaussian = self._top.bijector(labels).inverse_and_log_det(images)
                found.append(log_det + of_steps + of_gaussian + _log_prob_of_standard(leaving))
                log_det = tf.zeros_like(log_det)
            return tf.stack(found, axis=-1)

        def bits_per_dim(images: tf.Tensor, noise: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
            values = self.dequantizer.dequantize(images, noise, self._dtype)
            return self.dequantizer.bits_per_dim(log_prob(values, labels), self.config.num_dims)

        def log_prob(images: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
            return self.transformed_distribution(labels).log_prob(images)

        def encode(images: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
            return self.bijector(labels).inverse(images)

        def decode(z: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
            return self.bijector(labels).forward(z)

        self._log_prob = compiled(log_prob, floats)
        self._encode = compiled(encode, floats)
        self._decode = compiled(decode, floats)
        self._bits_per_dim = compiled(bits_per_dim, uint8, floats)
        self._level_log_probs = compiled(level_log_probs, floats)
        self._class_log_probs = tf.function(paused()(class_log_probs), input_signature=[floats], autograph=False)

    def _in_chunks(self, function: Callable, arguments: list[tf.Tensor], labels: Labels | None) -> tf.Tensor:
        checked = self._check_labels(labels)
        arguments = [*arguments, *([] if checked is None else [checked])]
        count = len(arguments[0])
        if any(len(argument) != count for argument in arguments):
            raise InputError(f"{len(arguments[-1])} labels were given for {count} images")
        chunk = self._chunk
        chunks = [function(*(a[i : i + chunk] for a in arguments)) for i in range(0, max(count, 1), chunk)]
        return tf.concat(chunks, axis=0) if len(chunks) != 1 else chunks[0]

    @property
    def _chunk(self) -> int:
        height, width, _ = self.config.image_shape
        return max(1, min(CHUNK, CHUNK_PIXELS // (height * width)))

    def _check_labels(self, labels: Labels | None) -> tf.Tensor | None:
        classes = self.config.num_classes
        if not classes:
            if labels is not None:
                raise InputError("labels were given to a model that is not class-conditional")
            return None
        if labels is None:
            raise InputError(f"this model is class-conditional: give labels, integers from 0 to {classes - 1}")
        given = tf.convert_to_tensor(labels, tf.int32)
        if given.shape.rank != 1 or not np.all((given >= 0) & (given < classes)):
            raise InputError(f"labels must be a list of integers from 0 to {classes - 1}")
        return given

    def _images(self, values: Array, name: str = "images") -> tf.Tensor:
        # By way of numpy, which takes Python numbers as float64.
        values = tf.convert_to_tensor(values if tf.is_tensor(values) else np.asarray(values))
        if not values.dtype.is_floating:
            raise InputError(f"{name} are {values.dtype.name}; continuous values are needed (`pixels.dequantize`)")
        return self._checked(tf.cast(values, self._dtype), name)

    def _bytes(self, images: Array) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        if images.dtype != tf.uint8:
            raise InputError(f"images are {images.dtype.name}; uint8 is needed here")
        return self._checked(images, "images")

    def _checked(self, values: tf.Tensor, name: str) -> tf.Tensor:
        if values.shape.rank != 4 or tuple(values.shape[1:]) != self.config.image_shape:
            needed = ", ".join(map(str, self.config.image_shape))
            raise InputError(f"{name} have shape {tuple(values.shape)}; this model needs [B, {needed}]")
        return values


def _log_prob_of_standard(values: tf.Tensor) -> tf.Tensor:
    """[...], nats: the log density of values [..., H, W, C] under the standard Normal."""
    return sum_except_batch(-0.5 * tf.square(values) - 0.5 * math.log(2 * math.pi))


def _of_mixture(class_log_probs: tf.Tensor) -> tf.Tensor:
    """[B], of the mixture in equal parts, from [B, num_classes]."""
    return tf.reduce_logsumexp(class_log_probs, axis=-1) - math.log(class_log_probs.shape[-1])
