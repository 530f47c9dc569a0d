import numpy as np
import pytest
import tensorflow as tf

from glow_tf.bijectors.actnorm import ActNorm, actnorm_init


def test_formula_on_numbers():
    actnorm = ActNorm(tf.constant([1.0, -2.0]), tf.math.log([2.0, 0.5]))
    image = tf.constant([[[3.0, 4.0], [0.0, 2.0], [-1.0, 6.0]]])
    np.testing.assert_allclose(actnorm.inverse(image), [[[8.0, 1.0], [2.0, 0.0], [0.0, 2.0]]])
    # 1 * 3 positions, each log 2 + log 1/2.
    np.testing.assert_allclose(actnorm.inverse_log_det_jacobian(image, 3), 0.0, atol=1e-7)


def test_log_det_counts_positions():
    actnorm = ActNorm(tf.zeros([3]), tf.constant([0.1, 0.2, 0.4]))
    log_det = actnorm.inverse_log_det_jacobian(tf.zeros([2, 5, 4, 3]), 3)
    np.testing.assert_allclose(log_det, [5 * 4 * 0.7] * 2, rtol=1e-6)


def test_mean_and_deviation_of_all_batches_together(rng):
    values = 5 + rng.standard_normal((90, 2, 3, 4)) * [1, 0.1, 10, 0]
    expected_log_scale = -np.log(values.std(axis=(0, 1, 2)) + 1e-6)
    for cuts in ([], [1], [10, 11, 60]):
        batches = [tf.constant(part) for part in np.split(values, cuts)]
        shift, log_scale = actnorm_init(iter(batches))
        np.testing.assert_allclose(shift, -values.mean(axis=(0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(log_scale, expected_log_scale, rtol=1e-9)


def test_a_constant_channel_gets_a_finite_scale():
    shift, log_scale = actnorm_init([tf.fill([4, 2, 2, 1], 7.0)])
    np.testing.assert_array_equal(shift, [-7.0])
    np.testing.assert_allclose(log_scale, [np.log(1e6)], rtol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_large_offsets_do_not_cancel(dtype, rng):
    values = tf.cast(1000 + 0.01 * rng.standard_normal((64, 4, 4, 1)), dtype)
    shift, log_scale = actnorm_init([values[:30], values[30:]])
    assert shift.dtype == log_scale.dtype == dtype
    np.testing.assert_allclose(log_scale, -np.log(np.std(values.numpy().astype(np.float64)) + 1e-6), rtol=1e-6)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "0 images were given to initialise from; 1 or more are needed"),
        ([np.zeros((2, 1, 1, 3), np.uint8)], r"a batch is uint8 \(2, 1, 1, 3\); floats"),
        ([tf.zeros([0, 1, 1, 3])], r"a batch is float32 \(0, 1, 1, 3\); floats"),
        ([tf.zeros([3])], r"a batch is float32 \(3,\); floats"),
        ([tf.zeros([2, 1, 1, 3]), tf.zeros([2, 1, 1, 1])], "a batch has 1 channels, and one before it has 3"),
    ],
)
def test_batches_that_have_no_moments(batches, message):
    with pytest.raises(ValueError, match=message):
        actnorm_init(batches)
