import contextlib
import math

import numpy as np
import pytest
from helpers import make_glow

from glow_tf.data import image_data
from glow_tf.dequantization import NoiseStream
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(5).integers(0, 256, (9, 4, 8, 2)).astype(np.uint8)


@pytest.fixture(scope="module")
def labels():
    return np.array([0, 1, 2, 0, 1, 2, 2, 1, 0], np.int32)


def test_bits_of_a_split_are_those_of_its_images(small_glow, pixels):
    bits, error, count = metrics.bits_per_dim(small_glow, image_data.ArrayDataset(pixels), batch_size=4, seed=3)
    expected = np.concatenate(
        [small_glow.bits_per_dim(pixels[start : start + 4], seed=3 + i) for i, start in enumerate((0, 4, 8))]
    )
    assert count == 9
    assert bits == pytest.approx(expected.mean(), rel=1e-12)
    assert error == pytest.approx(expected.std(ddof=1) / 3, rel=1e-12)
    result = metrics.evaluate(small_glow, image_data.ArrayDataset(pixels), batch_size=4, seed=3)
    np.testing.assert_allclose(result.bits_per_dim, expected, rtol=1e-12)
    np.testing.assert_allclose(result.level_bits_per_dim.sum(axis=1), expected, rtol=1e-12)
    assert result.classes is None
    assert metrics.standard_error(expected) == pytest.approx(error)
    assert (result.num_wrong_bytes, result.num_bytes) == (0, 9 * 64)
    assert 0 < result.round_trip_error < 1e-9


def test_of_a_conditional_model_given_the_label_and_with_the_classifiers_accuracy(conditional_glow, pixels, labels):
    result = metrics.evaluate(conditional_glow, image_data.ArrayDataset(pixels, labels))
    np.testing.assert_allclose(result.bits_per_dim, conditional_glow.bits_per_dim(pixels, labels), rtol=1e-12)
    middle = conditional_glow.dequantizer.dequantize(pixels, 0.5)
    best = np.argmax([conditional_glow.log_prob(middle, [label] * 9) for label in range(3)], axis=0)
    np.testing.assert_array_equal(result.classes, best)
    assert result.accuracy == pytest.approx(np.mean(best == labels))
    rows = result.per_class()
    assert {label: row[0] for label, row in rows.items()} == {0: 3, 1: 3, 2: 3}
    ones = labels == 1
    assert rows[1][1:] == pytest.approx((result.bits_per_dim[ones].mean(), np.mean(best[ones] == 1)))


def test_more_draws_average_the_probability_and_not_its_logarithm(small_glow, pixels):
    one, two, three = (small_glow.bits_per_dim(pixels, seed=2 + i * metrics.SAMPLE_STRIDE).numpy() for i in range(3))
    found = metrics.bits_per_dim_per_image(small_glow, pixels, seed=2, num_importance_samples=3)
    probabilities = np.mean(np.exp2(-64 * (np.array([one, two, three]) - one)), axis=0)
    np.testing.assert_allclose(found, one - np.log2(probabilities) / 64, rtol=1e-10)
    assert np.all(found <= np.mean([one, two, three], axis=0))
    np.testing.assert_allclose(metrics.bits_per_dim_per_image(small_glow, pixels, seed=2), one, rtol=1e-12)
    with pytest.raises(InputError, match="num_importance_samples is 0"):
        metrics.bits_per_dim_per_image(small_glow, pixels, num_importance_samples=0)


def test_one_image_has_no_standard_error(small_glow, pixels):
    bits, error, count = metrics.bits_per_dim(small_glow, image_data.ArrayDataset(pixels[:1]))
    assert (error, count) == (None, 1)
    assert metrics.standard_error(pixels[:1]) is None
    assert metrics.describe(bits, error, count) == f"{bits:.4f} bits/dim on 1 test image (no standard error)"
    assert metrics.describe(1.25e28, 2e27, 2) == "1.25e+28 ± 2e+27 bits/dim on 2 test images"
    assert metrics.standard_error(np.array([1e28, 3.0], np.float32)) == pytest.approx(5e27)


def test_a_limit_takes_a_random_subset(small_glow, pixels):
    split = image_data.ArrayDataset(pixels)
    chosen, _ = split.random_subset(4, seed=0)
    assert not np.array_equal(chosen, pixels[:4])
    bits, _, count = metrics.bits_per_dim(small_glow, split, limit=4)
    assert count == 4
    assert bits == pytest.approx(float(np.mean(small_glow.bits_per_dim(chosen, seed=0))), rel=1e-12)
    for limit in (0, -1):
        with pytest.raises(InputError, match=f"limit is {limit}; it must be 1 or more"):
            metrics.bits_per_dim(small_glow, split, limit=limit)


def test_importance_samples_of_a_split(small_glow, pixels):
    result = metrics.evaluate(small_glow, image_data.ArrayDataset(pixels), 5, seed=2, num_importance_samples=3)
    parts = (metrics.bits_per_dim_per_image(small_glow, pixels[i : i + 5], None, 2 + i // 5, 3) for i in (0, 5))
    np.testing.assert_allclose(result.bits_per_dim, np.concatenate([*parts]), rtol=1e-12)


def test_progress_counts_every_image(small_glow, pixels, monkeypatch):
    counts = []

    @contextlib.contextmanager
    def phase(name, total):
        yield lambda count: counts.append((name, total, count))

    monkeypatch.setattr(metrics._progress, "phase", phase)
    metrics.evaluate(small_glow, image_data.ArrayDataset(pixels), batch_size=4)
    metrics.bits_per_dim(small_glow, image_data.ArrayDataset(pixels), batch_size=5)
    assert counts == [("evaluating", 9, count) for count in (4, 4, 1, 5, 4)]


def test_latents_per_level_are_all_dimensions(small_glow):
    assert metrics.latents_per_level(small_glow.config) == [32, 32]
    sizes = metrics.latents_per_level(make_glow(image_shape=(8, 8, 3), num_levels=3).config)
    assert sizes == [96, 48, 48]


def test_typicality_is_a_two_sided_p_value(rng):
    seen = rng.normal(3.0, 0.2, 1000)
    summary = metrics.distribution_summary(seen)
    assert summary["count"] == 1000 and len(summary["quantiles"]) == metrics.NUM_QUANTILES
    p = metrics.typicality(np.array([3.0, 3.2, 2.8, 3.392, 1.0, 9.0]), summary)
    np.testing.assert_allclose(p, [1.0, 0.317, 0.317, 0.05, 1 / 1001, 1 / 1001], atol=0.08)
    # Of other values of the same distribution the p-values are even.
    others = metrics.typicality(rng.normal(3.0, 0.2, 2000), summary)
    np.testing.assert_allclose(np.quantile(others, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.06)


def test_typicality_of_a_skewed_distribution_goes_by_rank():
    # A quarter of the training images has at most 0.5, a quarter at least 5.5: both are equally unusual.
    summary = {"count": 99, "quantiles": [0.0, 1.0, 10.0]}
    p = metrics.typicality([0.5, 1.0, 5.5, -3.0, 10.0], summary)
    np.testing.assert_allclose(p, [0.5, 1.0, 0.5, 0.01, 0.01])


def test_normality_of_known_distributions(rng):
    n = metrics.normality(rng.standard_normal((100, 20, 20)))
    np.testing.assert_allclose([n.mean, n.variance, n.skewness, n.kurtosis], [0, 1, 0, 0], atol=0.06)
    assert n.ks_statistic < 0.01
    uniform = metrics.normality(rng.uniform(-math.sqrt(3), math.sqrt(3), 40_000))
    np.testing.assert_allclose([uniform.variance, uniform.skewness, uniform.kurtosis], [1, 0, -1.2], atol=0.05)
    assert uniform.ks_statistic == pytest.approx(0.0577, abs=0.01)
    assert metrics.normality(rng.exponential(1.0, 40_000)).skewness == pytest.approx(2.0, abs=0.2)
    assert metrics.normality(rng.standard_normal(10_000) + 1).ks_statistic == pytest.approx(0.383, abs=0.02)


def test_round_trip_is_exact_in_bytes(small_glow, pixels):
    error, wrong = metrics.round_trip(small_glow, pixels)
    assert 0 < error < 1e-9
    assert wrong == 0


def test_a_round_trip_is_as_wrong_as_its_worst_pixel(small_glow, pixels, monkeypatch):
    decoded = small_glow.dequantize(pixels).numpy()
    decoded[2, 1, 3, 0] += np.where(pixels[2, 1, 3, 0] < 128, 0.75, -0.75) / 256
    decoded[4, 0, 0, 1] += 0.25 / 256
    monkeypatch.setattr(type(small_glow), "decode", lambda *_: decoded)
    assert metrics.round_trip(small_glow, pixels) == (pytest.approx(0.75), 1)


def test_statistics_are_those_of_each_levels_latents(small_glow, pixels):
    z = small_glow.encode(small_glow.dequantize(pixels, 0, NoiseStream.LATENTS))
    found = metrics.latent_statistics(small_glow, pixels)
    for name, values in zip(("z", "z/level0", "z/level1"), (z, *small_glow.split_latents(z)), strict=True):
        moments = found.pop(f"{name}/mean"), found.pop(f"{name}/variance")
        assert moments == pytest.approx((np.mean(values), np.var(values)), rel=1e-9)
    assert not found


def test_arrays_are_no_splits(small_glow, pixels):
    for function in (metrics.evaluate, metrics.bits_per_dim):
        with pytest.raises(
            InputError, match=rf"{function.__name__} takes splits, such as ArrayDataset\(images\), not nd"
        ):
            function(small_glow, pixels)
