import numpy as np
import tensorflow as tf

from glow_tf.bijectors.actnorm import ActNorm
from glow_tf.bijectors.split import Split


def test_first_half_goes_deeper_and_second_half_is_standardised():
    deeper = ActNorm(tf.constant([1.0]), tf.math.log([3.0]))
    split = Split(lambda kept: (kept + 2, tf.math.log(kept)), deeper)
    image = tf.constant([[[4.0, 8.0]]])
    # (4 + 1) * 3 and (8 - 6) / 4
    np.testing.assert_allclose(split.inverse(image), [[[15.0, 0.5]]], rtol=1e-6)
    np.testing.assert_allclose(split.inverse_log_det_jacobian(image, 3), np.log(3) - np.log(4), rtol=1e-5)


def test_what_is_deeper_sweeps_once():
    sweeps = []

    class Counted(ActNorm):
        def _inverse_and_log_det(self, y):
            sweeps.append(y)
            return super()._inverse_and_log_det(y)

    split = Split(lambda kept: (kept, kept), Counted(tf.ones([1]), tf.ones([1])))
    image = tf.ones([2, 2, 2, 2])
    split.forward_log_det_jacobian(split.inverse(image), 3)
    assert len(sweeps) == 1
