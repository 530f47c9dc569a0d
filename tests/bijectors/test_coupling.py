import numpy as np
import pytest
import tensorflow as tf

from glow_tf.bijectors.coupling import AdditiveCoupling, AffineCoupling


def affine(kept):
    return 10 * kept, tf.sin(kept)


@pytest.mark.parametrize("coupling", [AffineCoupling(affine), AdditiveCoupling(lambda kept: 10 * kept)])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_the_first_half_stays_and_the_second_moves(coupling, direction, rng):
    image = tf.constant(rng.standard_normal((2, 3, 4, 6)), tf.float32)
    result = getattr(coupling, direction)(image)
    np.testing.assert_array_equal(result[..., :3], image[..., :3])
    assert np.all(np.abs(result[..., 3:] - image[..., 3:]) > 1e-4)


def test_affine_on_numbers():
    coupling = AffineCoupling(lambda kept: (kept + 1, tf.math.log(2 * kept)))
    image = tf.constant([[[3.0, 5.0], [0.5, 2.0]]])
    # (5 + 4) * 6 and (2 + 1.5) * 1
    np.testing.assert_allclose(coupling.inverse(image), [[[3.0, 54.0], [0.5, 3.5]]], rtol=1e-6)
    np.testing.assert_allclose(coupling.inverse_log_det_jacobian(image, 3), np.log(6), rtol=1e-6)


def test_additive_on_numbers():
    coupling = AdditiveCoupling(lambda kept: kept**2)
    image = tf.constant([[[3.0, 5.0], [0.5, 2.0]]])
    np.testing.assert_allclose(coupling.inverse(image), [[[3.0, 14.0], [0.5, 2.25]]])
    np.testing.assert_array_equal(coupling.inverse_log_det_jacobian(image, 3), 0.0)


@pytest.mark.parametrize("kind", [AffineCoupling, AdditiveCoupling])
def test_going_back_evaluates_the_network_once(kind, rng):
    evaluations = []

    def network(kept):
        evaluations.append(kept)
        return affine(kept) if kind is AffineCoupling else 10 * kept

    x = tf.constant(rng.standard_normal((2, 3, 4, 6)), tf.float32)
    kind(network).inverse_vjp(x, tf.ones_like(x), tf.ones([2]), [])
    assert len(evaluations) == 1
