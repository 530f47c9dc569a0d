"""Muon: updates weight matrices by the orthogonalised momentum of their gradients.

An update changes all directions of a matrix equally, whereas Adam's updates are dominated by a few. Muon trains the
kernels of the coupling networks; all other variables use Adam.

References: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the scale of a step is that of Liu et al.
2025 (arXiv 2502.16982), section 2.2.
"""

import math

import tensorflow as tf

MOMENTUM = 0.95

# Newton-Schulz iteration; these coefficients bring singular values near one (0.7 to 1.2) in a few iterations.
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)

# Gradients are clipped to CLIP times the running average of their global norm, which is updated at CLIP_RATE. Without
# clipping, one outlier batch would dominate the momentum.
CLIP = 2.0
CLIP_RATE = 0.02

# Root mean square of an update's entries, divided by the learning rate: about that of Adam, so that one learning rate
# serves both.
RMS = 0.2


def is_for(variable: tf.Variable) -> bool:
    """Whether Muon trains the variable: it does if this is a kernel [K, ..., in, out] of a coupling network.

    The name decides, since the factors of the 1x1 convolutions have the same shape.
    """
    return "/coupling/" in variable.name and variable.name.split(":")[0].endswith("_kernel")


def orthogonalized(kernels: tf.Tensor) -> tf.Tensor:
    """Approximates the orthogonal matrices nearest to K kernels [K, ..., in, out], with all axes before `out` as rows.

    The result is scaled so that the root mean square of its entries is about RMS; zeros stay zero.
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
