import numpy as np
import pytest
import tensorflow as tf
from helpers import count_operations, log_abs_det_jacobian, make_glow, random_images, values_of
from naive import NaiveGlow

from glow_tf.bijectors.scan import BACKPROP_MODES
from glow_tf.config import GlowConfig
from glow_tf.glow import Glow
from glow_tf.nn.base import slice_of
from glow_tf.nn.plus import MAX_INPUT, BoundedScaleNetwork, BoundedSplitPrior, PlusNetwork

KINDS = {
    "rgb": {"image_shape": (8, 4, 3)},
    "additive_shuffle": {"image_shape": (4, 8, 2), "coupling": "additive", "permutation": "shuffle"},
    "one_level_one_step": {"image_shape": (4, 4, 1), "num_levels": 1, "num_steps": 1},
}


class NaivePlus(NaiveGlow):
    """The differences that `nn.plus` lists, in numpy."""

    def class_shape(self, h, w):
        return h, w

    def log_scale(self, raw):
        return 2 * np.tanh(raw / 2)

    def split_log_scale(self, raw):
        return 3 * np.tanh(raw / 3)

    def network(self, z1, prefix, k):
        return super().network(np.clip(z1, -20, 20), prefix, k)


def make_plus(**config):
    return make_glow(architecture="plus", **config)


def correlated_images(rng, shape, count=40):
    """Smooth images with a little noise, float64: neighbouring pixels are alike, as are channels."""
    height, width, channels = shape
    coarse = rng.standard_normal((count, height // 4, width // 4, 1)).repeat(4, axis=1).repeat(4, axis=2)
    return tf.constant(0.2 * coarse + 0.02 * rng.standard_normal((count, height, width, channels)))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_density_and_round_trip(kind, rng):
    glow = make_plus(**kind)
    images = random_images(rng, glow, 2)
    expected, _ = NaivePlus(glow.config, values_of(glow)).encode(images.numpy())
    np.testing.assert_allclose(glow.log_prob(images), expected, rtol=1e-11)
    z = glow.encode(images)
    jacobian = log_abs_det_jacobian(glow.bijector().inverse, images[0])
    standard = -0.5 * tf.reduce_sum(z[0] ** 2 + np.log(2 * np.pi))
    np.testing.assert_allclose(glow.log_prob(images)[0], standard + jacobian, rtol=1e-9)
    np.testing.assert_allclose(glow.decode(z), images, rtol=0, atol=1e-11)


def test_gradients_agree_in_every_backprop_mode(rng):
    glow = make_plus()
    images = random_images(rng, glow, 3)
    found = {}
    for backprop in BACKPROP_MODES:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(glow.transformed_distribution(backprop=backprop).log_prob(tf.identity(images)))
        found[backprop] = tape.gradient(loss, glow.trainable_variables)
    for backprop in ("recompute", "reversible"):
        for value, expected in zip(found[backprop], found["stored"], strict=True):
            np.testing.assert_allclose(value, expected, rtol=0, atol=1e-10 * np.max(np.abs(expected)))


def test_stored_evaluates_no_network_twice():
    """As often as in the architecture openai, for which `test_glow.py` counts."""
    counts = []
    for architecture in ("plus", "openai"):
        glow = make_glow(architecture=architecture)

        @tf.function(autograph=False)
        def gradients(images, glow=glow):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(glow.transformed_distribution(backprop="stored").log_prob(images))
            return tape.gradient(loss, glow.trainable_variables)

        spec = tf.TensorSpec([None, *glow.config.image_shape], tf.float64)
        counts.append(count_operations(gradients.get_concrete_function(spec), "Conv2D"))
    assert counts[0] == counts[1] > 0


def test_the_scale_is_symmetric_and_bounded():
    raw = tf.constant([-1e6, -0.1, 0.0, 0.1, 1e6], tf.float64)
    network = PlusNetwork(4)
    network.output = lambda *_: tf.concat([tf.zeros_like(raw), raw], -1)
    shift, log_scale = network.shift_and_log_scale({}, None)
    np.testing.assert_array_equal(shift, np.zeros(5))
    np.testing.assert_allclose(log_scale, [-2, 2 * np.tanh(-0.05), 0, 2 * np.tanh(0.05), 2], rtol=1e-12)


def test_values_far_from_the_data_do_not_grow(rng):
    glow = make_plus()
    network, unbounded = PlusNetwork(glow.config.width), BoundedScaleNetwork(glow.config.width)
    parameters = slice_of(glow.flow.steps[0].prepared()["coupling"], 0)
    inside = tf.constant(rng.uniform(-MAX_INPUT, MAX_INPUT, (2, 4, 4, parameters["conv1"]["kernel"].shape[2])))
    for found, expected in zip(
        network.shift_and_log_scale(parameters, inside), unbounded.shift_and_log_scale(parameters, inside), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    far = 1e6 * tf.sign(inside)
    np.testing.assert_array_equal(network.output(parameters, far), network.output(parameters, MAX_INPUT * tf.sign(far)))


def test_density_and_round_trip_far_from_the_data(rng):
    """Where inputs are clipped, the layers are still exact inverses with the log-determinant of their Jacobian."""
    glow = make_plus()
    images = 1e3 * random_images(rng, glow, 1)
    z = glow.bijector().inverse(images)
    assert np.max(np.abs(z)) > 10 * MAX_INPUT
    log_det = glow.bijector().inverse_log_det_jacobian(images, event_ndims=3)
    np.testing.assert_allclose(log_det[0], log_abs_det_jacobian(glow.bijector().inverse, images[0]), rtol=1e-9)
    expected, _ = NaivePlus(glow.config, values_of(glow)).encode(images.numpy())
    np.testing.assert_allclose(glow.distribution.log_prob(images), expected, rtol=1e-11)
    np.testing.assert_allclose(glow.bijector().forward(z), images, rtol=0, atol=1e-11 * np.max(np.abs(z)))


def test_a_split_cannot_overflow():
    config = GlowConfig((4, 4, 2), num_levels=2, num_steps=1, width=4, architecture="plus")
    prior = BoundedSplitPrior(config, 8, "split0")
    prior.parameters["bias"].assign([1e6] * 4 + [1e6, -1e6, 0.3, 0.0])
    mean, log_scale = prior(tf.zeros([1, 2, 2, 4]))
    np.testing.assert_array_equal(mean, np.full((1, 2, 2, 4), 1e6))
    np.testing.assert_allclose(log_scale[0, 0, 0], [3, -3, 3 * np.tanh(0.1), 0], rtol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_a_new_level_gives_the_principal_components(num_steps, rng):
    config = GlowConfig((8, 8, 1), num_levels=1, num_steps=num_steps, width=4, architecture="plus", dtype="float64")
    glow = Glow(config, seed=2)
    images = correlated_images(rng, config.image_shape)
    glow.initialize(images)

    def channels(values):
        blocks = tf.nn.space_to_depth(values, 2)
        return tf.reshape(blocks, [-1, blocks.shape[-1]]).numpy()

    white = channels(glow.encode(images))
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(4), atol=1e-4)
    # The largest component is the mean of a block of 2x2 pixels, and it comes first.
    means = channels(images).mean(axis=1)
    assert abs(np.corrcoef(white[:, 0], means)[0, 1]) > 0.99


def test_constant_channels_are_not_scaled_up_without_end(rng):
    config = GlowConfig((4, 4, 2), num_levels=1, num_steps=2, width=4, architecture="plus", dtype="float64")
    glow = Glow(config)
    grey = tf.repeat(tf.constant(rng.uniform(-0.5, 0.5, (30, 4, 4, 1))), 2, axis=-1)  # two channels that are equal
    glow.initialize(grey)
    weight = glow.flow.steps[0].prepared()["conv1x1"]["weight"][0]
    assert np.linalg.norm(weight, 2) < 101
    np.testing.assert_allclose(glow.decode(glow.encode(grey)), grey, rtol=0, atol=1e-9)


def test_a_class_has_a_gaussian_at_every_place(rng):
    glow = make_plus(num_classes=3)
    mean, log_scale = glow.flow.top.mean_and_log_scale(tf.constant([0, 2]))
    assert mean.shape == log_scale.shape == (2, 1, 2, 16)
    assert np.abs(mean[0, 0, 0] - mean[0, 0, 1] - (mean[1, 0, 0] - mean[1, 0, 1])).min() > 1e-6
    images = random_images(rng, glow, 2)
    per_class = glow.class_log_probs(images).numpy()
    np.testing.assert_allclose(glow.log_prob(images, labels=[1, 2]), per_class[[0, 1], [1, 2]], rtol=1e-9)
    expected, _ = NaivePlus(glow.config, values_of(glow)).encode(images.numpy(), [1, 2])
    np.testing.assert_allclose(per_class[[0, 1], [1, 2]], expected, rtol=1e-11)
