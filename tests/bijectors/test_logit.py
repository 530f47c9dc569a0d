import numpy as np
import tensorflow as tf

from glow_tf.bijectors.logit import Logit


def test_formula_is_realnvps(rng):
    y = rng.uniform(-0.5, 0.5, (3, 2, 4, 1))
    p = 0.05 + 0.9 * (y + 0.5)
    x, log_det = Logit(dtype=tf.float64).inverse_and_log_det(tf.constant(y))
    np.testing.assert_allclose(x, np.log(p) - np.log(1 - p), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(log_det, np.sum(np.log(0.9 / (p * (1 - p))), axis=(1, 2, 3)), rtol=1e-12)


def test_latents_of_any_size_become_pixels_near_the_range():
    y = Logit(0.0, 1.0).forward(tf.constant([-1e4, -50.0, 0.0, 50.0, 1e4])[:, tf.newaxis, tf.newaxis, tf.newaxis])
    np.testing.assert_allclose(np.ravel(y), [-0.05 / 0.9, -0.05 / 0.9, 0.5, 0.95 / 0.9, 0.95 / 0.9], rtol=1e-6)


def test_black_and_white_have_finite_logits():
    x, log_det = Logit(-0.5, 0.5).inverse_and_log_det(tf.constant([[[[-0.5], [0.5]]]]))
    np.testing.assert_allclose(np.ravel(x), [-np.log(19), np.log(19)], rtol=1e-5)
    assert np.isfinite(log_det).all()
