"""Residuals that a step saves for its backward pass."""

import numpy as np
import pytest
import tensorflow as tf

from glow_tf.bijectors.residuals import SaveResiduals, UseResiduals, checkpoint, vjp


def cube(x, scale):
    """(scale * x^3, [x^2])."""
    return scale * x * x * x, [x * x]


def cube_backward(inputs, residuals, dresult):
    x, scale = inputs
    return 3 * scale * residuals[0] * dresult, tf.reduce_sum(x * residuals[0] * dresult)


@pytest.fixture
def inputs(rng):
    return tf.constant(rng.standard_normal(5)), tf.constant(1.7, tf.float64)


def test_without_residuals(inputs):
    np.testing.assert_array_equal(checkpoint(None, cube, cube_backward, *inputs), cube(*inputs)[0])


@pytest.mark.parametrize("compiled", [False, True])
def test_used_residuals_are_not_recomputed(inputs, compiled):
    def never(*_):
        raise AssertionError("computed again")

    def value_and_gradients(x, scale):
        saving = SaveResiduals()
        checkpoint(saving, cube, cube_backward, x, scale)
        # Two calls, in order: the residuals of one must not be used for the other.
        checkpoint(saving, cube, cube_backward, 2 * x, scale)
        using = UseResiduals(saving.saved)
        with tf.GradientTape() as tape:
            tape.watch([x, scale])
            result = checkpoint(using, never, cube_backward, x, scale)
            result += checkpoint(using, never, cube_backward, 2 * x, scale)
        return result, tape.gradient(result, [x, scale])

    run = tf.function(value_and_gradients) if compiled else value_and_gradients
    x, scale = inputs
    result, (dx, dscale) = run(x, scale)
    np.testing.assert_allclose(result, 9 * scale * x**3, rtol=1e-14)
    np.testing.assert_allclose(dx, 27 * scale * x**2, rtol=1e-14)
    np.testing.assert_allclose(dscale, np.sum(9 * x.numpy() ** 3), rtol=1e-12)


def test_vjp(inputs, rng):
    weights = tf.constant(rng.standard_normal(5))
    dx, dscale = vjp(lambda x, scale: cube(x, scale)[0], list(inputs), weights)
    x, scale = inputs
    np.testing.assert_allclose(dx, 3 * scale * x**2 * weights, rtol=1e-14)
    np.testing.assert_allclose(dscale, np.sum(x.numpy() ** 3 * weights.numpy()), rtol=1e-12)
