"""Diagnostics: known matrices and scales are measured, and a NaN is attributed to the layer that makes it."""

import math

import numpy as np
import pytest
import tensorflow as tf
from helpers import make_glow, values_of

from glow_tf.training import diagnostics


@pytest.fixture(scope="module")
def traced():
    glow = make_glow(dtype="float32", num_bits=5)
    return glow, values_of(glow)


@pytest.fixture
def glow(traced):
    """Always the same model, with its first values."""
    glow, values = traced
    for name, variable in glow.named_variables().items():
        variable.assign(values[name])
    return glow


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, [6, 4, 8, 2]).astype(np.uint8)


def set_row(glow, name, index, value):
    variable = glow.named_variables()[name]
    values = variable.numpy()
    values[index] = value
    variable.assign(values)


def test_a_healthy_model_has_no_complaints(glow, images):
    found = diagnostics.examine(glow, images)
    names = ("smallest_s", "condition", "actnorm_scale", "smallest_coupling_scale", "largest_coupling_scale")
    of_levels = {f"diagnostics/level{level}/{name}" for level in (0, 1) for name in names}
    assert set(found) == of_levels | {"diagnostics/round_trip_error"}
    assert diagnostics.complaints(found | {"z/mean": 0.1, "z/level1/variance": 0.9}) == []
    assert 0 < found["diagnostics/round_trip_error"] < 1e-3


def test_the_layers_are_those_of_the_model(glow, images):
    values = glow.dequantize(images)
    *_, last = diagnostics._layers(glow, values)
    deepest = glow.flow.top.bijector().forward(glow.split_latents(glow.encode(values))[-1])
    np.testing.assert_allclose(last.output, deepest, atol=1e-4)


def test_numbers_are_those_of_the_matrices(glow, images):
    found = diagnostics.examine(glow, images)
    for level, steps in enumerate(glow.flow.steps):
        weights = steps.prepared()["conv1x1"]["weight"].numpy()
        singular = np.linalg.svd(weights.astype(np.float64), compute_uv=False)
        expected = np.max(singular[:, 0] / singular[:, -1])
        assert found[f"diagnostics/level{level}/condition"] == pytest.approx(expected, rel=1e-5)
        scale = 3 * glow.named_variables()[f"level{level}/actnorm/log_scale"].numpy()
        assert found[f"diagnostics/level{level}/actnorm_scale"] == pytest.approx(np.exp(scale.max()), rel=1e-5)


def test_smallest_coupling_scale_is_that_of_the_log_dets(images):
    glow = make_glow(num_levels=1, num_steps=1)
    findings = diagnostics.examine(glow, images)
    values = glow.dequantize(images)
    *_, (_, _, coupling, inputs, outputs, _) = diagnostics._layers(glow, values)
    x, z = (tf.split(values, 2, axis=-1)[1] for values in (inputs, outputs))
    shift = coupling.conditioner(tf.split(inputs, 2, axis=-1)[0])[0]
    assert findings["diagnostics/level0/smallest_coupling_scale"] == pytest.approx(float(np.min(z / (x + shift))))
    assert findings["diagnostics/level0/largest_coupling_scale"] == pytest.approx(float(np.max(z / (x + shift))))
    additive = diagnostics.examine(make_glow(coupling="additive"), images)
    assert "diagnostics/level0/smallest_coupling_scale" not in additive


def test_what_leaves_its_range_is_named_with_its_level(glow, images):
    set_row(glow, "level1/conv1x1/log_abs_s", (1, 3), math.log(1e-5))
    set_row(glow, "level0/actnorm/log_scale", (0, 2), math.log(1e5) / 3)
    lines = diagnostics.complaints(
        diagnostics.examine(glow, images) | {"z/level0/mean": float("nan"), "z/variance": 3.0}
    )
    text = "\n".join(lines)
    assert "smallest |s| of the 1x1 matrices in level 1 is 1e-05; a healthy model has at least 0.001" in text
    assert "largest scale of the actnorms in level 0 is 1e+05; a healthy model has 0 to 10000" in text
    assert "mean of z in level 0 is nan; a healthy model has -0.5 to 0.5" in text
    assert "variance of z is 3; a healthy model has 0.5 to 2" in text
    assert "condition number of the 1x1 matrices in level 1" in text


def test_a_matrix_that_is_not_finite_is_a_complaint_not_an_error(glow, images):
    set_row(glow, "level0/conv1x1/upper", (0, 0, 1), np.nan)
    assert any(
        "condition" in line and "level 0" in line for line in diagnostics.complaints(diagnostics.examine(glow, images))
    )


@pytest.mark.parametrize(
    ("name", "index", "place"),
    [
        ("level0/actnorm/shift", (1, 0), "level 0, step 1, actnorm"),
        ("level1/conv1x1/lower", (0, 1, 0), "level 1, step 0, permutation"),
        ("level1/coupling/conv3_bias", (1, 0), "level 1, step 1, coupling"),
        ("top/bias", (0,), "the Gaussians of the latents"),
    ],
)
def test_the_first_layer_that_is_not_finite_is_found(glow, rng, name, index, place):
    values = tf.constant(rng.uniform(-0.5, 0.5, [3, 4, 8, 2]), tf.float32)
    assert diagnostics.first_not_finite(glow, values) is None
    set_row(glow, name, index, np.inf)
    assert diagnostics.first_not_finite(glow, values) == place


def test_pixels_that_are_not_finite_are_found(glow):
    assert diagnostics.first_not_finite(glow, tf.fill([1, 4, 8, 2], np.nan)) == "the pixels"
