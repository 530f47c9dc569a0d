"""Couplings: half of the channels are moved by what a network says of the other half."""

import abc

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, batch_shape, sum_except_batch


class _Coupling(ImageBijector):
    """Keeps the first half of the channels and moves the second.

    Args:
        network: kept [..., H, W, C/2] -> what the subclass names.
    """

    def __init__(self, network, dtype=tf.float32, name=None):
        super().__init__(dtype=dtype, name=name)
        self.network = network

    @abc.abstractmethod
    def _move(self, moved, network_output):
        """inverse on the moved half: (moved on the latent side, log-det [...])."""

    @abc.abstractmethod
    def _move_back(self, moved, network_output):
        """forward on the moved half: (moved on the image side, log-det [...])."""

    def _forward_and_log_det(self, x):
        kept, moved = tf.split(x, 2, axis=-1)
        moved, log_det = self._move_back(moved, self.network(kept))
        return tf.concat([kept, moved], axis=-1), log_det

    def _inverse_and_log_det(self, y):
        kept, moved = tf.split(y, 2, axis=-1)
        moved, log_det = self._move(moved, self.network(kept))
        return tf.concat([kept, moved], axis=-1), log_det

    def inverse_vjp(self, x, dx, dlog_det, parameters):
        """As the base class says, with one evaluation of the network: the kept half is known from the start."""
        kept, moved_latent = tf.split(x, 2, axis=-1)
        dkept_direct, dmoved_latent = tf.split(dx, 2, axis=-1)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([kept, *parameters])
            output = self.network(kept)
            with tape.stop_recording():
                moved, _ = self._move_back(moved_latent, output)
            tape.watch(moved)
            moved_again, log_det = self._move(moved, output)
        dkept, dmoved, *dparameters = tape.gradient(
            [moved_again, log_det],
            [kept, moved, *parameters],
            output_gradients=[dmoved_latent, dlog_det],
        )
        y = tf.concat([kept, moved], axis=-1)
        return y, tf.concat([dkept + dkept_direct, dmoved], axis=-1), dparameters


class AffineCoupling(_Coupling):
    """Shifts and scales the second half of the channels.

    inverse: kept, moved = halves of y;  shift, log_scale = network(kept)
             x = [kept, (moved + shift) * exp(log_scale)]
    log-det of inverse: sum(log_scale), shape [...], nats

    Args:
        network: [..., H, W, C/2] -> (shift, log_scale), each [..., H, W, C/2].
    References: Dinh et al. 2017, section 3.4; (moved + shift) * scale is the order of OpenAI's code.

    >>> layer = AffineCoupling(lambda kept: (10 * kept, tf.zeros_like(kept)))
    >>> layer.inverse(tf.constant([[[1.0, 2.0]]])).numpy().tolist()
    [[[1.0, 12.0]]]
    """

    def __init__(self, network, dtype=tf.float32, name="affine_coupling"):
        super().__init__(network, dtype=dtype, name=name)

    def _move(self, moved, network_output):
        shift, log_scale = network_output
        return (moved + shift) * tf.exp(log_scale), sum_except_batch(log_scale)

    def _move_back(self, moved, network_output):
        shift, log_scale = network_output
        return moved * tf.exp(-log_scale) - shift, -sum_except_batch(log_scale)


class AdditiveCoupling(_Coupling):
    """Shifts the second half of the channels.

    inverse: kept, moved = halves of y;  x = [kept, moved + network(kept)]
    log-det: 0

    Args:
        network: [..., H, W, C/2] -> shift [..., H, W, C/2].
    References: Dinh et al. 2015, section 3.2.

    >>> layer = AdditiveCoupling(lambda kept: 10 * kept)
    >>> layer.inverse(tf.constant([[[1.0, 2.0]]])).numpy().tolist()
    [[[1.0, 12.0]]]
    """

    def __init__(self, network, dtype=tf.float32, name="additive_coupling"):
        super().__init__(network, dtype=dtype, name=name)

    def _move(self, moved, network_output):
        return moved + network_output, tf.zeros(batch_shape(moved), moved.dtype)

    def _move_back(self, moved, network_output):
        return moved - network_output, tf.zeros(batch_shape(moved), moved.dtype)
