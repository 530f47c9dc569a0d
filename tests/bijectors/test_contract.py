"""What holds for every bijector of the package. A new one adds a line to `MAKE`."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import SMALL, log_abs_det_jacobian, randomize

from glow_tf.bijectors.actnorm import ActNorm
from glow_tf.bijectors.base import ImageBijector
from glow_tf.bijectors.coupling import AdditiveCoupling, AffineCoupling
from glow_tf.bijectors.flow_step import FlowStep
from glow_tf.bijectors.gaussian import Gaussian
from glow_tf.bijectors.invertible_conv import InvertibleConv1x1
from glow_tf.bijectors.logit import Logit
from glow_tf.bijectors.permutation import ChannelPermutation
from glow_tf.bijectors.split import Split
from glow_tf.bijectors.squeeze import Squeeze
from glow_tf.config import GlowConfig
from glow_tf.nn.openai import OpenAINetwork
from glow_tf.nn.steps import FlowSteps

tfb = tfp.bijectors

HEIGHT, WIDTH, CHANNELS = 2, 4, 4
IMAGE_EVENT = (HEIGHT, WIDTH, CHANNELS)
ROUND_TRIP = {"float64": 1e-12, "float32": 2e-5}


class Network(tf.Module):
    """A coupling's network, smooth and not small: kept [..., C/2] -> two halves, or one."""

    def __init__(self, rng, dtype, outputs=2):
        super().__init__()
        half = CHANNELS // 2
        self.first = tf.Variable(rng.standard_normal((half, 5)), dtype=dtype)
        self.second = tf.Variable(0.5 * rng.standard_normal((outputs, 5, half)), dtype=dtype)

    def __call__(self, kept):
        hidden = tf.tanh(tf.tensordot(kept, self.first, 1))
        results = [tf.tensordot(hidden, matrix, 1) for matrix in tf.unstack(self.second)]
        return results[0] if len(results) == 1 else results


class Learned(tf.Module):
    """The parameters of a Gaussian."""

    def __init__(self, rng, dtype):
        super().__init__()
        self.mean = tf.Variable(rng.standard_normal(IMAGE_EVENT), dtype=dtype)
        self.log_scale = tf.Variable(0.5 * rng.standard_normal(IMAGE_EVENT), dtype=dtype)

    def __call__(self):
        return self.mean, self.log_scale


def actnorm(rng, dtype):
    return ActNorm(
        tf.Variable(rng.standard_normal(CHANNELS), dtype=dtype),
        tf.Variable(0.5 * rng.standard_normal(CHANNELS), dtype=dtype),
    )


def conv1x1(rng, dtype):
    weight = np.eye(CHANNELS) + 0.3 * rng.standard_normal((CHANNELS, CHANNELS))
    return InvertibleConv1x1(
        tf.Variable(weight, dtype=dtype),
        tf.Variable(np.linalg.inv(weight), dtype=dtype),
        tf.Variable(np.linalg.slogdet(weight)[1], dtype=dtype),
    )


def affine(rng, dtype):
    return AffineCoupling(Network(rng, dtype), dtype=dtype)


def split(rng, dtype):
    deeper = ActNorm(tf.Variable([0.5, -1.0], dtype=dtype), tf.Variable([0.3, 0.7], dtype=dtype))
    return Split(Network(rng, dtype), deeper)


def repeated(backprop, **kind):
    def make(rng, dtype):
        config = GlowConfig(**SMALL | kind | {"num_steps": 3, "dtype": dtype})
        steps = FlowSteps(config, CHANNELS, OpenAINetwork(6), rng, "level0")
        randomize(steps, rng)
        return steps.bijector(backprop)

    return make


MAKE = {
    "logit": lambda rng, dtype: Logit(-10.0, 10.0, dtype=tf.as_dtype(dtype)),
    "squeeze": lambda rng, dtype: Squeeze(dtype=dtype),
    "actnorm": actnorm,
    "conv1x1": conv1x1,
    "reverse": lambda rng, dtype: ChannelPermutation(tf.range(CHANNELS)[::-1], dtype=dtype),
    "shuffle": lambda rng, dtype: ChannelPermutation(tf.constant([2, 0, 3, 1]), dtype=dtype),
    "affine": affine,
    "additive": lambda rng, dtype: AdditiveCoupling(Network(rng, dtype, outputs=1), dtype=dtype),
    "split": split,
    "gaussian": lambda rng, dtype: Gaussian(Learned(rng, dtype), dtype=dtype),
    "flow_step": lambda rng, dtype: FlowStep(actnorm(rng, dtype), conv1x1(rng, dtype), affine(rng, dtype)),
    "stored": repeated("stored"),
    "recompute": repeated("recompute", permutation="shuffle"),
    "reversible": repeated("reversible"),
    "reversible_additive": repeated("reversible", coupling="additive", permutation="reverse"),
}

BATCHES = [(), (3,), (2, 3)]
every_bijector = pytest.mark.parametrize("name", MAKE)
every_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])
both_directions = pytest.mark.parametrize("direction", ["forward", "inverse"])


def make(name, dtype="float64", seed=3):
    return MAKE[name](np.random.default_rng(seed), dtype)


def draw(rng, bijector, side, batch=()):
    """Values on the latent side (what `forward` takes) or the image side (what `inverse` takes)."""
    event = IMAGE_EVENT if side == "inverse" else bijector.inverse_event_shape(IMAGE_EVENT)
    return tf.constant(rng.standard_normal((*batch, *event)), bijector.dtype)


def log_det(bijector, direction, values):
    return getattr(bijector, f"{direction}_log_det_jacobian")(values, event_ndims=3)


class Sweep(NamedTuple):
    value: tf.Tensor
    log_det: tf.Tensor


def sweep(bijector, direction, values):
    values = tf.identity(values)
    return Sweep(getattr(bijector, direction)(values), log_det(bijector, direction, values))


@every_bijector
@every_dtype
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_shapes_and_round_trips(name, dtype, batch, rng):
    bijector = make(name, dtype)
    for there, back in [("forward", "inverse"), ("inverse", "forward")]:
        values = draw(rng, bijector, there, batch)
        result = sweep(bijector, there, values)
        assert result.value.shape == batch + getattr(bijector, f"{there}_event_shape")(values.shape[-3:])
        assert result.log_det.shape == batch
        assert result.value.dtype == result.log_det.dtype == values.dtype
        again = sweep(bijector, back, result.value)
        np.testing.assert_allclose(again.value, values, rtol=0, atol=ROUND_TRIP[dtype])
        np.testing.assert_allclose(again.log_det, -result.log_det, rtol=ROUND_TRIP[dtype], atol=ROUND_TRIP[dtype])


@every_bijector
@both_directions
def test_log_det_is_that_of_the_jacobian(name, direction, rng):
    bijector = make(name)
    values = draw(rng, bijector, direction)
    expected = log_abs_det_jacobian(getattr(bijector, direction), values)
    np.testing.assert_allclose(log_det(bijector, direction, values), expected, rtol=1e-9, atol=1e-9)


@every_bijector
def test_images_of_a_batch_do_not_touch_each_other(name, rng):
    bijector = make(name)
    values = draw(rng, bijector, "inverse", (2, 3))
    together = sweep(bijector, "inverse", values)
    for index in np.ndindex(2, 3):
        alone = sweep(bijector, "inverse", values[index])
        np.testing.assert_allclose(together.value[index], alone.value, rtol=0, atol=1e-13)
        np.testing.assert_allclose(together.log_det[index], alone.log_det, rtol=0, atol=1e-12)


@every_bijector
@both_directions
def test_in_a_graph_with_unknown_batch_dimensions(name, direction, rng):
    bijector = make(name)

    @tf.function(autograph=False)
    def compiled(values):
        return sweep(bijector, direction, values)

    for batch in BATCHES[1:]:
        values = draw(rng, bijector, direction, batch)
        event = values.shape[-3:]
        concrete = compiled.get_concrete_function(tf.TensorSpec([None] * len(batch) + event, bijector.dtype))
        result, expected = concrete(values), sweep(bijector, direction, values)
        np.testing.assert_allclose(result.value, expected.value, rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.log_det, expected.log_det, rtol=0, atol=1e-12)
        # The layers after this one need a static event.
        assert concrete.structured_outputs.value.shape[-3:] == expected.value.shape[-3:]


@every_bijector
@both_directions
def test_gradients_are_the_slope(name, direction, rng):
    bijector = make(name)
    values = tf.Variable(draw(rng, bijector, direction, (2,)))
    variables = [values, *bijector.trainable_variables]
    weights = sweep(bijector, direction, values)
    weights = [tf.constant(rng.standard_normal(w.shape)) for w in weights]

    def loss():
        return sum(tf.reduce_sum(w * r) for w, r in zip(weights, sweep(bijector, direction, values), strict=True))

    with tf.GradientTape() as tape:
        at_start = loss()
    gradients = tape.gradient(at_start, variables)
    # The matrix that serves the other direction has no gradient.
    unused = [v for v, g in zip(variables, gradients, strict=True) if g is None]
    assert len(unused) == (1 if name in ("conv1x1", "flow_step") else 0)
    for variable, gradient in zip(variables, gradients, strict=True):
        if gradient is None:
            continue
        along = tf.constant(rng.standard_normal(variable.shape))
        step, start = 1e-5, tf.identity(variable)
        ends = []
        for sign in (1, -1):
            variable.assign(start + sign * step * along)
            ends.append(loss())
        variable.assign(start)
        slope = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(tf.reduce_sum(gradient * along), slope, rtol=1e-6, atol=1e-6)


@every_bijector
def test_inverse_backward_is_autodiff(name, rng):
    bijector = make(name)
    y = draw(rng, bijector, "inverse", (2,))
    parameters = list(bijector.trainable_variables)
    with tf.GradientTape() as tape:
        tape.watch(y)
        x, ildj = bijector.inverse_and_log_det(y)
    dx, dlog_det = tf.constant(rng.standard_normal(x.shape)), tf.constant(rng.standard_normal(ildj.shape))
    expected = tape.gradient([x, ildj], [y, *parameters], output_gradients=[dx, dlog_det])
    y_again, dy, dparameters = bijector.inverse_vjp(x, dx, dlog_det, parameters)
    np.testing.assert_allclose(y_again, y, rtol=0, atol=1e-12)
    for found, wanted in zip([dy, *dparameters], expected, strict=True):
        assert (found is None) == (wanted is None)
        if wanted is not None:
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-11)


@every_bijector
def test_works_inverted(name, rng):
    bijector = make(name)
    inverted = tfb.Invert(bijector)
    for there, back in [("forward", "inverse"), ("inverse", "forward")]:
        values = draw(rng, bijector, there, (2,))
        expected = sweep(bijector, there, values)
        result = sweep(inverted, back, values)
        np.testing.assert_array_equal(result.value, expected.value)
        np.testing.assert_array_equal(result.log_det, expected.log_det)
        assert getattr(inverted, f"{back}_event_shape")(values.shape[-3:]) == expected.value.shape[-3:]


@every_bijector
@both_directions
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_value_and_both_log_dets_cost_one_sweep(name, direction, compiled, rng, monkeypatch):
    bijector = make(name)
    sweeps = []
    for way in ("forward", "inverse"):
        whole = getattr(type(bijector), f"_{way}_and_log_det")
        monkeypatch.setattr(
            type(bijector),
            f"_{way}_and_log_det",
            lambda self, values, way=way, whole=whole: (sweeps.append(way), whole(self, values))[1],
        )
    other = "forward" if direction == "inverse" else "inverse"

    def ask(values):
        result = getattr(bijector, direction)(values)
        answers = log_det(bijector, direction, values), log_det(bijector, other, result)
        assert getattr(bijector, other)(result) is values
        return answers

    there, back = (tf.function(ask, autograph=False) if compiled else ask)(draw(rng, bijector, direction, (2,)))
    np.testing.assert_array_equal(there, -back)
    assert sweeps == [direction]


@pytest.mark.parametrize("name", [n for n in MAKE if n not in ("squeeze", "logit", "reverse", "shuffle")])
def test_a_new_tensor_sees_new_values_of_the_variables(name, rng):
    bijector = make(name)
    values = draw(rng, bijector, "inverse", (2,))
    before = bijector.inverse(values)
    randomize(bijector, rng)
    after = bijector.inverse(tf.identity(values))
    assert np.max(np.abs(after - before)) > 1e-2
    # Not out of the cache but as any other bijector with these variables computes it.
    np.testing.assert_array_equal(after, bijector.inverse_and_log_det(values)[0])


@pytest.mark.parametrize("name", [n for n in MAKE if n not in ("squeeze", "logit", "reverse", "shuffle")])
def test_two_of_a_kind_share_no_cache(name, rng):
    one, other = make(name, seed=3), make(name, seed=4)
    values = draw(rng, one, "inverse", (2,))
    first, second = one.inverse(values), other.inverse(values)
    np.testing.assert_array_equal(second, other.inverse_and_log_det(values)[0])
    assert np.max(np.abs(first - second)) > 1e-2


def test_the_contract_covers_every_bijector():
    def below(kind):
        return {kind, *(deeper for sub in kind.__subclasses__() for deeper in below(sub))}

    ours = {kind for kind in below(ImageBijector) if kind.__module__.startswith("glow_tf.")}
    concrete = {kind for kind in ours if not kind.__abstractmethods__}
    assert concrete == {type(make(name)) for name in MAKE}
