import numpy as np
import pytest
import tensorflow as tf
from helpers import log_abs_det_jacobian, make_glow

from glow_tf.config import GlowConfig
from glow_tf.data.dataset import ArrayDataset
from glow_tf.dequantization import uniform_noise
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.importers import openai
from glow_tf.nn.base import slice_of
from glow_tf.training.trainer import Trainer

KIND = {"image_shape": (4, 4, 1), "num_levels": 1, "dequantization": "variational"}


@pytest.fixture(scope="module")
def glow():
    return make_glow(**KIND)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (6, 4, 4, 1)).astype(np.uint8)


def test_starts_as_uniform_noise(images):
    new = Glow(GlowConfig(**KIND, num_steps=1, width=4, dtype="float64"))
    new.initialize(new.dequantize(images, seed=1))
    values, log_prob = new.dequantize_and_log_prob(images, seed=0)
    uniform = uniform_noise(images.shape, [0, 0], tf.float64)
    np.testing.assert_allclose(values, new.dequantizer.dequantize(images, uniform, tf.float64), rtol=0, atol=1e-12)
    np.testing.assert_allclose(log_prob, 0, atol=1e-9)


def test_density_is_the_change_of_variables(glow, images, rng):
    middle = glow.dequantize(images[:1])
    uniform = tf.constant(rng.uniform(0.05, 0.95, middle.shape))
    noise, log_prob = glow.flow.noise(uniform, middle)
    assert np.abs(noise - uniform).max() > 0.01
    jacobian = log_abs_det_jacobian(
        lambda u: glow.flow.noise(u, tf.repeat(middle, len(u), axis=0))[0], tf.constant(uniform[0])
    )
    np.testing.assert_allclose(log_prob[0], -jacobian, rtol=1e-9)


def test_depends_on_the_image(glow, images):
    uniform = uniform_noise(images.shape, [0, 0], tf.float64)
    noise = glow.flow.noise(uniform, glow.dequantize(images))[0]
    other = glow.flow.noise(uniform, glow.dequantize(255 - images))[0]
    assert np.abs(noise - other).max() > 1e-3


def test_many_samples_agree_with_uniform_noise(images):
    """The mean of p / q over samples of q is the probability of the bytes, whatever q is."""
    glow = make_glow(**KIND, scale=0.05)
    noise_log_prob = glow.dequantize_and_log_prob(images, seed=0)[1]
    assert np.abs(noise_log_prob).min() > 0.01
    same = make_glow(**KIND | {"dequantization": "uniform"})
    for name, variable in same.named_variables().items():
        variable.assign(glow.named_variables()[name])
    log_means, errors = [], []
    for model in (glow, same):
        bits = model.bits_per_dim(np.repeat(images, 3000, axis=0)).numpy().reshape(len(images), -1)
        nats = -np.log(2) * 16 * bits
        weights = np.exp(nats - nats.max(axis=1, keepdims=True))
        log_means.append(np.log(weights.mean(axis=1)) + nats.max(axis=1))
        errors.append(weights.std(axis=1) / weights.mean(axis=1) / np.sqrt(weights.shape[1]))
    error = np.hypot(*errors)
    assert error.max() < 0.1
    assert np.max(np.abs(log_means[0] - log_means[1]) / error) < 4


@pytest.mark.parametrize("backprop", ("stored", "reversible"))
def test_trains_the_noise(images, backprop):
    glow = Glow(GlowConfig(**KIND, num_steps=2, width=8))
    trainer = Trainer(glow, batch_size=len(images), learning_rate=1e-2, backprop=backprop, optimizer="adam")
    trainer.initialize(images)
    for _ in range(3):
        metrics_of_step = trainer.train_step(images)
    assert bool(metrics_of_step["is_finite"])
    moved = [np.abs(v).max() for name, v in glow.named_variables().items() if "noise" in name and "conv3" in name]
    assert min(moved) > 0
    values, log_prob = glow.dequantize_and_log_prob(images, seed=0)
    assert np.abs(log_prob).max() > 1e-4
    np.testing.assert_array_equal(glow.dequantizer.quantize(values), images)


def test_scores_include_the_density_of_the_noise(glow, images, tmp_path):
    bits = glow.bits_per_dim(images, seed=3)
    values, log_prob = glow.dequantize_and_log_prob(images, seed=3)
    np.testing.assert_allclose(bits, glow.dequantizer.bits_per_dim(glow.log_prob(values) - log_prob, 16), rtol=1e-12)
    result = metrics.evaluate(glow, ArrayDataset(images), seed=3)
    np.testing.assert_allclose(result.bits_per_dim, bits, rtol=1e-12)
    glow.save_weights(tmp_path / "weights.h5")
    np.testing.assert_array_equal(Glow.load(tmp_path / "weights.h5").bits_per_dim(images, seed=3), bits)


def test_is_not_exported_to_openai(glow, tmp_path):
    with pytest.raises(InputError, match="variational dequantisation"):
        openai.write(glow, tmp_path / "model")


def test_saturated_noise_stays_in_its_bin():
    """Where the flow pushes all noise to one end, in float32, in the bins of the largest numbers."""
    images = np.repeat(np.uint8([0, 1, 127, 128, 254, 255]), 16).reshape(6, 4, 4, 1)
    for bias in (-14.0, 14.0):
        glow = Glow(GlowConfig(**KIND, num_steps=1, width=4))
        glow.flow.noise.parameters["coupling"]["conv3"]["bias"].assign_add(tf.fill([1, 8], bias))
        values = glow.dequantize(images, seed=0)
        assert np.max(values) < 0.5
        np.testing.assert_array_equal(glow.dequantizer.quantize(values), images)


def test_no_images():
    glow = Glow(GlowConfig(**KIND, num_steps=1, width=4))
    none = np.zeros([0, 4, 4, 1], np.uint8)
    in_graph = tf.function(glow.bits_per_dim, input_signature=[tf.TensorSpec([None, 4, 4, 1], tf.uint8)])
    assert glow.dequantize(none, seed=0).shape == (0, 4, 4, 1)
    assert glow.bits_per_dim(none).shape == in_graph(none).shape == (0,)


def test_a_model_of_uniform_noise_can_be_fine_tuned(images):
    uniform = make_glow(**KIND | {"dequantization": "uniform"})
    uniform.metadata = {"step": 5}
    glow = uniform.with_learned_noise(images)
    assert glow.metadata == {"step": 5}
    assert glow.config.dequantization == "variational"
    assert glow.is_initialized == uniform.is_initialized
    np.testing.assert_allclose(glow.bits_per_dim(images, seed=2), uniform.bits_per_dim(images, seed=2), rtol=1e-9)
    with pytest.raises(InputError, match="0 images were given to initialise from"):
        uniform.with_learned_noise(images[:0])


def test_the_network_sees_whitened_images(rng):
    """Differences of neighbouring pixels, which are small in smooth images, have variance one like everything else."""
    images = (128 + 30 * rng.standard_normal((64, 1, 1, 1)) + rng.standard_normal((64, 4, 4, 1))).astype(np.uint8)
    glow = Glow(GlowConfig(**KIND, num_steps=1, width=4, dtype="float64"))
    glow.initialize(glow.dequantize(images, seed=0))
    noise = glow.flow.noise
    whitened = noise._whitened(noise._squeezed(glow.dequantize(images)))
    rows = np.reshape(whitened, [-1, 4])
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(rows.T, bias=True), np.eye(4), atol=1e-4)
    actnorms, _ = noise._network.initialize(slice_of(noise.parameters["coupling"], 0), [whitened])
    for name, values in actnorms.items():
        np.testing.assert_allclose(slice_of(noise.parameters["coupling"], 0)[name]["shift"], values["shift"])
