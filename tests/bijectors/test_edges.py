"""Parameters and shapes at the edges of what bijectors take: broadcast, unknown, empty, wrong."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from bijector_cases import IMAGE_EVENT, MAKE, draw, make
from helpers import log_abs_det_jacobian, make_glow, random_images

from glow_tf.bijectors import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    ChannelPermutation,
    FlowStep,
    Gaussian,
    InvertibleConv1x1,
    Scan,
    Split,
    Squeeze,
    plu_decompose,
)
from glow_tf.bijectors.scan import BACKPROP_MODES
from glow_tf.bijectors.shapes import with_nonempty_batch
from glow_tf.nn.layers import conv2d_zeros, conv2d_zeros_shapes

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
    np.testing.assert_allclose(bijector.inverse_vjp(z, dz, log_det, [])[0], batch, atol=1e-12)


WIDE = tf.zeros([2, 4, 4])

REFUSED = {
    "actnorm": (lambda: ActNorm(tf.zeros([4]), tf.zeros([4])), "broadcast an event of shape .* must keep its shape"),
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


@pytest.mark.parametrize("name", ["actnorm", "gaussian", "affine"])
def test_events_of_unknown_shape_do_not_grow(name):
    bijector = REFUSED[name][0]()
    invert = tf.function(bijector.inverse_and_log_det, input_signature=[tf.TensorSpec([None] * 4)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="must keep its shape|Unable to broadcast"):
        invert(tf.zeros([3, 2, 4, 2 if name == "affine" else 1]))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64", "uint64"])
def test_indices_of_every_integer_type(dtype):
    bijector, x = ChannelPermutation(np.array([2, 0, 1], dtype)), tf.constant([[[1.0, 2.0, 3.0]]])
    assert bijector.inverse(x).numpy().tolist() == [[[3.0, 1.0, 2.0]]]
    assert bijector.forward(tf.identity(x)).numpy().tolist() == [[[2.0, 3.0, 1.0]]]


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


IMAGE = tf.ones([2, 2, 2, 2])  # a tensor of two images could be unpacked to two values
PAIR = r"returned one EagerTensor; it must return \(.*log_scale\)"
STEPS = {"shift": tf.zeros([2, 1]), "log_scale": tf.zeros([2, 1])}

WRONG = {
    "one tensor from a conditioner": (lambda: AffineCoupling(lambda x1: x1).inverse(IMAGE), f"the conditioner {PAIR}"),
    "three values": (lambda: AffineCoupling(lambda x1: (x1, x1, x1)).inverse(IMAGE), "returned 3 values"),
    "two values for one": (lambda: AdditiveCoupling(lambda x1: (x1, x1)).forward(IMAGE), "2 values; .* the shift"),
    "one tensor from a prior": (lambda: Split(lambda x1: x1, ActNorm(0.0, 0.0)).inverse(IMAGE), PAIR),
    "one tensor for a Gaussian": (lambda: Gaussian(lambda: IMAGE).forward(IMAGE), PAIR),
    "numbers for a Gaussian": (lambda: Gaussian(0.5, 0.1), r"a function \(\) -> \(mean, log_scale\)"),
    "no deeper levels": (lambda: Split(lambda x1: (x1, x1), [ActNorm(0.0, 0.0)]), "deeper is of type .*list"),
    "no layer": (lambda: FlowStep(ActNorm(0.0, 0.0), None, None), "a layer is of type NoneType"),
    "a factor": (lambda: Squeeze(2), "dtype is 2; it must be a floating-point type"),
    "an integer parameter": (
        lambda: ActNorm(tf.constant(1), tf.constant(2)),
        "parameters are int32; floats are needed",
    ),
    "an integer matrix": (lambda: plu_decompose(np.eye(2, dtype=int)), "parameters are int64"),
    "float indices": (lambda: ChannelPermutation([1.0, 0.0]), "are not a permutation"),
    "boolean indices": (lambda: ChannelPermutation([True, False]), "are not a permutation"),
    "no weight": (lambda: InvertibleConv1x1(None, tf.eye(2), 0.0).inverse(IMAGE), "only forward works"),
    "a row": (lambda: ActNorm(0.0, 0.0).inverse(tf.zeros([2, 4])), r"an event has 3 axes, .* not \(2, 4\)"),
    "text for a number": (lambda: Scan(None, STEPS, "2"), "num_steps is '2'; it must be an integer"),
    "another dtype": (lambda: Scan(None, STEPS, 2, dtype=tf.float64), "a parameter is float32"),
    "a complex parameter": (lambda: Scan(None, {"a": tf.zeros([2], tf.complex64)}, 2), "a parameter is complex64"),
    "no step": (
        lambda: Scan(lambda *_: tfb.Identity(), STEPS, 2).inverse(IMAGE),
        "`step` returned .*Identity; it must",
    ),
    "another dtype to share": (lambda: Scan(None, STEPS, 2, shared=[1, np.zeros(2)]), "a parameter is float64"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_arrays_are_converted_in_one_pass(rng):
    conv = InvertibleConv1x1(np.eye(4, dtype=np.float32))
    z, log_det = conv.inverse_and_log_det(rng.standard_normal((2, *IMAGE_EVENT)))
    assert z.dtype == log_det.dtype == tf.float32
    coupling = AdditiveCoupling(lambda seen: seen[..., 1:], context=np.full([1, 1, 1], 7.0))
    np.testing.assert_array_equal(coupling.inverse([[[1.0, 2.0]]]), [[[1.0, 9.0]]])


def test_a_matrix_alone(rng):
    weight = np.linalg.qr(rng.standard_normal((4, 4)))[0] * [1, 2, 3, 4]
    conv, x = InvertibleConv1x1(weight), tf.constant(rng.standard_normal((2, *IMAGE_EVENT)))
    np.testing.assert_allclose(conv.forward(tf.identity(conv.inverse(x))), x, atol=1e-12)
    np.testing.assert_allclose(conv.inverse_log_det_jacobian(x, 3), [2 * 4 * np.log(24)] * 2, rtol=1e-12)


@pytest.mark.parametrize("shape", [None, (None, None, None, 4)], ids=["rank", "size"])
@pytest.mark.parametrize("name", MAKE)
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


@pytest.mark.parametrize("shape", [None, (None, None, None, 2)], ids=str)
def test_whole_flow_of_unknown_shapes(shape, rng):
    glow = make_glow(dtype="float32", num_steps=1, width=4, permutation="reverse")
    bijector, images = glow.bijector(), random_images(rng, glow, 3)

    @tf.function(input_signature=[tf.TensorSpec(shape)], autograph=False)
    def run(images):
        return bijector.inverse(images), bijector.forward(images), bijector.inverse_log_det_jacobian(images, 3)

    z, decoded, log_det = run(images)
    np.testing.assert_allclose(z, glow.encode(images), rtol=0, atol=1e-5)
    np.testing.assert_allclose(decoded, glow.decode(images), rtol=0, atol=1e-5)
    normal = tfp.distributions.Independent(tfp.distributions.Normal(tf.zeros([4, 8, 2]), 1.0), 3)
    np.testing.assert_allclose(normal.log_prob(z) + log_det, glow.log_prob(images), rtol=1e-6)
    assert bijector.forward_event_shape(None).rank is bijector.inverse_event_shape(None).rank is None
    assert bijector.forward_event_shape([None, None, 2]).as_list() == [None, None, 2]


def test_squeeze_of_unknown_shapes():
    squeeze = Squeeze()
    assert squeeze.forward_event_shape(None).rank is None
    for method in (squeeze.forward_event_shape, squeeze.inverse_event_shape):
        with pytest.raises(ValueError, match=r"an event has 3 axes, height, width and channels, not \(4, 8\)"):
            method([4, 8])
    assert squeeze.inverse_event_shape([None, 6, None]).as_list() == [None, 3, None]
    assert squeeze.forward_event_shape([3, None, 8]).as_list() == [6, None, 2]
    chain = tfb.Chain([squeeze, ActNorm(0.0, 1.0), tfb.Invert(squeeze)])
    assert chain.forward_event_shape(None).rank is None


def test_python_numbers_and_dtype_strings():
    assert ActNorm(1.0, 2.0).dtype == tf.float32
    assert ActNorm(np.zeros(2), np.zeros(2)).dtype == tf.float64
    x = np.full([1, 2, 2, 2], 3.0, np.float32)
    np.testing.assert_allclose(ActNorm([1, 2], [0, 1]).inverse(x)[0, 0, 0], [4, 5 * np.e], rtol=1e-6)
    np.testing.assert_array_equal(InvertibleConv1x1([[0, 1], [2, 0]]).inverse(x)[0, 0, 0], [6, 3])
    np.testing.assert_allclose(Gaussian(lambda: (1, 0)).inverse(x), x - 1)
    np.testing.assert_allclose(AdditiveCoupling(lambda x1: 1).inverse(x)[0, 0, 0], [3, 4])
    for steps in ({"shift": [[1.0], [2.0]], "log_scale": [[0.0], [0.0]]}, {"shift": 1.0, "log_scale": 0.0}):
        with pytest.raises(ValueError, match=r"a parameter has shape \(\); its first axis must be 2 long"):
            Scan(lambda p, residuals: ActNorm(**p), steps, 2)
    steps = {"shift": np.float32([[1], [2]]), "log_scale": np.zeros([2, 1], np.float32)}
    np.testing.assert_allclose(Scan(lambda p, residuals: ActNorm(**p), steps, 2).inverse(x), x + 3)
    for kind in (
        Squeeze,
        lambda dtype: Gaussian(lambda: (0.0, 1.0), dtype),
        lambda dtype: ChannelPermutation([0], dtype),
    ):
        assert kind(dtype="float64").dtype == tf.float64
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


def test_convolution_of_an_empty_batch():
    images, parameters = tf.zeros([0, 4, 5, 3]), {k: tf.ones(v) for k, v in conv2d_zeros_shapes(3, 7).items()}
    with tf.GradientTape() as tape:
        tape.watch([images, parameters["kernel"]])
        result = conv2d_zeros(parameters, images)
    dimages, dkernel = tape.gradient(result, [images, parameters["kernel"]])
    assert result.shape == (0, 4, 5, 7)
    assert dimages.shape == images.shape
    np.testing.assert_array_equal(dkernel, np.zeros(dkernel.shape))


@pytest.mark.parametrize("batch", [(), (3,), (0,), (2, 0), (0, 2), (2, 3)], ids=str)
@pytest.mark.parametrize("known", [True, False])
def test_with_nonempty_batch(batch, known):
    values = tf.reshape(tf.range(16.0 * np.prod(batch), dtype=tf.float32), [*batch, 2, 2, 4])

    def doubled(images):
        assert known or not batch or images.shape.as_list() == [None, 2, 2, 4]
        # Every matrix has a largest value, which an empty axis has not.
        return {"values": 2 * images, "sums": tf.reduce_sum(images, [-3, -2, -1]) + 0 * tf.reduce_max(images)}

    spec = tf.TensorSpec(values.shape if known else [None] * len(batch) + [2, 2, 4])
    run = tf.function(lambda x: with_nonempty_batch(doubled, x), input_signature=[spec], autograph=False)
    for results in (run(values), with_nonempty_batch(doubled, values) if known else run(values)):
        np.testing.assert_array_equal(results["values"], 2 * values)
        np.testing.assert_array_equal(results["sums"], np.sum(values, axis=(-3, -2, -1)))


@pytest.mark.parametrize("architecture", ["openai", "glow_tf2"])
def test_empty_batches_in_a_graph_of_any_batch_size(architecture, rng):
    # float32 is what users run, and the only type that oneDNN computes.
    permutation = {"permutation": "reverse"} if architecture == "openai" else {}
    glow = make_glow(dtype="float32", num_steps=1, width=4, architecture=architecture, **permutation)
    modes = BACKPROP_MODES if architecture == "openai" else BACKPROP_MODES[:1]

    def everything(images, n):
        results = {
            "draw": glow.distribution.sample(n, seed=(1, 2)),
            "log_prob": glow.log_prob(images),
            "levels": glow.level_log_probs(images),
            "bits": glow.bits_per_dim(glow.dequantizer.quantize(images)),
            "decoded": glow.decode(glow.encode(images)),
        }
        for backprop in modes:
            with tf.GradientTape() as tape:
                tape.watch(images)
                distribution = glow.transformed_distribution(backprop=backprop)
                results[f"density, {backprop}"] = log_prob = distribution.log_prob(images)
            results[f"gradients, {backprop}"] = tape.gradient(log_prob, [images, *glow.trainable_variables])
        return results

    specs = [tf.TensorSpec([None, 4, 8, 2]), tf.TensorSpec([], tf.int32)]
    compiled = tf.function(everything, input_signature=specs, autograph=False)
    images = random_images(rng, glow, 3)
    some, none = compiled(images, 3), compiled(images[:0], 0)
    np.testing.assert_allclose(some["decoded"], images, rtol=0, atol=1e-5)
    for backprop in modes:
        np.testing.assert_allclose(some[f"density, {backprop}"], glow.log_prob(images), rtol=1e-6)
    for name, value in none.items():
        if name.startswith("gradients"):
            assert value[0].shape == (0, 4, 8, 2)
            for gradient in value[1:]:
                np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))
        else:
            shape = list(some[name].shape)
            shape[shape.index(3)] = 0
            assert value.shape == shape, name
    for backprop in modes:
        assert glow.transformed_distribution(backprop=backprop).log_prob(images[:0]).shape == (0,)
