"""Applies one bijector K times, each time with its own slice of stacked parameters, in one loop.

The graph contains the step once, so that the time for tracing, compilation and start-up does not grow with K. The idea
is that of `flax.linen.scan`. The functions `scan_recomputing`, `scan_saving` and `scan_reversible` compute the same
results and gradients; they differ in what the forward pass saves for the backward pass. Read `_Steps` first: it holds
the forward and the backward loop of all three.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, batch_shape, with_nonempty_batch
from glow_tf.bijectors.residuals import Residuals, SaveResiduals, UseResiduals, vjp

BACKPROP_MODES = ("stored", "recompute", "reversible")

Parameters = Any  # a nested dictionary of tensors


class Scan(ImageBijector):
    """A chain of K steps that differ only in their parameters.

    inverse: for k = 0 .. K-1:  x = step(slice k of the parameters).inverse(x);  z = x
    forward: the same steps from K-1 down to 0
    log-det: the sum over the steps, shape [...], nats

    Args:
        step: (parameters of one step, residuals) -> an ImageBijector that preserves the event shape. The parameters
            are slices of the stacked ones. `step` must hand them to the bijector unchanged; anything computed from them
            belongs in the bijector's methods or in `prepare`, since `scan_reversible` calls `step` outside the tape.
            `residuals` is for the step's most expensive computation (see `residuals.checkpoint`).
        parameters: nested dictionary of variables or tensors [K, ...].
        num_steps: K.
        prepare: (stacked parameters, directions) -> stacked parameters to slice, called once per pass, outside the
            loop, for computations that are cheaper for all K steps at once, such as a matrix from its factors.
            `directions` is a tuple of "forward" or "inverse" or both, those that the pass uses. Default: the identity.
        backprop: what the forward pass saves; values and gradients are equal.
            "stored": each step's input and residuals (`scan_saving`). Almost nothing is computed twice. Takes memory
            for K times the residuals, even if no gradient is taken. First derivatives only.
            "recompute": each step's input, which is as large as the image (`scan_recomputing`). A third more
            arithmetic; derivatives of any order.
            "reversible": nothing but the result (`scan_reversible`), from which the backward pass reconstructs each
            step's input, with the rounding error of the round trip. This is for `inverse`; in `forward` it means
            "recompute". First derivatives only.

    Raises:
        ValueError: if `backprop` is none of these or the parameters' leading axes are not `num_steps`.

    >>> from glow_tf.bijectors import ActNorm
    >>> parameters = {"shift": tf.zeros([3, 2]), "log_scale": tf.ones([3, 2])}
    >>> layer = Scan(lambda slices, residuals: ActNorm(**slices), parameters, num_steps=3)
    >>> layer.inverse_and_log_det(tf.ones([1, 4, 4, 2]))[1].numpy().tolist()
    [96.0]
    """

    def __init__(
        self,
        step: Callable[[Parameters, Residuals], ImageBijector],
        parameters: Parameters,
        num_steps: int,
        prepare: Callable[[Parameters, tuple[str, ...]], Parameters] | None = None,
        backprop: str = "recompute",
        dtype: tf.DType = tf.float32,
        name: str = "scan",
    ) -> None:
        arguments = dict(locals())
        if backprop not in BACKPROP_MODES:
            raise ValueError(f"backprop is {backprop!r}; it can be {', '.join(BACKPROP_MODES)}")
        for value in tf.nest.flatten(parameters):
            if value.shape[0] != num_steps:
                raise ValueError(f"a parameter has shape {tuple(value.shape)}; its first axis must be {num_steps} long")
        super().__init__(dtype=dtype, parameters=arguments, name=name)
        self.step = step
        self.stacked_parameters = parameters
        self.num_steps = num_steps
        self.prepare = prepare
        self.backprop = backprop

    def _forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._scan(z, inverse=False)

    def _inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._scan(x, inverse=True)

    def _scan(self, values: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        # Variables are read here, once: inside the loop, each iteration would read all K slices.
        stacked = tf.nest.map_structure(tf.convert_to_tensor, self.stacked_parameters)
        reversible = self.backprop == "reversible" and inverse
        if self.prepare is not None:
            directions = ("inverse", "forward") if reversible else ("inverse",) if inverse else ("forward",)
            stacked = self.prepare(stacked, directions)
        steps = _Steps(self.step, stacked, self.num_steps, inverse)
        scan = scan_reversible if reversible else scan_saving if self.backprop == "stored" else scan_recomputing
        return with_nonempty_batch(functools.partial(scan, steps), values)


def scan_recomputing(steps: "_Steps", values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Saves the input of every step; the backward pass runs each step a second time, under a tape."""

    @tf.custom_gradient
    def scan(values: tf.Tensor, *stacked: tf.Tensor) -> tuple[Any, Callable]:
        def body(k: tf.Tensor, values: tf.Tensor) -> tuple[Any, list[tf.Tensor]]:
            return steps.apply(k, values, slices(stacked, k)), [values]

        result, log_det, saved = steps.loop(body, values, [values])

        def backward(dresult: tf.Tensor, dlog_det: tf.Tensor) -> Any:
            (saved_inputs,) = saved.arrays()

            def step_vjp(k: tf.Tensor, carry: tf.Tensor, dvalues: tf.Tensor) -> tuple[tf.Tensor, list]:
                apply = lambda values, *parameters: steps.apply(k, values, parameters)  # noqa: E731
                return carry, vjp(apply, [saved_inputs.read(k), *slices(stacked, k)], [dvalues, dlog_det])

            nothing = tf.zeros([], values.dtype)  # only `scan_reversible` carries something from step to step
            return steps.loop_back(step_vjp, nothing, dresult, stacked)

        return (result, log_det), backward

    return scan(values, *steps.stacked)


def scan_saving(steps: "_Steps", values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Saves the input and the residuals of every step; the backward pass reuses them and recomputes what is cheap."""

    # Traced before the loop, which needs the residuals' shapes for its arrays.
    def traced(k: tf.Tensor, values: tf.Tensor, *parameters: tf.Tensor) -> tuple[Any, list[list[tf.Tensor]]]:
        residuals = SaveResiduals()
        return steps.apply(k, values, parameters, residuals), residuals.saved

    specs = [tf.TensorSpec([], tf.int32), tf.TensorSpec(values.shape, values.dtype)]
    specs += [tf.TensorSpec(t.shape[1:], t.dtype) for t in steps.stacked]
    apply_and_save = tf.function(traced, autograph=False).get_concrete_function(*specs)
    residual_specs = apply_and_save.structured_outputs[1]

    @tf.custom_gradient
    def scan(values: tf.Tensor, *stacked: tf.Tensor) -> tuple[Any, Callable]:
        def body(k: tf.Tensor, values: tf.Tensor) -> tuple[Any, list[tf.Tensor]]:
            # If its arguments were watched, TensorFlow would also trace the function's gradient, which is not used.
            result, residuals = apply_and_save(k, values, *map(tf.stop_gradient, slices(stacked, k)))
            return result, [values, *tf.nest.flatten(residuals)]

        result, log_det, saved = steps.loop(body, values, [values, *tf.nest.flatten(residual_specs)])

        # `values` is an argument because what was saved depends on it.
        @_first_derivatives_only("stored")
        def backward(dresult: tf.Tensor, dlog_det: tf.Tensor, values: tf.Tensor, *stacked: tf.Tensor) -> Any:
            arrays = saved.arrays()

            def step_vjp(k: tf.Tensor, carry: tf.Tensor, dvalues: tf.Tensor) -> tuple[tf.Tensor, list]:
                inputs, *flat = (array.read(k) for array in arrays)
                residuals = UseResiduals(tf.nest.pack_sequence_as(residual_specs, flat))
                apply = lambda values, *parameters: steps.apply(k, values, parameters, residuals)  # noqa: E731
                return carry, vjp(apply, [inputs, *slices(stacked, k)], [dvalues, dlog_det])

            return steps.loop_back(step_vjp, tf.zeros([], values.dtype), dresult, stacked)

        return (result, log_det), lambda *dresults: backward(*dresults, values, *stacked)

    return scan(values, *steps.stacked)


def scan_reversible(steps: "_Steps", values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Saves nothing but the result, from which the backward pass reconstructs the input of every step."""

    @tf.custom_gradient
    def scan(values: tf.Tensor, *stacked: tf.Tensor) -> tuple[Any, Callable]:
        def body(k: tf.Tensor, values: tf.Tensor) -> tuple[Any, list[tf.Tensor]]:
            return steps.apply(k, values, slices(stacked, k)), []

        result, log_det, _ = steps.loop(body, values, [])

        # All tensors that the gradients depend on are arguments, so that second derivatives by any of them are refused.
        @_first_derivatives_only("reversible")
        def backward(dresult: tf.Tensor, dlog_det: tf.Tensor, result: tf.Tensor, *stacked: tf.Tensor) -> Any:
            def step_vjp(k: tf.Tensor, outputs: tf.Tensor, dvalues: tf.Tensor) -> tuple[tf.Tensor, list]:
                parameters = slices(stacked, k)
                step = steps.bijector(k, parameters)
                inputs, dinputs, dparameters = step.inverse_vjp(outputs, dvalues, dlog_det, parameters)
                return inputs, [dinputs, *dparameters]

            return steps.loop_back(step_vjp, result, dresult, stacked)

        return (result, log_det), lambda *dresults: backward(*dresults, result, *stacked)

    return scan(values, *steps.stacked)


class _Steps:
    """The K steps of one pass, and the loops over them: `loop` for the result, `loop_back` for the gradients.

    Attributes:
        stacked: the floating-point tensors [K, ...] among the parameters, which are the differentiable ones. What is
            called `floats` below are one step's slices of them.
    """

    def __init__(
        self,
        step: Callable[[Parameters, Residuals], ImageBijector],
        parameters: Parameters,
        num_steps: int,
        inverse: bool,
    ) -> None:
        self._step = step
        self._parameters = parameters
        self._num_steps = num_steps
        self._inverse = inverse
        self.stacked = [t for t in tf.nest.flatten(parameters) if t.dtype.is_floating]

    def bijector(self, k: tf.Tensor, floats: Sequence[tf.Tensor], residuals: Residuals = None) -> ImageBijector:
        """The bijector of step k, from its slices of `stacked`; the integer parameters are sliced here."""
        remaining = iter(floats)
        flat = [
            next(remaining) if t.dtype.is_floating else slices([t], k)[0] for t in tf.nest.flatten(self._parameters)
        ]
        return self._step(tf.nest.pack_sequence_as(self._parameters, flat), residuals)

    def apply(
        self, k: tf.Tensor, values: tf.Tensor, floats: Sequence[tf.Tensor], residuals: Residuals = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(result, log-det) of step k."""
        step = self.bijector(k, floats, residuals)
        return step.inverse_and_log_det(values) if self._inverse else step.forward_and_log_det(values)

    def loop(
        self, body: Callable, values: tf.Tensor, saved_specs: Sequence[Any]
    ) -> tuple[tf.Tensor, tf.Tensor, "_Saved"]:
        """All steps in order: (result, log-det, the saved tensors).

        Args:
            body: (k, values) -> ((result, log-det), [tensors to save]).
            values: the input of the first step.
            saved_specs: a tf.TensorSpec for each tensor to save, or a tensor with its dtype and shape.
        """
        # Not cleared after a read, because a persistent tape may run the backward pass more than once.
        arrays = [
            tf.TensorArray(spec.dtype, self._num_steps, element_shape=spec.shape, clear_after_read=False)
            for spec in saved_specs
        ]

        def iteration(i: tf.Tensor, values: tf.Tensor, log_det: tf.Tensor, arrays: list) -> tuple:
            k = self._step_of_iteration(i)
            (result, step_log_det), saved = body(k, values)
            result.set_shape(values.shape)
            arrays = [array.write(k, tensor) for array, tensor in zip(arrays, saved, strict=True)]
            return i + 1, result, log_det + step_log_det, arrays

        zeros = tf.zeros(batch_shape(values), values.dtype)
        _, result, log_det, arrays = tf.while_loop(
            lambda i, *_: i < self._num_steps,
            iteration,
            (tf.constant(0), values, zeros, arrays),
            maximum_iterations=self._num_steps,
        )
        log_det.set_shape(values.shape[:-3])
        return result, log_det, _Saved(arrays)

    def loop_back(
        self, step_vjp: Callable, carry: tf.Tensor, dresult: tf.Tensor, stacked: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, ...]:
        """All steps in reverse order: the gradients of the input and of every stacked tensor.

        Args:
            step_vjp: (k, carry, gradient of the step's result) -> (carry, [gradient of its input, of its parameters]).
            carry: the initial value of what each step of this loop passes to the next one, which is an earlier step.
            dresult: the gradient of the result.
            stacked: the parameters.
        """
        # Written one slice at a time, so that no iteration touches a tensor of all K slices.
        gradients = [tf.TensorArray(t.dtype, self._num_steps, element_shape=t.shape[1:]) for t in stacked]

        def iteration(i: tf.Tensor, carry: tf.Tensor, dvalues: tf.Tensor, gradients: list) -> tuple:
            k = self._step_of_iteration(i)
            new_carry, (new_dvalues, *dparameters) = step_vjp(k, carry, dvalues)
            new_carry.set_shape(carry.shape)
            new_dvalues.set_shape(dvalues.shape)
            gradients = [
                array.write(k, tf.zeros(t.shape[1:], t.dtype) if d is None else d)
                for array, t, d in zip(gradients, stacked, dparameters, strict=True)
            ]
            return i - 1, new_carry, new_dvalues, gradients

        _, _, dvalues, gradients = tf.while_loop(
            lambda i, *_: i >= 0,
            iteration,
            (tf.constant(self._num_steps - 1), carry, dresult, gradients),
            maximum_iterations=self._num_steps,
        )
        return dvalues, *(array.stack() for array in gradients)

    def _step_of_iteration(self, i: tf.Tensor) -> tf.Tensor:
        return i if self._inverse else self._num_steps - 1 - i


def slices(stacked: Sequence[tf.Tensor], k: tf.Tensor) -> list[tf.Tensor]:
    """[tensor[k] for each tensor]. All share their bounds, which would else be a third of a loop's operations."""
    begin = tf.reshape(k, [1])
    end, strides = begin + 1, tf.ones([1], tf.int32)
    return [tf.strided_slice(tensor, begin, end, strides, shrink_axis_mask=1) for tensor in stacked]


def _first_derivatives_only(backprop: str) -> Callable[[Callable], Callable]:
    """A decorator for a function of tensors: differentiating it raises an error that names the alternative."""

    def refuse(*_: tf.Tensor) -> None:
        raise NotImplementedError(f'second derivatives need backprop="recompute"; this pass has "{backprop}"')

    def decorator(function: Callable) -> Callable:
        return tf.custom_gradient(lambda *arguments: (function(*arguments), refuse))

    return decorator


class _Saved:
    """Tensors that the forward loop saved, one TensorArray of K elements for each.

    A backward pass may be traced although the forward pass ran eagerly, as for `tape.jacobian`. Then the arrays are
    copied, since an eager array cannot be read at a symbolic k.
    """

    def __init__(self, arrays: list[tf.TensorArray]) -> None:
        self._arrays = arrays
        self._eager = tf.executing_eagerly()

    def arrays(self) -> list[tf.TensorArray]:
        """The arrays, as the backward pass can read them."""
        if not self._eager or tf.executing_eagerly():
            return self._arrays
        stacked = [array.stack() for array in self._arrays]
        return [
            tf.TensorArray(t.dtype, t.shape[0], element_shape=t.shape[1:], clear_after_read=False).unstack(t)
            for t in stacked
        ]
