"""A Glow as a tf_keras.Model: `compile`, `fit`, `evaluate`, callbacks.

It wraps a Glow and is none itself: a Keras model takes over the names and the tracking of its attributes, and
its own `save_weights` finds no layers in a tf.Module and writes an empty file without an error.
"""

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from glow_tf import dequantization
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.inputs import Array


class KerasGlow(tf_keras.Model):
    """Trains a Glow with Keras, to the same numbers as `Trainer` with the same optimizer.

        model = KerasGlow(glow)
        model.initialize(images)
        model.compile(tf_keras.optimizers.Adamax(1e-3, epsilon=1e-8))
        model.fit(train.training_batches(64, seed=0, epoch=0), validation_data=test.batches(64), epochs=10)

    A data set gives uint8 images [B, H, W, C], or pairs of these and labels [B]. The loss and the metric
    `bits_per_dim` are bits/dim, dequantised: in batch i of the training with noise of (seed, i), in batch i of
    an evaluation with that of (seed + i, 0), as `evaluation.bits_per_dim`. `ModelCheckpoint` with
    `save_weights_only=True` writes files that `Glow.load` reads.

    Args:
        glow: a Glow, made under the strategy's scope where there is one.
        backprop: see `Scan`.
        seed: of the noise.

    >>> model = KerasGlow(glow)
    >>> model(glow.dequantizer.dequantize(images, noise=0.5)).shape
    TensorShape([6])
    """

    def __init__(self, glow: Glow, backprop: str = "stored", seed: int = 0) -> None:
        super().__init__(name="keras_glow")
        self.glow = glow
        self.backprop = backprop
        self.seed = seed
        self.step_count = tf.Variable(0, trainable=False, name="step_count")
        self._batches_tested = tf.Variable(0, trainable=False, name="batches_tested")
        self._bits_per_dim = tf_keras.metrics.Mean(name="bits_per_dim")

    def initialize(self, images: Array) -> None:
        """Data-dependent initialisation, once, before the first `fit`; see `Trainer.initialize`.

        Args:
            images: uint8 [N, H, W, C].
        """
        dtype = self.glow.config.dtype
        noise = dequantization.uniform_noise(images.shape, [self.seed, 3], dtype)
        self.glow.initialize(self.glow.dequantizer.dequantize(images, noise, dtype))

    @property
    def metrics(self) -> list[tf_keras.metrics.Metric]:
        """That of bits/dim, which Keras starts anew at each epoch."""
        return [self._bits_per_dim]

    def call(self, images: Array, training: bool | None = None) -> tf.Tensor:
        """[B], nats: `Glow.log_prob` of continuous images, of a model without classes."""
        return self.glow.transformed_distribution().log_prob(tf.cast(images, self.glow.config.dtype))

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """What `fit` does with a batch.

        Raises:
            InputError: if the actnorms are not initialised, or labels are missing.
        """
        if not self.glow.is_initialized:
            raise InputError("the actnorms are not initialised; call initialize(images) before fit")
        images, labels = self._unpack(data)
        noise = self._noise(images, [self.seed, self.step_count])
        with tf.GradientTape() as tape:
            bits = self._bits(images, labels, noise)
            loss = tf.reduce_mean(bits)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self.step_count.assign_add(1)
        return self._updated(bits)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """What `evaluate` does with a batch."""
        images, labels = self._unpack(data)
        noise = self._noise(images, [self.seed + self._batches_tested, 0])
        self._batches_tested.assign_add(1)
        return self._updated(self._bits(images, labels, noise))

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As Keras'; the noise of its first batch is that of the first batch each time."""
        self._batches_tested.assign(0)
        return super().evaluate(*args, **kwargs)

    def save_weights(
        self, filepath: str | os.PathLike, overwrite: bool = True, save_format: Any = None, options: Any = None
    ) -> None:
        """Writes `weights.h5`; see `Glow.save_weights`."""
        self.glow.save_weights(filepath)

    def load_weights(
        self, filepath: str | os.PathLike, skip_mismatch: bool = False, by_name: bool = False, options: Any = None
    ) -> None:
        """Reads `weights.h5`; see `Glow.load_weights`."""
        self.glow.load_weights(filepath)

    def _unpack(self, data: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
        images, labels, _ = tf_keras.utils.unpack_x_y_sample_weight(data)
        if not self.glow.config.num_classes:
            return images, None
        if labels is None:
            raise InputError("this model is class-conditional: the data set must give (images, labels)")
        return images, tf.cast(labels, tf.int32)

    def _noise(self, images: tf.Tensor, seed: Sequence[int | tf.Tensor]) -> tf.Tensor:
        return dequantization.uniform_noise(tf.shape(images), tf.stack(seed), self.glow.config.dtype)

    def _bits(self, images: tf.Tensor, labels: tf.Tensor | None, noise: tf.Tensor) -> tf.Tensor:
        glow = self.glow
        values = glow.dequantizer.dequantize(images, noise, glow.config.dtype)
        log_prob = glow.transformed_distribution(labels, backprop=self.backprop).log_prob(values)
        return glow.dequantizer.bits_per_dim(log_prob, glow.config.num_dims)

    def _updated(self, bits: tf.Tensor) -> dict[str, tf.Tensor]:
        self._bits_per_dim.update_state(bits)
        return {"loss": self._bits_per_dim.result(), "bits_per_dim": self._bits_per_dim.result()}
