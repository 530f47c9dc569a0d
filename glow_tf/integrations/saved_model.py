"""A Glow as a SavedModel, for programs that have TensorFlow but not this package."""

import os
import shutil
from typing import Any

import tensorflow as tf

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
        InputError: if the folder exists already, cannot be written, or has a name that TensorFlow takes for a pattern
            when it loads the model.
    """
    folder = os.fspath(folder)
    if os.path.lexists(folder):
        raise InputError(f"{folder} exists already; name a folder to make")
    if {"[", "\\"} & set(os.path.abspath(folder)):
        raise InputError(f"{folder} contains [ or a backslash, and TensorFlow cannot load a model from such a path")
    part = f"{os.path.abspath(folder)}.tmp-{os.getpid()}"
    module = tf.Module(name="glow")
    module.weights = list(glow.named_variables().values())
    try:
        # The gradient functions of the loops use tensors of their forward passes, which cannot be saved.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, part, signatures=_signatures(glow), options=options)
        os.rename(part, folder)
    except (OSError, tf.errors.OpError) as error:
        raise InputError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _signatures(glow: Glow) -> dict[str, Any]:
    """{name: concrete function}. Functions outside of any module: a SavedModel holds all functions of a module."""
    shape = [None, *glow.config.image_shape]
    labels = [tf.TensorSpec([None], tf.int32, "labels")] if glow.config.num_classes else []
    n, seed = (tf.TensorSpec([], tf.int32, name) for name in ("n", "seed"))
    temperature = tf.TensorSpec([], tf.float32, "temperature")
    images, z = (tf.TensorSpec(shape, glow.config.dtype, name) for name in ("images", "z"))
    uint8 = tf.TensorSpec(shape, tf.uint8, "images")

    def sample(n: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, labels: tf.Tensor | None = None) -> Any:
        return {"images": glow.sample(n, temperature, seed, labels)}

    def bits_per_dim(images: tf.Tensor, seed: tf.Tensor, labels: tf.Tensor | None = None) -> Any:
        return {"bits_per_dim": glow.bits_per_dim(images, labels, seed)}

    def log_prob(images: tf.Tensor, labels: tf.Tensor | None = None) -> Any:
        return {"log_prob": glow.log_prob(images, labels)}

    def encode(images: tf.Tensor, labels: tf.Tensor | None = None) -> Any:
        return {"z": glow.encode(images, labels)}

    def decode(z: tf.Tensor, labels: tf.Tensor | None = None) -> Any:
        continuous = glow.decode(z, labels)
        return {"images": glow.dequantizer.quantize(continuous), "continuous": continuous}

    arguments = {sample: (n, temperature, seed), bits_per_dim: (uint8, seed)}
    arguments |= {log_prob: (images,), encode: (images,), decode: (z,)}
    return {
        function.__name__: tf.function(function, autograph=False).get_concrete_function(*specs, *labels)
        for function, specs in arguments.items()
    }
