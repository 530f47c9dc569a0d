import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import (
    SMALL,
    CountingNetwork,
    count_operations,
    graph_size,
    log_abs_det_jacobian,
    make_glow,
    random_images,
    values_of,
)
from naive import NaiveGlow

import glow_tf._compiled
from glow_tf.bijectors.scan import BACKPROP_MODES
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.nn import layers
from glow_tf.nn.base import slice_of
from glow_tf.nn.openai import OpenAINetwork

tfd = tfp.distributions

# Every size, number of channels, coupling, permutation and number of levels at least once.
KINDS = {
    "grey": {"image_shape": (8, 8, 1)},
    "two_channels_additive_shuffle": {"image_shape": (4, 8, 2), "coupling": "additive", "permutation": "shuffle"},
    "rgb_reverse": {"image_shape": (8, 4, 3), "permutation": "reverse"},
    "rgba_additive_one_level": {"image_shape": (2, 6, 4), "num_levels": 1, "coupling": "additive"},
    "three_levels": {"image_shape": (8, 16, 1), "num_levels": 3, "num_steps": 1},
    "standard_top": {"image_shape": (4, 4, 2), "learned_top": False},
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_backprop = pytest.mark.parametrize("backprop", BACKPROP_MODES)


@pytest.fixture
def images(rng, small_glow):
    return random_images(rng, small_glow, 5)


# Exactness


@every_kind
def test_density_latents_and_round_trip(kind, rng):
    glow = make_glow(**kind)
    images = random_images(rng, glow, 3)
    log_prob = glow.log_prob(images)
    assert log_prob.shape == (3,)

    expected, eps = NaiveGlow(glow.config, values_of(glow)).encode(images.numpy())
    np.testing.assert_allclose(log_prob, expected, rtol=1e-11)
    z = glow.encode(images)
    levels = glow.split_latents(z)
    assert [level.shape[1:] for level in levels] == [e.shape[1:] for e in eps]
    for found, wanted in zip(levels, eps, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11)

    # Change of variables with the Jacobian of the whole flow, by autodiff.
    bijector = glow.bijector()
    for index in range(2):
        standard = tf.reduce_sum(tfd.Normal(tf.zeros([], z.dtype), 1.0).log_prob(z[index]))
        jacobian = log_abs_det_jacobian(bijector.inverse, images[index])
        np.testing.assert_allclose(log_prob[index], standard + jacobian, rtol=1e-9)

    np.testing.assert_allclose(glow.decode(z), images, rtol=0, atol=1e-11)
    noise = tf.constant(rng.standard_normal(z.shape))
    np.testing.assert_allclose(glow.encode(glow.decode(noise)), noise, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(glow.merge_latents(levels), z)


def test_levels_hold_every_latent_once(small_glow):
    z = tf.reshape(tf.range(2 * 64, dtype=tf.float64), [2, 4, 8, 2])
    levels = small_glow.split_latents(z)
    assert [level.shape for level in levels] == [(2, 2, 4, 4), (2, 1, 2, 16)]
    together = np.concatenate([np.reshape(level, [2, -1]) for level in levels], axis=1)
    np.testing.assert_array_equal(np.sort(together), np.reshape(z, [2, -1]))


def test_float32_agrees_with_float64(small_glow, images):
    single = Glow(GlowConfig(**SMALL | {"dtype": "float32"}))
    for variable, value in zip(single.named_variables().values(), values_of(small_glow).values(), strict=True):
        variable.assign(value.astype(variable.dtype.as_numpy_dtype))
    np.testing.assert_allclose(single.log_prob(images), small_glow.log_prob(images), rtol=2e-6)
    z = single.encode(images)
    assert z.dtype == tf.float32
    np.testing.assert_allclose(z, small_glow.encode(images), rtol=0, atol=2e-5)
    np.testing.assert_allclose(single.decode(z), images, rtol=0, atol=2e-5)


def test_more_images_than_a_chunk(rng, small_glow):
    images = random_images(rng, small_glow, 130)
    log_prob = small_glow.log_prob(images)
    assert log_prob.shape == (130,)
    for part in (slice(0, 3), slice(60, 70), slice(127, 130)):
        np.testing.assert_allclose(log_prob[part], small_glow.log_prob(images[part]), rtol=1e-12)
    np.testing.assert_allclose(small_glow.decode(small_glow.encode(images)), images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_images(dtype):
    # float32 is what users run, and the only type that oneDNN computes.
    glow = make_glow(dtype=dtype, num_classes=3, num_steps=1, width=4)
    none, no_labels = np.zeros((0, 4, 8, 2)), np.zeros(0, np.int64)
    assert glow.log_prob(none).shape == glow.log_prob(none, no_labels).shape == (0,)
    assert glow.class_log_probs(none).shape == (0, 3)
    assert glow.level_log_probs(none, no_labels).shape == (0, 2)
    for result in (glow.encode(none, []), glow.decode(none, []), glow.decode_to_uint8(none, [])):
        assert result.shape == (0, 4, 8, 2)
    assert glow.bits_per_dim(none.astype(np.uint8), []).shape == (0,)
    distribution = glow.conditional_distribution([0, 1])
    assert distribution.sample(0, seed=1).shape == (0, 2, 4, 8, 2)
    assert distribution.log_prob(np.zeros((0, 1, 4, 8, 2), dtype)).shape == (0, 2)


def test_bits_per_dim_of_bytes(rng, small_glow):
    images = rng.integers(0, 256, (6, 4, 8, 2), dtype=np.uint8)
    bits = small_glow.bits_per_dim(images, seed=3)
    assert bits.shape == (6,)
    # Dequantised here with other noise: the same to within what a 256th of the range changes.
    continuous = images / 256.0 - 0.5 + rng.uniform(0, 1 / 256, images.shape)
    expected = -(small_glow.log_prob(continuous) / np.log(2) - 64 * 8) / 64
    np.testing.assert_allclose(bits, expected, atol=0.05)
    np.testing.assert_array_equal(bits, small_glow.bits_per_dim(images, seed=3))
    assert np.all(bits != small_glow.bits_per_dim(images, seed=4))


# The distribution


def test_distribution_is_tfps(small_glow, images):
    distribution = small_glow.distribution
    assert isinstance(distribution, tfd.Distribution)
    assert isinstance(distribution.bijector, tfp.bijectors.Bijector)
    np.testing.assert_array_equal(distribution.distribution.stddev(), np.ones([4, 8, 2]))
    assert distribution.event_shape == (4, 8, 2)
    assert distribution.batch_shape == ()
    assert distribution.dtype == tf.float64
    np.testing.assert_allclose(distribution.log_prob(tf.identity(images)), small_glow.log_prob(images), rtol=1e-12)
    one_by_one = [distribution.log_prob(tf.identity(image)) for image in images[:2]]
    np.testing.assert_allclose(one_by_one, small_glow.log_prob(images[:2]), rtol=1e-12)
    for shape in ((), (3,), (2, 3)):
        samples = distribution.sample(shape, seed=(1, 2))
        assert samples.shape == (*shape, 4, 8, 2)
    np.testing.assert_array_equal(samples, distribution.sample((2, 3), seed=(1, 2)))


def test_distribution_and_glow_see_every_variable():
    for kind in ({}, {"num_classes": 3}, {"permutation": "shuffle", "coupling": "additive"}):
        glow = make_glow(**kind)
        named = glow.named_variables()
        assert {id(v) for v in glow.variables} == {id(v) for v in named.values()}
        assert len(named) == len(glow.variables)
        distribution = glow.conditional_distribution([0]) if kind.get("num_classes") else glow.distribution
        trained = {id(v) for v in named.values() if v.trainable}
        assert {id(v) for v in distribution.trainable_variables} == trained
        assert {id(v) for v in distribution.variables} == {id(v) for v in named.values()}


def test_slices_of_a_distribution_are_those_of_its_labels(conditional_glow, rng):
    images = random_images(rng, conditional_glow, 3)
    distribution = conditional_glow.conditional_distribution([2, 0, 1])
    each = distribution.log_prob(images)
    for slices in (0, -1, slice(1, None), Ellipsis, (tf.newaxis, Ellipsis), (slice(None, None, 2), tf.newaxis)):
        part = distribution[slices]
        shape = np.empty(3)[slices].shape
        assert part.batch_shape == shape and part.bijector.experimental_batch_shape() == shape
        np.testing.assert_array_equal(part.batch_shape_tensor(), shape)
        np.testing.assert_array_equal(part.bijector.experimental_batch_shape_tensor(), shape)
        assert part.sample(seed=1).shape == (*shape, 4, 8, 2)
        chosen = tf.constant(images.numpy()[slices])
        np.testing.assert_allclose(part.log_prob(chosen), each.numpy()[slices], rtol=1e-11)
    with pytest.raises(Exception, match="out of bounds"):
        distribution[3]


def test_slices_and_copies_without_labels(small_glow, images):
    distribution = small_glow.distribution
    for changed, shape in ((distribution[tf.newaxis], (1,)), (distribution[...], ()), (distribution.copy(), ())):
        assert changed.batch_shape == shape
        assert changed.sample(2, seed=1).shape == (2, *shape, 4, 8, 2)
        np.testing.assert_allclose(changed.log_prob(images), small_glow.log_prob(images), rtol=1e-11)
    with pytest.raises(IndexError):
        distribution[0]
    for bijector in (distribution.bijector.copy(), distribution.bijector[...]):
        np.testing.assert_allclose(bijector.inverse(tf.identity(images)), small_glow.encode(images), atol=1e-11)
    with pytest.raises(ValueError, match="no axis"):
        distribution.bijector[tf.newaxis]


def test_no_result_is_cached_across_an_assignment(images):
    glow = make_glow()
    before = glow.distribution.log_prob(images)  # the same tensor twice: TFP's cache goes by identity
    glow.named_variables()["top/bias"].assign_add(tf.ones(32, tf.float64))
    assert np.all(np.abs(glow.distribution.log_prob(images) - before) > 1e-3)


def test_a_sample_is_scored_by_the_weights_of_now():
    glow = make_glow(num_levels=1, num_steps=1, width=4)
    distribution = glow.distribution
    sample = distribution.sample(2, seed=1)
    before = distribution.log_prob(sample)
    bias = glow.named_variables()["top/bias"]
    bias.assign_add(tf.ones_like(bias))
    with tf.GradientTape() as tape:
        after = distribution.log_prob(sample)
    assert np.all(np.abs(after - before) > 1e-3)
    np.testing.assert_allclose(after, glow.log_prob(sample), rtol=1e-11)
    assert tape.gradient(after, bias) is not None


def test_temperature_is_the_scale_of_the_base(small_glow, images):
    log_det = small_glow.log_prob(images) - log_standard(small_glow.encode(images), 1.0)
    for temperature in (0.5, 1.3):
        distribution = small_glow.transformed_distribution(temperature=temperature)
        expected = log_standard(small_glow.encode(images), temperature) + log_det
        np.testing.assert_allclose(distribution.log_prob(tf.identity(images)), expected, rtol=1e-10)


def log_standard(z, scale):
    z = z.numpy()
    return np.sum(-0.5 * (z / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi), axis=(1, 2, 3))


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_a_variable_as_the_temperature_is_trained(dtype, small_glow, images):
    temperature = tf.Variable(0.5, dtype=dtype)
    distribution = small_glow.transformed_distribution(temperature=temperature)
    for value in (0.5, 0.75):
        temperature.assign(value)
        with tf.GradientTape() as tape:
            log_prob = distribution.log_prob(tf.identity(images))
        z = distribution.bijector.inverse(tf.identity(images))
        # The derivative of -z^2 / 2 t^2 - log t for every latent.
        slope = tf.reduce_sum(tf.square(z)) / value**3 - tf.size(z, tf.float64) / value
        np.testing.assert_allclose(tape.gradient(log_prob, temperature), slope, rtol=1e-5)
        expected = small_glow.transformed_distribution(temperature=value).log_prob(images)
        np.testing.assert_allclose(log_prob, expected, rtol=1e-12)
    temperature.assign(-1.0)
    with pytest.raises(InputError, match="temperature is -1"):
        distribution.sample(seed=1)


# Samples


def test_samples_are_bytes_and_depend_on_the_seed_only(small_glow):
    samples = small_glow.sample(5, temperature=0.7, seed=1).numpy()
    assert samples.shape == (5, 4, 8, 2)
    assert samples.dtype == np.uint8
    np.testing.assert_array_equal(samples, small_glow.sample(5, seed=1))
    # A seed stands for the same images in every version.
    z = 0.7 * tf.random.stateless_normal([5, 4, 8, 2], [1, 1], dtype=tf.float64)
    np.testing.assert_array_equal(samples, small_glow.decode_to_uint8(z))
    assert np.any(samples != small_glow.sample(5, temperature=0.7, seed=2))
    assert np.any(small_glow.sample(5).numpy() != small_glow.sample(5).numpy())


def test_temperature_zero_is_one_image(small_glow):
    samples = small_glow.sample(3, temperature=0, seed=1)
    np.testing.assert_array_equal(samples, np.broadcast_to(samples[0], samples.shape))
    np.testing.assert_array_equal(samples, small_glow.sample(3, temperature=0, seed=2))
    mode = small_glow.decode(tf.zeros([1, 4, 8, 2], tf.float64))
    np.testing.assert_array_equal(samples[:1], small_glow.dequantizer.quantize(mode))


def test_temperature_of_a_sample_is_the_deviation_of_its_latents():
    # A range so wide that no sample is cut off, and bins so fine that rounding is nothing: 8 bits of 32.
    glow = make_glow(pixel_range=(-16.0, 16.0), scale=0.05)
    for temperature in (0.5, 1.0):
        samples = glow.sample(100, temperature=temperature, seed=1)
        assert samples.numpy().min() > 0
        assert samples.numpy().max() < 255
        z = glow.encode(glow.dequantizer.dequantize(samples, 0.5, tf.float64))
        np.testing.assert_allclose(np.std(z), temperature, rtol=0.05)
        np.testing.assert_allclose(np.mean(z), 0, atol=0.03)


def test_samples_that_overflow_are_black_and_said(caplog):
    glow = make_glow(dtype="float32")
    z = np.zeros([3, *glow.config.image_shape], np.float32)
    z[1] = np.inf
    images = glow.decode_to_uint8(z).numpy()
    assert "1 of 3 images have pixels that are not finite" in caplog.text
    assert not images[1].any() and images[[0, 2]].any()
    caplog.clear()
    glow.decode_to_uint8(z[:1])
    assert not caplog.text


def test_five_bit_samples_are_multiples_of_eight():
    samples = make_glow(num_bits=5).sample(20, temperature=0.2, seed=1).numpy()
    inside = samples[samples < 255]
    assert inside.size > 100
    assert not np.any(inside % 8)


# Classes


def test_conditional_density_and_samples(rng, conditional_glow):
    images = random_images(rng, conditional_glow, 4)
    naive = NaiveGlow(conditional_glow.config, values_of(conditional_glow))
    by_class = []
    for label in range(3):
        labels = np.full(4, label)
        log_prob = conditional_glow.log_prob(images, labels)
        np.testing.assert_allclose(log_prob, naive.encode(images.numpy(), labels)[0], rtol=1e-11)
        by_class.append(log_prob)
    assert np.min(np.abs(by_class[0] - by_class[1])) > 1e-3
    assert np.min(np.abs(by_class[1] - by_class[2])) > 1e-3

    mixed = [2, 0, 1, 2]
    expected = [by_class[label][i] for i, label in enumerate(mixed)]
    distribution = conditional_glow.conditional_distribution(mixed)
    assert distribution.batch_shape == (4,)
    assert distribution.event_shape == (4, 8, 2)
    np.testing.assert_allclose(distribution.log_prob(tf.identity(images)), expected, rtol=1e-11)
    assert distribution.sample(2, seed=(0, 0)).shape == (2, 4, 4, 8, 2)

    z = conditional_glow.encode(images, mixed)
    np.testing.assert_allclose(conditional_glow.decode(z, mixed), images, rtol=0, atol=1e-11)
    assert np.max(np.abs(conditional_glow.encode(images, [1, 1, 2, 0]) - z)) > 1e-3
    bits = conditional_glow.bits_per_dim(np.zeros((4, 4, 8, 2), np.uint8), mixed)
    assert bits.shape == (4,)
    unlabelled = conditional_glow.sample(4, seed=1)
    np.testing.assert_array_equal(unlabelled, conditional_glow.sample(4, seed=1, labels=[0, 1, 2, 0]))
    assert np.any(unlabelled != conditional_glow.sample(4, seed=1, labels=[1, 2, 0, 1]))


def test_classifier_sees_the_deepest_latents_before_the_gaussian(rng, conditional_glow):
    images = random_images(rng, conditional_glow, 4)
    values = values_of(conditional_glow)
    naive = NaiveGlow(conditional_glow.config, values)
    eps = naive.encode(images.numpy(), np.zeros(4, int))[1][-1]
    mean, log_scale = naive.top(eps, np.zeros(4, int))
    pooled = (mean + eps * np.exp(log_scale)).mean(axis=(1, 2))
    p = naive.part("classifier/")
    expected = (pooled @ p["kernel"] + p["bias"]) * np.exp(3 * p["log_scale"])
    np.testing.assert_allclose(conditional_glow.classify(images), expected, rtol=1e-10)


# Inside graphs, copies, descriptions, files


def test_methods_inside_a_function_and_a_data_set(rng):
    small = {"image_shape": (4, 4, 1), "num_levels": 1, "num_steps": 1, "width": 4}
    glow = make_glow(dtype="float32", num_classes=3, classifier=True, **small)
    pixels, labels = rng.integers(0, 256, (5, 4, 4, 1), dtype=np.uint8), np.array([0, 2, 1, 1, 0])
    methods = {
        "log_prob": lambda x, p, y: glow.log_prob(x, y),
        "mixture": lambda x, p, y: glow.log_prob(x),
        "bits_per_dim": lambda x, p, y: glow.bits_per_dim(p, y, seed=3),
        "class_log_probs": lambda x, p, y: glow.class_log_probs(x),
        "level_log_probs": lambda x, p, y: glow.level_log_probs(x, y),
        "encode": lambda x, p, y: glow.encode(x, y),
        "decode": lambda x, p, y: glow.decode(x, y),
        "decode_to_uint8": lambda x, p, y: glow.decode_to_uint8(x, y),
        "classify": lambda x, p, y: glow.classify(x),
        "sample": lambda x, p, y: glow.sample(2, seed=1),
        "conditional_distribution": lambda x, p, y: glow.conditional_distribution(y).log_prob(x),
    }

    def everything(pixels, labels):
        return {name: method(glow.dequantize(pixels, seed=3), pixels, labels) for name, method in methods.items()}

    data = tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(5)
    expected = everything(pixels, labels)
    for results in (tf.function(everything)(pixels, labels), next(iter(data.map(everything)))):
        for name, result in results.items():
            np.testing.assert_allclose(result, expected[name], rtol=1e-5, atol=2e-5, err_msg=name)
    with pytest.raises(InputError, match="needs a seed"):
        tf.function(lambda: glow.sample(2), autograph=False)()


def test_a_gradient_through_log_prob_in_a_function():
    glow = make_glow(num_levels=1, num_steps=1, width=4)
    images = tf.zeros([2, 4, 8, 2], tf.float64)

    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(glow.log_prob(images))
        return tape.gradient(loss, glow.trainable_variables[0])

    np.testing.assert_allclose(tf.function(gradient, autograph=False)(), gradient(), rtol=1e-12)


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda glow: pickle.loads(pickle.dumps(glow))], ids=["copy", "pickle"]
)
def test_a_copy_has_weights_of_its_own(clone, images):
    glow = make_glow()
    glow.log_prob(images)
    glow.metadata["dataset"] = "mine"
    other = clone(glow)
    before = glow.log_prob(images)
    np.testing.assert_array_equal(other.log_prob(images), before)
    assert (other.config, other.metadata, other.is_initialized) == (glow.config, {"dataset": "mine"}, False)
    for variable in glow.trainable_variables:
        variable.assign_add(0.1 * tf.ones_like(variable))
    np.testing.assert_array_equal(other.log_prob(images), before)
    assert np.all(np.abs(glow.log_prob(images) - before) > 1e-3)


def test_repr_and_summary(capsys):
    glow = make_glow(num_classes=3, classifier=True)
    assert repr(glow) == (
        "<Glow image_shape=(4, 8, 2), num_levels=2, num_steps=2, width=8, num_classes=3: "
        f"{glow.num_parameters:,} parameters, actnorms not initialised>"
    )
    glow.summary()
    first, _, *rows, total = capsys.readouterr().out.splitlines()
    assert first == repr(glow)
    assert [row.split("  ")[0] for row in rows] == [
        "level 0: 2 steps",
        "level 1: 2 steps",
        "prior of level 0",
        "prior of level 1",
        "classifier",
    ]
    parameters = [int(row.split()[-1].replace(",", "")) for row in [*rows, total]]
    assert sum(parameters[:-1]) == parameters[-1] == glow.num_parameters
    assert [row.split()[-2] for row in (*rows[:2], total)] == ["32", "32", "64"]


def test_loading_draws_no_weights(monkeypatch, tmp_path, images):
    glow = make_glow()
    glow.save_weights(tmp_path / "weights.h5")
    monkeypatch.setattr(np.random, "default_rng", None)
    np.testing.assert_array_equal(Glow.load(tmp_path / "weights.h5").log_prob(images), glow.log_prob(images))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "weights.h5").rename(tmp_path / "run" / "checkpoints" / "weights.h5")
    glow.load_weights(tmp_path / "run")
    assert glow.is_initialized
    assert Glow.load("digits").config.image_shape == (8, 8, 1)


def test_loaded_metadata_is_saved_again(tmp_path):
    """The bundled metadata has nested dictionaries, which tf.Module wraps."""
    glow = Glow.load("digits")
    glow.save_weights(tmp_path / "copy.h5")
    assert dict(Glow.load(tmp_path / "copy.h5").metadata) == dict(glow.metadata)
    assert any(isinstance(value, dict) for value in glow.metadata.values())


def test_weights_of_another_model_are_refused(small_glow, tmp_path):
    """Also where the arrays have the same names and shapes."""
    small_glow.save_weights(tmp_path / "weights.h5")
    glow = Glow(GlowConfig(**SMALL, num_bits=5, pixel_range=(0.0, 1.0)))
    with pytest.raises(InputError, match="another model: num_bits: 8 there, 5 here; pixel_range: .* there, "):
        glow.load_weights(tmp_path / "weights.h5")


# Initialisation


@every_kind
def test_initialization_is_openais(kind, rng):
    glow = make_glow(**kind)
    images = 0.3 * random_images(rng, glow, 12) + 0.1
    naive = NaiveGlow(glow.config, values_of(glow))
    naive.initialize(images.numpy())
    glow.initialize(images)
    for name, value in values_of(glow).items():
        np.testing.assert_allclose(value, naive.values[name], rtol=1e-9, atol=1e-10, err_msg=name)

    # And it does what it is for: the output of every actnorm is standardised.
    naive.encode(images.numpy())
    assert len(naive.standardised) == 3 * glow.config.num_levels * glow.config.num_steps
    for values in naive.standardised:
        np.testing.assert_allclose(values.mean(axis=(0, 1, 2)), 0, atol=1e-9)
        np.testing.assert_allclose(values.var(axis=(0, 1, 2)), 1, rtol=1e-3)


def test_initialization_does_not_depend_on_the_pieces(rng, monkeypatch):
    whole, pieces = make_glow(), make_glow()
    images = random_images(rng, whole, 40)
    whole.initialize(images)
    monkeypatch.setattr(glow_tf._compiled, "MAX_IMAGES", 7)
    pieces.initialize(images)
    for name, value in values_of(whole).items():
        np.testing.assert_allclose(values_of(pieces)[name], value, rtol=1e-10, atol=1e-11, err_msg=name)


def test_actnorms_that_are_set_are_not_overwritten(images):
    glow = make_glow()
    glow.initialize(images)
    before = values_of(glow)
    for clone in (glow, copy.deepcopy(glow)):
        with pytest.raises(
            InputError, match="already initialised, by an earlier call or by loaded weights; .*is_initialized = False"
        ):
            clone.initialize(images + 0.1)
    for name, value in values_of(glow).items():
        np.testing.assert_array_equal(value, before[name])
    glow.is_initialized = False
    glow.initialize(images + 0.1)
    assert np.any(values_of(glow)["level0/actnorm/shift"] != before["level0/actnorm/shift"])
    with pytest.raises(InputError, match="outside of tf.function"):
        tf.function(make_glow().initialize, autograph=False)(images)


def test_initial_weights_depend_on_the_seed_alone():
    config = GlowConfig(**SMALL)
    first, same, other = (values_of(Glow(config, seed=seed)) for seed in (7, 7, 8))
    for name, value in first.items():
        np.testing.assert_array_equal(value, same[name])
    differing = {name for name in first if np.any(first[name] != other[name])}
    for level in ("level0", "level1"):
        random = ("conv1x1/lower", "conv1x1/upper", "coupling/conv1_kernel", "coupling/conv1_edge")
        assert {f"{level}/{name}" for name in (*random, "coupling/conv2_kernel")} <= differing


# Cost


def test_compiled_once_for_all_batch_sizes(rng):
    network = CountingNetwork(8)
    glow = make_glow(network=network)
    calls = {
        "log_prob": lambda n: glow.log_prob(random_images(rng, glow, n)),
        "encode": lambda n: glow.encode(random_images(rng, glow, n)),
        "decode": lambda n: glow.decode(random_images(rng, glow, n)),
        "bits_per_dim": lambda n: glow.bits_per_dim(np.zeros((n, 4, 8, 2), np.uint8), seed=n),
        "sample": lambda n: glow.sample(n, temperature=n / 10, seed=n),
    }
    for name, call in calls.items():
        before = network.evaluations
        for count in (3, 1, 64, 65, 7):
            assert len(call(count)) == count
        # `sample` runs what `decode` compiled, `bits_per_dim` what `log_prob` compiled.
        traced = 0 if name in ("sample", "bits_per_dim") else glow.config.num_levels
        assert network.evaluations - before == traced, name


# The channels of the paper's CIFAR-10 model, so that 32 steps of some parameters exceed the 1,000 elements
# up to which TensorFlow writes zeros as one node.
DEEP = {"image_shape": (8, 8, 3), "num_levels": 2, "width": 4, "dtype": "float32"}


def training_graph(num_steps, backprop):
    """The graph of log_prob and its gradients."""
    glow = make_glow(num_steps=num_steps, **DEEP)

    @tf.function(autograph=False)
    def gradients(images):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(glow.transformed_distribution(backprop=backprop).log_prob(images))
        return tape.gradient(loss, glow.trainable_variables)

    return gradients.get_concrete_function(tf.TensorSpec([None, *glow.config.image_shape]))


def convolutions_of_one_pass():
    """Conv2D operations of a log_prob in which each network runs once, from the parts alone."""
    glow = make_glow(num_steps=1, **DEEP)
    network = OpenAINetwork(4)

    def count(function, *shape):
        spec = tf.TensorSpec([None, *shape])
        return count_operations(tf.function(function, autograph=False).get_concrete_function(spec), "Conv2D")

    total = 0
    for level, (h, w, channels) in enumerate(glow.config.squeezed_shapes()):
        parameters = slice_of(glow.flow.steps[level].parameters["coupling"], 0)
        total += count(lambda x1, p=parameters: network.output(p, x1), h, w, channels // 2)
        if level < 1:
            parameters = glow.flow.splits[level].parameters
            total += count(lambda x1, p=parameters: layers.conv2d_zeros(p, x1), h, w, channels // 2)
    return total + count(lambda z: z + layers.conv2d_zeros_constant(glow.flow.top.parameters, h, w), h, w, 2 * channels)


@every_backprop
def test_networks_run_once_and_the_graph_does_not_grow_with_the_steps(backprop):
    few, many = training_graph(4, backprop), training_graph(32, backprop)
    # Once in the forward pass; what was not stored is computed once more in the backward pass. The Gaussians between
    # the levels are stored in every mode: they are outside of the steps.
    once, levels = convolutions_of_one_pass(), 2
    again = {"stored": 0, "recompute": 3, "reversible": 3}[backprop]
    # What the edge adds, a convolution of the parameters alone, is never stored.
    assert count_operations(few, "Conv2D") == once + levels * (again + 1)
    assert graph_size(many) <= graph_size(few)


def test_sampling_with_its_density_runs_the_networks_once():
    network = CountingNetwork(8)
    glow = make_glow(network=network)

    @tf.function(autograph=False)
    def sample_and_score():
        return glow.distribution.experimental_sample_and_log_prob(4, seed=(1, 2))

    samples, log_prob = sample_and_score()
    assert network.evaluations == glow.config.num_levels
    np.testing.assert_allclose(log_prob, glow.log_prob(samples), rtol=1e-11)


def test_gradients_agree_in_every_backprop_mode(images):
    glow = make_glow()
    found = {}
    for backprop in BACKPROP_MODES:

        @tf.function(autograph=False)
        def loss_and_gradients(images, backprop=backprop):
            with tf.GradientTape() as tape:
                tape.watch(images)
                loss = tf.reduce_mean(glow.transformed_distribution(backprop=backprop).log_prob(images))
            return loss, tape.gradient(loss, [images, *glow.trainable_variables])

        loss, gradients = loss_and_gradients(images)
        found[backprop] = [loss, *gradients]
    names = ["loss", "images", *(v.name for v in glow.trainable_variables)]
    for backprop in ("recompute", "reversible"):
        for name, value, expected in zip(names, found[backprop], found["stored"], strict=True):
            # No gradient is about zero, or this compares nothing.
            size = np.max(np.abs(expected))
            assert size > 1e-4, name
            np.testing.assert_allclose(value, expected, rtol=0, atol=1e-10 * size, err_msg=f"{name}, {backprop}")


# What cannot work


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda g, c: g.log_prob(tf.zeros([2, 8, 4, 2])), ["(2, 8, 4, 2)", "[B, 4, 8, 2]"]),
        (lambda g, c: g.log_prob(tf.zeros([4, 8, 2])), ["(4, 8, 2)", "[B, 4, 8, 2]"]),
        (lambda g, c: g.initialize(tf.zeros([2, 4, 8, 3])), ["(2, 4, 8, 3)", "[B, 4, 8, 2]"]),
        (lambda g, c: g.decode(tf.zeros([1, 2, 4, 8])), ["z have shape (1, 2, 4, 8)", "[B, 4, 8, 2]"]),
        (lambda g, c: g.bits_per_dim(tf.zeros([1, 4, 8, 2])), ["float32", "uint8"]),
        (lambda g, c: g.log_prob(np.zeros([1, 4, 8, 2], np.uint8)), ["uint8", "continuous"]),
        (lambda g, c: g.initialize(tf.zeros([1, 4, 8, 2], tf.uint8)), ["uint8", "continuous"]),
        (lambda g, c: g.initialize(tf.zeros([0, 4, 8, 2])), ["0 images", "1 or more"]),
        (lambda g, c: g.bits_per_dim(tf.zeros([1, 8, 4, 2], tf.uint8)), ["(1, 8, 4, 2)", "[B, 4, 8, 2]"]),
        (lambda g, c: g.sample(2, temperature=-0.1), ["-0.1", "from 0 up"]),
        (lambda g, c: g.sample(2, temperature=float("nan")), ["nan", "from 0 up"]),
        (lambda g, c: g.sample(2, temperature=float("inf")), ["inf", "from 0 up"]),
        (lambda g, c: g.sample(0), ["0 images", "1 or more"]),
        (lambda g, c: g.log_prob(tf.zeros([1, 4, 8, 2]), [0]), ["not class-conditional"]),
        (lambda g, c: g.conditional_distribution([0]), ["not class-conditional"]),
        (lambda g, c: g.classify(tf.zeros([1, 4, 8, 2])), ["classifier=False"]),
        (lambda g, c: c.encode(tf.zeros([1, 4, 8, 2])), ["give labels", "from 0 to 2"]),
        (lambda g, c: g.class_log_probs(tf.zeros([1, 4, 8, 2])), ["not class-conditional"]),
        (lambda g, c: c.distribution, ["give labels", "from 0 to 2"]),
        (lambda g, c: c.conditional_distribution([0, 3]), ["from 0 to 2"]),
        (lambda g, c: c.conditional_distribution([-1]), ["from 0 to 2"]),
        (lambda g, c: c.conditional_distribution(1), ["from 0 to 2"]),
        (lambda g, c: c.log_prob(tf.zeros([3, 4, 8, 2]), [0, 1]), ["2 labels", "3 images"]),
        (lambda g, c: c.sample(3, labels=[0, 1]), ["2 labels", "3 images"]),
        (lambda g, c: Glow((8, 8, 1)), ["of type tuple", "GlowConfig("]),
        (lambda g, c: Glow({"image_shape": (8, 8, 1)}), ["of type dict", "GlowConfig("]),
        (lambda g, c: Glow(g.config, seed=-1), ["seed is -1", "between 0 and"]),
        (lambda g, c: Glow(g.config, seed="a"), ["seed is 'a'", "between 0 and"]),
        (lambda g, c: Glow(g.config, network=8), ["network is of type int", "CouplingNetwork"]),
        (lambda g, c: Glow(g.config, network=OpenAINetwork), ["network is of type", "CouplingNetwork"]),
        (lambda g, c: g.bijector(network_dtype="int32"), ["network_dtype is int32", "floating-point"]),
        (lambda g, c: g.dequantize(np.zeros([1, 4, 8, 2], np.uint8), 1, "a"), ["stream is 'a'", "an integer"]),
        (lambda g, c: g.split_latents(np.zeros([1, 4, 4, 2])), ["z have shape (1, 4, 4, 2)", "[..., 4, 8, 2]"]),
        (lambda g, c: g.merge_latents([]), ["shapes none", "(2, 4, 4), (1, 2, 16)"]),
        (lambda g, c: g.merge_latents([np.zeros([1, 1, 2, 16])]), ["(1, 1, 2, 16)", "(2, 4, 4), (1, 2, 16)"]),
    ],
)
def test_what_cannot_work_is_an_input_error(call, said, small_glow, conditional_glow):
    with pytest.raises(InputError) as refusal:
        call(small_glow, conditional_glow)
    for part in said:
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
