import numpy as np
import pytest
import tensorflow as tf

from glow_tf.training import muon


@pytest.mark.parametrize("shape", [(2, 5, 5), (3, 3, 3, 4, 6), (2, 3, 3, 2, 40)])
def test_singular_values_become_alike(shape, rng):
    kernels = rng.standard_normal(shape).astype(np.float32)
    rows, columns = np.prod(shape[1:-1]), shape[-1]
    found = muon.orthogonalized(tf.constant(kernels)).numpy().reshape(-1, rows, columns)
    largest = muon.RMS * max(rows, columns) ** 0.5
    for matrix, kernel in zip(found, kernels.reshape(found.shape), strict=True):
        left, values, right = np.linalg.svd(kernel, full_matrices=False)
        values /= np.linalg.norm(values)
        for _ in range(5):  # Jordan et al. 2024
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        assert values.min() > 0.2
        assert values.max() < 1.3
        np.testing.assert_allclose(matrix / largest, left * values @ right, atol=1e-4)


def test_the_length_of_the_gradient_does_not_matter(rng):
    kernels = tf.constant(rng.standard_normal((2, 6, 4)))
    expected = muon.orthogonalized(kernels)
    np.testing.assert_allclose(muon.orthogonalized(1e-6 * kernels), expected, rtol=1e-9)
    assert np.sqrt(np.mean(np.square(expected))) == pytest.approx(0.2, rel=0.3)


def test_zero_stays_zero():
    np.testing.assert_array_equal(muon.orthogonalized(tf.zeros([2, 3, 4])), np.zeros([2, 3, 4]))


def test_the_kernels_of_the_couplings_are_muons():
    names = {
        "level0/coupling/conv1_kernel": True,
        "level0/coupling/conv3_bias": False,
        "level0/conv1x1/lower": False,
        "split0/kernel": False,
        "top/class_kernel": False,
    }
    for name, expected in names.items():
        assert muon.is_for(tf.Variable(np.zeros([2, 3, 4]), name=name)) is expected
