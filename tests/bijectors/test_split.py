import numpy as np
import pytest
import tensorflow as tf

from glow_tf.bijectors.actnorm import ActNorm
from glow_tf.bijectors.split import Split
from glow_tf.bijectors.squeeze import Squeeze


def test_on_numbers():
    deeper = ActNorm(tf.constant([1.0]), tf.math.log([3.0]))
    split = Split(lambda x1: (x1 + 2, tf.math.log(x1)), deeper)
    image = tf.constant([[[4.0, 8.0]]])
    # (4 + 1) * 3 and (8 - 6) / 4
    np.testing.assert_allclose(split.inverse(image), [[[15.0, 0.5]]], rtol=1e-6)
    np.testing.assert_allclose(split.inverse_log_det_jacobian(image, 3), np.log(3) - np.log(4), rtol=1e-5)


def test_levels_below_run_once():
    passes = []

    class Counted(ActNorm):
        def _inverse_and_log_det(self, x):
            passes.append(x)
            return super()._inverse_and_log_det(x)

    split = Split(lambda x1: (x1, x1), Counted(tf.ones([1]), tf.ones([1])))
    image = tf.ones([2, 2, 2, 2])
    split.forward_log_det_jacobian(split.inverse(image), 3)
    assert len(passes) == 1


def test_the_levels_below_must_keep_the_shape():
    split = Split(lambda x1: (x1, x1), Squeeze())
    with pytest.raises(ValueError, match=r"deeper maps an event of shape \(2, 2, 1\) to \(1, 1, 4\)"):
        split.inverse(tf.ones([2, 2, 2]))
    with pytest.raises(ValueError, match=r"deeper maps an event of shape \(2, 2, 4\) to \(4, 4, 1\)"):
        split.forward(tf.ones([2, 2, 8]))
