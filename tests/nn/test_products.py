"""The coupling network as matrix products has the values and gradients that it has as convolutions."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import count_operations, make_glow

from glow_tf.bijectors.residuals import SaveResiduals, UseResiduals
from glow_tf.nn import layers, products
from glow_tf.nn.openai import OpenAINetwork


def output_and_gradients(dtype, batch, monkeypatch, *, with_products):
    """The stored network's output and its gradients with respect to its input and parameters, as float64 arrays."""
    monkeypatch.setattr(layers, "are_products_faster", lambda _: with_products)
    monkeypatch.setattr(products, "are_gradients_faster", lambda _: with_products)
    rng = np.random.default_rng(0)
    network = OpenAINetwork(16)
    parameters = network.initial_values(rng, 1, 3, 6)
    parameters = tf.nest.map_structure(lambda v: tf.constant(0.3 * rng.standard_normal(v.shape[1:])), parameters)
    x1, weights = (tf.constant(rng.standard_normal((*batch, 5, 4, channels))) for channels in (3, 6))
    inputs = [x1, *tf.nest.flatten(parameters)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        images = tf.cast(x1, dtype)
        saving = SaveResiduals()
        network.output(parameters, images, saving)
        output = network.output(parameters, images, UseResiduals(saving.saved))
    return [output.numpy(), *(gradient.numpy() for gradient in tape.gradient(output, inputs, weights))]


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_both_forms_agree(batch, monkeypatch):
    as_products, as_convolutions = (
        output_and_gradients(tf.float64, batch, monkeypatch, with_products=with_products)
        for with_products in (True, False)
    )
    for found, expected in zip(as_products, as_convolutions, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_products_round_no_more_than_convolutions(monkeypatch):
    exact = output_and_gradients(tf.float64, (64,), monkeypatch, with_products=False)
    errors = []
    for with_products in (True, False):
        rounded = output_and_gradients(tf.bfloat16, (64,), monkeypatch, with_products=with_products)
        pairs = zip(rounded, exact, strict=True)
        errors.append([np.linalg.norm(found - wanted) / np.linalg.norm(wanted) for found, wanted in pairs])
    for found, expected in zip(*errors, strict=True):
        assert found <= 1.1 * expected < 0.1
    assert errors[0][0] > 1e-3


def test_bfloat16_and_gpus_compute_with_products(monkeypatch):
    assert layers.are_products_faster(tf.bfloat16)
    assert products.are_gradients_faster(tf.bfloat16)
    assert not layers.are_products_faster(tf.float32)
    assert not products.are_gradients_faster(tf.float32)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert layers.are_products_faster(tf.bfloat16)
    assert layers.are_products_faster(tf.float32)


def test_the_graph_does_not_grow_with_the_steps():
    counts = []
    for num_steps in (1, 3):
        glow = make_glow(num_steps=num_steps, dtype="float32")

        @tf.function(autograph=False)
        def gradients(images, glow=glow):
            with tf.GradientTape() as tape:
                distribution = glow.transformed_distribution(backprop="stored", network_dtype=tf.bfloat16)
                loss = tf.reduce_mean(distribution.log_prob(images))
            return tape.gradient(loss, glow.trainable_variables)

        concrete = gradients.get_concrete_function(tf.TensorSpec([2, *glow.config.image_shape], tf.float32))
        counts.append([count_operations(concrete, name) for name in ("MatMul", "Conv2D", "Conv2DBackpropInput")])
    assert counts[0] == counts[1]
    assert min(counts[0]) > 0
