"""Signs of an ill-conditioned flow whose bits/dim still look fine, and the origin of a NaN.

A healthy model stays inside `RANGES`; outside of one, the float32 inverse is about to lose accuracy.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from glow_tf.bijectors import AffineCoupling, ImageBijector, Squeeze
from glow_tf.bijectors.shapes import halves
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.inputs import Array, Labels
from glow_tf.nn.steps import FlowSteps
from glow_tf.training import curves

# {last part of the tag: (lowest, highest, description)}.
RANGES = {
    # |s| is a factor of the determinant: near 0 the matrix loses a channel.
    "smallest_s": (1e-3, math.inf, "smallest |s| of the 1x1 matrices"),
    # float32 has 7 digits, of which the inverse of a matrix loses log10(condition).
    "condition": (1.0, 1e4, "largest condition number of the 1x1 matrices"),
    # Constant channels of 8-bit images start at a scale of 900: the reciprocal of their dequantisation noise.
    "actnorm_scale": (0.0, 1e4, "largest scale of the actnorms"),
    # The forward direction divides by it.
    "smallest_coupling_scale": (1e-4, math.inf, "smallest scale of the couplings"),
    "largest_coupling_scale": (0.0, 1e4, "largest scale of the couplings"),
    # At half a bin a byte in the middle of its bin no longer survives encode and decode.
    "round_trip_error": (0.0, 0.1, "largest round-trip error, in bins,"),
    "mean": (-0.5, 0.5, "mean of z"),
    "variance": (0.5, 2.0, "variance of z"),
}

# Panels of diagnostics.png: those of z first, the others on logarithmic axes.
PANELS = tuple(
    curves.Panel(
        title.rstrip(","),
        {
            rf"(?:test_z|diagnostics)_{tag}": "all levels",
            rf"(?:test_z|diagnostics)_level(\d+)_{tag}": r"level \1",
        },
        tuple(limit for limit in (low, high) if limit and math.isfinite(limit)),
        is_logarithmic=not title.endswith("of z"),
    )
    for tag, (low, high, title) in sorted(RANGES.items(), key=lambda item: not item[1][2].endswith("of z"))
)

ROUND_TRIP_IMAGES = 64
COUPLING_IMAGES = 8  # the couplings are evaluated eagerly, one by one


def examine(glow: Glow, images: np.ndarray, labels: Labels | None = None) -> dict[str, float]:
    """Returns {tag: float}: extremes of every level's matrices, actnorms and couplings, and the round-trip error.

    Images are uint8 [B, H, W, C]. A model without classes ignores the labels.
    """
    findings = {}
    for level, steps in enumerate(glow.flow.steps):
        for name, value in _extremes(steps).items():
            findings[f"diagnostics/level{level}/{name}"] = value
    for level, scales in _coupling_scales(glow, glow.dequantize(images[:COUPLING_IMAGES])).items():
        findings[f"diagnostics/level{level}/smallest_coupling_scale"] = float(np.min(scales))
        findings[f"diagnostics/level{level}/largest_coupling_scale"] = float(np.max(scales))
    conditions = labels[:ROUND_TRIP_IMAGES] if labels is not None and glow.config.num_classes else None
    findings["diagnostics/round_trip_error"] = metrics.round_trip(glow, images[:ROUND_TRIP_IMAGES], conditions)[0]
    return findings


def complaints(findings: Mapping[str, float]) -> list[str]:
    """Returns one line for every number of `examine` and `metrics.latent_statistics` that is not in its range."""
    lines = []
    for tag, value in findings.items():
        low, high, description = RANGES[tag.split("/")[-1]]
        if not low <= value <= high:
            place = next((f" in level {part[5:]}" for part in tag.split("/") if part.startswith("level")), "")
            lines.append(f"{description}{place} is {value:.3g}; {_healthy(low, high)}")
    return lines


def explanation(tag: str) -> str | None:
    """A sentence about the numbers of a tag, for TensorBoard; None for tags that explain themselves."""
    low, high, description = RANGES.get(tag.split("/")[-1], (0, 0, ""))
    return f"The {description.rstrip(',')}; {_healthy(low, high)}." if description else None


def _healthy(low: float, high: float) -> str:
    return "a healthy model has " + (f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}")


def first_not_finite(glow: Glow, values: Array, labels: Labels | None = None) -> str | None:
    """Returns the first layer, from continuous pixels on, whose result is not finite, in words; None if all are."""
    if not _is_finite(values):
        return "the pixels" if glow.flow.noise is None else "the pixels or their learned noise"
    for layer in _layers(glow, values):
        if not (_is_finite(layer.output) and _is_finite(layer.log_det)):
            return layer.place
    if not _is_finite(glow.log_prob(values, labels)):
        return "the Gaussians of the latents"
    return None


class _Layer(NamedTuple):
    """A layer of a flow step, and what it computes for some images."""

    level: int
    place: str  # in words
    bijector: ImageBijector
    input: tf.Tensor
    output: tf.Tensor
    log_det: tf.Tensor


def _layers(glow: Glow, values: Array) -> Iterator[_Layer]:
    """The layers of all flow steps, from the image on."""
    x = glow.flow.preprocess(values)[0]
    for level, steps in enumerate(glow.flow.steps):
        x = Squeeze(dtype=x.dtype).inverse_and_log_det(x)[0]
        for k, step in enumerate(steps.each_step()):
            for name, bijector in zip(("actnorm", "permutation", "coupling"), step.layers, strict=True):
                z, log_det = bijector.inverse_and_log_det(x)
                yield _Layer(level, f"level {level}, step {k}, {name}", bijector, x, z, log_det)
                x = z
        if level < len(glow.flow.steps) - 1:
            x = halves(x)[0]


def _coupling_scales(glow: Glow, values: Array) -> dict[int, list[float]]:
    """{level: smallest and largest scales of its affine couplings}; empty for additive ones."""
    scales: dict[int, list[float]] = {}
    for layer in _layers(glow, values):
        if isinstance(layer.bijector, AffineCoupling):
            _, log_scale = layer.bijector.conditioner(halves(layer.input)[0])
            scales.setdefault(layer.level, []).extend(np.exp([np.min(log_scale), np.max(log_scale)]))
    return scales


def _extremes(steps: FlowSteps) -> dict[str, float]:
    """{name: number} for the matrices and actnorms of one level."""
    prepared = steps.prepared()
    extremes = {"actnorm_scale": float(np.exp(np.max(prepared["actnorm"]["log_scale"])))}
    if "conv1x1" in prepared:
        weights = np.asarray(prepared["conv1x1"]["weight"], np.float64)
        is_finite = np.isfinite(weights).all(axis=(1, 2))
        condition = np.where(is_finite, np.linalg.cond(np.nan_to_num(weights, posinf=0, neginf=0)), np.inf)
        extremes["condition"] = float(np.max(condition))
        extremes["smallest_s"] = float(np.exp(np.min(steps.parameters["conv1x1"]["log_abs_s"])))
    return extremes


def _is_finite(values: Array) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(values)))
