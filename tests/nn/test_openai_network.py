import numpy as np
import pytest
import tensorflow as tf
from naive import conv2d_zeros, edge_conv

from glow_tf.bijectors.residuals import SaveResiduals, UseResiduals
from glow_tf.nn import openai
from glow_tf.nn.openai import OpenAINetwork

SHAPE = (4, 5, 3, 2)  # four images of two channels, height and width differ
WIDTH = 6


def random_parameters(rng, out_channels=4, scale=0.3):
    """One network's parameters, all of them random, in float64."""
    stacked = OpenAINetwork(WIDTH).initial_values(rng, 1, SHAPE[-1], out_channels)
    return {name: scale * rng.standard_normal(value.shape[1:]) for name, value in stacked.items()}


def hidden_layers(p, kept):
    """The two inputs of a ReLU, in numpy."""
    first = (edge_conv(kept, p["conv1_kernel"], p["conv1_edge"]) + p["actnorm1_shift"]) * np.exp(
        3 * p["actnorm1_log_scale"]
    )
    product = np.maximum(first, 0) @ p["conv2_kernel"]
    return first, (product + p["actnorm2_shift"]) * np.exp(3 * p["actnorm2_log_scale"])


def test_output_is_openais_network(rng):
    parameters, kept = random_parameters(rng), rng.standard_normal(SHAPE)
    last = {name.removeprefix("conv3_"): parameters[name] for name in parameters if name.startswith("conv3_")}
    expected = conv2d_zeros(np.maximum(hidden_layers(parameters, kept)[1], 0), last)
    output = OpenAINetwork(WIDTH).output(tensors(parameters), tf.constant(kept))
    np.testing.assert_allclose(output, expected, rtol=1e-12, atol=1e-13)


def test_shift_and_raw_scale_are_halves_and_the_scale_is_a_sigmoid(rng):
    parameters, kept = tensors(random_parameters(rng)), tf.constant(rng.standard_normal(SHAPE))
    output = OpenAINetwork(WIDTH).output(parameters, kept).numpy()
    shift, log_scale = OpenAINetwork(WIDTH).shift_and_log_scale(parameters, kept)
    np.testing.assert_array_equal(shift, output[..., :2])
    np.testing.assert_allclose(tf.exp(log_scale), 1 / (1 + np.exp(-output[..., 2:] - 2)), rtol=1e-12)


def test_a_new_network_says_nothing_of_its_input(rng):
    parameters = {
        name: tf.constant(value[1]) for name, value in OpenAINetwork(WIDTH).initial_values(rng, 2, 2, 4).items()
    }
    kept = tf.constant(rng.standard_normal(SHAPE), tf.float32)
    shift, log_scale = OpenAINetwork(WIDTH).shift_and_log_scale(parameters, kept)
    np.testing.assert_array_equal(shift, 0.0)
    np.testing.assert_allclose(tf.exp(log_scale), 0.8807971, rtol=1e-6)


def test_first_weights_are_normal_with_a_deviation_of_a_twentieth(rng):
    values = OpenAINetwork(64).initial_values(rng, 5, 6, 12)
    for name in ("conv1_kernel", "conv1_edge", "conv2_kernel"):
        assert values[name].shape[0] == 5
        np.testing.assert_allclose(values[name].std(), 0.05, rtol=0.05)
        np.testing.assert_allclose(values[name].mean(), 0.0, atol=0.003)
    others = [value for name, value in values.items() if name[:5] not in ("conv1", "conv2")]
    assert len(others) == 8
    assert not any(value.any() for value in others)


def test_zero_conv_sees_the_border(rng):
    p = {name: rng.standard_normal(shape) for name, shape in openai.conv2d_zeros_shapes(2, 3).items()}
    images = rng.standard_normal(SHAPE)
    np.testing.assert_allclose(
        openai.conv2d_zeros(tensors(p), tf.constant(images)), conv2d_zeros(images, p), rtol=1e-11
    )
    of_zeros = conv2d_zeros(np.zeros((1, 5, 3, 2)), p)[0]
    np.testing.assert_allclose(openai.conv2d_zeros_constant(tensors(p), 5, 3), of_zeros, rtol=1e-11)


def test_edge_map_counts_the_border_under_the_kernel():
    edge = tf.ones([3, 3, 1])
    counts = openai.edge_map(edge, 3, 4)[..., 0]
    np.testing.assert_array_equal(counts, [[5, 3, 3, 5], [3, 0, 0, 3], [5, 3, 3, 5]])
    np.testing.assert_array_equal(openai.edge_map(edge, 1, 1)[..., 0], [[8]])


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_networks_take_any_batch_axes(batch, rng):
    parameters = tensors(random_parameters(rng))
    kept = tf.constant(rng.standard_normal((*batch, *SHAPE[1:])))
    output = OpenAINetwork(WIDTH).output(parameters, kept)
    assert output.shape == (*batch, 5, 3, 4)
    flat = OpenAINetwork(WIDTH).output(parameters, tf.reshape(kept, [-1, *SHAPE[1:]]))
    np.testing.assert_allclose(tf.reshape(output, flat.shape), flat, rtol=0, atol=1e-13)


def test_zero_linear_of_labels_is_that_of_one_hot_vectors(rng):
    p = {name: rng.standard_normal(shape) for name, shape in openai.linear_zeros_shapes(4, 3).items()}
    labels = np.array([2, 0, 3])
    expected = (np.eye(4)[labels] @ p["kernel"] + p["bias"]) * np.exp(3 * p["log_scale"])
    np.testing.assert_allclose(openai.linear_zeros(tensors(p), tf.constant(labels)), expected, rtol=1e-12)
    vectors = tf.constant(np.eye(4)[labels])
    np.testing.assert_allclose(openai.linear_zeros(tensors(p), vectors), expected, rtol=1e-12)


def test_initialization_standardises_the_hidden_layers_over_all_batches(rng):
    parameters = random_parameters(rng)
    batches = [3 + rng.standard_normal((n, *SHAPE[1:])) for n in (4, 1, 7)]
    network = OpenAINetwork(WIDTH)
    memories = [SaveResiduals() for _ in batches]
    found = network.initialize(tensors(parameters), [tf.constant(batch) for batch in batches], memories)
    assert sorted(found) == sorted(name for name in parameters if name.startswith("actnorm"))
    together = np.concatenate(batches)
    for hidden in hidden_layers(parameters | {name: value.numpy() for name, value in found.items()}, together):
        np.testing.assert_allclose(hidden.mean(axis=(0, 1, 2)), 0, atol=1e-12)
        np.testing.assert_allclose(hidden.var(axis=(0, 1, 2)), 1, rtol=1e-4)
    for batch, memory in zip(batches, memories, strict=True):
        remembered = network.output(tensors(parameters) | found, tf.constant(batch), UseResiduals(memory.kept))
        computed = network.output(tensors(parameters) | found, tf.constant(batch))
        np.testing.assert_allclose(remembered, computed, rtol=1e-11, atol=1e-12)
    at_once = network.initialize(tensors(parameters), [tf.constant(together)], [SaveResiduals()])
    for name, value in at_once.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-12)


def tensors(parameters):
    return {name: tf.constant(value) for name, value in parameters.items()}
