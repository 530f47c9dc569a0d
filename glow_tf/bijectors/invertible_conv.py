"""The invertible 1x1 convolution and the PLU form of its matrix."""

from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, as_parameters, constant_log_det

# The factors of a matrix: the arguments of `plu_weight`, and the names of the variables.
PLU_NAMES = ("permutation", "lower", "log_abs_s", "sign_s", "upper")


class InvertibleConv1x1(ImageBijector):
    """Multiplies the channels of every position by one matrix.

    inverse: z_j = sum_i x_i weight[i, j]   (a row vector times the matrix, as in OpenAI's code)
    log-det of inverse: H * W * log|det weight|, shape [...], nats

    Args:
        weight: [C, C].
        inverse_weight: [C, C], the inverse of `weight`. Default: computed from `weight`.
        log_abs_det: [], log|det weight|. Default: computed from `weight`.

    `FlowSteps.prepare` computes these from the PLU factors of all K steps at once, and only the matrix of the direction
    in use: with `inverse_weight` and `log_abs_det`, `weight` may be None, and then only `forward` works.

    Raises:
        ValueError: if a matrix is not square or `log_abs_det` is not a scalar.

    References: Kingma & Dhariwal 2018, section 3.2.

    >>> layer = InvertibleConv1x1([[2.0, 0.0], [0.0, 2.0]])
    >>> layer.inverse(tf.constant([[[1.0, 2.0]]])).numpy().tolist()
    [[[2.0, 4.0]]]
    """

    def __init__(
        self, weight: Any = None, inverse_weight: Any = None, log_abs_det: Any = None, name: str = "conv1x1"
    ) -> None:
        parameters = dict(locals())
        if weight is None and (inverse_weight is None or log_abs_det is None):
            raise ValueError("InvertibleConv1x1 needs weight, or both inverse_weight and log_abs_det")
        self.weight, self.inverse_weight, self.log_abs_det = as_parameters(weight, inverse_weight, log_abs_det)
        matrices = {"weight": self.weight, "inverse_weight": self.inverse_weight}
        given = {key: matrix for key, matrix in matrices.items() if matrix is not None}
        for key, matrix in given.items():
            if matrix.shape.rank != 2 or matrix.shape[0] != matrix.shape[1]:
                raise ValueError(f"{key} has shape {tuple(matrix.shape)}; it must be a square matrix")
        if self.log_abs_det is not None and self.log_abs_det.shape.rank != 0:
            raise ValueError(f"log_abs_det has shape {tuple(self.log_abs_det.shape)}; it must be a scalar")
        dtype = next(iter(given.values())).dtype
        super().__init__(dtype=dtype, parameters=parameters, is_constant_jacobian=True, name=name)

    def _forward_and_log_det(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inverse_weight = tf.linalg.inv(self.weight) if self.inverse_weight is None else self.inverse_weight
        return tf.tensordot(z, inverse_weight, axes=1), constant_log_det(-self._log_abs_det(), z)

    def _inverse_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if self.weight is None:
            raise ValueError("inverse needs the weight of the InvertibleConv1x1; without it, only forward works")
        return tf.tensordot(x, self.weight, axes=1), constant_log_det(self._log_abs_det(), x)

    def _log_abs_det(self) -> tf.Tensor:
        return tf.linalg.slogdet(self.weight)[1] if self.log_abs_det is None else self.log_abs_det


def plu_weight(
    permutation: tf.Tensor, lower: tf.Tensor, log_abs_s: tf.Tensor, sign_s: tf.Tensor, upper: tf.Tensor
) -> tf.Tensor:
    """weight = P L (U + diag(s)), for a stack of matrices at once.

    Args (leading dimensions [...] are a stack):
        permutation: [..., C] int32; row i of P has its one in column permutation[i].
        lower: [..., C, C]; L has its entries below the diagonal, and ones on it. The other entries are ignored.
        log_abs_s: [..., C], log|s|.
        sign_s: [..., C], the fixed signs of s, +1 or -1.
        upper: [..., C, C]; U has its entries above the diagonal. The other entries are ignored.

    Returns:
        [..., C, C] in the dtype of `lower`, computed in float64. log|det weight| = sum(log_abs_s).

    References: Kingma & Dhariwal 2018, equation 10.
    """
    product = tf.matmul(_unit_lower(lower), _upper_with_diagonal(log_abs_s, sign_s, upper))
    # tf.gather of the rows would be equivalent, but its gradient is a hundred operations.
    return tf.cast(tf.matmul(_permutation_matrix(permutation), product), lower.dtype)


def plu_inverse(
    permutation: tf.Tensor, lower: tf.Tensor, log_abs_s: tf.Tensor, sign_s: tf.Tensor, upper: tf.Tensor
) -> tf.Tensor:
    """The inverse of the matrix of `plu_weight`: (U + diag(s))^-1 L^-1 P^T, by two triangular solves.

    Solving once for the whole matrix and multiplying is as exact as solving at every position, and needs no solve on
    image-sized data. Arguments and result are as in `plu_weight`.
    """
    p_transposed = tf.linalg.matrix_transpose(_permutation_matrix(permutation))
    lower_solution = tf.linalg.triangular_solve(_unit_lower(lower), p_transposed, lower=True)
    inverse = tf.linalg.triangular_solve(_upper_with_diagonal(log_abs_s, sign_s, upper), lower_solution, lower=False)
    return tf.cast(inverse, lower.dtype)


def plu_decompose(weight: Any) -> dict[str, tf.Tensor]:
    """The factors of dense matrices, {name in `PLU_NAMES`: tensor}: the arguments of `plu_weight`.

    Args:
        weight: [..., C, C], invertible.
    """
    (weight,) = as_parameters(weight)
    lu, rows = tf.linalg.lu(tf.cast(weight, tf.float64))
    # tf.linalg.lu: weight[rows[i]] = (L U)[i]; P undoes that order.
    permutation = tf.argsort(rows, axis=-1)
    diagonal = tf.linalg.diag_part(lu)
    lower = tf.linalg.set_diag(tf.linalg.band_part(lu, -1, 0), tf.zeros_like(diagonal))
    upper = tf.linalg.set_diag(tf.linalg.band_part(lu, 0, -1), tf.zeros_like(diagonal))
    factors = [lower, tf.math.log(tf.abs(diagonal)), tf.sign(diagonal), upper]
    casted = [tf.cast(permutation, tf.int32), *(tf.cast(factor, weight.dtype) for factor in factors)]
    return dict(zip(PLU_NAMES, casted, strict=True))


def random_rotations(rng: np.random.Generator, num_steps: int, channels: int) -> dict[str, np.ndarray]:
    """The initial factors of K 1x1 convolutions, {name in `PLU_NAMES`: [K, ...]}: each matrix is a random rotation."""
    rotations = np.linalg.qr(rng.standard_normal([num_steps, channels, channels]))[0]
    return {name: factor.numpy() for name, factor in plu_decompose(rotations).items()}


def _permutation_matrix(permutation: tf.Tensor) -> tf.Tensor:
    """[..., C, C] float64, whose row i has its one in column permutation[i]."""
    return tf.one_hot(permutation, permutation.shape[-1], dtype=tf.float64)


def _unit_lower(lower: tf.Tensor) -> tf.Tensor:
    return tf.cast(lower, tf.float64) * _below_diagonal(lower) + tf.eye(lower.shape[-1], dtype=tf.float64)


def _upper_with_diagonal(log_abs_s: tf.Tensor, sign_s: tf.Tensor, upper: tf.Tensor) -> tf.Tensor:
    s = tf.cast(sign_s, tf.float64) * tf.exp(tf.cast(log_abs_s, tf.float64))
    return tf.cast(upper, tf.float64) * tf.transpose(_below_diagonal(upper)) + tf.linalg.diag(s)


def _below_diagonal(matrix: tf.Tensor) -> tf.Tensor:
    """[C, C]: one below the diagonal, zero on and above it, for a [..., C, C] matrix."""
    # tf.linalg.set_diag is shorter, but the graph of its gradient grows with the stack.
    return 1.0 - tf.linalg.band_part(tf.ones(matrix.shape[-2:], tf.float64), 0, -1)
