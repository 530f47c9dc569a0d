import numpy as np
import pytest
import tensorflow as tf
from naive import conv2d_zeros, edge_conv

from glow_tf.bijectors.residuals import SaveResiduals, UseResiduals
from glow_tf.nn import layers
from glow_tf.nn.openai import OpenAINetwork, plain_network

SHAPE = (4, 5, 3, 2)  # four images of two channels, height and width differ
WIDTH = 6


def random_parameters(rng, out_channels=4, scale=0.3):
    """One network's parameters, all of them random, in float64."""
    stacked = OpenAINetwork(WIDTH).initial_values(rng, 1, SHAPE[-1], out_channels)
    return tf.nest.map_structure(lambda value: scale * rng.standard_normal(value.shape[1:]), stacked)


def hidden_layers(p, x1):
    """The two inputs of a ReLU, in numpy."""

    def actnorm(hidden, shift, log_scale):
        return (hidden + shift) * np.exp(3 * log_scale)

    first = actnorm(edge_conv(x1, **p["conv1"]), **p["actnorm1"])
    return first, actnorm(np.maximum(first, 0) @ p["conv2"]["kernel"], **p["actnorm2"])


def test_plain_network_is_openais(rng):
    parameters, x1 = random_parameters(rng), rng.standard_normal(SHAPE)
    expected = conv2d_zeros(np.maximum(hidden_layers(parameters, x1)[1], 0), parameters["conv3"])
    output = plain_network(tensors(parameters), tf.constant(x1))
    np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("saved", [False, True], ids=["computed", "saved"])
def test_fused_network_is_the_plain_one(saved, rng):
    parameters, x1 = tensors(random_parameters(rng)), tf.constant(rng.standard_normal(SHAPE))
    weights = tf.constant(rng.standard_normal((*SHAPE[:3], 4)))
    inputs = [x1, *tf.nest.flatten(parameters)]

    def value_and_gradients(network, **residuals):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = network(parameters, x1, **residuals)
        return [output, *tape.gradient(output, inputs, weights)]

    residuals = {}
    if saved:
        saving = SaveResiduals()
        OpenAINetwork(WIDTH).output(parameters, x1, saving)
        residuals = {"residuals": UseResiduals(saving.saved)}
    fused = value_and_gradients(OpenAINetwork(WIDTH).output, **residuals)
    for one, other in zip(fused, value_and_gradients(plain_network), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_shift_and_raw_scale_are_halves_and_the_scale_is_a_sigmoid(rng):
    parameters, x1 = tensors(random_parameters(rng)), tf.constant(rng.standard_normal(SHAPE))
    output = OpenAINetwork(WIDTH).output(parameters, x1).numpy()
    shift, log_scale = OpenAINetwork(WIDTH).shift_and_log_scale(parameters, x1)
    np.testing.assert_array_equal(shift, output[..., :2])
    np.testing.assert_allclose(tf.exp(log_scale), 1 / (1 + np.exp(-output[..., 2:] - 2)), rtol=1e-12)


def test_a_new_network_says_nothing_of_its_input(rng):
    parameters = tf.nest.map_structure(lambda value: value[1], OpenAINetwork(WIDTH).initial_values(rng, 2, 2, 4))
    x1 = tf.constant(rng.standard_normal(SHAPE), tf.float32)
    shift, log_scale = OpenAINetwork(WIDTH).shift_and_log_scale(parameters, x1)
    np.testing.assert_array_equal(shift, 0.0)
    np.testing.assert_allclose(tf.exp(log_scale), 0.8807971, rtol=1e-6)


def test_first_weights_are_normal_with_a_deviation_of_a_twentieth(rng):
    values = OpenAINetwork(64).initial_values(rng, 5, 6, 12)
    for kernel in (values["conv1"]["kernel"], values["conv1"]["edge"], values["conv2"]["kernel"]):
        assert kernel.shape[0] == 5
        np.testing.assert_allclose(kernel.std(), 0.05, rtol=0.05)
        np.testing.assert_allclose(kernel.mean(), 0.0, atol=0.003)
    others = tf.nest.flatten([values[name] for name in ("actnorm1", "actnorm2", "conv3")])
    assert len(others) == 8
    assert not any(value.any() for value in others)


def test_zero_conv_sees_the_border(rng):
    p = {name: rng.standard_normal(shape) for name, shape in layers.conv2d_zeros_shapes(2, 3).items()}
    images = rng.standard_normal(SHAPE)
    np.testing.assert_allclose(
        layers.conv2d_zeros(tensors(p), tf.constant(images)), conv2d_zeros(images, p), rtol=1e-11
    )
    of_zeros = conv2d_zeros(np.zeros((1, 5, 3, 2)), p)[0]
    np.testing.assert_allclose(layers.conv2d_zeros_constant(tensors(p), 5, 3), of_zeros, rtol=1e-11)


def test_edge_map_counts_the_border_under_the_kernel():
    edge = tf.ones([3, 3, 1])
    counts = layers.edge_map(edge, 3, 4)[..., 0]
    np.testing.assert_array_equal(counts, [[5, 3, 3, 5], [3, 0, 0, 3], [5, 3, 3, 5]])
    np.testing.assert_array_equal(layers.edge_map(edge, 1, 1)[..., 0], [[8]])


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_networks_take_any_batch_axes(batch, rng):
    parameters = tensors(random_parameters(rng))
    x1 = tf.constant(rng.standard_normal((*batch, *SHAPE[1:])))
    output = OpenAINetwork(WIDTH).output(parameters, x1)
    assert output.shape == (*batch, 5, 3, 4)
    flat = OpenAINetwork(WIDTH).output(parameters, tf.reshape(x1, [-1, *SHAPE[1:]]))
    np.testing.assert_allclose(tf.reshape(output, flat.shape), flat, rtol=0, atol=1e-13)


def test_zero_linear_of_labels_is_that_of_one_hot_vectors(rng):
    p = {name: rng.standard_normal(shape) for name, shape in layers.linear_zeros_shapes(4, 3).items()}
    labels = np.array([2, 0, 3])
    expected = (np.eye(4)[labels] @ p["kernel"] + p["bias"]) * np.exp(3 * p["log_scale"])
    np.testing.assert_allclose(layers.linear_zeros(tensors(p), tf.constant(labels)), expected, rtol=1e-12)
    vectors = tf.constant(np.eye(4)[labels])
    np.testing.assert_allclose(layers.linear_zeros(tensors(p), vectors), expected, rtol=1e-12)


def test_initialize_standardises_over_all_batches(rng):
    parameters = random_parameters(rng)
    batches = [3 + rng.standard_normal((n, *SHAPE[1:])) for n in (4, 1, 7)]
    network = OpenAINetwork(WIDTH)
    new, residuals = network.initialize(tensors(parameters), [tf.constant(batch) for batch in batches])
    assert sorted(new) == ["actnorm1", "actnorm2"]
    together = np.concatenate(batches)
    for hidden in hidden_layers(parameters | tf.nest.map_structure(np.array, new), together):
        np.testing.assert_allclose(hidden.mean(axis=(0, 1, 2)), 0, atol=1e-12)
        np.testing.assert_allclose(hidden.var(axis=(0, 1, 2)), 1, rtol=1e-4)
    for batch, saved in zip(batches, residuals, strict=True):
        reused = network.output(tensors(parameters) | new, tf.constant(batch), saved)
        computed = network.output(tensors(parameters) | new, tf.constant(batch))
        np.testing.assert_allclose(reused, computed, rtol=1e-11, atol=1e-12)
    at_once, _ = network.initialize(tensors(parameters), [tf.constant(together)])
    for one, other in zip(tf.nest.flatten(at_once), tf.nest.flatten(new), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-11, atol=1e-12)


def tensors(parameters):
    return tf.nest.map_structure(tf.constant, parameters)
