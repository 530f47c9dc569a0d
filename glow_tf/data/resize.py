"""Brings images of any size and of other channels to what a model takes."""

import tensorflow as tf


def resize_image(image: tf.Tensor, image_size: tuple[int, int], channels: int) -> tf.Tensor:
    """Brings one uint8 image [h, w, c] to [H, W, channels]; identity if it fits.

    An image with both sides at most the target's is padded around its centre (an odd rest goes to the
    bottom and the right) as numpy.pad(mode="minimum") does: each new row repeats the minimum of every
    column, then each new column that of every row. So openai/glow makes 32x32 of MNIST's 28x28.
    Otherwise the largest centred region with the target's aspect ratio is resized as
    `image_folder.crop_and_resize` does: cut out and no more where its size is right already, else by a
    bicubic filter that is antialiased when it shrinks. Grey is repeated in each of 3 channels; RGB becomes
    grey by ITU-R 601; there is no other change of channels.
    """
    if image.shape[-1] != channels:
        image = tf.tile(image, [1, 1, 3]) if channels == 3 else tf.image.rgb_to_grayscale(image)
    if tuple(image.shape[:2]) == tuple(image_size):
        return image
    fits = tf.reduce_all(tf.shape(image)[:2] <= image_size)
    fitted = tf.cond(
        fits,
        lambda: _pad_with_minimum(image, image_size),
        lambda: _crop_and_resize(image, image_size),
    )
    return tf.ensure_shape(fitted, [*image_size, channels])


def _pad_with_minimum(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    for axis in (0, 1):
        # In a graph this branch is built even where it is not taken, and must not fail then.
        missing = tf.maximum(image_size[axis] - tf.shape(image)[axis], 0)
        edge = tf.reduce_min(image, axis, keepdims=True)
        before, after = tf.repeat(edge, missing // 2, axis), tf.repeat(edge, missing - missing // 2, axis)
        image = tf.concat([before, image, after], axis)
    return image


def _crop_and_resize(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    target = tf.constant(image_size, tf.float32)
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    ratio = tf.reduce_min(sides / target)
    corner = (sides - ratio * target) / 2
    is_cut_only = tf.reduce_all(tf.round(ratio * target) == target)
    ratio, corner = tf.where(is_cut_only, 1.0, ratio), tf.where(is_cut_only, tf.floor(corner), corner)
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image[tf.newaxis], tf.float32),
        size=tf.constant(image_size),
        scale=tf.repeat(1 / ratio, 2),
        translation=-corner / ratio,
        kernel_type="keyscubic",
        antialias=True,
    )
    return tf.saturate_cast(tf.round(resized[0]), tf.uint8)
