"""What a step of `Scan` must not do with tensors, since their gradients would be missing."""

import numpy as np
import pytest
import tensorflow as tf

from glow_tf.bijectors import AffineCoupling
from glow_tf.bijectors.scan import BACKPROP_MODES, Scan

NUM_STEPS = 3
EVENT = (2, 2, 4)


def capturing(captured, backprop, values):
    """The log-det of steps that capture a context."""

    def step(slices, residuals):
        def conditioner(seen):
            shift = tf.tanh(tf.tensordot(seen, slices["kernel"], axes=1))
            return shift, 0.5 * shift

        return AffineCoupling(conditioner, context=captured)

    kernel = tf.ones([NUM_STEPS, 3, 2])
    return Scan(step, {"kernel": kernel}, NUM_STEPS, backprop=backprop).inverse_and_log_det(values)[1]


@pytest.mark.parametrize("backprop", BACKPROP_MODES)
def test_a_captured_tensor_never_loses_its_gradient(backprop):
    values, weight = tf.ones([2, *EVENT]), tf.Variable(0.3)

    @tf.function(autograph=False)
    def gradients(data, constant):
        with tf.GradientTape() as tape:
            tape.watch(values)
            context = weight * data
            log_det = capturing(tf.stop_gradient(context) if constant else context, backprop, values)
        return tape.gradient(log_det, [values, weight])

    data = tf.ones([2, 2, 2, 1])
    message = r"`step` captures a tensor of shape \(2, 2, 2, 1\).* hand it over by Scan's argument `shared`"
    with pytest.raises(ValueError, match=message):
        gradients(data, constant=False)
    of_values, of_weight = gradients(data, constant=True)
    assert np.max(np.abs(of_values)) > 0.1 and of_weight is None

    # Data that nothing is differentiated by may be captured, and so may anything if there is no gradient.
    @tf.function(autograph=False)
    def gradient_beside_data(data):
        with tf.GradientTape() as tape:
            tape.watch(values)
            log_det = capturing(0.3 * data, backprop, values)
        return tape.gradient(log_det, values)

    np.testing.assert_array_equal(gradient_beside_data(data), of_values)
    without = tf.function(lambda: capturing(weight * data, backprop, values), autograph=False)
    np.testing.assert_allclose(without(), capturing(0.3 * data, backprop, values), rtol=1e-6)


@pytest.mark.parametrize("compiled", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("backprop", BACKPROP_MODES)
def test_a_captured_variable_is_an_error(backprop, compiled):
    context = tf.Variable(tf.ones([2, 2, 1]), name="context_of_mine")

    def gradient():
        with tf.GradientTape() as tape:
            log_det = capturing(context, backprop, tf.ones([2, *EVENT]))
        return tape.gradient(log_det, context)

    with pytest.raises(ValueError, match=r"`step` captures the variable context_of_mine.*by Scan's argument `shared`"):
        (tf.function(gradient, autograph=False) if compiled else gradient)()


@pytest.mark.parametrize("what", ["parameters", "shared"])
def test_reversible_steps_do_not_compute(what):
    values, context = tf.ones([2, 2, 2, 2]), tf.ones([2, 2, 2, 1])

    def step(slices, residuals, context):
        factor = 2.0 * (slices["factor"] if what == "parameters" else context)
        return AffineCoupling(lambda seen: (0.0, factor * tf.tanh(seen[..., :1])), context=context)

    @tf.function(autograph=False)
    def gradient(backprop):
        layer = Scan(step, {"factor": tf.ones([NUM_STEPS])}, NUM_STEPS, backprop=backprop, shared=context)
        with tf.GradientTape() as tape:
            tape.watch(context)
            log_det = layer.inverse_and_log_det(values)[1]
        return tape.gradient(log_det, context)

    if what == "shared":
        assert np.max(np.abs(gradient("stored"))) > 0.1
    with pytest.raises(ValueError, match='"reversible", `step` must hand its tensors to the bijector unchanged'):
        gradient("reversible")
