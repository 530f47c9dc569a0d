import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf.bijectors.gaussian import Gaussian

tfd = tfp.distributions

EVENT = (2, 3, 4)


@pytest.mark.parametrize("parameter_shape", [EVENT, (5, *EVENT)], ids=["shared", "one_an_image"])
def test_density_is_the_normals(parameter_shape, rng):
    mean = tf.constant(rng.standard_normal(parameter_shape))
    log_scale = tf.constant(rng.standard_normal(parameter_shape))
    values = tf.constant(rng.standard_normal((5, *EVENT)))
    base = tfd.Independent(tfd.Normal(tf.zeros(EVENT, tf.float64), 1.0), 3)
    ours = tfd.TransformedDistribution(base, Gaussian(lambda: (mean, log_scale), dtype=tf.float64))
    expected = tf.reduce_sum(tfd.Normal(mean, tf.exp(log_scale)).log_prob(values), axis=[-3, -2, -1])
    np.testing.assert_allclose(ours.log_prob(values), expected, rtol=1e-12)


def test_scaling_the_standard_side_leaves_the_mean():
    mean, scale = tf.fill(EVENT, 3.0), 2.0
    gaussian = Gaussian(lambda: (mean, tf.fill(EVENT, np.log(np.float32(scale)))))
    noise = tf.ones(EVENT)
    np.testing.assert_allclose(gaussian.forward(0.0 * noise), mean)
    np.testing.assert_allclose(gaussian.forward(0.5 * noise), mean + 0.5 * scale, rtol=1e-6)
