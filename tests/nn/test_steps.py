import numpy as np
import pytest
import tensorflow as tf
from helpers import SMALL, randomize
from naive import dense, edge_conv

from glow_tf.config import GlowConfig
from glow_tf.nn.base import slice_of
from glow_tf.nn.openai import OpenAINetwork
from glow_tf.nn.priors import SplitPrior, TopPrior
from glow_tf.nn.steps import FlowSteps


def make_steps(rng=None, **kind):
    config = GlowConfig(**SMALL | {"num_steps": 3} | kind)
    return FlowSteps(config, 8, OpenAINetwork(5), rng or np.random.default_rng(0), "level0")


def test_every_variable_is_stacked_and_named():
    steps = make_steps()
    shapes = {name: tuple(variable.shape) for name, variable in steps.named_variables().items()}
    assert shapes == {
        "level0/actnorm/shift": (3, 8),
        "level0/actnorm/log_scale": (3, 8),
        "level0/conv1x1/permutation": (3, 8),
        "level0/conv1x1/lower": (3, 8, 8),
        "level0/conv1x1/log_abs_s": (3, 8),
        "level0/conv1x1/sign_s": (3, 8),
        "level0/conv1x1/upper": (3, 8, 8),
        "level0/coupling/conv1_kernel": (3, 3, 3, 4, 5),
        "level0/coupling/conv1_edge": (3, 3, 3, 5),
        "level0/coupling/conv2_kernel": (3, 5, 5),
        "level0/coupling/actnorm1_shift": (3, 5),
        "level0/coupling/actnorm1_log_scale": (3, 5),
        "level0/coupling/actnorm2_shift": (3, 5),
        "level0/coupling/actnorm2_log_scale": (3, 5),
        "level0/coupling/conv3_kernel": (3, 3, 3, 5, 8),
        "level0/coupling/conv3_edge": (3, 3, 3, 8),
        "level0/coupling/conv3_bias": (3, 8),
        "level0/coupling/conv3_log_scale": (3, 8),
    }
    assert {variable.name.removesuffix(":0") for variable in steps.variables} == set(shapes)


def test_additive_couplings_have_half_the_outputs():
    assert make_steps(coupling="additive").parameters["coupling"]["conv3"]["kernel"].shape == (3, 3, 3, 5, 4)


@pytest.mark.parametrize(
    ("permutation", "fixed"),
    [
        ("conv1x1", {"conv1x1/permutation", "conv1x1/sign_s"}),
        ("shuffle", {"permutation/indices"}),
        ("reverse", {"permutation/indices"}),
    ],
)
def test_permutation_and_signs_are_not_trained(permutation, fixed):
    steps = make_steps(permutation=permutation)
    untrained = {name.removeprefix("level0/") for name, v in steps.named_variables().items() if not v.trainable}
    assert untrained == fixed
    trained = {id(variable) for variable in steps.trainable_variables}
    assert trained == {id(v) for v in steps.named_variables().values() if v.trainable}


def test_new_convolutions_are_rotations_that_differ_from_step_to_step():
    steps = make_steps()
    weights = [dense(tf.nest.map_structure(np.array, slice_of(steps.parameters["conv1x1"], k))) for k in range(3)]
    for weight in weights:
        np.testing.assert_allclose(weight @ weight.T, np.eye(8), atol=1e-12)
    assert np.max(np.abs(weights[0] - weights[1])) > 0.1
    assert np.max(np.abs(weights[1] - weights[2])) > 0.1


def test_fixed_orders():
    shuffled = make_steps(permutation="shuffle").parameters["permutation"]["indices"].numpy()
    for order in shuffled:
        assert sorted(order) == list(range(8))
    assert len({tuple(order) for order in shuffled}) == 3
    reverse = make_steps(permutation="reverse").parameters["permutation"]["indices"].numpy()
    np.testing.assert_array_equal(reverse, [[7, 6, 5, 4, 3, 2, 1, 0]] * 3)


def test_only_the_matrices_that_are_asked_for_are_made():
    steps = make_steps()
    stacked = tf.nest.map_structure(tf.convert_to_tensor, steps.parameters)
    assert set(steps.prepare(stacked, ("inverse",))["conv1x1"]) == {"weight", "log_abs_det"}
    assert set(steps.prepare(stacked, ("forward",))["conv1x1"]) == {"inverse_weight", "log_abs_det"}


def test_mean_and_log_scale_of_a_split_are_halves(rng):
    gaussian = SplitPrior(GlowConfig(**SMALL), 8, "split0")
    randomize(gaussian, rng, scale=0.5)
    x1 = rng.standard_normal((2, 3, 5, 4))
    p = {name.removeprefix("split0/"): v.numpy() for name, v in gaussian.named_variables().items()}
    expected = (edge_conv(x1, p["kernel"], p["edge"]) + p["bias"]) * np.exp(3 * p["log_scale"])
    mean, log_scale = gaussian(tf.constant(x1))
    np.testing.assert_allclose(mean, expected[..., :4], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(log_scale, expected[..., 4:], rtol=1e-10, atol=1e-12)


def make_top(rng, **kind):
    top = TopPrior(GlowConfig(**SMALL | kind), (3, 4, 6), "top")
    randomize(top, rng, scale=0.5)
    return top, {name.removeprefix("top/"): v.numpy() for name, v in top.named_variables().items()}


def test_top_gaussian_depends_on_the_distance_to_the_border(rng):
    top, p = make_top(rng)
    of_zeros = edge_conv(np.zeros((1, 3, 4, 12)), np.zeros((3, 3, 12, 12)), p["edge"])[0]
    expected = (of_zeros + p["bias"]) * np.exp(3 * p["log_scale"])
    mean, log_scale = top.mean_and_log_scale()
    np.testing.assert_allclose(mean, expected[..., :6], rtol=1e-11)
    np.testing.assert_allclose(log_scale, expected[..., 6:], rtol=1e-11)
    assert np.max(np.abs(mean[0, 0] - mean[1, 1])) > 0.1


def test_top_gaussian_of_classes_adds_to_the_learned_one(rng):
    top, p = make_top(rng, num_classes=3)
    labels = [2, 0, 2]
    shared = tf.concat(top.mean_and_log_scale(), axis=-1)
    found = tf.concat(top.mean_and_log_scale(tf.constant(labels)), axis=-1)
    added = (p["class_kernel"][labels] + p["class_bias"]) * np.exp(3 * p["class_log_scale"])
    np.testing.assert_allclose(found, shared + added[:, np.newaxis, np.newaxis], rtol=1e-11, atol=1e-13)


def test_top_gaussian_may_be_standard(rng):
    top, p = make_top(rng, learned_top=False)
    assert not p
    for values in top.mean_and_log_scale():
        np.testing.assert_array_equal(values, np.zeros((3, 4, 6)))
