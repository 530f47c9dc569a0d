import numpy as np
import tensorflow as tf

from glow_tf.bijectors.permutation import ChannelPermutation


def test_inverse_takes_the_channels_in_the_given_order():
    image = tf.constant([[[[10.0, 11.0, 12.0, 13.0]]]])
    shuffle = ChannelPermutation(tf.constant([2, 0, 3, 1]))
    np.testing.assert_array_equal(shuffle.inverse(image), [[[[12.0, 10.0, 13.0, 11.0]]]])
    np.testing.assert_array_equal(shuffle.forward(image), [[[[11.0, 13.0, 10.0, 12.0]]]])


def test_reversal_is_its_own_inverse():
    image = tf.constant([[[[10.0, 11.0, 12.0, 13.0]]]])
    reverse = ChannelPermutation(tf.constant([3, 2, 1, 0]))
    np.testing.assert_array_equal(reverse.inverse(image), [[[[13.0, 12.0, 11.0, 10.0]]]])
    np.testing.assert_array_equal(reverse.forward(image), reverse.inverse(tf.identity(image)))
