"""Fixed channel permutations, which the paper replaces with the 1x1 convolution: reversal and random shuffle."""

from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, constant_log_det


class ChannelPermutation(ImageBijector):
    """Reorders the channels.

    inverse: z[..., j] = x[..., indices[j]]
    log-det: 0

    Args:
        indices: [C] integers (a variable: int32 or int64), a permutation of 0..C-1; RealNVP's reversal is C-1..0.
        dtype: dtype of the images.

    Raises:
        ValueError: if `indices` are not a permutation (unchecked for a variable), or an image does not have C channels.

    References: Kingma & Dhariwal 2018, section 3.2 and figure 3.

    >>> ChannelPermutation([2, 0, 1]).inverse(tf.constant([[[1.0, 2.0, 3.0]]])).numpy().tolist()
    [[[3.0, 1.0, 2.0]]]
    """

    def __init__(self, indices: Any, dtype: tf.DType = tf.float32, name: str = "permutation") -> None:
        super().__init__(dtype=dtype, parameters=dict(locals()), is_constant_jacobian=True, name=name)
        self.indices = indices if isinstance(indices, tf.Variable) else tf.convert_to_tensor(indices)
        known = tf.get_static_value(self.indices)
        is_vector = self.indices.dtype.is_integer and self.indices.shape.rank == 1
        if not is_vector or (known is not None and sorted(known) != list(range(len(known)))):
            raise ValueError(f"indices {np.asarray(indices).tolist()} are not a permutation of 0, 1, ...")
        if not isinstance(indices, tf.Variable):
            self.indices = tf.cast(self.indices, tf.int32)  # TensorFlow does not invert permutations of other types

    def _forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._gather(z, tf.math.invert_permutation(self.indices))

    def _inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._gather(x, self.indices)

    def _gather(self, values: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if not values.shape[-1:].is_compatible_with(indices.shape):
            raise ValueError(f"a permutation of {indices.shape[0]} channels cannot reorder {values.shape[-1]} channels")
        return tf.gather(values, indices, axis=-1), constant_log_det(tf.zeros([], values.dtype), values)


def fixed_orders(kind: str, rng: np.random.Generator, num_steps: int, channels: int) -> dict[str, np.ndarray]:
    """The indices of K permutations, {"indices": [K, C]}: "reverse", or "shuffle", which draws one for each step."""
    reverse = np.arange(channels, dtype=np.int32)[::-1]
    orders = [rng.permutation(channels) if kind == "shuffle" else reverse for _ in range(num_steps)]
    return {"indices": np.stack(orders).astype(np.int32)}
