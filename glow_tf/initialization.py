"""Data-dependent initialisation: of a new model's actnorms, and of learned noise for a trained model."""

import dataclasses
from typing import TYPE_CHECKING

import tensorflow as tf

from glow_tf import inputs, persistence
from glow_tf._compiled import chunks, images_per_chunk
from glow_tf.errors import InputError
from glow_tf.inputs import Array

if TYPE_CHECKING:
    from glow_tf.glow import Glow


def initialize(glow: "Glow", images: Array) -> None:
    """Implements `Glow.initialize`."""
    if glow.is_initialized:
        raise InputError(
            "the actnorms are already initialised, by an earlier call or by loaded weights; to initialise them again, "
            "set glow.is_initialized = False"
        )
    if not tf.executing_eagerly():
        raise InputError("initialize works in eager code only; call it outside of tf.function")
    images = inputs.continuous_images(images, glow.config)
    glow.flow.initialize(chunks(images, images_per_chunk(glow.config.image_shape)))
    glow.is_initialized = True


def with_learned_noise(glow: "Glow", images: Array) -> "Glow":
    """Implements `Glow.with_learned_noise`."""
    config = dataclasses.replace(glow.config, dequantization="variational")
    copy = type(glow)(config, network=glow.network)
    assert copy.flow.noise is not None  # by its configuration
    copy.flow.noise.initialize(chunks(glow.dequantize(images), images_per_chunk(config.image_shape)))
    persistence.assign(copy, persistence.values_of(copy) | persistence.values_of(glow), glow.metadata)
    copy.is_initialized = glow.is_initialized
    return copy
