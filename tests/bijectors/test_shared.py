"""`Scan` with tensors that all its steps share, against the chain of its steps."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf.bijectors import ActNorm, AffineCoupling, ChannelPermutation, FlowStep
from glow_tf.bijectors.scan import BACKPROP_MODES, Scan

tfb = tfp.bijectors

NUM_STEPS = 3
EVENT = (2, 2, 4)
LABELS = tf.constant([2, 0])


def conditional_step(slices, residuals, shared):
    """Sees a context and, by integers, one row of a table for each image."""

    def conditioner(seen):
        of_image = tf.gather(shared["table"], shared["labels"])[:, tf.newaxis, tf.newaxis]
        shift = tf.tanh(tf.tensordot(seen, slices["kernel"], axes=1) + of_image)
        return shift, 0.5 * shift

    coupling = AffineCoupling(conditioner, shared["context"].dtype, context=shared["context"])
    return FlowStep(ActNorm(**slices["actnorm"]), ChannelPermutation([3, 1, 0, 2], coupling.dtype), coupling)


class Case:
    """A conditional flow as a scan and as a chain, and everything to differentiate it by."""

    def __init__(self, rng, dtype=tf.float64):
        def draw(*shape):
            return tf.constant(0.5 * rng.standard_normal(shape), dtype)

        self.values, self.context = draw(2, *EVENT), draw(2, 2, 2, 1)
        self.table = tf.Variable(draw(3, 2))
        actnorm = {"shift": draw(NUM_STEPS, 4), "log_scale": draw(NUM_STEPS, 4)}
        self.parameters = {"kernel": draw(NUM_STEPS, 3, 2), "actnorm": actnorm}
        self.weights = draw(2, *EVENT)
        self.sources = [self.values, self.context, self.table, self.parameters["kernel"], actnorm["shift"]]

    def shared(self, context=None):
        return {"table": self.table, "labels": LABELS, "context": self.context if context is None else context}

    def scan(self, backprop, **shared):
        dtype = self.values.dtype
        return Scan(
            conditional_step,
            self.parameters,
            NUM_STEPS,
            backprop=backprop,
            dtype=dtype,
            shared=self.shared(**shared),
        )

    def chain(self):
        slices = [tf.nest.map_structure(lambda t, k=k: t[k], self.parameters) for k in range(NUM_STEPS)]
        return tfb.Chain([conditional_step(part, None, self.shared()) for part in slices])

    def results(self, make_bijector, direction, order=1):
        """[value, log-det, the gradients of a nonlinear function of both, and then those of the gradients]."""
        with tf.GradientTape() as outer, tf.GradientTape() as tape:
            for one in (outer, tape):
                one.watch(self.sources)
            bijector = make_bijector()
            result = getattr(bijector, direction)(self.values)
            log_det = getattr(bijector, f"{direction}_log_det_jacobian")(self.values, event_ndims=3)
            loss = tf.reduce_sum(self.weights * result) + tf.reduce_sum(log_det * log_det)
            gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, self.sources)]
            if order == 2:
                total = sum(tf.reduce_sum(tf.sin(gradient)) for gradient in gradients)
        second = outer.gradient(total, self.sources) if order == 2 else []
        return [result, log_det, *gradients, *map(tf.convert_to_tensor, second)]


def assert_equal(found, expected, tolerance=1e-12):
    for got, wanted in zip(found, expected, strict=True):
        scale = np.max(np.abs(wanted))
        assert scale > 1e-3, "no test: about zero"
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("direction", "compiled"),
    [("inverse", True), ("inverse", False), ("forward", False)],
    ids=["inverse-graph", "inverse-eager", "forward-eager"],
)
def test_gradients_are_those_of_the_chain(direction, compiled, rng):
    case = Case(rng)
    expected = case.results(case.chain, direction)
    for backprop in BACKPROP_MODES:
        run = lambda backprop=backprop: case.results(lambda: case.scan(backprop), direction)  # noqa: E731
        assert_equal((tf.function(run, autograph=False) if compiled else run)(), expected)


@pytest.mark.parametrize("compiled", [True, False], ids=["graph", "eager"])
def test_second_derivatives(compiled, rng):
    case = Case(rng)
    run = lambda: case.results(lambda: case.scan("recompute"), "inverse", order=2)  # noqa: E731
    expected = case.results(case.chain, "inverse", order=2)
    assert_equal((tf.function(run, autograph=False) if compiled else run)(), expected, 1e-10)
    for backprop in ("stored", "reversible"):
        with pytest.raises(NotImplementedError, match="second derivatives"):
            case.results(lambda backprop=backprop: case.scan(backprop), "inverse", order=2)


@pytest.mark.parametrize("backprop", ["stored", "reversible"])
def test_jacobian(backprop, rng):
    case = Case(rng)

    def jacobians(make_bijector):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(case.context)
            log_det = make_bijector().inverse_and_log_det(case.values)[1]
        return tape.jacobian(log_det, [case.context, case.table])

    class Chain:
        def inverse_and_log_det(self, values):
            return None, case.chain().inverse_log_det_jacobian(values, event_ndims=3)

    assert_equal(jacobians(lambda: case.scan(backprop)), jacobians(Chain), 1e-10)


@pytest.mark.parametrize("backprop", BACKPROP_MODES)
def test_batches_of_unknown_size(backprop, rng):
    case = Case(rng, tf.float32)
    specs = [tf.TensorSpec([None, None, *EVENT]), tf.TensorSpec([None, 2, 2, 1])]

    @tf.function(input_signature=specs, autograph=False)
    def gradients(values, context):
        with tf.GradientTape() as tape:
            tape.watch(context)
            log_det = case.scan(backprop, context=context).inverse_and_log_det(values)[1]
        return log_det, tape.gradient(log_det, context)

    log_det, gradient = gradients(tf.stack([case.values] * 3), case.context)
    once, gradient_of_once = gradients(case.values[tf.newaxis], case.context)
    np.testing.assert_allclose(log_det, tf.repeat(once, 3, axis=0), rtol=1e-5)
    np.testing.assert_allclose(gradient, 3 * gradient_of_once, rtol=1e-4, atol=1e-6)
    empty = [t.numpy() for t in gradients(tf.zeros([0, 2, *EVENT]), case.context)]
    assert empty[0].shape == (0, 2)
    np.testing.assert_array_equal(empty[1], tf.zeros_like(case.context))


def test_another_context_by_copy(rng):
    case = Case(rng)
    one = case.scan("recompute")
    other = one.copy(shared=case.shared(2 * case.context))
    assert np.max(np.abs(one.inverse(case.values) - other.inverse(case.values))) > 1e-3
    assert case.table.ref() in {variable.ref() for variable in other.trainable_variables}
