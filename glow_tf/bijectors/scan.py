"""Applies one bijector K times, each time with its own slice of stacked parameters, in one loop.

The graph contains the step once, so that the time for tracing, compilation and start-up does not grow with K. The idea
is that of `flax.linen.scan`. From top to bottom: `Scan`, the bijector; `recompute`, `stored` and `reversible`, which
say what a step of the forward pass saves, and how the backward pass uses it; `scan`, with the loops of both passes.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, batch_shape, with_nonempty_batch
from glow_tf.bijectors.residuals import Residuals, SaveResiduals, UseResiduals, vjp

BACKPROP_MODES = ("stored", "recompute", "reversible")  # the functions of these names below

Parameters = Any  # a nested dictionary of tensors


class Scan(ImageBijector):
    """A chain of K steps that differ only in their parameters.

    inverse: for k = 0 .. K-1:  x = step(slice k of the parameters).inverse(x);  z = x
    forward: the same steps from K-1 down to 0
    log-det: the sum over the steps, shape [...], nats

    Args:
        step: (parameters of one step, residuals) -> an ImageBijector that preserves the event shape. The parameters
            are slices of the stacked ones. `step` must hand them to the bijector unchanged; anything computed from them
            belongs in the bijector's methods or in `prepare`, since `reversible` calls `step` outside the tape.
            `residuals` is for the step's most expensive computation (see `residuals.checkpoint`).
        parameters: nested dictionary of variables, tensors or arrays [K, ...].
        num_steps: K.
        prepare: (stacked parameters, directions) -> stacked parameters to slice, called once per pass, outside the
            loop, for computations that are cheaper for all K steps at once, such as a matrix from its factors.
            `directions` is a tuple of "forward" or "inverse" or both, those that the pass uses. Default: the identity.
        backprop: what the forward pass saves; values and gradients are equal.
            "stored": each step's input and residuals (`stored`). Almost nothing is computed twice. Takes memory
            for K times the residuals, even if no gradient is taken. First derivatives only.
            "recompute": each step's input, which is as large as the image (`recompute`). A third more
            arithmetic; derivatives of any order.
            "reversible": only the result (`reversible`), from which the backward pass reconstructs each
            step's input, with the rounding error of the round trip. This is for `inverse`; in `forward` it means
            "recompute". First derivatives only.

    Raises:
        ValueError: if `backprop` is not one of these, or a parameter's leading axis is not `num_steps` long.

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
            shape: Any = getattr(value, "shape", ())
            if len(shape) == 0 or shape[0] != num_steps:
                raise ValueError(f"a parameter has shape {tuple(shape)}; its first axis must be {num_steps} long")
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
        direction = "inverse" if inverse else "forward"
        backprop = "recompute" if self.backprop == "reversible" and not inverse else self.backprop
        if self.prepare is not None:
            stacked = self.prepare(stacked, ("inverse", "forward") if backprop == "reversible" else (direction,))
        steps = _Steps(self.step, stacked, self.num_steps, inverse)
        return with_nonempty_batch(functools.partial(scan, steps, backprop), values)


@dataclasses.dataclass
class _Steps:
    """The K steps of one pass, which are applied in order by `inverse` and in reverse order by `forward`."""

    make_bijector: Callable[[Parameters, Residuals], ImageBijector]
    parameters: Parameters
    num_steps: int
    inverse: bool

    @property
    def stacked(self) -> list[tf.Tensor]:
        """The differentiable parameters: the floating-point tensors. `floats` below are one step's slices of them."""
        return [t for t in tf.nest.flatten(self.parameters) if t.dtype.is_floating]

    def index(self, i: tf.Tensor) -> tf.Tensor:
        """The step of iteration i of the forward pass."""
        return i if self.inverse else self.num_steps - 1 - i

    def bijector(self, k: tf.Tensor, floats: Sequence[tf.Tensor], residuals: Residuals = None) -> ImageBijector:
        """The bijector of step k, from its slices of `stacked`; the integer parameters are sliced here."""
        remaining = iter(floats)
        one_step = tf.nest.map_structure(
            lambda t: next(remaining) if t.dtype.is_floating else slices([t], k)[0], self.parameters
        )
        return self.make_bijector(one_step, residuals)

    def apply(
        self, k: tf.Tensor, values: tf.Tensor, floats: Sequence[tf.Tensor], residuals: Residuals = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(result, log-det) of step k."""
        step = self.bijector(k, floats, residuals)
        return step.inverse_and_log_det(values) if self.inverse else step.forward_and_log_det(values)


class _Mode(NamedTuple):
    """How one step goes forward and back.

    Attributes:
        forward: (k, values, floats) -> ((result, log-det), [tensors to save]).
        saved_specs: for each tensor to save, a tf.TensorSpec or a tensor with its dtype and shape.
        backward: (k, saved, carry, (gradients of the result and of the log-det), floats)
            -> (carry, [gradient of the values, of the floats]).
    """

    forward: Callable
    saved_specs: Sequence[Any]
    backward: Callable


def recompute(steps: _Steps, values: tf.Tensor) -> _Mode:
    """Saves the input of every step; the backward pass runs each step a second time, under a tape."""

    def forward(k: tf.Tensor, values: tf.Tensor, floats: list) -> tuple:
        return steps.apply(k, values, floats), [values]

    def backward(k: tf.Tensor, saved: list, carry: tf.Tensor, dresults: tuple, floats: list) -> tuple:
        return carry, vjp(lambda values, *floats: steps.apply(k, values, floats), [*saved, *floats], dresults)

    return _Mode(forward, [values], backward)


def stored(steps: _Steps, values: tf.Tensor) -> _Mode:
    """Saves the input and the residuals of every step; the backward pass reuses them and recomputes what is cheap."""

    # Traced before the loop, which needs the residuals' shapes for its arrays.
    def traced(k: tf.Tensor, values: tf.Tensor, *floats: tf.Tensor) -> tuple:
        residuals = SaveResiduals()
        return steps.apply(k, values, floats, residuals), residuals.saved

    specs = [tf.TensorSpec([], tf.int32), tf.TensorSpec(values.shape, values.dtype)]
    specs += [tf.TensorSpec(t.shape[1:], t.dtype) for t in steps.stacked]
    apply_and_save = tf.function(traced, autograph=False).get_concrete_function(*specs)
    residual_specs = apply_and_save.structured_outputs[1]

    def forward(k: tf.Tensor, values: tf.Tensor, floats: list) -> tuple:
        # If its arguments were watched, TensorFlow would also trace the function's gradient, which is not used.
        results, residuals = apply_and_save(k, values, *map(tf.stop_gradient, floats))
        return results, [values, *tf.nest.flatten(residuals)]

    def backward(k: tf.Tensor, saved: list, carry: tf.Tensor, dresults: tuple, floats: list) -> tuple:
        inputs, *flat = saved
        residuals = UseResiduals(tf.nest.pack_sequence_as(residual_specs, flat))
        return carry, vjp(
            lambda values, *floats: steps.apply(k, values, floats, residuals), [inputs, *floats], dresults
        )

    return _Mode(forward, [values, *tf.nest.flatten(residual_specs)], backward)


def reversible(steps: _Steps, values: tf.Tensor) -> _Mode:
    """Saves nothing; the backward pass carries each step's result, from which it reconstructs the step's input."""

    def forward(k: tf.Tensor, values: tf.Tensor, floats: list) -> tuple:
        return steps.apply(k, values, floats), []

    def backward(k: tf.Tensor, saved: list, result: tf.Tensor, dresults: tuple, floats: list) -> tuple:
        dresult, dlog_det = dresults
        inputs, dinputs, dfloats = steps.bijector(k, floats).inverse_vjp(result, dresult, dlog_det, floats)
        return inputs, [dinputs, *dfloats]

    return _Mode(forward, [], backward)


def scan(steps: _Steps, backprop: str, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(result, log-det) of all steps, differentiable by values and `steps.stacked` in the way that `backprop` names."""
    mode = {"stored": stored, "recompute": recompute, "reversible": reversible}[backprop](steps, values)
    is_reversible = backprop == "reversible"

    @tf.custom_gradient
    def differentiable(values: tf.Tensor, *stacked: tf.Tensor) -> tuple[Any, Callable]:
        result, log_det, arrays = _forward_pass(steps, mode, values, stacked)
        was_eager = tf.executing_eagerly()

        def backward(dresult: tf.Tensor, dlog_det: tf.Tensor, source: tf.Tensor, *stacked: tf.Tensor) -> tuple:
            carry = source if is_reversible else tf.zeros([], values.dtype)
            return _backward_pass(steps, mode, _readable(arrays, was_eager), carry, dresult, dlog_det, stacked)

        differentiable_backward = backward if backprop == "recompute" else _first_derivatives_only(backward, backprop)
        # Arguments, since the gradients depend on them: so that second derivatives by any of them are refused.
        sources = (result if is_reversible else values, *stacked)
        return (result, log_det), lambda *dresults: differentiable_backward(*dresults, *sources)

    return differentiable(values, *steps.stacked)


def _forward_pass(steps: _Steps, mode: _Mode, values: tf.Tensor, stacked: Sequence[tf.Tensor]) -> tuple[Any, Any, list]:
    """All steps in order: (result, log-det, [a TensorArray of K elements for each tensor that a step saves])."""
    # Not cleared after a read, because a persistent tape may run the backward pass more than once.
    arrays = [
        tf.TensorArray(spec.dtype, steps.num_steps, element_shape=spec.shape, clear_after_read=False)
        for spec in mode.saved_specs
    ]

    def iteration(i: tf.Tensor, values: tf.Tensor, log_det: tf.Tensor, arrays: list) -> tuple:
        k = steps.index(i)
        (result, step_log_det), saved = mode.forward(k, values, slices(stacked, k))
        result.set_shape(values.shape)
        arrays = [array.write(k, tensor) for array, tensor in zip(arrays, saved, strict=True)]
        return i + 1, result, log_det + step_log_det, arrays

    _, result, log_det, arrays = tf.while_loop(
        lambda *_: True,
        iteration,
        (tf.constant(0), values, tf.zeros(batch_shape(values), values.dtype), arrays),
        maximum_iterations=steps.num_steps,
    )
    log_det.set_shape(values.shape[:-3])
    return result, log_det, arrays


def _backward_pass(
    steps: _Steps,
    mode: _Mode,
    arrays: list[tf.TensorArray],
    carry: tf.Tensor,
    dresult: tf.Tensor,
    dlog_det: tf.Tensor,
    stacked: Sequence[tf.Tensor],
) -> tuple[tf.Tensor, ...]:
    """All steps in reverse order: the gradients of the values and of every stacked tensor."""
    # Written one slice at a time, so that no iteration touches a tensor of all K slices.
    gradients = [tf.TensorArray(t.dtype, steps.num_steps, element_shape=t.shape[1:]) for t in stacked]

    def iteration(i: tf.Tensor, carry: tf.Tensor, dvalues: tf.Tensor, gradients: list) -> tuple:
        k = steps.index(i)
        saved = [array.read(k) for array in arrays]
        new_carry, (new_dvalues, *dfloats) = mode.backward(k, saved, carry, (dvalues, dlog_det), slices(stacked, k))
        new_carry.set_shape(carry.shape)
        new_dvalues.set_shape(dvalues.shape)
        gradients = [
            array.write(k, tf.zeros(t.shape[1:], t.dtype) if d is None else d)
            for array, t, d in zip(gradients, stacked, dfloats, strict=True)
        ]
        return i - 1, new_carry, new_dvalues, gradients

    _, _, dvalues, gradients = tf.while_loop(
        lambda *_: True,
        iteration,
        (tf.constant(steps.num_steps - 1), carry, dresult, gradients),
        maximum_iterations=steps.num_steps,
    )
    return dvalues, *(array.stack() for array in gradients)


def slices(stacked: Sequence[tf.Tensor], k: tf.Tensor) -> list[tf.Tensor]:
    """[tensor[k] for each tensor], with shared bounds: separate ones would be a third of a loop's operations."""
    begin = tf.reshape(k, [1])
    end, strides = begin + 1, tf.ones([1], tf.int32)
    return [tf.strided_slice(tensor, begin, end, strides, shrink_axis_mask=1) for tensor in stacked]


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
