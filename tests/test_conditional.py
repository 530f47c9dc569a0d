"""Classes: densities of all of them in one pass, the mixture, the classifier's loss in a training step."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import CountingNetwork, make_glow, random_images, values_of

from glow_tf.errors import InputError
from glow_tf.training.trainer import Trainer


def test_all_classes_at_once_are_each_class_alone(conditional_glow, rng):
    images = random_images(rng, conditional_glow, 70)
    found = conditional_glow.class_log_probs(images)
    for label in range(3):
        np.testing.assert_allclose(found[:, label], conditional_glow.log_prob(images, [label] * 70), rtol=1e-12)
    assert np.all(np.std(found, axis=1) > 1e-3)


def test_the_flow_runs_once_for_all_classes(rng):
    network = CountingNetwork(8)
    glow = make_glow(num_classes=3, network=network)
    network.evaluations = 0
    glow.class_log_probs(random_images(rng, glow, 2))
    assert network.evaluations == 2  # the loops of two levels, in the graph


def test_without_labels_the_density_is_that_of_the_mixture(conditional_glow, rng):
    images = random_images(rng, conditional_glow, 3)
    each = np.stack([conditional_glow.log_prob(images, [label] * 3) for label in range(3)])
    np.testing.assert_allclose(conditional_glow.log_prob(images), np.log(np.mean(np.exp(each), axis=0)), rtol=1e-12)
    pixels = rng.integers(0, 256, (3, 4, 8, 2)).astype(np.uint8)
    each = np.stack([conditional_glow.bits_per_dim(pixels, [label] * 3, seed=4) for label in range(3)])
    found = conditional_glow.bits_per_dim(pixels, seed=4)
    assert np.all(each.min(axis=0) < found) and np.all(found < each.max(axis=0))


@pytest.mark.parametrize("kind", [{}, {"num_classes": 3}, {"pixels": "logit"}, {"learned_top": False}], ids=str)
def test_levels_sum_to_the_density(kind, rng):
    glow = make_glow(**kind)
    images = random_images(rng, glow, 5)
    labels = [0, 1, 2, 1, 0] if kind.get("num_classes") else None
    levels = glow.level_log_probs(images, labels)
    assert levels.shape == (5, 2)
    np.testing.assert_allclose(tf.reduce_sum(levels, axis=-1), glow.log_prob(images, labels), rtol=1e-12)
    if labels is not None:  # only the deepest level, the last, depends on the class
        others = glow.level_log_probs(images, [2, 0, 1, 0, 2])
        np.testing.assert_array_equal(levels[:, 0], others[:, 0])
        assert np.any(levels[:, 1] != others[:, 1])


def test_logit_pixels_change_the_density_and_nothing_else(rng):
    glow = make_glow(pixels="logit")
    images = random_images(rng, glow, 4)
    np.testing.assert_allclose(glow.decode(glow.encode(images)), images, rtol=0, atol=1e-12)
    pixels = rng.integers(0, 256, (4, 4, 8, 2)).astype(np.uint8)
    again = glow.decode(glow.encode(glow.dequantizer.dequantize(pixels, 0.5)))
    np.testing.assert_array_equal(glow.dequantizer.quantize(again), pixels)
    assert glow.sample(2, seed=1).dtype == tf.uint8
    plain = make_glow()
    for name, variable in plain.named_variables().items():
        variable.assign(values_of(glow)[name])
    inside = 0.05 + 0.9 * (images + 0.5)
    logits = tf.math.log(inside / (1 - inside))
    log_det = tf.reduce_sum(tf.math.log(0.9 / (inside * (1 - inside))), axis=[1, 2, 3])
    np.testing.assert_allclose(glow.log_prob(images), plain.log_prob(logits) + log_det, rtol=1e-11)
    glow.initialize(images)
    plain.initialize(logits)
    for name, value in values_of(glow).items():
        np.testing.assert_allclose(value, values_of(plain)[name], rtol=1e-9, atol=1e-12, err_msg=name)


# The classifier and the Gaussians of the classes are in the deepest level.
ONE_LEVEL = {"num_levels": 1, "num_classes": 3, "classifier": True}


def training_step(weight_y, replicas=None):
    with replicas.scope() if replicas else tf.distribute.get_strategy().scope():
        glow = make_glow(**ONE_LEVEL)
    glow.is_initialized = True
    trainer = Trainer(glow, batch_size=4, learning_rate=0.01, ema_decay=0.0, weight_y=weight_y)
    pixels = np.random.default_rng(3).integers(0, 256, (4, 4, 8, 2)).astype(np.uint8)
    before = values_of(glow)
    metrics = trainer.train_step(pixels, [0, 2, 1, 1])
    return glow, pixels, before, metrics


@pytest.fixture(scope="module")
def one_step():
    return training_step(0.5)


def test_the_classifiers_loss_is_the_references(one_step):
    glow, pixels, before, metrics = one_step
    reference = make_glow(**ONE_LEVEL)
    for name, variable in reference.named_variables().items():
        np.testing.assert_array_equal(variable, before[name])
    noise = tf.random.stateless_uniform(pixels.shape, [0, 0], dtype=tf.float64)
    values = reference.dequantizer.dequantize(pixels, noise, tf.float64)
    labels = [0, 2, 1, 1]
    log_prob = tf.reduce_mean(reference.log_prob(values, labels))
    np.testing.assert_allclose(metrics["bits_per_dim"], reference.dequantizer.bits_per_dim(log_prob, 64), rtol=1e-10)
    logits = reference.classify(values).numpy()
    bits = np.mean([np.log2(np.sum(np.exp(row))) - row[k] / np.log(2) for row, k in zip(logits, labels, strict=True)])
    np.testing.assert_allclose(metrics["class_bits"], bits, rtol=1e-9)
    np.testing.assert_allclose(metrics["class_accuracy"], np.mean(np.argmax(logits, axis=1) == labels))
    # The classifier is trained by its loss alone.
    assert np.any(glow.named_variables()["classifier/kernel"].numpy() != before["classifier/kernel"])


def test_the_gradients_norm_adds_images_of_one_class(one_step):
    _, pixels, _, metrics = one_step
    reference, labels = make_glow(**ONE_LEVEL), [0, 2, 1, 1]
    noise = tf.random.stateless_uniform(pixels.shape, [0, 0], dtype=tf.float64)
    values = reference.dequantizer.dequantize(pixels, noise, tf.float64)
    with tf.GradientTape() as tape:
        bits = reference.dequantizer.bits_per_dim(reference.log_prob(values, labels), 64)
        nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, reference.classify(values))
        loss = tf.reduce_mean(bits) + 0.5 * tf.reduce_mean(nats) / np.log(2)
    gradients = map(tf.convert_to_tensor, tape.gradient(loss, reference.trainable_variables))
    norm = np.sqrt(sum(np.sum(np.square(gradient)) for gradient in gradients))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-9)


def test_the_classifiers_loss_is_the_same_on_two_replicas(one_step, two_replicas):
    on_two, _, _, metrics = training_step(0.5, two_replicas)
    for name in ("class_bits", "class_accuracy", "bits_per_dim", "gradient_norm"):
        np.testing.assert_allclose(metrics[name], one_step[3][name], rtol=1e-10)
    for name, value in values_of(on_two).items():
        np.testing.assert_allclose(value, values_of(one_step[0])[name], rtol=0, atol=1e-9)


def test_recompute_gives_the_same_step(one_step):
    glow = make_glow(**ONE_LEVEL)
    glow.is_initialized = True
    trainer = Trainer(glow, batch_size=4, learning_rate=0.01, ema_decay=0.0, weight_y=0.5, backprop="recompute")
    trainer.train_step(one_step[1], [0, 2, 1, 1])
    for name, value in values_of(glow).items():
        np.testing.assert_allclose(value, values_of(one_step[0])[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("weight_y", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_an_input_error(weight_y):
    with pytest.raises(InputError, match="weight_y"):
        Trainer(make_glow(num_classes=3, classifier=True), weight_y=weight_y)


def test_a_weight_without_a_classifier_is_an_input_error():
    with pytest.raises(InputError, match="no classifier"):
        Trainer(make_glow(num_classes=3), weight_y=0.01)
