"""TFP's own checks on the bijectors, and the distribution inside TFP's larger models."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from bijector_cases import MAKE, draw, make
from helpers import make_glow, random_images
from tensorflow_probability.python.math.gradient import batch_jacobian

from glow_tf.errors import InputError

tfb = tfp.bijectors
tfd = tfp.distributions


# Where neither depth nor size matters.
SMALLEST = {"num_levels": 1, "num_steps": 1, "width": 4}

# Five whole flows, as changes to the small one.
FLOWS = {
    "affine": {},
    "additive_shuffle": {"coupling": "additive", "permutation": "shuffle", "num_levels": 1},
    "reverse_standard_top": {"permutation": "reverse", "learned_top": False, "num_levels": 1},
    "logit": {"pixels": "logit", "num_levels": 1},
    "glow_tf2": {"architecture": "glow_tf2", "num_levels": 1},
}


def assert_bijective_and_finite(bijector, z, x):
    """As TFP's `bijector_test_util`, a file that TFP's wheel leaves out."""
    x_of_z, z_of_x = bijector.forward(tf.identity(z)), bijector.inverse(tf.identity(x))
    np.testing.assert_allclose(bijector.inverse(tf.identity(x_of_z)), z, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(bijector.forward(tf.identity(z_of_x)), x, rtol=1e-7, atol=1e-9)
    for there, back, start, end in (("forward", "inverse", z, x_of_z), ("inverse", "forward", x, z_of_x)):
        log_det = getattr(bijector, f"{there}_log_det_jacobian")(tf.identity(start), event_ndims=3)
        log_det_of_inverse = getattr(bijector, f"{back}_log_det_jacobian")(tf.identity(end), event_ndims=3)
        assert np.isfinite(end).all() and np.isfinite(log_det).all()
        np.testing.assert_allclose(log_det, -log_det_of_inverse, rtol=1e-7, atol=1e-9)


def fldj_theoretical(bijector, z):
    """As TFP's `get_fldj_theoretical`: the log-det of the batch Jacobian that TFP computes, eagerly."""
    flat_shape = [z.shape[0], -1]

    def forward(flat):
        return tf.reshape(bijector.forward(tf.reshape(flat, z.shape)), flat_shape)

    return np.linalg.slogdet(batch_jacobian(forward, tf.reshape(z, flat_shape)))[1]


@pytest.mark.parametrize("name", MAKE)
def test_bijector(name, rng):
    bijector = make(name)
    z, x = (draw(rng, bijector, direction, (2,)) for direction in ("forward", "inverse"))
    assert_bijective_and_finite(bijector, z, x)
    fldj = bijector.forward_log_det_jacobian(tf.identity(z), event_ndims=3)
    np.testing.assert_allclose(fldj, fldj_theoretical(bijector, z), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_flow(name, rng):
    glow = make_glow(**{"image_shape": (4, 4, 1), "num_steps": 1, "width": 4} | FLOWS[name])
    bijector = glow.bijector()
    z, x = tf.constant(rng.standard_normal((2, 4, 4, 1))), random_images(rng, glow, 2)
    assert_bijective_and_finite(bijector, z, x)
    fldj = bijector.forward_log_det_jacobian(tf.identity(z), event_ndims=3)
    np.testing.assert_allclose(fldj, fldj_theoretical(bijector, z), rtol=1e-8, atol=1e-9)


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


def test_mixture_of_classes(conditional_glow, rng):
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.zeros(3, tf.float64)), conditional_glow.conditional_distribution([0, 1, 2])
    )
    images = random_images(rng, conditional_glow, 4)
    np.testing.assert_allclose(mixture.log_prob(images), conditional_glow.log_prob(images), rtol=1e-11)
    assert mixture.sample(5, seed=2).shape == (5, 4, 8, 2)


def test_mixture_of_flows(small_glow, rng):
    other = make_glow(seed=3, **SMALLEST)
    weights = tf.constant([0.25, 0.75], tf.float64)
    mixture = tfd.Mixture(tfd.Categorical(probs=weights), [small_glow.distribution, other.distribution])
    images = random_images(rng, small_glow, 4)
    each = [small_glow.log_prob(images), other.log_prob(images)]
    np.testing.assert_allclose(mixture.log_prob(images), np.logaddexp(*(each + np.log(weights)[:, None])), rtol=1e-11)
    assert mixture.sample(3, seed=1).shape == (3, 4, 8, 2)


def test_joint_distribution(small_glow, conditional_glow):
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


def test_inverted(small_glow):
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


def test_options_that_tfp_would_ignore(small_glow, rng):
    distribution, images = small_glow.distribution, random_images(rng, small_glow, 2)
    for call in (
        lambda: distribution.sample(2, seed=1, temperature=0.7),
        lambda: distribution.experimental_sample_and_log_prob(2, seed=1, temperature=0.7),
        lambda: distribution.log_prob(images, temperature=0.7),
        lambda: distribution.prob(images, temperature=0.7),
    ):
        with pytest.raises(InputError, match=r"temperature is no argument here.*transformed_distribution"):
            call()
    for method in (small_glow.bijector().inverse, small_glow.bijector().forward):
        with pytest.raises(TypeError, match="unexpected keyword argument 'labels'"):
            method(images, labels=[0, 1])


def test_sample_distribution(small_glow, rng):
    three = tfd.Sample(small_glow.distribution, 3)
    images = random_images(rng, small_glow, 3)
    assert three.sample(2, seed=1).shape == (2, 3, 4, 8, 2)
    np.testing.assert_allclose(three.log_prob(images), tf.reduce_sum(small_glow.log_prob(images)), rtol=1e-11)


def derivatives_and_densities(glow, pixels):
    """Whatever depends on types: derivatives of both orders, slices, and TFP's larger models."""
    images = glow.dequantize(pixels)
    distribution = glow.conditional_distribution([1])

    @tf.function(autograph=False)
    def derivatives(images):
        with tf.GradientTape() as outer:
            outer.watch(images)
            with tf.GradientTape() as inner:
                inner.watch(images)
                log_prob = distribution.log_prob(images)
            first = inner.gradient(log_prob, images)
            curved = tf.sin(first)
        vectorized = tf.vectorized_map(lambda image: distribution.log_prob(image)[0], images)
        return first, outer.gradient(curved, images), vectorized

    by_class = glow.conditional_distribution([2, 0, 1])
    weights = tfd.Categorical(probs=tf.constant([0.2, 0.3, 0.5], glow.config.dtype))
    return {
        "derivatives": derivatives(images),
        "part": by_class[1:].log_prob(images[:2]),
        "numpy": by_class[0].log_prob(images.numpy()),
        "cold": glow.transformed_distribution([1], temperature=np.float64(0.7)).log_prob(images),
        "mixture": tfd.MixtureSameFamily(weights, by_class).log_prob(images),
        "many": tfd.Sample(distribution, 3).log_prob(images[tf.newaxis]),
    }


def test_float32_is_as_float64(rng):
    small = SMALLEST | {"image_shape": (4, 4, 1), "num_classes": 3}
    pixels = rng.integers(0, 256, (3, 4, 4, 1), dtype=np.uint8)
    found, expected = (derivatives_and_densities(make_glow(dtype=d, **small), pixels) for d in ("float32", "float64"))
    for name, values in expected.items():
        for one, other in zip(tf.nest.flatten(found[name]), tf.nest.flatten(values), strict=True):
            assert one.dtype == tf.float32, name
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, err_msg=name)


def test_saved_module(tmp_path, rng):
    glow = make_glow(dtype="float32", **SMALLEST)

    class Scorer(tf.Module):
        def __init__(self):
            super().__init__()
            self.distribution = glow.distribution

        @tf.function(input_signature=[tf.TensorSpec([None, 4, 8, 2])], autograph=False)
        def log_prob(self, images):
            return self.distribution.log_prob(images)

    with pytest.raises(KeyError, match="unsupported or not reachable"):
        tf.saved_model.save(Scorer(), tmp_path / "without options")
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(Scorer(), tmp_path / "scorer", options=options)
    loaded = tf.saved_model.load(tmp_path / "scorer")
    images = random_images(rng, glow, 3)
    for part in (images, images[:0]):
        np.testing.assert_allclose(loaded.log_prob(part), glow.log_prob(part), rtol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(images)
        log_prob = loaded.log_prob(images)
    with pytest.raises(TypeError, match="out of scope"):
        tape.gradient(log_prob, images)


def test_hmc():
    glow = make_glow(**SMALLEST)
    distribution = glow.distribution
    kernel = tfp.mcmc.HamiltonianMonteCarlo(distribution.log_prob, step_size=np.float64(0.01), num_leapfrog_steps=2)
    start = distribution.sample(2, seed=(1, 2))

    @tf.function(autograph=False)
    def run():
        return tfp.mcmc.sample_chain(3, start, kernel=kernel, trace_fn=lambda _, results: results, seed=(3, 4))

    states, trace = run()
    assert np.all(trace.is_accepted)
    # The kernel's own log densities are those of the model.
    last = tf.identity(states[-1])
    np.testing.assert_allclose(trace.accepted_results.target_log_prob[-1], glow.log_prob(last), rtol=1e-9)


def test_variational_inference():
    glow = make_glow(scale=0.02, **SMALLEST)
    target = tfd.Independent(tfd.Normal(tf.fill([4, 8, 2], tf.constant(0.3, tf.float64)), 0.5), 3)
    losses = tfp.vi.fit_surrogate_posterior(
        target.log_prob, glow.distribution, tf_keras.optimizers.Adam(0.02), num_steps=12, sample_size=4, seed=(1, 2)
    )
    assert losses[-1] < losses[0] - 5


def test_replicas_in_a_loop_of_ones_own(two_replicas, rng):
    with two_replicas.scope():
        mirrored = make_glow(**SMALLEST)
    single = make_glow(**SMALLEST)
    images = random_images(rng, single, 4)

    def gradients(glow, images):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(glow.distribution.log_prob(images)) / 4
        return tape.gradient(loss, glow.trainable_variables)

    @tf.function(autograph=False)
    def both(values):
        def replica(image):
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients(mirrored, image))

        return [two_replicas.experimental_local_results(g)[0] for g in two_replicas.run(replica, [values])]

    halves = two_replicas.experimental_distribute_values_from_function(
        lambda context: images[2 * context.replica_id_in_sync_group :][:2]
    )
    for found, expected in zip(both(halves), gradients(single, images), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
