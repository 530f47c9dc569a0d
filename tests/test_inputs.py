"""The validation of images and labels, and that every entry point of the model uses it."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import SMALL, make_glow, values_of

from glow_tf import inputs
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.evaluation import editing
from glow_tf.glow import Glow

SHAPE = SMALL["image_shape"]
PIXELS = np.random.default_rng(4).integers(0, 256, (3, *SHAPE)).astype(np.uint8)
PIXELS[0, 0, 0] = 0, 255


@pytest.fixture(scope="module")
def glow():
    return make_glow(dtype="float32")


@pytest.fixture(scope="module")
def conditional():
    return make_glow(dtype="float32", num_classes=3, classifier=True)


def continuous(images):
    return inputs.continuous_images(images, GlowConfig(SHAPE, num_levels=2))


def message_of(call):
    with pytest.raises(InputError) as refusal:
        call()
    message = str(refusal.value)
    assert "\n" not in message
    return message


WRONG_IMAGES = {
    "bytes": (PIXELS, "uint8"),
    "16 bits": (PIXELS.astype(np.uint16), "uint16"),
    "signed": (PIXELS.astype(np.int64), "int64"),
    "booleans": (PIXELS > 9, "bool"),
    "0 .. 1": (PIXELS / 255, "from 0 to 1"),
    "0 .. 255": (PIXELS.astype(np.float32), "from 0 to 255"),
    "-1 .. 1": (PIXELS / 127.5 - 1, "from -1 to 1"),
    "-1 .. 127/128": (PIXELS / 128 - 1, "from -1 to 0.992188"),
    "objects": (np.array([None]), "images are an array of object, not an array of numbers"),
    "far above": (np.full((1, *SHAPE), 300.0), "from 300 to 300"),
    "far below": (np.full((1, *SHAPE), -1e5), "-100000"),
    "NaN": (np.full((1, *SHAPE), np.nan), "nan"),
    "infinity": (np.full((1, *SHAPE), np.inf), "inf"),
    "text": ("images", "string"),
    "nothing": (None, "NoneType"),
    "another shape": (np.zeros((3, 8, 4, 2)), "(3, 8, 4, 2)"),
    "one image": (np.zeros(SHAPE), "(4, 8, 2)"),
}


@pytest.mark.parametrize(("images", "said"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_wrong_continuous_images(images, said, glow):
    for call in (glow.log_prob, glow.encode, glow.level_log_probs, glow.initialize):
        message = message_of(lambda call=call: call(images))
        assert said in message
        assert any(needed in message for needed in ("[-0.5, 0.5)", "continuous", "[B, 4, 8, 2]", "array of numbers"))


def test_samples_outside_of_the_range_are_valid():
    values = np.random.default_rng(1).normal(0, 5, (20, *SHAPE))
    np.testing.assert_array_equal(continuous(values), values.astype(np.float32))
    assert continuous(np.zeros((0, *SHAPE))).shape == (0, *SHAPE)


@pytest.mark.parametrize("images", [PIXELS / 255, PIXELS.astype(np.uint16), PIXELS > 9], ids=["floats", "16", "bool"])
def test_bytes_are_never_guessed(images, glow):
    for call in (glow.bits_per_dim, glow.dequantize, glow.dequantizer.dequantize):
        assert "uint8" in message_of(lambda call=call: call(images))


def test_a_density_of_tfp_takes_pixels_of_no_other_scale(glow):
    for call in (glow.distribution.log_prob, glow.distribution.prob, glow.distribution.unnormalized_log_prob):
        for images in (PIXELS, PIXELS.astype(np.float32), (PIXELS / 255).astype(np.float32)):
            assert "glow.dequantize" in message_of(lambda call=call, images=images: call(images))
        assert "[..., 4, 8, 2]" in message_of(lambda call=call: call(np.zeros((2, 8, 4, 2), np.float32)))
    bijector = glow.bijector()
    for call in (bijector.inverse, lambda x: bijector.inverse_log_det_jacobian(x, 3)):
        for images in (PIXELS, PIXELS > 9, PIXELS.astype(np.float32), (PIXELS / 255).astype(np.float32)):
            assert "glow.dequantize" in message_of(lambda call=call, images=images: call(images))
    for call in (bijector.forward, lambda z: bijector.forward_log_det_jacobian(z, 3)):
        assert message_of(lambda call=call: call(PIXELS)) == "z are uint8; continuous values are needed"
        assert "[..., 4, 8, 2]" in message_of(lambda call=call: call(np.zeros((2, 8, 4, 2), np.float32)))
    far = np.full((1, *SHAPE), -70.0, np.float32)  # as an algorithm of TFP may propose
    assert glow.distribution.log_prob(far).shape == (1,) and "from -70" in message_of(lambda: glow.log_prob(far))


def test_tfp_converts_arrays_but_not_tensors(glow):
    images = PIXELS / 256 - 0.5  # float64, as numpy makes them
    expected = glow.log_prob(images)
    for same in (images, images.tolist(), tf.constant(images, tf.float32)):
        np.testing.assert_array_equal(glow.distribution.log_prob(same), expected)
        np.testing.assert_array_equal(glow.bijector().inverse(same), glow.encode(images))
    for call in (glow.distribution.log_prob, glow.bijector().inverse):
        for dtype in (tf.float64, tf.float16, tf.bfloat16):
            message = message_of(lambda call=call, dtype=dtype: call(tf.constant(images, dtype)))
            assert message == f"images are {dtype.name}; this model computes in float32"


def test_only_floats_become_bytes(glow):
    for pixels in (PIXELS, PIXELS.astype(np.int64), PIXELS > 9, "a", None):
        assert "pixels are" in message_of(lambda pixels=pixels: glow.dequantizer.quantize(pixels))
    assert glow.dequantizer.quantize([[-0.5, 0.0, 0.5]]).numpy().tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("name", ["num_images", "temperature", "seed"])
def test_integers_that_no_float_holds_are_refused(name, glow):
    for value in (10**400, 10**5000):
        arguments = {"num_images": 2, "seed": 1, name: value}
        assert len(message_of(lambda arguments=arguments: glow.sample(**arguments))) < 500


WRONG_SAMPLING = {
    "num_images": [0, -1, 2.5, True, None, "2", [2], np.float64(2)],
    "temperature": [-0.1, float("nan"), float("inf"), "1", None, [0.5, 1.0], True],
    "seed": [1.5, (1, 2), "1", True, 2**63, np.float32(1)],
}


@pytest.mark.parametrize("name", WRONG_SAMPLING)
def test_arguments_of_a_sample(name, glow):
    for value in WRONG_SAMPLING[name]:
        arguments = {"num_images": 2, "seed": 1, name: value}
        message = message_of(lambda arguments=arguments: glow.sample(**arguments))
        assert str(value) in message and name.removeprefix("num_") in message, value
        if name == "temperature":
            message_of(lambda value=value: glow.transformed_distribution(temperature=value))
        elif name == "seed":
            assert message_of(lambda value=value: glow.bits_per_dim(PIXELS, seed=value)) == message


def test_tensors_as_arguments_of_a_sample(conditional):
    expected = conditional.sample(4, temperature=0.5, seed=3)
    arguments = tf.constant(4), tf.constant(0.5), tf.constant(3)
    for sample in (conditional.sample, tf.function(conditional.sample, autograph=False)):
        np.testing.assert_array_equal(sample(*arguments), expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int64", "uint64"])
def test_a_number_of_samples_of_every_integer_type(dtype, glow, conditional):
    for model in (glow, conditional):
        expected = model.sample(4, seed=3)
        for number in (np.dtype(dtype).type(4), tf.constant(4, dtype)):
            np.testing.assert_array_equal(model.sample(number, seed=3), expected)


def test_a_tensor_is_a_seed_of_the_weights():
    config = GlowConfig(**SMALL)
    one, other = (values_of(Glow(config, seed=seed)) for seed in (3, tf.constant(3)))
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value)


def test_a_seed_and_a_step_of_different_types(glow):
    expected = glow.dequantize(PIXELS, 3, 7)
    for seed, step in ((tf.constant(3), tf.Variable(7, dtype=tf.int64)), (tf.constant(3, tf.int64), np.uint8(7))):
        np.testing.assert_array_equal(glow.dequantize(PIXELS, seed, step), expected)


def test_symbolic_inputs_of_keras(glow):
    symbolic = tf_keras.Input(SHAPE)
    for method in (glow.log_prob, glow.encode, glow.distribution.log_prob, glow.bijector().inverse, glow.bits_per_dim):
        assert "a symbolic input of Keras; use the model in the `call` of a layer" in message_of(
            lambda method=method: method(symbolic)
        )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_labels_of_every_integer_type(dtype):
    for labels in (np.array([0, 2], dtype), tf.constant([0, 2], dtype)):
        checked = inputs.class_labels(labels, 3, num_images=2)
        assert checked.dtype == tf.int32 and checked.numpy().tolist() == [0, 2]


WRONG_LABELS = {
    "fractions": ([0, 1.7, 2], "float64"),
    "booleans": ([True, False, True], "bool"),
    "wrapped": ([0, 1, 2**32 + 2], "4294967298"),
    "too large for int64": (np.array([0, 1, 2**63], np.uint64), "from"),
    "too large for any type": ([0, 1, 2**70], "array of numbers"),
    "out of range": ([0, 1, 3], "from 0 to 3"),
    "negative": ([0, -1, 2], "from -1 to 2"),
    "a number": (1, "shape ()"),
    "a column": ([[0], [1], [2]], "(3, 1)"),
    "text": (["a", "b", "c"], "string"),
    "too few": ([0, 1], "2 labels were given for 3 images"),
}


@pytest.mark.parametrize(("labels", "said"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_wrong_labels(labels, said, conditional):
    images = conditional.dequantize(PIXELS)
    calls = [
        lambda: conditional.log_prob(images, labels),
        lambda: conditional.encode(images, labels),
        lambda: conditional.decode(images, labels),
        lambda: conditional.sample(3, labels=labels),
        lambda: conditional.bits_per_dim(PIXELS, labels),
    ]
    if said != "2 labels were given for 3 images":
        calls += [lambda: conditional.conditional_distribution(labels), lambda: conditional.bijector(labels)]
    for call in calls:
        assert said in message_of(call)


def test_labels_of_edits(conditional):
    with_labels = [
        lambda labels: editing.interpolate(conditional, PIXELS[:2], 3, labels),
        lambda labels: editing.apply_direction(conditional, PIXELS[:2], np.zeros(SHAPE), [1.0], labels),
    ]
    for call in with_labels:
        for labels, said in (([0, 1.7], "float64"), ([0, 3], "from 0 to 3"), ([True, False], "bool"), ([0], "1 label")):
            assert said in message_of(lambda call=call, labels=labels: call(labels))


def test_labels_and_images_that_do_not_broadcast(conditional):
    images = conditional.dequantize(PIXELS)
    for call in (conditional.conditional_distribution([0, 1]).log_prob, conditional.bijector([0, 1]).inverse):
        assert "of batch shape (3,) do not broadcast with (2,)" in message_of(lambda call=call: call(images))


def test_a_model_of_classes_is_never_scored_without_one(conditional, glow):
    images = conditional.dequantize(PIXELS)
    for call in (
        conditional.transformed_distribution,
        conditional.bijector,
        lambda: conditional.distribution,
        lambda: conditional.conditional_distribution(None),
        lambda: conditional.encode(images),
        lambda: conditional.level_log_probs(images),
    ):
        assert "give labels, integers from 0 to 2" in message_of(call)
    for call in (glow.transformed_distribution, glow.bijector, glow.conditional_distribution):
        assert "not class-conditional" in message_of(lambda call=call: call([0]))


def test_a_graph_checks_types_when_traced_and_values_when_run(glow, conditional):
    log_prob = tf.function(glow.log_prob, input_signature=[tf.TensorSpec([None, None, None, None])])
    images = glow.dequantize(PIXELS)
    np.testing.assert_allclose(log_prob(images), glow.log_prob(images), rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError) as failure:
        log_prob(PIXELS.astype(np.float32))
    assert "images reach from 0 to 255; continuous pixels in [-0.5, 0.5) are needed" in str(
        inputs.error_of_assertion(failure.value)
    )
    assert "uint8" in message_of(lambda: tf.function(glow.log_prob, autograph=False)(tf.constant(PIXELS)))

    labels = tf.data.Dataset.from_tensor_slices(np.array([0, 1, 5])).batch(3)
    mapped = labels.map(lambda batch: conditional.conditional_distribution(batch).log_prob(images))
    with pytest.raises(tf.errors.InvalidArgumentError) as failure:
        list(mapped)
    assert str(inputs.error_of_assertion(failure.value)).startswith("labels reach from 0 to 5; integers from 0 to 2")
    assert inputs.error_of_assertion(ValueError("something else")) is None

    # One label for three images would broadcast, if the graph did not compare their numbers.
    specs = [tf.TensorSpec([None, *SHAPE]), tf.TensorSpec(None, tf.int64)]
    log_prob = tf.function(conditional.log_prob, input_signature=specs, autograph=False)
    np.testing.assert_allclose(log_prob(images, [0, 1, 2]), conditional.log_prob(images, [0, 1, 2]), rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError) as failure:
        log_prob(images, [1])
    assert str(inputs.error_of_assertion(failure.value)) == "1 labels were given for 3 images"


def test_no_density_at_temperature_zero(glow):
    distribution = glow.transformed_distribution(temperature=0.0)
    for method in (distribution.log_prob, distribution.prob, distribution.unnormalized_log_prob):
        assert "temperature is 0" in message_of(lambda method=method: method(glow.dequantize(PIXELS)))
