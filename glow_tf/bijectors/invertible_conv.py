"""The invertible 1x1 convolution, its matrix held as P L U."""

import tensorflow as tf

from glow_tf.bijectors.base import ImageBijector, constant_log_det


class InvertibleConv1x1(ImageBijector):
    """Multiplies the channels of every position by one matrix.

    inverse: x_j = sum_i y_i weight[i, j]   (a row vector times the matrix, as in OpenAI's code)
    log-det of inverse: H * W * log|det weight|, shape [...], nats

    Args:
        weight: [C, C].
        inverse_weight: [C, C], the inverse of `weight`.
        log_abs_det: [], log|det weight|.
    Either matrix may be None where its direction is not asked for.
    References: Kingma & Dhariwal 2018, section 3.2.

    >>> layer = InvertibleConv1x1(2 * tf.eye(2), tf.eye(2) / 2, log_abs_det=tf.math.log(4.0))
    >>> layer.inverse(tf.constant([[[1.0, 2.0]]])).numpy().tolist()
    [[[2.0, 4.0]]]
    """

    def __init__(self, weight, inverse_weight, log_abs_det, name="conv1x1"):
        super().__init__(dtype=log_abs_det.dtype, name=name)
        self.weight = weight
        self.inverse_weight = inverse_weight
        self.log_abs_det = log_abs_det

    def _forward_and_log_det(self, x):
        return _multiply_channels(x, self.inverse_weight), constant_log_det(-self.log_abs_det, x)

    def _inverse_and_log_det(self, y):
        return _multiply_channels(y, self.weight), constant_log_det(self.log_abs_det, y)


def plu_weight(permutation, lower, log_abs_s, sign_s, upper):
    """weight = P L (U + diag(s)), for a stack of matrices at once.

    Args (leading dimensions [...] are a stack):
        permutation: [..., C] int32; row i of P has its one in column permutation[i].
        lower: [..., C, C]; what lies below the diagonal counts, and the diagonal of L is one.
        log_abs_s: [..., C], log|s|.
        sign_s: [..., C], the fixed signs of s, +1 or -1.
        upper: [..., C, C]; what lies above the diagonal counts.
    Returns:
        [..., C, C] in the dtype of `lower`, computed in float64. log|det weight| = sum(log_abs_s).
    References: Kingma & Dhariwal 2018, equation 10.
    """
    product = tf.matmul(_unit_lower(lower), _upper_with_diagonal(log_abs_s, sign_s, upper))
    # Gathering rows would say the same, but its gradient takes a hundred operations.
    return tf.cast(tf.matmul(_permutation_matrix(permutation), product), lower.dtype)


def plu_inverse(permutation, lower, log_abs_s, sign_s, upper):
    """The inverse of `plu_weight`'s matrix by two triangular solves against P's transpose.

    Solving once for the whole matrix and multiplying is as exact as solving for every position, and needs
    no solve on image-sized data. Arguments and result as in `plu_weight`.
    """
    p_transposed = tf.linalg.matrix_transpose(_permutation_matrix(permutation))
    half = tf.linalg.triangular_solve(_unit_lower(lower), p_transposed, lower=True)
    inverse = tf.linalg.triangular_solve(_upper_with_diagonal(log_abs_s, sign_s, upper), half, lower=False)
    return tf.cast(inverse, lower.dtype)


def plu_decompose(weight):
    """The parts of a dense matrix: (permutation, lower, log_abs_s, sign_s, upper) as `plu_weight` takes them.

    Args:
        weight: [..., C, C], invertible.
    """
    lu, rows = tf.linalg.lu(tf.cast(weight, tf.float64))
    # tf.linalg.lu: weight[rows[i]] = (L U)[i]; P undoes that order.
    permutation = tf.argsort(rows, axis=-1)
    diagonal = tf.linalg.diag_part(lu)
    lower = tf.linalg.set_diag(tf.linalg.band_part(lu, -1, 0), tf.zeros_like(diagonal))
    upper = tf.linalg.set_diag(tf.linalg.band_part(lu, 0, -1), tf.zeros_like(diagonal))
    parts = [lower, tf.math.log(tf.abs(diagonal)), tf.sign(diagonal), upper]
    return (tf.cast(permutation, tf.int32), *[tf.cast(part, weight.dtype) for part in parts])


def _permutation_matrix(permutation):
    """[..., C, C] float64, whose row i has its one in column permutation[i]."""
    return tf.one_hot(permutation, permutation.shape[-1], dtype=tf.float64)


def _unit_lower(lower):
    return tf.cast(lower, tf.float64) * _below_diagonal(lower) + tf.eye(lower.shape[-1], dtype=tf.float64)


def _upper_with_diagonal(log_abs_s, sign_s, upper):
    s = tf.cast(sign_s, tf.float64) * tf.exp(tf.cast(log_abs_s, tf.float64))
    return tf.cast(upper, tf.float64) * tf.transpose(_below_diagonal(upper)) + tf.linalg.diag(s)


def _below_diagonal(matrix):
    """[C, C]: one below the diagonal, zero on and above it, for a [..., C, C] matrix."""
    # tf.linalg.set_diag would say it shorter, but its gradient has more nodes for a larger stack.
    return 1.0 - tf.linalg.band_part(tf.ones(matrix.shape[-2:], tf.float64), 0, -1)


def _multiply_channels(values, weight):
    return tf.tensordot(values, weight, axes=1)
