"""TFP's own checks on the bijectors, and the distribution inside TFP's larger models."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from bijector_cases import MAKE, draw, make
from helpers import make_glow, random_images

tfb = tfp.bijectors
tfd = tfp.distributions


def check_bijector(bijector, x, y):
    """What `assert_bijective_and_finite` of TFP's bijector_test_util asserts; TFP's wheel leaves that file out."""
    x_of_y, y_of_x = bijector.inverse(tf.identity(y)), bijector.forward(tf.identity(x))
    again = bijector.forward(tf.identity(x_of_y)), bijector.inverse(tf.identity(y_of_x))
    np.testing.assert_allclose(again[0], y, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(again[1], x, rtol=1e-7, atol=1e-9)
    for there, back, start, end in (("forward", "inverse", x, y_of_x), ("inverse", "forward", y, x_of_y)):
        log_det = getattr(bijector, f"{there}_log_det_jacobian")(tf.identity(start), event_ndims=3)
        of_inverse = getattr(bijector, f"{back}_log_det_jacobian")(tf.identity(end), event_ndims=3)
        assert np.isfinite(end).all() and np.isfinite(log_det).all()
        np.testing.assert_allclose(log_det, -of_inverse, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", MAKE)
def test_tfps_check_of_a_bijector(name, rng):
    bijector = make(name)
    check_bijector(bijector, draw(rng, bijector, "forward", (2,)), draw(rng, bijector, "inverse", (2,)))


def test_tfps_check_of_the_whole_flow(small_glow, rng):
    z = tf.constant(rng.standard_normal((2, 4, 8, 2)))
    check_bijector(small_glow.bijector(), z, random_images(rng, small_glow, 2))


def test_shapes(small_glow, conditional_glow, rng):
    distribution = small_glow.distribution
    assert distribution.event_shape == (4, 8, 2) and distribution.batch_shape == ()
    assert distribution.sample([3, 2], seed=1).shape == (3, 2, 4, 8, 2)
    assert distribution.log_prob(tf.reshape(random_images(rng, small_glow, 6), [3, 2, 4, 8, 2])).shape == (3, 2)
    of_classes = conditional_glow.conditional_distribution([0, 2])
    assert of_classes.event_shape == (4, 8, 2) and of_classes.batch_shape == (2,)
    assert of_classes.sample(3, seed=1).shape == (3, 2, 4, 8, 2)
    images = random_images(rng, conditional_glow, 5)[:, tf.newaxis]
    both = of_classes.log_prob(images)
    np.testing.assert_allclose(both, tf.gather(conditional_glow.class_log_probs(images[:, 0]), [0, 2], axis=1))


def test_a_mixture_of_classes_is_the_density_without_labels(conditional_glow, rng):
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.zeros(3, tf.float64)), conditional_glow.conditional_distribution([0, 1, 2])
    )
    images = random_images(rng, conditional_glow, 4)
    np.testing.assert_allclose(mixture.log_prob(images), conditional_glow.log_prob(images), rtol=1e-11)
    assert mixture.sample(5, seed=2).shape == (5, 4, 8, 2)


def test_a_mixture_of_two_flows(small_glow, rng):
    other = make_glow(seed=3)
    weights = tf.constant([0.25, 0.75], tf.float64)
    mixture = tfd.Mixture(tfd.Categorical(probs=weights), [small_glow.distribution, other.distribution])
    images = random_images(rng, small_glow, 4)
    each = [small_glow.log_prob(images), other.log_prob(images)]
    np.testing.assert_allclose(mixture.log_prob(images), np.logaddexp(*(each + np.log(weights)[:, None])), rtol=1e-11)
    assert mixture.sample(3, seed=1).shape == (3, 4, 8, 2)


def test_a_joint_distribution(small_glow, conditional_glow):
    def brighter(glow):  # TFP wants the distribution's name here
        return tfd.Normal(tf.reduce_mean(glow, axis=[-3, -2, -1]), tf.constant(0.1, tf.float64))

    joint = tfd.JointDistributionSequential([small_glow.distribution, brighter], batch_ndims=0)
    images, brightness = joint.sample(3, seed=(1, 2))
    assert images.shape == (3, 4, 8, 2) and brightness.shape == (3,)
    expected = small_glow.log_prob(images) + brighter(images).log_prob(brightness)
    np.testing.assert_allclose(joint.log_prob([images, brightness]), expected, rtol=1e-12)

    named = tfd.JointDistributionNamed(
        {"a": small_glow.distribution, "b": conditional_glow.conditional_distribution([1])}, batch_ndims=0
    )
    drawn = named.sample(seed=(1, 2))
    assert drawn["a"].shape == (4, 8, 2) and drawn["b"].shape == (1, 4, 8, 2)
    expected = small_glow.log_prob(drawn["a"][tf.newaxis])[0] + conditional_glow.log_prob(drawn["b"], [1])[0]
    np.testing.assert_allclose(tf.reduce_sum(named.log_prob(drawn)), expected, rtol=1e-12)


def test_inverted_it_is_a_distribution_of_latents(small_glow, rng):
    pixels = tfd.Independent(tfd.Normal(tf.zeros([4, 8, 2], tf.float64), 0.2), 3)
    latents = tfd.TransformedDistribution(pixels, tfb.Invert(small_glow.bijector()))
    z = latents.sample(3, seed=4)
    images = small_glow.decode(tf.identity(z))
    log_det = small_glow.bijector().forward_log_det_jacobian(tf.identity(z), event_ndims=3)
    np.testing.assert_allclose(latents.log_prob(tf.identity(z)), pixels.log_prob(images) + log_det, rtol=1e-10)


def test_vectorized_map(small_glow, rng):
    images = random_images(rng, small_glow, 5)
    distribution = small_glow.distribution
    found = tf.vectorized_map(lambda image: distribution.log_prob(image), images)
    np.testing.assert_allclose(found, small_glow.log_prob(images), rtol=1e-11)
