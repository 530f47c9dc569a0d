"""Couplings: transform one half of the channels by parameters that a network computes from the other half.

With a context, which the network receives as further channels, a coupling is conditional: p(x | context).
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, as_pair, check_event, log_det_of_scale
from glow_tf.bijectors.residuals import require_gradient
from glow_tf.bijectors.shapes import batch_shape, halves


class _Coupling(ImageBijector):
    """Passes the first half of the channels (x1) through and transforms the second (x2).

    Args:
        conditioner: x1 [..., H, W, C/2] -> the parameters of the subclass's transform of x2.
        context: None, or [..., H, W, D], appended to the channels of x1 for the conditioner; missing batch axes
            broadcast. Inside a `Scan`, the context comes from its argument `shared`. The bijector's batch shape is []
            even so: if the context has batch axes, the base of a distribution must have them, too.
    """

    def __init__(
        self,
        conditioner: Callable[[tf.Tensor], Any],
        dtype: tf.DType = tf.float32,
        name: str | None = None,
        context: tf.Tensor | None = None,
    ) -> None:
        super().__init__(dtype=dtype, parameters=dict(locals()), name=name)
        self.conditioner = conditioner
        self.context = context

    def _conditioned(self, x1: tf.Tensor) -> Any:
        if self.context is None:
            return self.conditioner(x1)
        context = tf.convert_to_tensor(self.context, x1.dtype)
        channels = context.shape[-1]
        _check_broadcast(context, x1)
        context = tf.broadcast_to(context, tf.concat([tf.shape(x1)[:-1], tf.shape(context)[-1:]], axis=0))
        if x1.shape.rank is not None:
            context = tf.ensure_shape(context, [*x1.shape[:-1], channels])
        return self.conditioner(tf.concat([x1, context], axis=-1))

    @abc.abstractmethod
    def _transform(self, x2: tf.Tensor, parameters: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """x2 -> (z2, log|det dz2/dx2| [...]), for `inverse`, the direction from image to latent."""

    @abc.abstractmethod
    def _inverse_transform(self, z2: tf.Tensor, parameters: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """z2 -> (x2, log|det dx2/dz2| [...]), for `forward`: the inverse of `_transform`."""

    def _forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x1, z2 = halves(z)
        x2, log_det = self._inverse_transform(z2, self._conditioned(x1))
        return tf.concat([x1, x2], axis=-1), log_det

    def _inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x1, x2 = halves(x)
        z2, log_det = self._transform(x2, self._conditioned(x1))
        return tf.concat([x1, z2], axis=-1), log_det

    def inverse_vjp(
        self, z: tf.Tensor, dz: tf.Tensor, dlog_det: tf.Tensor, parameters: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor | None]]:
        """As in the base class, but with one evaluation of the conditioner, whose input x1 is part of z."""
        x1, z2 = halves(z)
        dz1, dz2 = halves(dz)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([x1, *parameters])
            parameters_of_x2 = self._conditioned(x1)
            # Outside the tape: for the gradient, x2 is an input and not a function of z2 and x1.
            with tape.stop_recording():
                x2, _ = self._inverse_transform(z2, parameters_of_x2)
            tape.watch(x2)
            results = self._transform(x2, parameters_of_x2)
        dx1, dx2, *dparameters = tape.gradient(results, [x1, x2, *parameters], output_gradients=(dz2, dlog_det))
        require_gradient(dx2)
        dx1 = dz1 if dx1 is None else dx1 + dz1  # None if the conditioner ignores x1
        return tf.concat([x1, x2], axis=-1), tf.concat([dx1, dx2], axis=-1), dparameters


class AffineCoupling(_Coupling):
    """Shifts and scales the second half of the channels.

    inverse: x1, x2 = halves of x;  shift, log_scale = conditioner(x1)
             z = [x1, (x2 + shift) * exp(log_scale)]
    log-det of inverse: sum(log_scale), shape [...], nats

    Args:
        conditioner: x1 [..., H, W, C/2] -> (shift, log_scale), which broadcast to x2 [..., H, W, C/2].
        context: None, or [..., H, W, D], appended to the channels of x1 for the conditioner.

    References: Dinh et al. 2017, section 3.2; (x2 + shift) * scale is the order of OpenAI's code.

    >>> layer = AffineCoupling(lambda x1: (10 * x1, tf.zeros_like(x1)))
    >>> layer.inverse(tf.constant([[[1.0, 2.0]]])).numpy().tolist()
    [[[1.0, 12.0]]]
    """

    def _transform(self, x2: tf.Tensor, parameters: tuple[Any, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        shift, log_scale = as_pair(parameters, "the conditioner", "shift, log_scale", x2.dtype)
        z2 = (x2 + shift) * tf.exp(log_scale)
        return z2, log_det_of_scale(log_scale, x2, z2)

    def _inverse_transform(self, z2: tf.Tensor, parameters: tuple[Any, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        shift, log_scale = as_pair(parameters, "the conditioner", "shift, log_scale", z2.dtype)
        x2 = z2 * tf.exp(-log_scale) - shift
        return x2, -log_det_of_scale(log_scale, z2, x2)


class AdditiveCoupling(_Coupling):
    """Shifts the second half of the channels.

    inverse: x1, x2 = halves of x;  z = [x1, x2 + conditioner(x1)]
    log-det: 0

    Args:
        conditioner: x1 [..., H, W, C/2] -> shift, which broadcasts to x2 [..., H, W, C/2].
        context: None, or [..., H, W, D], appended to the channels of x1 for the conditioner.

    References: Dinh et al. 2015, section 3.2.

    >>> layer = AdditiveCoupling(lambda x1: 10 * x1)
    >>> layer.inverse(tf.constant([[[1.0, 2.0]]])).numpy().tolist()
    [[[1.0, 12.0]]]
    >>> layer = AdditiveCoupling(lambda x1: x1[..., :1] * x1[..., 1:], context=tf.constant([[[7.0]]]))
    >>> layer.inverse(tf.constant([[[1.0, 2.0]]])).numpy().tolist()
    [[[1.0, 9.0]]]
    """

    def _transform(self, x2: tf.Tensor, parameters: Any) -> tuple[tf.Tensor, tf.Tensor]:
        z2 = x2 + _single(parameters)
        check_event(x2, z2)
        return z2, tf.zeros(batch_shape(z2), z2.dtype)

    def _inverse_transform(self, z2: tf.Tensor, parameters: Any) -> tuple[tf.Tensor, tf.Tensor]:
        x2 = z2 - _single(parameters)
        check_event(z2, x2)
        return x2, tf.zeros(batch_shape(x2), x2.dtype)


def _single(shift: Any) -> Any:
    if isinstance(shift, (tuple, list)):
        raise ValueError(f"the conditioner returned {len(shift)} values; it must return the shift")
    return shift


def _check_broadcast(context: tf.Tensor, x1: tf.Tensor) -> None:
    """Raises ValueError if the context is known to have other batch axes or another size than the images."""
    given, needed = context.shape[:-1], x1.shape[:-1]
    try:
        if tf.broadcast_static_shape(given, needed).is_compatible_with(needed):
            return
    except ValueError:
        pass
    raise ValueError(
        f"a context [..., height, width] of {tuple(given)} does not broadcast to images of {tuple(needed)}; a "
        "distribution with a context for each image needs a base of the context's batch shape"
    )
