"""Parameters and shapes at the edges of what bijectors take: broadcast, unknown, empty, wrong."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from bijector_cases import IMAGE_EVENT, MAKE, draw, make
from helpers import log_abs_det_jacobian, make_glow

from glow_tf.bijectors import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    ChannelPermutation,
    Gaussian,
    InvertibleConv1x1,
    Split,
    Squeeze,
)
from glow_tf.nn.layers import conv2d

tfb = tfp.bijectors

ROW = tf.constant([[[0.3, -0.2]]], tf.float64)  # [1, 1, C/2]: the same for all positions

BROADCASTING = {
    "actnorm_scalar": lambda: ActNorm(tf.constant(1.0, tf.float64), tf.constant(-0.5, tf.float64)),
    "actnorm_row": lambda: ActNorm(np.zeros(4), np.full([1, 4, 1], 0.3)),
    "affine": lambda: AffineCoupling(lambda x1: (tf.reduce_mean(x1, [-3, -2], keepdims=True), ROW), tf.float64),
    "affine_number": lambda: AffineCoupling(lambda x1: (0.0, 0.5), tf.float64),
    "additive": lambda: AdditiveCoupling(lambda x1: ROW, tf.float64),
    "gaussian": lambda: Gaussian(lambda: (1.0, -0.3), tf.float64),
    "split": lambda: Split(lambda x1: (ROW, 0.7), ActNorm(np.zeros(2), np.ones(2))),
}


@pytest.mark.parametrize("name", BROADCASTING)
def test_broadcast_parameters(name, rng):
    bijector = BROADCASTING[name]()
    x = tf.constant(rng.standard_normal(IMAGE_EVENT))
    expected = log_abs_det_jacobian(bijector.inverse, x)
    np.testing.assert_allclose(bijector.inverse_log_det_jacobian(tf.identity(x), 3), expected, rtol=1e-10, atol=1e-10)
    batch = tf.stack([x, 2 * x])
    log_det = bijector.inverse_log_det_jacobian(batch, 3)
    assert log_det.shape == (2,)
    np.testing.assert_allclose(log_det[0], expected, rtol=1e-10, atol=1e-10)
    z, dz = bijector.inverse(tf.identity(batch)), tf.ones_like(batch)
    np.testing.assert_allclose(bijector.forward(tf.identity(z)), batch, atol=1e-12)
    if hasattr(bijector, "inverse_vjp"):
        np.testing.assert_allclose(bijector.inverse_vjp(z, dz, log_det, [])[0], batch, atol=1e-12)


WIDE = tf.zeros([2, 4, 4])

REFUSED = {
    "actnorm": (lambda: ActNorm(tf.zeros([4]), tf.zeros([4])), "broadcast an event of shape .* is not a bijection"),
    "gaussian": (lambda: Gaussian(lambda: (WIDE, WIDE)), "broadcast an event"),
    "affine": (lambda: AffineCoupling(lambda x1: (0.0, WIDE)), "broadcast an event"),
    "coupling_of_odd_channels": (lambda: AdditiveCoupling(lambda x1: x1), "1 channels cannot be split into halves"),
    "permutation_of_other_channels": (lambda: ChannelPermutation([1, 0]), "2 channels cannot reorder 1 channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_events_do_not_grow(name):
    make_bijector, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make_bijector().inverse(tf.zeros([2, 4, 2 if name == "affine" else 1]))


@pytest.mark.parametrize("indices", [[0, 0, 1], [1, 2, 3], [[0, 1]]], ids=str)
def test_indices_must_be_a_permutation(indices):
    with pytest.raises(ValueError, match="are not a permutation"):
        ChannelPermutation(indices)


def test_matrices_must_be_square():
    with pytest.raises(ValueError, match=r"weight has shape \(2, 3\); it must be a square matrix"):
        InvertibleConv1x1(tf.zeros([2, 3]))
    with pytest.raises(ValueError, match=r"log_abs_det has shape \(1,\); it must be a scalar"):
        InvertibleConv1x1(tf.eye(2), log_abs_det=tf.zeros([1]))
    with pytest.raises(ValueError, match="needs weight, or both"):
        InvertibleConv1x1(inverse_weight=tf.eye(2))


def test_a_matrix_alone(rng):
    weight = np.linalg.qr(rng.standard_normal((4, 4)))[0] * [1, 2, 3, 4]
    conv, x = InvertibleConv1x1(weight), tf.constant(rng.standard_normal((2, *IMAGE_EVENT)))
    np.testing.assert_allclose(conv.forward(tf.identity(conv.inverse(x))), x, atol=1e-12)
    np.testing.assert_allclose(conv.inverse_log_det_jacobian(x, 3), [2 * 4 * np.log(24)] * 2, rtol=1e-12)


LAYERS = [name for name in MAKE if name not in ("stored", "recompute", "reversible", "reversible_additive")]


@pytest.mark.parametrize("shape", [None, (None, None, None, 4)], ids=["rank", "size"])
@pytest.mark.parametrize("name", LAYERS)
def test_unknown_shapes(name, shape, rng):
    if name == "gaussian" and shape is None:
        shape = (None, *IMAGE_EVENT)
    bijector = make(name)
    x = draw(rng, bijector, "inverse", (3,))

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float64)], autograph=False)
    def inverse(x):
        return bijector.inverse(x), bijector.inverse_log_det_jacobian(x, 3)

    z, log_det = inverse(x)
    np.testing.assert_allclose(z, bijector.inverse(x), atol=1e-12)
    np.testing.assert_allclose(log_det, bijector.inverse_log_det_jacobian(x, 3), atol=1e-12)


def test_squeeze_of_unknown_shapes():
    squeeze = Squeeze()
    assert squeeze.forward_event_shape(None).rank is None
    assert squeeze.inverse_event_shape([None, 6, None]).as_list() == [None, 3, None]
    assert squeeze.forward_event_shape([3, None, 8]).as_list() == [6, None, 2]
    chain = tfb.Chain([squeeze, ActNorm(0.0, 1.0), tfb.Invert(squeeze)])
    assert chain.forward_event_shape(None).rank is None


def test_python_numbers_and_dtype_strings():
    assert ActNorm(1.0, 2.0).dtype == tf.float32
    assert ActNorm(np.zeros(2), np.zeros(2)).dtype == tf.float64
    squeeze = Squeeze(dtype="float64")
    assert squeeze.dtype == tf.float64
    assert squeeze.inverse(np.zeros([2, 2, 1])).dtype == tf.float64


CONSTANT_JACOBIAN = ("squeeze", "actnorm", "conv1x1", "reverse", "shuffle", "gaussian")


@pytest.mark.parametrize("name", MAKE)
def test_is_constant_jacobian_and_copy(name, rng):
    bijector = make(name)
    assert bijector.is_constant_jacobian == (name in CONSTANT_JACOBIAN)
    assert bijector.experimental_batch_shape() == ()
    x = draw(rng, bijector, "inverse", (2,))
    for copy in (bijector.copy(), bijector[...]):
        assert type(copy) is type(bijector) and copy is not bijector
        np.testing.assert_array_equal(copy.inverse(x), bijector.inverse(x))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_convolution_of_an_empty_batch(padding):
    images, kernel, bias = tf.zeros([0, 4, 5, 3]), tf.ones([3, 3, 3, 7]), tf.ones([7])

    with tf.GradientTape() as tape:
        tape.watch([images, kernel])
        result = conv2d(images, kernel, padding, bias, tf.nn.relu)
    dimages, dkernel = tape.gradient(result, [images, kernel])
    assert result.shape == ((0, 4, 5, 7) if padding == "SAME" else (0, 2, 3, 7))
    assert dimages.shape == images.shape
    np.testing.assert_array_equal(dkernel, np.zeros(kernel.shape))


def test_empty_batches_of_the_flow():
    glow = make_glow(dtype="float32")
    images = tf.zeros([0, 4, 8, 2])
    assert glow.distribution.sample(0, seed=1).shape == images.shape
    assert glow.log_prob(images).shape == (0,)
    assert glow.encode(images).shape == glow.decode(images).shape == images.shape
    assert glow.distribution.log_prob(images).shape == (0,)
    for backprop in ("stored", "recompute", "reversible"):
        assert glow.transformed_distribution(backprop=backprop).log_prob(tf.identity(images)).shape == (0,)
