"""The base class of all layers: one pass computes the value and its log-determinant.

The direction is TFP's: `forward` maps latents z to images x, `inverse` maps x to z. The paper's "forward" is `inverse`.
"""

import abc
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

# TFP's own one-pass bijector, `tfb.FFJORD`, shares its log-det this way. The module is internal: the test that counts
# network evaluations fails if a new TFP changes it.
from tensorflow_probability.python.internal import cache_util, dtype_util, tensor_util

from glow_tf.bijectors.residuals import vjp
from glow_tf.bijectors.shapes import EVENT_NDIMS, batch_shape, event_shape, image_shape


class ImageBijector(tfp.bijectors.Bijector, metaclass=abc.ABCMeta):
    """A bijector of images, whose subclasses define one method per direction.

    A subclass defines `_forward_and_log_det` and `_inverse_and_log_det`. TFP asks for a value and for its log-det in
    two calls. Its cache stores the log-det with the value, so that a network inside the bijector runs only once; on a
    cache miss it runs a second time, with the same result.

    Args:
        dtype: float32 or float64, the dtype of the images; None to accept any.
        parameters: the constructor's arguments, `dict(locals())`, for `copy`.
        is_constant_jacobian: whether the Jacobian is the same for every input.
        name: name of the bijector, and prefix of its operations' names.
    """

    _cache = cache_util.BijectorCacheWithGreedyAttrs(forward_name="_forward_and_ildj", inverse_name="_inverse_and_ildj")

    def __init__(
        self,
        *,
        dtype: tf.DType | str | None = tf.float32,
        parameters: dict[str, Any] | None = None,
        is_constant_jacobian: bool = False,
        name: str | None = None,
    ) -> None:
        if isinstance(dtype, (int, float)):  # another argument at its position; TensorFlow numbers its types
            raise ValueError(f"dtype is {dtype}; it must be a floating-point type such as tf.float32")
        super().__init__(
            forward_min_event_ndims=EVENT_NDIMS,
            is_constant_jacobian=is_constant_jacobian,
            dtype=None if dtype is None else tf.as_dtype(dtype),
            parameters=parameters,
            name=name,
        )

    @abc.abstractmethod
    def _forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """z [..., H', W', C'] -> (x [..., H, W, C], log|det dx/dz| [...] in nats)."""

    @abc.abstractmethod
    def _inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """x [..., H, W, C] -> (z [..., H', W', C'], log|det dz/dx| [...] in nats)."""

    def forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(x, log|det dx/dz|) in one pass that neither reads nor writes TFP's cache."""
        return self._forward_and_log_det(self._as_images(z))

    def inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(z, log|det dz/dx|) in one pass that neither reads nor writes TFP's cache."""
        return self._inverse_and_log_det(self._as_images(x))

    def _as_images(self, values: Any) -> tf.Tensor:
        values = tf.convert_to_tensor(values, self.dtype)
        event_shape(values.shape)  # raises an error if there are fewer than three axes
        return values

    def inverse_vjp(
        self, z: tf.Tensor, dz: tf.Tensor, dlog_det: tf.Tensor, parameters: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor | None]]:
        """The backward pass of `inverse`, from its result instead of its input; `Scan(backprop="reversible")` calls it.

        This default reconstructs x from z, then differentiates `inverse` at x. A subclass that can do it with less work
        overrides it.

        Args:
            z: [..., H', W', C'], the result of `inverse`.
            dz: the gradient of the loss with respect to z.
            dlog_det: [...], the gradient of the loss with respect to log|det dz/dx|.
            parameters: the tensors to differentiate with respect to, among those that this bijector's methods use.

        Returns:
            (x, dx, dparameters): the input, its gradient, and one gradient per parameter, None if the result does not
            depend on it.
        """
        x, _ = self._forward_and_log_det(z)
        x = tf.stop_gradient(x)
        # The bijector holds the parameters already; they are inputs here only to be watched.
        dx, *dparameters = vjp(lambda x, *_: self._inverse_and_log_det(x), [x, *parameters], (dz, dlog_det))
        return x, dx, dparameters

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType, num_classes: int | None = None) -> dict[str, Any]:
        # No parameter has batch axes: one object is one bijector, and its batch shape is [].
        return {}

    def _get_parameterization(self) -> Any:
        # TFP lets instances with equal `parameters` share cached results. That is wrong for variables, which may have
        # been assigned to in between, so here an instance uses only its own.
        return id(self)

    # TFP's cache calls the first two, which give it the log-det with the value. The others compute what is not cached.

    def _forward_and_ildj(self, z: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        x, log_det = self.forward_and_log_det(z)
        return x, {"ildj": -log_det}

    def _inverse_and_ildj(self, x: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        z, log_det = self.inverse_and_log_det(x)
        return z, {"ildj": log_det}

    def _forward_log_det_jacobian(self, z: tf.Tensor) -> tf.Tensor:
        return self.forward_and_log_det(z)[1]

    def _inverse_log_det_jacobian(self, x: tf.Tensor) -> tf.Tensor:
        return self.inverse_and_log_det(x)[1]


def as_parameters(*values: Any) -> tuple[Any, ...]:
    """Converts numbers and arrays to tensors of one floating type, by default float32; variables and None stay."""
    dtype = dtype_util.common_dtype(values, dtype_hint=tf.float32)
    if not tf.as_dtype(dtype).is_floating:
        raise ValueError(f"parameters are {tf.as_dtype(dtype).name}; floats are needed")
    return tuple(tensor_util.convert_nonref_to_tensor(value, dtype=dtype) for value in values)


def as_pair(values: Any, source: str, names: str, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    """The two tensors that a function returned.

    Raises:
        ValueError: if it returned anything but two values; unpacking a tensor would cut it along its first axis.
    """
    if not isinstance(values, (tuple, list)) or len(values) != 2:
        found = f"{len(values)} values" if isinstance(values, (tuple, list)) else f"one {type(values).__name__}"
        raise ValueError(f"{source} returned {found}; it must return ({names})")
    first, second = (tf.convert_to_tensor(value, dtype) for value in values)
    return first, second


def sum_except_batch(values: tf.Tensor) -> tf.Tensor:
    """The sum over an event: [..., H, W, C] -> [...]."""
    return tf.reduce_sum(values, axis=[-3, -2, -1])


def log_det_of_scale(log_scale: tf.Tensor, values: tf.Tensor, result: tf.Tensor) -> tf.Tensor:
    """The log-det of result = values * exp(log_scale) + shift, for any shift: log_scale summed over an event, [...].

    Args:
        log_scale: broadcasts to `result`; its batch axes are assumed to match where their sizes are unknown.
        values, result: [..., H, W, C].

    Raises:
        ValueError: if broadcasting changed the event's shape, in which case the map is not a bijection.
    """
    check_event(values, result)
    if log_scale.shape.rank == 1 and log_scale.shape[0] is not None and log_scale.shape == result.shape[-1:]:
        return constant_log_det(tf.reduce_sum(log_scale), result)
    is_known = log_scale.shape[-3:].is_fully_defined() and result.shape.rank is not None
    if not (is_known and log_scale.shape.as_list() == result.shape.as_list()):
        log_scale = tf.broadcast_to(log_scale, tf.shape(result))
    return sum_except_batch(log_scale)


def check_event(values: tf.Tensor, result: tf.Tensor, cause: str = "parameters broadcast") -> None:
    """Raises ValueError, which names the cause, if the event of `result` has another shape than that of `values`.

    Sizes that only a graph knows are checked when it runs.
    """
    before, after = values.shape[-3:], result.shape[-3:]
    if not before.is_compatible_with(after):
        raise ValueError(f"{cause} an event of shape {tuple(before)} to {tuple(after)}; it must keep its shape")
    if not (before.is_fully_defined() and after.is_fully_defined()):
        sizes = tf.shape(values)[-3:], tf.shape(result)[-3:]
        tf.debugging.assert_equal(*sizes, message=f"{cause} an event to another shape; it must keep its shape")


def constant_log_det(log_det_per_position: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """H * W times the log-det of one position, repeated to [...], the batch shape of values [..., H, W, C]."""
    height, width, _ = image_shape(values)
    positions = height * width
    if tf.is_tensor(positions):
        positions = tf.cast(positions, values.dtype)
    return tf.fill(batch_shape(values), positions * log_det_per_position)
