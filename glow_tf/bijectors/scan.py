"""Applies one bijector K times, each time with its own slice of stacked parameters, in one loop.

The graph contains the step once, so the time for tracing, compilation and start-up does not grow with K. The idea
is that of `flax.linen.scan`. From top to bottom: `Scan`, the bijector; `_Recompute`, the loops of the forward and
the backward pass; `_Stored` and `_Reversible`, which differ in what a step saves and how the backward pass uses it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector
from glow_tf.bijectors.captures import captured_floats, refuse_captured, refuse_consumers, refusing_gradients_of
from glow_tf.bijectors.residuals import Residuals, SaveResiduals, UseResiduals, vjp
from glow_tf.bijectors.shapes import batch_shape, with_nonempty_batch

BACKPROP_MODES = ("stored", "recompute", "reversible")

Parameters = Any  # a nested dictionary of tensors


class Scan(ImageBijector):
    """A chain of K steps that differ only in their parameters.

    inverse: for k = 0 .. K-1:  x = step(slice k of the parameters).inverse(x);  z = x
    forward: the same steps from K-1 down to 0
    log-det: the sum over the steps, shape [...], nats

    Args:
        step: (parameters of one step, residuals[, shared]) -> an ImageBijector that preserves the event shape. The
            parameters are slices of the stacked ones. `step` must hand its tensors to the bijector unchanged; anything
            computed from them belongs in the bijector's methods or in `prepare`, since `reversible` calls `step`
            outside the tape. What `step` captures must be constant; anything to differentiate by belongs in `shared`.
            `residuals` is for the step's most expensive computation (see `residuals.checkpoint`).
        parameters: nested dictionary of variables, tensors or arrays [K, ...].
        num_steps: K.
        prepare: (stacked parameters, directions) -> stacked parameters to slice, called once per pass, outside the
            loop, for computations that are cheaper for all K steps at once, such as a matrix from its factors.
            `directions` is a tuple of "forward" or "inverse" or both, those that the pass uses. Default: the identity.
        backprop: what the forward pass saves; values and gradients are equal.
            "stored": each step's input and residuals. Almost nothing is computed twice. Takes memory for K times the
            residuals, even if no gradient is taken. First derivatives only.
            "recompute": each step's input, which is as large as the image. A third more arithmetic; derivatives of
            any order.
            "reversible": only the result, from which the backward pass reconstructs each step's input, with the
            rounding error of the round trip. This is for `inverse`; in `forward` it means "recompute". First
            derivatives only.
        shared: None, or a nested structure of variables, tensors or arrays that every step receives whole as its third
            argument, such as the context of a conditional coupling. Its gradient is the sum over the steps. `prepare`
            does not see it. With it, an empty batch reaches the step as it is; without, the step sees one image.

    Raises:
        ValueError: if `backprop` is not one of these, a parameter's leading axis is not `num_steps` long, a tensor is
            complex or has another floating-point type than the bijector, or `step` returns no ImageBijector. Also by a
            gradient that would miss something: if `step` captures a variable or, in a `tf.function`, a tensor that is
            not constant (eager code cannot tell), or if with "reversible" it computes something from its tensors.

    >>> from glow_tf.bijectors import ActNorm
    >>> parameters = {"shift": tf.zeros([3, 2]), "log_scale": tf.ones([3, 2])}
    >>> layer = Scan(lambda slices, residuals: ActNorm(**slices), parameters, num_steps=3)
    >>> layer.inverse_and_log_det(tf.ones([1, 4, 4, 2]))[1].numpy().tolist()
    [96.0]
    """

    def __init__(
        self,
        step: Callable[..., ImageBijector],
        parameters: Parameters,
        num_steps: int,
        prepare: Callable[[Parameters, tuple[str, ...]], Parameters] | None = None,
        backprop: str = "recompute",
        dtype: tf.DType = tf.float32,
        name: str = "scan",
        shared: Any = None,
    ) -> None:
        arguments = dict(locals())
        if backprop not in BACKPROP_MODES:
            raise ValueError(f"backprop is {backprop!r}; it can be {', '.join(BACKPROP_MODES)}")
        if not hasattr(num_steps, "__index__"):
            raise ValueError(f"num_steps is {num_steps!r}; it must be an integer")
        for value in tf.nest.flatten(parameters):
            shape: Any = getattr(value, "shape", ())
            if len(shape) == 0 or shape[0] != num_steps:
                raise ValueError(f"a parameter has shape {tuple(shape)}; its first axis must be {num_steps} long")
        for value in tf.nest.flatten([parameters, shared]):
            found = tf.as_dtype(getattr(value, "dtype", dtype))
            if (found.is_floating or found.is_complex) and found != tf.as_dtype(dtype):
                raise ValueError(f"a parameter is {found.name}; it must be of this bijector's dtype")
        super().__init__(dtype=dtype, parameters=arguments, name=name)
        self.step = step
        self.stacked_parameters = parameters
        self.num_steps = num_steps
        self.prepare = prepare
        self.backprop = backprop
        self.shared = shared

    def _forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._scan(z, inverse=False)

    def _inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._scan(x, inverse=True)

    def _scan(self, values: tf.Tensor, inverse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        # Variables are read here, once: inside the loop, each iteration would read all K slices.
        stacked = tf.nest.map_structure(tf.convert_to_tensor, self.stacked_parameters)
        backprop = "recompute" if self.backprop == "reversible" and not inverse else self.backprop
        if self.prepare is not None:
            direction = "inverse" if inverse else "forward"
            stacked = self.prepare(stacked, ("inverse", "forward") if backprop == "reversible" else (direction,))
        kind = {"stored": _Stored, "recompute": _Recompute, "reversible": _Reversible}[backprop]
        if self.shared is None:
            return with_nonempty_batch(lambda x: kind(self.step, stacked, (), self.num_steps, inverse, x).run(), values)
        shared = tf.nest.map_structure(tf.convert_to_tensor, self.shared)  # it may have the batch axes of `values`
        return kind(self.step, stacked, (shared,), self.num_steps, inverse, values).run()


@dataclasses.dataclass(eq=False)
class _Recompute:
    """One pass through the K steps, in order for `inverse` and in reverse order for `forward`, and its gradient.

    Saves the input of every step; the backward pass runs each step a second time, under a tape. `tensors` are what is
    differentiable: the floating-point parameters [K, ...], then the floating-point shared tensors. `floats` are those
    of one step: slices of the parameters, then the shared tensors.
    """

    make_bijector: Callable[..., ImageBijector]  # the argument `step` of `Scan`
    parameters: Parameters  # nested dictionary of tensors [K, ...]
    shared: tuple[Any, ...]  # the argument `shared` of `Scan`, of tensors, or nothing
    num_steps: int
    inverse: bool
    values: tf.Tensor  # the input of the first step

    backprop = "recompute"

    def __post_init__(self) -> None:
        self.tensors = [t for t in tf.nest.flatten([self.parameters, self.shared]) if t.dtype.is_floating]
        self.num_stacked = sum(t.dtype.is_floating for t in tf.nest.flatten(self.parameters))

    def saved_specs(self) -> list[Any]:
        """For each tensor that a step saves, a tf.TensorSpec or a tensor with its dtype and shape."""
        return [self.values]

    def step_forward(self, k: tf.Tensor, values: tf.Tensor, floats: list) -> tuple:
        """((result, log-det), [tensors to save]) of step k."""
        return self.apply(k, values, floats), [values]

    def step_backward(self, k: tf.Tensor, result: tf.Tensor, saved: list, dresults: tuple, floats: list) -> tuple:
        """(the input of step k, [its gradient, the gradients of `floats`]), from the step's result and what it saved.

        `dresults` are the gradients of the result and of the log-det.
        """
        (values,) = saved
        return values, vjp(lambda values, *floats: self.apply(k, values, floats), [values, *floats], dresults)

    def apply(
        self, k: tf.Tensor, values: tf.Tensor, floats: Sequence[tf.Tensor], residuals: Residuals = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(result, log-det) of step k."""
        step = self.bijector(k, floats, residuals)
        return step.inverse_and_log_det(values) if self.inverse else step.forward_and_log_det(values)

    def bijector(self, k: tf.Tensor, floats: Sequence[tf.Tensor], residuals: Residuals = None) -> ImageBijector:
        """The bijector of step k; slices the integer parameters."""
        remaining = iter(floats)
        one_step = tf.nest.map_structure(
            lambda t: next(remaining) if t.dtype.is_floating else _slices([t], k)[0], self.parameters
        )
        shared = tf.nest.map_structure(lambda t: next(remaining) if t.dtype.is_floating else t, self.shared)
        bijector = self.make_bijector(one_step, residuals, *shared)
        if not isinstance(bijector, ImageBijector):
            raise ValueError(
                f"`step` returned an object of type {type(bijector).__name__}; it must be an ImageBijector"
            )
        return bijector

    def floats(self, k: tf.Tensor, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The part of `tensors` that step k sees."""
        return [*_slices(tensors[: self.num_stacked], k), *tensors[self.num_stacked :]]

    def run(self) -> tuple[tf.Tensor, tf.Tensor]:
        """(result, log-det) of all steps, differentiable with respect to `values` and `tensors`."""

        @tf.custom_gradient
        def differentiable(values: tf.Tensor, *tensors: tf.Tensor) -> tuple[Any, Callable]:
            result, log_det, arrays = self._forward_loop(values, tensors)
            was_eager = tf.executing_eagerly()

            def backward(dresult: tf.Tensor, dlog_det: tf.Tensor, result: tf.Tensor, *tensors: tf.Tensor) -> tuple:
                return self._backward_loop(_readable(arrays, was_eager), result, dresult, dlog_det, tensors)

            if self.backprop != "recompute":
                backward = _first_derivatives_only(backward, self.backprop)

            def gradient(*dresults: tf.Tensor, variables: Sequence[tf.Variable] = ()) -> tuple:
                if variables:  # TensorFlow passes those that the loop has read
                    refuse_captured(f"the variable {variables[0].name}")
                # `result` and `tensors` are arguments, not captured: the gradients depend on them, so
                # `_first_derivatives_only` must also refuse derivatives with respect to them.
                return backward(*dresults, result, *tensors)

            return (result, log_det), gradient

        results = differentiable(self.values, *self.tensors)
        return refusing_gradients_of(self.captured, results)

    def _forward_loop(self, values: tf.Tensor, tensors: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, list]:
        """(result, log-det, [a TensorArray of K elements for each tensor that a step saves])."""
        # Not cleared after a read, because a persistent tape may run the backward pass more than once.
        arrays = [
            tf.TensorArray(spec.dtype, self.num_steps, element_shape=spec.shape, clear_after_read=False)
            for spec in self.saved_specs()
        ]

        def iteration(i: tf.Tensor, values: tf.Tensor, log_det: tf.Tensor, arrays: list) -> tuple:
            k = self._index(i)
            (result, step_log_det), saved = self.step_forward(k, values, self.floats(k, tensors))
            result.set_shape(values.shape)
            arrays = [array.write(k, tensor) for array, tensor in zip(arrays, saved, strict=True)]
            return i + 1, result, log_det + step_log_det, arrays

        zeros = tf.zeros(batch_shape(values), values.dtype)
        _, result, log_det, arrays = tf.while_loop(
            lambda *_: True, iteration, (tf.constant(0), values, zeros, arrays), maximum_iterations=self.num_steps
        )
        self.captured = captured_floats(result, [values, zeros, *tensors])
        log_det.set_shape(values.shape[:-3])
        return result, log_det, arrays

    def _backward_loop(
        self,
        arrays: list[tf.TensorArray],
        result: tf.Tensor,
        dresult: tf.Tensor,
        dlog_det: tf.Tensor,
        tensors: Sequence[tf.Tensor],
    ) -> tuple[tf.Tensor, ...]:
        """The gradients of the values and of each of `tensors`."""
        stacked, shared = tensors[: self.num_stacked], tensors[self.num_stacked :]
        # Written one slice at a time, so that no iteration touches a tensor of all K slices.
        gradients = [tf.TensorArray(t.dtype, self.num_steps, element_shape=t.shape[1:]) for t in stacked]

        def iteration(i: tf.Tensor, result: tf.Tensor, dresult: tf.Tensor, gradients: list, sums: list) -> tuple:
            k = self._index(i)
            saved = [array.read(k) for array in arrays]
            floats = self.floats(k, tensors)
            values, (dvalues, *dfloats) = self.step_backward(k, result, saved, (dresult, dlog_det), floats)
            values.set_shape(result.shape)
            dvalues.set_shape(dresult.shape)
            gradients = [
                array.write(k, tf.zeros(t.shape[1:], t.dtype) if d is None else d)
                for array, t, d in zip(gradients, stacked, dfloats[: len(stacked)], strict=True)
            ]
            sums = [_sum(total, d) for total, d in zip(sums, dfloats[len(stacked) :], strict=True)]
            return i - 1, values, dvalues, gradients, sums

        _, _, dvalues, gradients, sums = tf.while_loop(
            lambda *_: True,
            iteration,
            (tf.constant(self.num_steps - 1), result, dresult, gradients, [tf.zeros_like(t) for t in shared]),
            maximum_iterations=self.num_steps,
        )
        return dvalues, *(array.stack() for array in gradients), *sums

    def _index(self, i: tf.Tensor) -> tf.Tensor:
        """The step of iteration i of the forward loop."""
        return i if self.inverse else self.num_steps - 1 - i


class _Stored(_Recompute):
    """Saves the input and the residuals of every step; the backward pass reuses them and recomputes what is cheap."""

    backprop = "stored"

    def saved_specs(self) -> list[Any]:
        def traced(k: tf.Tensor, values: tf.Tensor, *floats: tf.Tensor) -> tuple:
            residuals = SaveResiduals()
            return self.apply(k, values, floats, residuals), residuals.saved

        # Traced before the loop, which needs the residuals' shapes for its arrays.
        specs = [tf.TensorSpec([], tf.int32), tf.TensorSpec(self.values.shape, self.values.dtype)]
        specs += [tf.TensorSpec(t.shape[i < self.num_stacked :], t.dtype) for i, t in enumerate(self.tensors)]
        self._apply_and_save = tf.function(traced, autograph=False).get_concrete_function(*specs)
        self._residual_specs = self._apply_and_save.structured_outputs[1]
        return [self.values, *tf.nest.flatten(self._residual_specs)]

    def step_forward(self, k: tf.Tensor, values: tf.Tensor, floats: list) -> tuple:
        # If its arguments were watched, TensorFlow would also trace the function's gradient, which is not used.
        results, residuals = self._apply_and_save(k, values, *map(tf.stop_gradient, floats))
        return results, [values, *tf.nest.flatten(residuals)]

    def step_backward(self, k: tf.Tensor, result: tf.Tensor, saved: list, dresults: tuple, floats: list) -> tuple:
        values, *flat = saved
        residuals = UseResiduals(tf.nest.pack_sequence_as(self._residual_specs, flat))
        return values, vjp(lambda x, *floats: self.apply(k, x, floats, residuals), [values, *floats], dresults)


class _Reversible(_Recompute):
    """Saves nothing; the backward pass reconstructs each step's input from its result. For `inverse` only."""

    backprop = "reversible"

    def saved_specs(self) -> list[Any]:
        return []

    def step_forward(self, k: tf.Tensor, values: tf.Tensor, floats: list) -> tuple:
        return self.apply(k, values, floats), []

    def step_backward(self, k: tf.Tensor, result: tf.Tensor, saved: list, dresults: tuple, floats: list) -> tuple:
        dresult, dlog_det = dresults
        # The identities have no other consumers than those that `step` adds.
        floats = [*floats[: self.num_stacked], *map(tf.identity, floats[self.num_stacked :])]
        bijector = self.bijector(k, floats)
        refuse_consumers(floats)
        values, dvalues, dfloats = bijector.inverse_vjp(result, dresult, dlog_det, floats)
        return values, [dvalues, *dfloats]


def _slices(stacked: Sequence[tf.Tensor], k: tf.Tensor) -> list[tf.Tensor]:
    """[tensor[k] for each tensor], with shared bounds: separate ones would be a third of a loop's operations."""
    begin = tf.reshape(k, [1])
    end, strides = begin + 1, tf.ones([1], tf.int32)
    return [tf.strided_slice(tensor, begin, end, strides, shrink_axis_mask=1) for tensor in stacked]


def _sum(total: tf.Tensor, gradient: tf.Tensor | None) -> tf.Tensor:
    if gradient is None:
        return total
    result = total + gradient
    result.set_shape(total.shape)
    return result


def _readable(arrays: list[tf.TensorArray], was_eager: bool) -> list[tf.TensorArray]:
    """The arrays as the backward pass can read them.

    It may be traced although the forward pass ran eagerly, as for `tape.jacobian`. Then the arrays are copied, since an
    eager array cannot be read at a symbolic k.
    """
    if not was_eager or tf.executing_eagerly():
        return arrays
    stacked = [array.stack() for array in arrays]
    return [
        tf.TensorArray(t.dtype, t.shape[0], element_shape=t.shape[1:], clear_after_read=False).unstack(t)
        for t in stacked
    ]


def _first_derivatives_only(function: Callable, backprop: str) -> Callable:
    """The function of tensors, with a derivative that raises an error which names the alternative."""

    def refuse(*_: tf.Tensor) -> None:
        raise NotImplementedError(f'second derivatives need backprop="recompute"; this pass has "{backprop}"')

    return tf.custom_gradient(lambda *arguments: (function(*arguments), refuse))
