"""A Glow as a SavedModel: for programs that have TensorFlow and not this package."""

import os
import shutil
from typing import Any

import tensorflow as tf

from glow_tf import dequantization
from glow_tf.errors import InputError
from glow_tf.glow import Glow


def save_model(glow: Glow, folder: str | os.PathLike) -> None:
    """Writes a SavedModel whose signatures take any batch size.

        sample(n, temperature, seed) -> images              n, seed: int32 [], temperature: float32 []
        bits_per_dim(images, seed) -> bits_per_dim          images: uint8 [B, H, W, C]
        log_prob(images) -> log_prob                        images: continuous, [B, H, W, C] in `config.pixel_range`
        encode(images) -> z                                 likewise
        decode(z) -> images, continuous                     images: uint8; continuous: what `encode` takes

    Of a class-conditional model each also takes labels, int32 [B] (of `sample`: [n]).

        save_model(glow, "model")
        model = tf.saved_model.load("model")                # a program without this package
        model.signatures["sample"](n=tf.constant(4), temperature=tf.constant(0.7), seed=tf.constant(0))["images"]

    Raises:
        InputError: the folder exists already, or cannot be written.
    """
    folder = os.fspath(folder)
    if os.path.lexists(folder):
        raise InputError(f"{folder} exists already; name a folder to make")
    part = f"{os.path.abspath(folder)}.tmp-{os.getpid()}"
    module = tf.Module(name="glow")
    module.weights = list(glow.named_variables().values())
    try:
        # Without the gradients of TensorFlow's own functions, which cannot be saved out of a loop.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, part, signatures=_Functions(glow).signatures(), options=options)
        os.rename(part, folder)
    except (OSError, tf.errors.OpError) as error:
        raise InputError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


class _Functions:
    """The signatures' functions: no tf.Module, because a SavedModel takes every function of a module with it."""

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
        noise = tf.random.stateless_normal([n, *glow.config.image_shape], [seed, 1], dtype=self._dtype)
        values = glow.bijector(labels).forward(noise * tf.cast(temperature, self._dtype))
        return {"images": glow.dequantizer.quantize(values)}

    def bits_per_dim(self, images: tf.Tensor, seed: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        glow = self._glow
        noise = dequantization.uniform_noise(tf.shape(images), [seed, 0], self._dtype)
        log_prob = self.log_prob(glow.dequantizer.dequantize(images, noise, self._dtype), labels)["log_prob"]
        return {"bits_per_dim": glow.dequantizer.bits_per_dim(log_prob, glow.config.num_dims)}

    def log_prob(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        return {"log_prob": self._glow.transformed_distribution(labels).log_prob(images)}

    def encode(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        return {"z": self._glow.bijector(labels).inverse(images)}

    def decode(self, z: tf.Tensor, labels: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        values = self._glow.bijector(labels).forward(z)
        return {"images": self._glow.dequantizer.quantize(values), "continuous": values}
