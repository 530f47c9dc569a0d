"""Images of any size brought to one."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from prepared import pictures

from glow_tf.data import image_folder
from glow_tf.data.resize import resize_image


@pytest.mark.parametrize("shape", [(28, 28), (27, 25), (32, 20), (1, 1)])
@pytest.mark.parametrize("is_static", [True, False])
def test_small_images_are_padded_as_numpy_pads_with_the_minimum(shape, is_static):
    image = pictures(1, (*shape, 3))[0]
    down, right = 32 - shape[0], 32 - shape[1]
    widths = [(down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0)]
    np.testing.assert_array_equal(fit(image, (32, 32), is_static), np.pad(image, widths, mode="minimum"))


@pytest.mark.parametrize("shape", [(48, 40), (33, 50), (20, 40), (218, 178)])
@pytest.mark.parametrize("is_static", [True, False])
def test_large_images_become_what_the_folder_reader_makes_of_them(shape, is_static):
    coarse = Image.fromarray(pictures(1, (5, 5, 3))[0])
    image = np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))
    expected = np.asarray(image_folder.crop_and_resize(Image.fromarray(image), (32, 32))).astype(int)
    assert np.abs(fit(image, (32, 32), is_static) - expected).max() <= 2


@pytest.mark.parametrize("is_static", [True, False])
def test_a_crop_alone_changes_no_pixel(is_static):
    image = pictures(1, (33, 45, 3))[0]
    np.testing.assert_array_equal(fit(image, (33, 32), is_static), image[:, 6:38])


def fit(image, image_size, is_static):
    """`resize_image` inside a graph, as tf.data runs it, with the shape known or not."""
    shape = image.shape if is_static else [None, None, image.shape[-1]]
    signature = [tf.TensorSpec(shape, tf.uint8)]
    function = tf.function(lambda x: resize_image(x, image_size, image.shape[-1]), signature)
    assert function.get_concrete_function().output_shapes == [*image_size, image.shape[-1]]
    return function(image).numpy()


def test_channels_are_repeated_or_weighted():
    grey = pictures(1, (4, 4, 1))[0]
    np.testing.assert_array_equal(resize_image(tf.constant(grey), (4, 4), 3), np.repeat(grey, 3, -1))
    colour = pictures(1, (4, 4, 3))[0]
    weighted = colour @ [0.299, 0.587, 0.114]
    assert np.abs(resize_image(tf.constant(colour), (4, 4), 1)[..., 0] - weighted).max() <= 1
