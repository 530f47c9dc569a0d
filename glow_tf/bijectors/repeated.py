"""Applies one bijector K times, each time with its own slice of stacked parameters, in one loop.

The graph holds the step once, so that tracing, compiling and start-up do not grow with K. The idea is that
of `flax.linen.scan`.
"""

import tensorflow as tf

from glow_tf.bijectors.base import OneSweepBijector

BACKPROP_MODES = ("stored", "recompute", "reversible")


class Repeated(OneSweepBijector):
    """A chain of K steps that differ in their parameters only.

    inverse: for k = 0 .. K-1:  y = step(slice k of the parameters).inverse(y)
    forward: the same steps from K-1 down to 0
    log-det: the sum over the steps, shape [...], nats

    Args:
        step: {name: tensor} -> a OneSweepBijector that keeps the event shape; the tensors are those of
            `parameters` without their leading axis. It hands them on as they are: what is computed from
            them belongs into the bijector's own methods or into `prepare`, where gradients see it.
        parameters: {name: variable or tensor [K, ...]}.
        num_steps: K.
        prepare: called once a sweep, outside the loop, on {name: tensor [K, ...]} and the directions that
            the sweep will use (a tuple of "forward", "inverse"); what it returns, tensors with the same
            leading axis, is what is sliced. For what is cheaper for all K at once, such as a matrix from
            its factors. None: the identity.
        backprop: how the backward pass gets what it needs; the results are equal.
            "stored": ordinary autodiff; memory grows with K times what a step computes.
            "recompute": keeps each step's input, only as large as the image, and runs one step again
            at a time; exact, a third more arithmetic.
            "reversible": keeps nothing and rebuilds each step's input from its output (inverse sweeps; a
            forward sweep recomputes instead); the rebuilt input carries the round trip's rounding error.
            First derivatives only: that the rebuilt input depends on the result is not differentiated.
    Raises:
        ValueError: if `backprop` is none of these or the parameters' leading axes are not `num_steps`.

    >>> from glow_tf.bijectors.actnorm import ActNorm
    >>> parameters = {"shift": tf.zeros([3, 2]), "log_scale": tf.ones([3, 2])}
    >>> layer = Repeated(lambda slices: ActNorm(**slices), parameters, num_steps=3)
    >>> layer.inverse_and_log_det(tf.ones([1, 4, 4, 2]))[1].numpy().tolist()
    [96.0]
    """

    def __init__(self, step, parameters, num_steps, prepare=None, backprop="stored", dtype=tf.float32, name="repeated"):
        if backprop not in BACKPROP_MODES:
            raise ValueError(f"backprop is {backprop!r}; it can be {', '.join(BACKPROP_MODES)}")
        for key, value in parameters.items():
            if value.shape[0] != num_steps:
                raise ValueError(f"parameter {key} holds {value.shape[0]} steps, not {num_steps}")
        super().__init__(dtype=dtype, name=name)
        self.step = step
        self.parameters_by_name = parameters
        self.num_steps = num_steps
        self.prepare = prepare
        self.backprop = backprop

    def _forward_and_log_det(self, x):
        return self._sweep(x, inverse=False)

    def _inverse_and_log_det(self, y):
        return self._sweep(y, inverse=True)

    def _sweep(self, values, inverse):
        # The variables are read here, once: inside the loop every turn would read all K slices.
        stacked = {name: tf.convert_to_tensor(value) for name, value in self.parameters_by_name.items()}
        reversible = self.backprop == "reversible" and inverse
        if self.prepare is not None:
            directions = ("inverse", "forward") if reversible else ("inverse",) if inverse else ("forward",)
            stacked = self.prepare(stacked, directions)
        loop = _Loop(self.step, self.num_steps, inverse, list(stacked))
        if self.backprop == "stored":
            return loop.run_stored(values, *stacked.values())
        if reversible:
            return loop.run_reversible(values, *stacked.values())
        return loop.run_recompute(values, *stacked.values())


class _Loop:
    """The K turns of one direction, and the three ways back through them.

    Args:
        step, num_steps: as in `Repeated`.
        inverse: the direction.
        names: of the stacked tensors, in the order in which the methods take them.
    """

    def __init__(self, step, num_steps, inverse, names):
        self.step = step
        self.num_steps = num_steps
        self.inverse = inverse
        self.names = names

    def run_stored(self, values, *stacked):
        # Arrays of K elements: autodiff through `tensor[k]` would add up a gradient of all K slices a turn.
        arrays = [
            tf.TensorArray(t.dtype, self.num_steps, element_shape=t.shape[1:], clear_after_read=False).unstack(t)
            for t in stacked
        ]
        return self._run(values, lambda k: [array.read(k) for array in arrays])

    def run_recompute(self, values, *stacked):
        @tf.custom_gradient
        def run(values, *stacked):
            # Not cleared when read: a persistent tape may ask for gradients more than once.
            inputs = tf.TensorArray(
                values.dtype, self.num_steps, element_shape=values.shape, clear_after_read=False
            )
            result, log_det, inputs = self._run(values, lambda k: [t[k] for t in stacked], inputs)

            def gradient(dresult, dlog_det):
                def back_one(k, carried, dvalues, slices):
                    x = inputs.read(k)
                    with tf.GradientTape(watch_accessed_variables=False) as tape:
                        watched = _differentiable(slices)
                        tape.watch([x, *watched])
                        y, step_log_det = self._apply(x, slices)
                    dx, *dslices = tape.gradient([y, step_log_det], [x, *watched], output_gradients=[dvalues, dlog_det])
                    return carried, dx, dslices

                nothing = tf.zeros([], values.dtype)
                return self._run_back(back_one, nothing, dresult, stacked)

            return (result, log_det), gradient

        return run(values, *stacked)

    def run_reversible(self, values, *stacked):
        @tf.custom_gradient
        def run(values, *stacked):
            result, log_det = self._run(values, lambda k: [t[k] for t in stacked])

            def gradient(dresult, dlog_det):
                def back_one(_, y, dvalues, slices):
                    step = self.step(dict(zip(self.names, slices, strict=True)))
                    return step.inverse_backward(y, dvalues, dlog_det, _differentiable(slices))

                return self._run_back(back_one, result, dresult, stacked)

            return (result, log_det), gradient

        return run(values, *stacked)

    def _run(self, values, slices_of, inputs=None):
        """All turns: (values, log-det), and the array of the turns' inputs where one is given to fill."""

        def turn(i, values, log_det, *inputs):
            k = self._step_of_turn(i)
            inputs = [array.write(k, values) for array in inputs]
            new_values, step_log_det = self._apply(values, slices_of(k))
            new_values.set_shape(values.shape)
            return i + 1, new_values, log_det + step_log_det, *inputs

        zeros = tf.zeros(tf.shape(values)[:-3], values.dtype)
        state = (tf.constant(0), values, zeros, *([] if inputs is None else [inputs]))
        _, *results = tf.while_loop(
            lambda i, *_: i < self.num_steps, turn, state, maximum_iterations=self.num_steps
        )
        results[1].set_shape(values.shape[:-3])
        return tuple(results)

    def _run_back(self, back_one, carried, dvalues, stacked):
        """The turns in reverse: the gradients of the values and of every stacked tensor.

        Args:
            back_one: (k, carried, dvalues, slices) -> (carried, dvalues, gradients of the differentiable slices).
        """
        differentiable = _differentiable(stacked)
        # Written one slice at a time: nothing that is K slices large is touched in a turn.
        gradients = [tf.TensorArray(t.dtype, self.num_steps, element_shape=t.shape[1:]) for t in differentiable]

        def turn(i, carried, dvalues, gradients):
            k = self._step_of_turn(i)
            new_carried, new_dvalues, dslices = back_one(k, carried, dvalues, [t[k] for t in stacked])
            new_carried.set_shape(carried.shape)
            new_dvalues.set_shape(dvalues.shape)
            written = [
                array.write(k, tf.zeros(t.shape[1:], t.dtype) if d is None else d)
                for array, t, d in zip(gradients, differentiable, dslices, strict=True)
            ]
            return i - 1, new_carried, new_dvalues, written

        _, _, dvalues, gradients = tf.while_loop(
            lambda i, *_: i >= 0,
            turn,
            (tf.constant(self.num_steps - 1), carried, dvalues, gradients),
            maximum_iterations=self.num_steps,
        )
        by_tensor = dict(zip(map(id, differentiable), gradients, strict=True))
        return dvalues, *(by_tensor[id(t)].stack() if id(t) in by_tensor else None for t in stacked)

    def _step_of_turn(self, i):
        return i if self.inverse else self.num_steps - 1 - i

    def _apply(self, values, slices):
        step = self.step(dict(zip(self.names, slices, strict=True)))
        return step.inverse_and_log_det(values) if self.inverse else step.forward_and_log_det(values)


def _differentiable(tensors):
    return [t for t in tensors if t.dtype.is_floating]
