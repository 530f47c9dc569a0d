"""Muon: steps of weight matrices that are orthogonal matrices, from the momentum of the gradient.

Every direction of a matrix moves as far as every other; Adam's steps move a few directions of the matrix and hardly
the rest. It trains the kernels of the coupling networks; all other variables use Adam.

References: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the scale of a step is that of Liu et al.
2025 (arXiv 2502.16982), section 2.2.
"""

import math

import tensorflow as tf

MOMENTUM = 0.95

# Of Newton and Schulz's iteration, whose coefficients bring singular values near one (0.7 to 1.2) in few steps.
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)

# Gradients are clipped to CLIP times the running average of their global norm, which is updated at CLIP_RATE. Without
# clipping, one outlier batch would dominate the momentum.
CLIP = 2.0
CLIP_RATE = 0.02

# A step is as long as Adam's usually are, so that one learning rate serves both: the root mean square of its entries is
# this times the learning rate.
RMS = 0.2


def is_for(variable: tf.Variable) -> bool:
    """Whether Muon trains it: the kernels [K, ..., in, out] of the couplings' networks.

    The name decides, since the 1x1 convolutions' factors have the shape of kernels, too.
    """
    return "/coupling/" in variable.name and variable.name.split(":")[0].endswith("_kernel")


def orthogonalized(kernels: tf.Tensor) -> tf.Tensor:
    """Nearly the nearest orthogonal matrices to K kernels [K, ..., in, out], the axes before `out` taken as rows.

    Scaled so that the root mean square of the entries is about RMS; zero stays zero.
    """
    columns = kernels.shape[-1]
    rows = math.prod(kernels.shape[1:-1])
    matrices = tf.reshape(kernels, [-1, rows, columns])
    is_wide = rows < columns
    if is_wide:
        matrices = tf.linalg.matrix_transpose(matrices)
    matrices = tf.math.divide_no_nan(matrices, tf.norm(matrices, axis=[1, 2], keepdims=True))
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = tf.matmul(matrices, matrices, transpose_a=True)
        matrices = a * matrices + tf.matmul(matrices, b * gram + c * tf.matmul(gram, gram))
    if is_wide:
        matrices = tf.linalg.matrix_transpose(matrices)
    return tf.reshape(matrices, kernels.shape) * (RMS * math.sqrt(max(rows, columns)))
