import numpy as np
import tensorflow as tf

from glow_tf.bijectors.actnorm import ActNorm


def test_formula_on_numbers():
    actnorm = ActNorm(tf.constant([1.0, -2.0]), tf.math.log([2.0, 0.5]))
    image = tf.constant([[[3.0, 4.0], [0.0, 2.0], [-1.0, 6.0]]])
    np.testing.assert_allclose(actnorm.inverse(image), [[[8.0, 1.0], [2.0, 0.0], [0.0, 2.0]]])
    # 1 * 3 positions, each log 2 + log 1/2.
    np.testing.assert_allclose(actnorm.inverse_log_det_jacobian(image, 3), 0.0, atol=1e-7)


def test_log_det_counts_positions():
    actnorm = ActNorm(tf.zeros([3]), tf.constant([0.1, 0.2, 0.4]))
    log_det = actnorm.inverse_log_det_jacobian(tf.zeros([2, 5, 4, 3]), 3)
    np.testing.assert_allclose(log_det, [5 * 4 * 0.7] * 2, rtol=1e-6)
