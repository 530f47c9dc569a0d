"""Images of any size brought to one."""

import numpy as np
import pytest
from PIL import Image
from prepared import pictures, random_picture

from glow_tf.data.resize import crop_and_resize, resize_image


def test_a_picture_of_the_right_size_is_not_touched():
    picture = random_picture(8, 8)
    np.testing.assert_array_equal(crop_and_resize(picture, (8, 8)), picture)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(crop_and_resize(Image.fromarray(stripes), (16, 16)))
    assert np.abs(small[:, 2:-2].astype(int) - 127.5).max() <= 2  # without, a column is all 0 or all 255


def test_the_crop_is_centred_to_a_fraction_of_a_pixel():
    ramp = np.broadcast_to(np.arange(101, dtype=np.uint8) * 2, (50, 101))
    small = np.asarray(crop_and_resize(Image.fromarray(np.ascontiguousarray(ramp)), (10, 10)))
    centre = small[:, 2:-2].mean()
    assert abs(centre - 100) < 0.6


def test_the_crop_is_centred_and_nothing_is_distorted():
    values = np.zeros((10, 30), np.uint8)
    values[:, 10:20] = np.random.default_rng(0).integers(1, 256, (10, 10))
    cropped = crop_and_resize(Image.fromarray(values), (10, 10))
    np.testing.assert_array_equal(cropped, values[:, 10:20])
    tall = crop_and_resize(Image.fromarray(values.T), (10, 10))
    np.testing.assert_array_equal(tall, values.T[10:20])


def test_enlarging_keeps_a_flat_picture_flat():
    enlarged = crop_and_resize(Image.new("RGB", (3, 3), (9, 8, 7)), (16, 16))
    np.testing.assert_array_equal(enlarged, np.broadcast_to([9, 8, 7], (16, 16, 3)))


@pytest.mark.parametrize("shape", [(28, 28), (27, 25), (32, 20), (1, 1)])
def test_small_images_are_padded_as_numpy_pads_with_the_minimum(shape):
    image = pictures(1, (*shape, 3))[0]
    down, right = 32 - shape[0], 32 - shape[1]
    widths = [(down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0)]
    np.testing.assert_array_equal(resize_image(image, (32, 32), 3), np.pad(image, widths, mode="minimum"))


@pytest.mark.parametrize("shape", [(48, 40), (33, 50), (20, 40), (218, 178)])
@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_cropped_and_resized(shape, channels):
    image = pictures(1, (*shape, channels))[0]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    expected = np.asarray(crop_and_resize(picture, (32, 32))).reshape(32, 32, channels)
    np.testing.assert_array_equal(resize_image(image, (32, 32), channels), expected)


def test_a_crop_alone_changes_no_pixel():
    image = pictures(1, (33, 45, 3))[0]
    np.testing.assert_array_equal(resize_image(image, (33, 32), 3), image[:, 6:38])


def test_channels_are_repeated_or_weighted():
    grey = pictures(1, (4, 4, 1))[0]
    np.testing.assert_array_equal(resize_image(grey, (4, 4), 3), np.repeat(grey, 3, -1))
    colour = pictures(1, (4, 4, 3))[0]
    weighted = colour @ [0.299, 0.587, 0.114]
    assert np.abs(resize_image(colour, (4, 4), 1)[..., 0] - weighted).max() <= 1
