import numpy as np
import pytest
import tensorflow as tf
from naive import squeeze

from glow_tf.bijectors.squeeze import Squeeze


def test_channel_order_is_openais():
    pixels = tf.reshape(tf.range(12.0), [1, 2, 2, 3])
    squeezed = Squeeze().inverse(pixels)
    np.testing.assert_array_equal(squeezed, [[[[0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]]]])


@pytest.mark.parametrize("shape", [(2, 4, 6, 1), (1, 6, 2, 3), (3, 2, 2, 4)], ids=str)
def test_every_pixel_finds_its_place(shape):
    images = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(Squeeze().inverse(tf.constant(images)), squeeze(images))


@pytest.mark.parametrize("shape", [(3, 4, 1), (4, 5, 1)], ids=str)
def test_odd_sides_are_refused(shape):
    with pytest.raises(ValueError, match=f"{shape[0]}x{shape[1]} cannot be squeezed"):
        Squeeze().inverse(tf.zeros([1, *shape]))
    with pytest.raises(ValueError, match="must be even"):
        Squeeze().inverse_event_shape(shape)


def test_channels_that_are_no_multiple_of_four_are_refused():
    with pytest.raises(ValueError, match="6 channels cannot be unsqueezed"):
        Squeeze().forward(tf.zeros([1, 2, 2, 6]))


def test_event_shapes():
    squeeze_ = Squeeze()
    assert squeeze_.inverse_event_shape((8, 6, 3)) == (4, 3, 12)
    assert squeeze_.forward_event_shape((4, 3, 12)) == (8, 6, 3)
    np.testing.assert_array_equal(squeeze_.inverse_event_shape_tensor([8, 6, 3]), [4, 3, 12])
    np.testing.assert_array_equal(squeeze_.forward_event_shape_tensor([4, 3, 12]), [8, 6, 3])
