import re

import numpy as np
import pytest
import tensorflow as tf

from glow_tf.bijectors.coupling import AdditiveCoupling, AffineCoupling


def affine(x1):
    return 10 * x1, tf.sin(x1)


@pytest.mark.parametrize("coupling", [AffineCoupling(affine), AdditiveCoupling(lambda x1: 10 * x1)])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_x1_passes_through(coupling, direction, rng):
    image = tf.constant(rng.standard_normal((2, 3, 4, 6)), tf.float32)
    result = getattr(coupling, direction)(image)
    np.testing.assert_array_equal(result[..., :3], image[..., :3])
    assert np.all(np.abs(result[..., 3:] - image[..., 3:]) > 1e-4)


def test_affine_on_numbers():
    coupling = AffineCoupling(lambda x1: (x1 + 1, tf.math.log(2 * x1)))
    image = tf.constant([[[3.0, 5.0], [0.5, 2.0]]])
    # (5 + 4) * 6 and (2 + 1.5) * 1
    np.testing.assert_allclose(coupling.inverse(image), [[[3.0, 54.0], [0.5, 3.5]]], rtol=1e-6)
    np.testing.assert_allclose(coupling.inverse_log_det_jacobian(image, 3), np.log(6), rtol=1e-6)


def test_additive_on_numbers():
    coupling = AdditiveCoupling(lambda x1: x1**2)
    image = tf.constant([[[3.0, 5.0], [0.5, 2.0]]])
    np.testing.assert_allclose(coupling.inverse(image), [[[3.0, 14.0], [0.5, 2.25]]])
    np.testing.assert_array_equal(coupling.inverse_log_det_jacobian(image, 3), 0.0)


def test_each_image_has_its_own_context(rng):
    context = tf.constant(rng.standard_normal((2, 3, 4, 1)))
    image = tf.constant(rng.standard_normal((2, 3, 4, 2)))
    coupling = AdditiveCoupling(lambda seen: seen[..., :1] * seen[..., 1:], context=context, dtype=tf.float64)
    expected = image[..., 1:] + image[..., :1] * context
    np.testing.assert_allclose(coupling.inverse(image)[..., 1:], expected)
    # A context for each of two images, and several latents for each.
    many = tf.constant(rng.standard_normal((5, 2, 3, 4, 2)))
    np.testing.assert_allclose(coupling.forward(many)[..., 1:], many[..., 1:] - many[..., :1] * context)


@pytest.mark.parametrize("shape", [(5, 3, 4, 2), (3, 4, 2), (1, 3, 4, 2), (2, 4, 3, 2)], ids=str)
def test_a_context_for_other_images_is_an_error(shape):
    coupling = AdditiveCoupling(lambda seen: seen[..., :1], context=tf.zeros([2, 3, 4, 1]))
    needed = re.escape(str(shape[:-1]))
    with pytest.raises(ValueError, match=rf"of \(2, 3, 4\) does not broadcast to images of {needed}.*needs a base of"):
        coupling.inverse(tf.zeros(shape))


@pytest.mark.parametrize("kind", [AffineCoupling, AdditiveCoupling])
def test_vjp_evaluates_the_conditioner_once(kind, rng):
    evaluations = []

    def network(x1):
        evaluations.append(x1)
        return affine(x1) if kind is AffineCoupling else 10 * x1

    z = tf.constant(rng.standard_normal((2, 3, 4, 6)), tf.float32)
    kind(network).inverse_vjp(z, tf.ones_like(z), tf.ones([2]), [])
    assert len(evaluations) == 1


@pytest.mark.parametrize("kind", [AffineCoupling, AdditiveCoupling])
def test_the_class_names_the_bijector(kind):
    coupling = kind(affine)
    assert (
        coupling.name == {"AffineCoupling": "affine_coupling", "AdditiveCoupling": "additive_coupling"}[kind.__name__]
    )
    assert coupling.copy(name="other").name == "other"
