"""A Glow as a SavedModel, for programs that have TensorFlow but not this package."""

import os
import shutil
from typing import Any

import tensorflow as tf

from glow_tf import inputs
from glow_tf.dequantization import NoiseStream
from glow_tf.errors import InputError
from glow_tf.glow import Glow


def save_model(glow: Glow, folder: str | os.PathLike) -> None:
    """Writes a SavedModel whose signatures take a batch of any size.

        sample(n, temperature, seed) -> images              n, seed: int32 [], temperature: float32 []
        bits_per_dim(images, seed) -> bits_per_dim          images: uint8 [B, H, W, C]
        log_prob(images) -> log_prob                        images: continuous, [B, H, W, C] in `config.pixel_range`
        encode(images) -> z                                 images: continuous
        decode(z) -> images, continuous                     images: uint8; continuous: the argument of `encode`

    Those of a class-conditional model also need labels, int32 [B] ([n] for `sample`). Images of another scale and
    labels out of range fail with a `tf.errors.InvalidArgumentError` that names the value and the valid ones.

        save_model(glow, "model")
        model = tf.saved_model.load("model")                # a program without this package
        model.signatures["sample"](n=tf.constant(4), temperature=tf.constant(0.7), seed=tf.constant(0))["images"]

    An exported model computes values only: a gradient through it raises an error, since TensorFlow cannot save the
    gradients of its loops. For the same reason a module of your own that holds `glow.distribution` is saved with

        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, "folder", options=options)

    Raises:
        InputError: if the folder exists already, or cannot be written.
    """
    folder = os.fspath(folder)
    if os.path.lexists(folder):
        raise InputError(f"{folder} exists already; name a folder to make")
    part = f"{os.path.abspath(folder)}.tmp-{os.getpid()}"
    module = tf.Module(name="glow")
    module.weights = list(glow.named_variables().values())
    try:
        # The gradient functions of the loops use tensors of their forward passes, which cannot be saved.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, part, signatures=_Functions(glow).signatures(), options=options)
        os.rename(part, folder)
    except (OSError, tf.errors.OpError) as error:
        raise InputError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


class _Functions:
    """The functions of the signatures. Not a tf.Module, because a SavedModel holds every function of a module."""

    def __init__(self, glow: Glow) -> None:
        self._glow = glow

    @property
    def _dtype(self) -> tf.DType:
        return tf.as_dtype(self._glow.config.dtype)

    def signatures(self) -> dict[str, Any]:
        glow = self._glow
        shape = [None, *glow.config.image_shape]
        labels = {"labels": tf.TensorSpec([None], tf.int32, "labels")} if glow.config.num_classes else {}
        scalars = {
            "n": tf.TensorSpec([], tf.int32, "n"),
            "temperature": tf.TensorSpec([], tf.float32, "temperature"),
            "seed": tf.TensorSpec([], tf.int32, "seed"),
        }
        images = {"images": tf.TensorSpec(shape, self._dtype, "images")}
        arguments = {
            self.sample: scalars,
            self.bits_per_dim: {"images": tf.TensorSpec(shape, tf.uint8, "images"), "seed": scalars["seed"]},
            self.log_prob: images,
            self.encode: images,
            self.decode: {"z": tf.TensorSpec(shape, self._dtype, "z")},
        }
        return {
            function.__name__: tf.function(function, autograph=False).get_concrete_function(**specs, **labels)
            for function, specs in arguments.items()
        }

    def sample(
        self, n: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, labels: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        glow = self._glow
        noise_seed = [seed, NoiseStream.SAMPLE]
        noise = tf.random.stateless_normal([n, *glow.config.image_shape], noise_seed, dtype=self._dtype)
        values = glow.bijector(labels).forward(noise * tf.cast(temperature, self._dtype))
        return {"images": glow.dequantizer.quantize(values)}

    def bits_per_dim(self, images: tf.Tensor, seed: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        log_prob = self.log_prob(self._glow.dequantize(images, seed), labels)["log_prob"]
        return {"bits_per_dim": self._glow.dequantizer.bits_per_dim(log_prob, self._glow.config.num_dims)}

    def log_prob(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        return {"log_prob": self._glow.transformed_distribution(labels).log_prob(self._continuous(images))}

    def encode(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        return {"z": self._glow.bijector(labels).inverse(self._continuous(images))}

    def decode(self, z: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        values = self._glow.bijector(labels).forward(z)
        return {"images": self._glow.dequantizer.quantize(values), "continuous": values}

    def _continuous(self, images: tf.Tensor) -> tf.Tensor:
        config = self._glow.config
        return inputs.continuous_images(images, config.image_shape, config.pixel_range, self._dtype)
