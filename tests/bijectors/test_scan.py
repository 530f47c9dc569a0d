"""`Scan` against the chain of K steps that it stands for."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import SMALL, randomize

from glow_tf.bijectors.actnorm import ActNorm
from glow_tf.bijectors.scan import BACKPROP_MODES, Scan
from glow_tf.config import GlowConfig
from glow_tf.nn.base import slice_of
from glow_tf.nn.openai import OpenAINetwork
from glow_tf.nn.steps import FlowSteps

tfb = tfp.bijectors

NUM_STEPS = 3
EVENT = (2, 2, 4)

KINDS = [("affine", "conv1x1"), ("additive", "shuffle")]


def make_steps(coupling, permutation, num_steps=NUM_STEPS, **kind):
    rng = np.random.default_rng(5)
    config = GlowConfig(**SMALL | {"num_steps": num_steps, "coupling": coupling, "permutation": permutation} | kind)
    steps = FlowSteps(config, EVENT[-1], OpenAINetwork(4), rng, "level0")
    randomize(steps, rng)
    return steps


def chain(steps):
    """The K steps, each with its slice, as TFP's own chain."""
    prepared = steps.prepare(tf.nest.map_structure(tf.convert_to_tensor, steps.parameters), ("forward", "inverse"))
    # Chain's inverse begins with its first bijector.
    return tfb.Chain([steps.step(slice_of(prepared, k)) for k in range(len(prepared["actnorm"]["shift"]))])


def value_log_det_and_gradients(make_bijector, direction, values, weights, variables):
    with tf.GradientTape() as tape:
        tape.watch(values)
        bijector = make_bijector()
        result = getattr(bijector, direction)(values)
        log_det = getattr(bijector, f"{direction}_log_det_jacobian")(values, event_ndims=3)
        loss = tf.reduce_sum(weights * result) + tf.reduce_sum(log_det * log_det)
    return [result, log_det, *tape.gradient(loss, [values, *variables])]


@pytest.mark.parametrize("compiled", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("direction", ["inverse", "forward"])
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_equals_the_chain_of_its_steps(kind, direction, compiled, rng):
    steps = make_steps(*kind)
    variables = steps.trainable_variables
    values, weights = (tf.constant(rng.standard_normal((3, *EVENT))) for _ in range(2))
    expected = value_log_det_and_gradients(lambda: chain(steps), direction, tf.identity(values), weights, variables)
    names = ["value", "log-det", "gradient of values", *(v.name for v in variables)]
    for backprop in BACKPROP_MODES:

        def run(values, backprop=backprop):
            return value_log_det_and_gradients(lambda: steps.bijector(backprop), direction, values, weights, variables)

        found = (tf.function(run, autograph=False) if compiled else run)(tf.identity(values))
        for name, got, wanted in zip(names, found, expected, strict=True):
            assert np.max(np.abs(wanted)) > 1e-3, f"{name} is no test: it is about zero"
            scale = np.max(np.abs(wanted))
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12 * scale, err_msg=f"{name}, {backprop}")


@pytest.mark.parametrize("backprop", BACKPROP_MODES)
def test_gradients_may_be_asked_for_twice(backprop, rng):
    bijector = make_steps("affine", "conv1x1").bijector(backprop)
    images = tf.constant(rng.standard_normal((2, *EVENT)))
    with tf.GradientTape(persistent=True) as tape:
        log_det = bijector.inverse_and_log_det(images)[1]
    first, second = (tape.gradient(log_det, bijector.trainable_variables) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def second_derivatives(make_bijector, values, variables):
    """The gradients of a nonlinear function of first gradients."""
    with tf.GradientTape() as outer:
        outer.watch(values)
        first = value_log_det_and_gradients(make_bijector, "inverse", values, values, variables)
        total = sum(tf.reduce_sum(tf.sin(gradient) * gradient) for gradient in first[2:])
    return outer.gradient(total, [values, *variables])


@pytest.mark.parametrize("compiled", [True, False], ids=["graph", "eager"])
def test_second_derivatives(compiled, rng):
    steps = make_steps("affine", "conv1x1", num_steps=2)
    variables = steps.trainable_variables
    values = tf.constant(rng.standard_normal((2, *EVENT)))
    expected = second_derivatives(lambda: chain(steps), values, variables)

    def run(values, backprop="recompute"):
        return second_derivatives(lambda: steps.bijector(backprop), values, variables)

    run = tf.function(run, autograph=False) if compiled else run
    for found, wanted in zip(run(tf.identity(values)), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * np.max(np.abs(wanted)))
    for backprop in ("stored", "reversible"):
        with pytest.raises(NotImplementedError, match=f'need backprop="recompute"; this pass has "{backprop}"'):
            run(tf.identity(values), backprop)


@pytest.mark.parametrize("backprop", ["stored", "reversible"])
def test_second_derivatives_through_what_was_saved(backprop, rng):
    # The gradient of the log-det alone depends on the values only so.
    values = tf.constant(rng.standard_normal((2, *EVENT)))
    with tf.GradientTape() as outer:
        outer.watch(values)
        with tf.GradientTape() as inner:
            inner.watch(values)
            log_det = make_steps("affine", "conv1x1", num_steps=2).bijector(backprop).inverse_and_log_det(values)[1]
        gradient = inner.gradient(log_det, values)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        outer.gradient(gradient, values)


# One of the modes in float32, which oneDNN computes.
@pytest.mark.parametrize(
    ("backprop", "dtype", "tolerance"),
    [("stored", "float64", 1e-10), ("recompute", "float32", 1e-4), ("reversible", "float64", 1e-10)],
)
def test_per_example_gradients(backprop, dtype, tolerance, rng):
    steps = make_steps("affine", "reverse", num_steps=2, dtype=dtype)
    shift = steps.parameters["actnorm"]["shift"]
    images = tf.constant(rng.standard_normal((2, *EVENT)), dtype)

    def gradient(image):
        with tf.GradientTape() as tape:
            log_det = steps.bijector(backprop).inverse_and_log_det(image)[1]
        return tape.gradient(log_det, shift)

    expected = tf.stack([gradient(image) for image in images])
    with tf.GradientTape() as tape:
        log_dets = steps.bijector(backprop).inverse_and_log_det(images)[1]
    np.testing.assert_allclose(tape.jacobian(log_dets, shift), expected, rtol=tolerance, atol=tolerance / 100)
    np.testing.assert_allclose(tf.vectorized_map(gradient, images), expected, rtol=tolerance, atol=tolerance / 100)


@pytest.mark.parametrize("backprop", BACKPROP_MODES)
def test_forward_mode_is_refused(backprop, rng):
    bijector = make_steps("affine", "conv1x1").bijector(backprop)
    images = tf.constant(rng.standard_normal((2, *EVENT)))
    with (
        pytest.raises(NotImplementedError, match="use tf.GradientTape"),
        tf.autodiff.ForwardAccumulator(images, images),
    ):
        bijector.inverse_and_log_det(images)


@pytest.mark.parametrize("backprop", BACKPROP_MODES)
def test_plain_tensors_and_no_preparation(backprop):
    shift, log_scale = tf.constant([[1.0], [2.0], [-4.0]]), tf.math.log([[2.0], [3.0], [0.5]])
    layer = Scan(
        lambda p, residuals: ActNorm(p["shift"], p["log_scale"]),
        {"shift": shift, "log_scale": log_scale},
        num_steps=3,
        backprop=backprop,
    )
    image = tf.constant([[[5.0], [0.0]]])
    # ((5 + 1) * 2 + 2) * 3 = 42, (42 - 4) / 2 = 19; ((0 + 1) * 2 + 2) * 3 = 12, (12 - 4) / 2 = 4
    np.testing.assert_allclose(layer.inverse(image), [[[19.0], [4.0]]], rtol=1e-6)
    np.testing.assert_allclose(layer.inverse_log_det_jacobian(image, 3), 2 * np.log(3.0), rtol=1e-6)
    np.testing.assert_allclose(layer.forward(tf.constant([[[19.0], [4.0]]])), image, rtol=1e-6, atol=1e-6)


def test_a_wrong_leading_axis_is_an_error():
    with pytest.raises(ValueError, match=r"a parameter has shape \(3, 1\); its first axis must be 2 long"):
        Scan(lambda p, residuals: ActNorm(p["shift"], p["shift"]), {"shift": tf.zeros([3, 1])}, num_steps=2)


def test_an_unknown_backprop_mode_is_an_error():
    with pytest.raises(ValueError, match="backprop is 'cheap'; it can be stored, recompute, reversible"):
        Scan(lambda p, residuals: ActNorm(p["shift"], p["shift"]), {"shift": tf.zeros([2, 1])}, 2, backprop="cheap")
