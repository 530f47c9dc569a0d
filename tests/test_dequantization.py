import numpy as np
import pytest
import tensorflow as tf

from glow_tf.dequantization import Dequantizer, NoiseStream, uniform_noise

BYTES = np.arange(256, dtype=np.uint8)
every_depth = pytest.mark.parametrize("num_bits", range(1, 9))


@every_depth
def test_formula_is_openais(num_bits, rng):
    noise = rng.uniform(size=256)
    n_bins = 2.0**num_bits
    x = np.floor(BYTES / 2.0 ** (8 - num_bits)) / n_bins - 0.5
    values = Dequantizer(num_bits).dequantize(BYTES, noise, tf.float64)
    np.testing.assert_allclose(values, x + noise / n_bins, rtol=0, atol=1e-15)
    assert np.min(values) >= -0.5
    assert np.max(values) < 0.5


@every_depth
def test_back_to_bytes_is_openais(num_bits, rng):
    n_bins = 2.0**num_bits
    values = rng.uniform(-0.7, 0.7, 2000)
    expected = np.clip(np.floor((values + 0.5) * n_bins) * (256.0 / n_bins), 0, 255).astype(np.uint8)
    assert {0, 255} <= set(expected.tolist())
    np.testing.assert_array_equal(Dequantizer(num_bits).quantize(tf.constant(values)), expected)


@every_depth
@pytest.mark.parametrize("pixel_range", [(-0.5, 0.5), (0.0, 1.0), (-3.0, 7.0)], ids=str)
def test_every_byte_comes_back_with_its_high_bits(num_bits, pixel_range):
    scale = Dequantizer(num_bits, *pixel_range)
    returned = scale.quantize(scale.dequantize(BYTES, 0.5)).numpy()
    np.testing.assert_array_equal(returned, BYTES & (256 - 2 ** (8 - num_bits)))


def test_five_bit_images_are_multiples_of_eight():
    returned = Dequantizer(5).quantize(tf.linspace(-0.5, 0.4999, 1000))
    assert sorted(set(returned.numpy().tolist())) == list(range(0, 256, 8))


def test_values_out_of_range_become_black_or_white():
    values = tf.constant([-9.0, -np.inf, 0.5, 9.0, np.inf, np.nan])
    np.testing.assert_array_equal(Dequantizer().quantize(values), [0, 0, 255, 255, 255, 0])


@every_depth
def test_bits_per_dim_of_the_uniform_density_is_the_bit_depth(num_bits):
    # Density 1 on the unit cube, so log_prob 0: each of the 2**num_bits values is as likely as any other.
    np.testing.assert_allclose(Dequantizer(num_bits).bits_per_dim(tf.zeros([2]), 48), num_bits, rtol=1e-6)
    # The same on [-2, 2): the density is 1/4 in each of 48 dimensions.
    wide = Dequantizer(num_bits, -2.0, 2.0)
    np.testing.assert_allclose(wide.bits_per_dim(tf.constant([48 * np.log(0.25)]), 48), num_bits, rtol=1e-6)
    np.testing.assert_allclose(wide.nll_nats(tf.constant([float(num_bits)]), 48), -48 * np.log(0.25), rtol=1e-5)


def test_bits_per_dim_of_a_density_concentrated_on_a_quarter():
    # Density 4 a dimension, on a quarter of the range: two bits less.
    np.testing.assert_allclose(Dequantizer(8).bits_per_dim(tf.constant(10 * np.log(4.0)), 10), 6.0, rtol=1e-6)


@pytest.mark.parametrize("noise_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_noise_of_any_float_type(noise_dtype, dtype, rng):
    pixels, noise = rng.integers(0, 256, (3, 4)).astype(np.uint8), rng.random((3, 4)).astype(noise_dtype)
    expected = (pixels + noise.astype(dtype)) / 256 - 0.5
    for given in (noise, tf.constant(noise)):
        found = Dequantizer().dequantize(pixels, given, dtype)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15 if dtype == "float64" else 1e-7)


def test_noise_is_a_function_of_its_seed():
    noise = uniform_noise([20, 20], [3, 0])
    np.testing.assert_array_equal(noise, uniform_noise([20, 20], [3, 0]))
    assert not np.any(noise == uniform_noise([20, 20], [4, 0]))
    assert not np.any(noise == uniform_noise([20, 20], [3, 1]))
    assert np.min(noise) >= 0
    assert np.max(noise) < 1
    np.testing.assert_allclose(np.mean(noise), 0.5, atol=0.05)
    np.testing.assert_allclose(np.var(noise), 1 / 12, atol=0.01)
    # A seed stands for the same noise in every version.
    streams = [stream.name for stream in sorted(NoiseStream)]
    assert streams == ["SCORE", "SAMPLE", "LATENTS", "INITIALIZE", "RECONSTRUCT", "DIAGNOSE"]
