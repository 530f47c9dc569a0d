import numpy as np
import pytest
import tensorflow as tf
from naive import dense

from glow_tf.bijectors.invertible_conv import PLU_NAMES, InvertibleConv1x1, plu_decompose, plu_inverse, plu_weight


def random_factors(rng, stack=3, channels=6):
    """Factors of well-conditioned matrices; the other triangles, which are ignored, are random, too."""
    return [
        np.stack([rng.permutation(channels) for _ in range(stack)]).astype(np.int32),
        0.3 * rng.standard_normal((stack, channels, channels)),
        0.5 * rng.standard_normal((stack, channels)),
        rng.choice([-1.0, 1.0], (stack, channels)),
        0.3 * rng.standard_normal((stack, channels, channels)),
    ]


def slices(factors):
    return [{name: f[k] for name, f in zip(PLU_NAMES, factors, strict=True)} for k in range(3)]


def test_weight_is_p_l_u(rng):
    factors = random_factors(rng)
    expected = [dense(p) for p in slices(factors)]
    np.testing.assert_allclose(plu_weight(*map(tf.constant, factors)), expected, rtol=0, atol=1e-14)


def test_inverse_and_determinant(rng):
    factors = random_factors(rng)
    expected = [dense(p) for p in slices(factors)]
    np.testing.assert_allclose(plu_inverse(*map(tf.constant, factors)), np.linalg.inv(expected), rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.slogdet(expected)[1], factors[2].sum(axis=-1), rtol=1e-12)


def matrices(kind, rng, channels):
    random = rng.standard_normal((3, channels, channels))
    if kind == "rotation":
        return np.linalg.qr(random)[0]
    if kind == "permutation":
        return np.eye(channels)[np.stack([rng.permutation(channels) for _ in range(3)])]
    return random


@pytest.mark.parametrize("kind", ["random", "rotation", "permutation"])
@pytest.mark.parametrize("channels", [4, 48])
def test_decomposition_gives_the_matrix_back(kind, channels, rng):
    weight = matrices(kind, rng, channels)
    parts = plu_decompose(tf.constant(weight))
    np.testing.assert_allclose(plu_weight(**parts), weight, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        tf.reduce_sum(parts["log_abs_s"], -1), np.linalg.slogdet(weight)[1], rtol=1e-9, atol=1e-9
    )
    np.testing.assert_array_equal(np.abs(parts["sign_s"]), 1.0)


def test_float32_inverse_of_a_large_rotation(rng):
    weight = matrices("rotation", rng, 96)
    parts = plu_decompose(tf.constant(weight, tf.float32))
    product = np.matmul(plu_weight(**parts), plu_inverse(**parts))
    assert product.dtype == np.float32
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(96), (3, 96, 96)), rtol=0, atol=5e-6)


def test_the_image_is_a_row_vector_times_the_matrix():
    weight = tf.constant([[2.0, 1.0], [0.0, 3.0]])
    conv = InvertibleConv1x1(weight, None, tf.math.log(6.0))
    image = tf.constant([[[1.0, 10.0], [4.0, 5.0]]])
    np.testing.assert_array_equal(conv.inverse(image), [[[2.0, 31.0], [8.0, 19.0]]])
    np.testing.assert_allclose(conv.inverse_log_det_jacobian(image, 3), 2 * np.log(6), rtol=1e-6)
