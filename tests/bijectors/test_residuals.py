"""What a step keeps for its way back."""

import numpy as np
import pytest
import tensorflow as tf

from glow_tf.bijectors.residuals import SaveResiduals, UseResiduals, through, vjp


def cube(x, scale):
    """(scale * x^3, [x^2])."""
    return scale * x * x * x, [x * x]


def cube_backward(inputs, residuals, dresult):
    x, scale = inputs
    return 3 * scale * residuals[0] * dresult, tf.reduce_sum(x * residuals[0] * dresult)


@pytest.fixture
def inputs(rng):
    return tf.constant(rng.standard_normal(5)), tf.constant(1.7, tf.float64)


def test_without_a_memory_it_is_the_computation(inputs):
    np.testing.assert_array_equal(through(None, cube, cube_backward, *inputs), cube(*inputs)[0])


@pytest.mark.parametrize("compiled", [False, True])
def test_a_replay_gives_the_same_and_computes_nothing(inputs, compiled):
    def never(*_):
        raise AssertionError("computed again")

    def value_and_gradients(x, scale):
        recorder = SaveResiduals()
        through(recorder, cube, cube_backward, x, scale)
        # Two calls, in order: what the second kept must not be given to the first.
        through(recorder, cube, cube_backward, 2 * x, scale)
        memory = UseResiduals(recorder.kept)
        with tf.GradientTape() as tape:
            tape.watch([x, scale])
            result = through(memory, never, cube_backward, x, scale)
            result += through(memory, never, cube_backward, 2 * x, scale)
        return result, tape.gradient(result, [x, scale])

    run = tf.function(value_and_gradients) if compiled else value_and_gradients
    x, scale = inputs
    result, (dx, dscale) = run(x, scale)
    np.testing.assert_allclose(result, 9 * scale * x**3, rtol=1e-14)
    np.testing.assert_allclose(dx, 27 * scale * x**2, rtol=1e-14)
    np.testing.assert_allclose(dscale, np.sum(9 * x.numpy() ** 3), rtol=1e-12)


def test_pullback_is_the_gradient_of_the_weighted_result(inputs, rng):
    weights = tf.constant(rng.standard_normal(5))
    dx, dscale = vjp(lambda x, scale: cube(x, scale)[0], list(inputs), weights)
    x, scale = inputs
    np.testing.assert_allclose(dx, 3 * scale * x**2 * weights, rtol=1e-14)
    np.testing.assert_allclose(dscale, np.sum(x.numpy() ** 3 * weights.numpy()), rtol=1e-12)
