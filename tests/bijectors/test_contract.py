"""What holds for every bijector of the package."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from bijector_cases import MAKE, draw, log_det, make
from helpers import log_abs_det_jacobian, randomize

from glow_tf.bijectors import ImageBijector

tfb = tfp.bijectors

ROUND_TRIP = {"float64": 1e-12, "float32": 2e-5}
BATCHES = [(), (3,), (2, 3)]
every_bijector = pytest.mark.parametrize("name", MAKE)
every_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])
both_directions = pytest.mark.parametrize("direction", ["forward", "inverse"])


class Pass(NamedTuple):
    value: tf.Tensor
    log_det: tf.Tensor


def run(bijector, direction, values):
    values = tf.identity(values)
    return Pass(getattr(bijector, direction)(values), log_det(bijector, direction, values))


@every_bijector
@every_dtype
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_round_trip(name, dtype, batch, rng):
    bijector = make(name, dtype)
    for there, back in [("forward", "inverse"), ("inverse", "forward")]:
        values = draw(rng, bijector, there, batch)
        result = run(bijector, there, values)
        assert result.value.shape == batch + getattr(bijector, f"{there}_event_shape")(values.shape[-3:])
        assert result.log_det.shape == batch
        assert result.value.dtype == result.log_det.dtype == values.dtype
        again = run(bijector, back, result.value)
        np.testing.assert_allclose(again.value, values, rtol=0, atol=ROUND_TRIP[dtype])
        np.testing.assert_allclose(again.log_det, -result.log_det, rtol=ROUND_TRIP[dtype], atol=ROUND_TRIP[dtype])


@every_bijector
@both_directions
def test_log_det(name, direction, rng):
    bijector = make(name)
    values = draw(rng, bijector, direction)
    expected = log_abs_det_jacobian(getattr(bijector, direction), values)
    np.testing.assert_allclose(log_det(bijector, direction, values), expected, rtol=1e-9, atol=1e-9)


@every_bijector
def test_batch_is_independent(name, rng):
    bijector = make(name)
    values = draw(rng, bijector, "inverse", (2, 3))
    together = run(bijector, "inverse", values)
    for index in np.ndindex(2, 3):
        alone = run(bijector, "inverse", values[index])
        np.testing.assert_allclose(together.value[index], alone.value, rtol=0, atol=1e-13)
        np.testing.assert_allclose(together.log_det[index], alone.log_det, rtol=0, atol=1e-12)


@every_bijector
@both_directions
def test_unknown_batch(name, direction, rng):
    bijector = make(name)

    @tf.function(autograph=False)
    def compiled(values):
        return run(bijector, direction, values)

    for batch in BATCHES[1:]:
        values = draw(rng, bijector, direction, batch)
        event = values.shape[-3:]
        concrete = compiled.get_concrete_function(tf.TensorSpec([None] * len(batch) + event, bijector.dtype))
        result, expected = concrete(values), run(bijector, direction, values)
        np.testing.assert_allclose(result.value, expected.value, rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.log_det, expected.log_det, rtol=0, atol=1e-12)
        # The layers after this one need a static event.
        assert concrete.structured_outputs.value.shape[-3:] == expected.value.shape[-3:]


@every_bijector
@both_directions
def test_gradients(name, direction, rng):
    bijector = make(name)
    values = tf.Variable(draw(rng, bijector, direction, (2,)))
    variables = [values, *bijector.trainable_variables]
    weights = run(bijector, direction, values)
    weights = [tf.constant(rng.standard_normal(w.shape)) for w in weights]

    @tf.function(autograph=False)
    def loss():
        return sum(tf.reduce_sum(w * r) for w, r in zip(weights, run(bijector, direction, values), strict=True))

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
def test_inverse_vjp(name, rng):
    bijector = make(name)
    x = draw(rng, bijector, "inverse", (2,))
    parameters = list(bijector.trainable_variables)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z, ildj = bijector.inverse_and_log_det(x)
    dz, dlog_det = tf.constant(rng.standard_normal(z.shape)), tf.constant(rng.standard_normal(ildj.shape))
    expected = tape.gradient([z, ildj], [x, *parameters], output_gradients=[dz, dlog_det])
    x_again, dx, dparameters = bijector.inverse_vjp(z, dz, dlog_det, parameters)
    np.testing.assert_allclose(x_again, x, rtol=0, atol=1e-12)
    for found, wanted in zip([dx, *dparameters], expected, strict=True):
        assert (found is None) == (wanted is None)
        if wanted is not None:
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-11)


@every_bijector
def test_inverted(name, rng):
    bijector = make(name)
    inverted = tfb.Invert(bijector)
    for there, back in [("forward", "inverse"), ("inverse", "forward")]:
        values = draw(rng, bijector, there, (2,))
        expected = run(bijector, there, values)
        result = run(inverted, back, values)
        np.testing.assert_array_equal(result.value, expected.value)
        np.testing.assert_array_equal(result.log_det, expected.log_det)
        assert getattr(inverted, f"{back}_event_shape")(values.shape[-3:]) == expected.value.shape[-3:]


@every_bijector
@both_directions
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_one_pass(name, direction, compiled, rng, monkeypatch):
    bijector = make(name)
    passes = []
    for way in ("forward", "inverse"):
        whole = getattr(type(bijector), f"_{way}_and_log_det")
        monkeypatch.setattr(
            type(bijector),
            f"_{way}_and_log_det",
            lambda self, values, way=way, whole=whole: (passes.append(way), whole(self, values))[1],
        )
    other = "forward" if direction == "inverse" else "inverse"

    def ask(values):
        result = getattr(bijector, direction)(values)
        answers = log_det(bijector, direction, values), log_det(bijector, other, result)
        assert getattr(bijector, other)(result) is values
        return answers

    there, back = (tf.function(ask, autograph=False) if compiled else ask)(draw(rng, bijector, direction, (2,)))
    np.testing.assert_array_equal(there, -back)
    assert passes == [direction]


@pytest.mark.parametrize("name", [n for n in MAKE if n not in ("squeeze", "reverse", "shuffle")])
def test_sees_assigned_variables(name, rng):
    bijector = make(name)
    values = draw(rng, bijector, "inverse", (2,))
    before = bijector.inverse(values)
    randomize(bijector, rng)
    after = bijector.inverse(tf.identity(values))
    assert np.max(np.abs(after - before)) > 1e-2
    # Not out of the cache but as any other bijector with these variables computes it.
    np.testing.assert_array_equal(after, bijector.inverse_and_log_det(values)[0])


@pytest.mark.parametrize("name", [n for n in MAKE if n not in ("squeeze", "reverse", "shuffle")])
def test_cache_is_per_instance(name, rng):
    one, other = make(name, seed=3), make(name, seed=4)
    values = draw(rng, one, "inverse", (2,))
    first, second = one.inverse(values), other.inverse(values)
    np.testing.assert_array_equal(second, other.inverse_and_log_det(values)[0])
    assert np.max(np.abs(first - second)) > 1e-2


def test_contract_is_complete():
    def below(kind):
        return {kind, *(deeper for sub in kind.__subclasses__() for deeper in below(sub))}

    ours = {kind for kind in below(ImageBijector) if kind.__module__.startswith("glow_tf.")}
    concrete = {kind for kind in ours if not kind.__abstractmethods__}
    assert concrete == {type(make(name)) for name in MAKE}
