"""Applies one bijector K times, each time with its own slice of stacked parameters, in one loop.

The graph holds the step once, so that tracing, compiling and start-up do not grow with K. The idea is that
of `flax.linen.scan`.
"""

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, batch_shape
from glow_tf.bijectors.residuals import SaveResiduals, UseResiduals, vjp

BACKPROP_MODES = ("stored", "recompute", "reversible")


class Scan(ImageBijector):
    """A chain of K steps that differ in their parameters only.

    inverse: for k = 0 .. K-1:  y = step(slice k of the parameters).inverse(y)
    forward: the same steps from K-1 down to 0
    log-det: the sum over the steps, shape [...], nats

    Args:
        step: ({name: tensor}, memory) -> a ImageBijector that keeps the event shape; the tensors are those of
            `parameters` without their leading axis. It hands them on as they are: what is computed from
            them belongs into the bijector's own methods or into `prepare`, where gradients see it. `memory` is for
            what the bijector computes at most cost (see `bijectors.memory`), or None.
        parameters: {name: variable or tensor [K, ...]}.
        num_steps: K.
        prepare: called once a sweep, outside the loop, on {name: tensor [K, ...]} and the directions that
            the sweep will use (a tuple of "forward", "inverse"); what it returns, tensors with the same
            leading axis, is what is sliced. For what is cheaper for all K at once, such as a matrix from
            its factors. None: the identity.
        backprop: how the backward pass gets what it needs; the results are equal.
            "stored": keeps each step's input and what the step gives to its memory, and runs the rest of one step
            again at a time; nearly nothing is computed twice, and memory grows with K times what is kept, even where
            no gradient is asked for.
            "recompute": keeps each step's input, only as large as the image, and runs one whole step again
            at a time; exact, a third more arithmetic.
            "reversible": keeps nothing and rebuilds each step's input from its output (inverse sweeps; a
            forward sweep recomputes instead); the rebuilt input carries the round trip's rounding error.
            First derivatives only: that the rebuilt input depends on the result is not differentiated.
    Raises:
        ValueError: if `backprop` is none of these or the parameters' leading axes are not `num_steps`.

    >>> from glow_tf.bijectors.actnorm import ActNorm
    >>> parameters = {"shift": tf.zeros([3, 2]), "log_scale": tf.ones([3, 2])}
    >>> layer = Scan(lambda slices, memory: ActNorm(**slices), parameters, num_steps=3)
    >>> layer.inverse_and_log_det(tf.ones([1, 4, 4, 2]))[1].numpy().tolist()
    [96.0]
    """

    def __init__(
        self, step, parameters, num_steps, prepare=None, backprop="recompute", dtype=tf.float32, name="repeated"
    ):
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
        if reversible:
            return loop.run_reversible(values, *stacked.values())
        return loop.run_keeping(values, *stacked.values(), remembers=self.backprop == "stored")


class _Loop:
    """The K turns of one direction, and the ways back through them.

    Args:
        step, num_steps: as in `Scan`.
        inverse: the direction.
        names: of the stacked tensors, in the order in which the methods take them.
    """

    def __init__(self, step, num_steps, inverse, names):
        self.step = step
        self.num_steps = num_steps
        self.inverse = inverse
        self.names = names

    def run_keeping(self, values, *stacked, remembers):
        """With each step's input kept for the way back, and where `remembers` what the steps give to their memory."""
        one_step = self._traced_step(values, stacked) if remembers else None
        specs = one_step.structured_outputs[1] if remembers else []

        @tf.custom_gradient
        def run(values, *stacked):
            # Not cleared when read: a persistent tape may ask for gradients more than once.
            arrays = [
                tf.TensorArray(spec.dtype, self.num_steps, element_shape=spec.shape, clear_after_read=False)
                for spec in (values, *tf.nest.flatten(specs))
            ]

            def turn(k, values):
                slices = _slices(stacked, k)
                if not remembers:
                    return self._apply(values, slices), [values]
                # Of watched arguments TensorFlow would trace the function's gradient, too; this loop has its own.
                result, kept = one_step(values, *map(tf.stop_gradient, slices))
                return result, [values, *tf.nest.flatten(kept)]

            result, log_det, arrays = self._run(values, turn, arrays)

            def gradient(dresult, dlog_det):
                def back_one(k, carried, dvalues, slices):
                    x, *kept = (array.read(k) for array in arrays)
                    memory = UseResiduals(tf.nest.pack_sequence_as(specs, kept)) if remembers else None
                    dx, *dslices = vjp(
                        lambda x, *watched: self._apply(x, _filled_in(slices, watched), memory),
                        [x, *_differentiable(slices)],
                        [dvalues, dlog_det],
                    )
                    return carried, dx, dslices

                nothing = tf.zeros([], values.dtype)
                return self._run_back(back_one, nothing, dresult, stacked)

            return (result, log_det), gradient

        return run(values, *stacked)

    def _traced_step(self, values, stacked):
        """(values, *slices) -> ((values, log-det), what the step gives to its memory), as a concrete function.

        The arrays of what is kept must be made before the loop that fills them, so the step is traced before it.
        """

        def one_step(values, *slices):
            memory = SaveResiduals()
            return self._apply(values, slices, memory), memory.kept

        slices = [tf.TensorSpec(t.shape[1:], t.dtype) for t in stacked]
        function = tf.function(one_step, autograph=False)
        return function.get_concrete_function(tf.TensorSpec(values.shape, values.dtype), *slices)

    def run_reversible(self, values, *stacked):
        @tf.custom_gradient
        def run(values, *stacked):
            result, log_det, _ = self._run(values, lambda k, values: (self._apply(values, _slices(stacked, k)), []))

            def gradient(dresult, dlog_det):
                def back_one(_, y, dvalues, slices):
                    step = self.step(dict(zip(self.names, slices, strict=True)), None)
                    return step.inverse_vjp(y, dvalues, dlog_det, _differentiable(slices))

                return self._run_back(back_one, result, dresult, stacked)

            return (result, log_det), gradient

        return run(values, *stacked)

    def _run(self, values, apply, arrays=()):
        """All turns: (values, log-det, arrays).

        Args:
            apply: (k, values) -> ((values, log-det), [what to write into each of `arrays`]).
            arrays: TensorArrays of K elements.
        """

        def turn(i, values, log_det, arrays):
            k = self._step_of_turn(i)
            (new_values, step_log_det), kept = apply(k, values)
            new_values.set_shape(values.shape)
            arrays = [array.write(k, tensor) for array, tensor in zip(arrays, kept, strict=True)]
            return i + 1, new_values, log_det + step_log_det, arrays

        zeros = tf.zeros(batch_shape(values), values.dtype)
        _, values, log_det, arrays = tf.while_loop(
            lambda i, *_: i < self.num_steps,
            turn,
            (tf.constant(0), values, zeros, list(arrays)),
            maximum_iterations=self.num_steps,
        )
        log_det.set_shape(values.shape[:-3])
        return values, log_det, arrays

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
            new_carried, new_dvalues, dslices = back_one(k, carried, dvalues, _slices(stacked, k))
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

    def _apply(self, values, slices, memory=None):
        step = self.step(dict(zip(self.names, slices, strict=True)), memory)
        return step.inverse_and_log_det(values) if self.inverse else step.forward_and_log_det(values)


def _slices(stacked, k):
    """[tensor[k] for each tensor]; bounds made for each, not once for all, would be a third of a loop's operations."""
    begin = tf.reshape(k, [1])
    end, strides = begin + 1, tf.ones([1], tf.int32)
    return [tf.strided_slice(tensor, begin, end, strides, shrink_axis_mask=1) for tensor in stacked]


def _differentiable(tensors):
    return [t for t in tensors if t.dtype.is_floating]


def _filled_in(tensors, differentiable):
    """The tensors, with these in the places of the differentiable ones."""
    following = iter(differentiable)
    return [next(following) if t.dtype.is_floating else t for t in tensors]
