"""Numbers of a trained model: bits/dim, classes, and how Gaussian its latents are."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf import dequantization
from glow_tf.config import GlowConfig
from glow_tf.data.dataset import ArrayDataset, StreamingDataset
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.inputs import Array, Labels

# Between the seeds of two draws of the same images' noise; batches use consecutive seeds.
DRAW_STRIDE = 1_000_003

# Points of a distribution's summary: the quantiles 0, 1/64, ..., 1.
NUM_QUANTILES = 65


@dataclasses.dataclass(frozen=True, eq=False)
class SplitResult:
    """What `evaluate` found, image by image.

    Attributes:
        bits_per_dim: [N]; of a class-conditional model given the label.
        level_bits_per_dim: [N, L]: what each level contributes, level 0 first; sums to bits/dim of one draw.
        labels: [N].
        classes: [N], what the generative classifier says, or None for a model without classes.
    """

    bits_per_dim: np.ndarray
    level_bits_per_dim: np.ndarray
    labels: np.ndarray
    classes: np.ndarray | None

    @property
    def accuracy(self) -> float:
        """Of the generative classifier, in [0, 1]."""
        return float(np.mean(self.classes == self.labels))


def evaluate(
    glow: Glow, split: ArrayDataset | StreamingDataset, batch_size: int = 64, seed: int = 0, draws: int = 1
) -> SplitResult:
    """A SplitResult of a split.

    Args:
        split: a `ArrayDataset`.
        seed: of the dequantisation noise; batch i draws with seed + i.
        draws: of the noise, an image: see `bits_per_dim_per_image`.

    >>> from glow_tf.data.dataset import ArrayDataset
    >>> result = evaluate(glow, ArrayDataset(images), batch_size=4)
    >>> result.bits_per_dim.shape, result.level_bits_per_dim.shape, result.classes
    ((6,), (6, 1), None)
    """
    config = glow.config
    bits, levels, labels, classes = [], [], [], []
    for index, (images, batch_labels) in enumerate(split.batches(batch_size)):
        given = batch_labels if config.num_classes else None
        bits.append(bits_per_dim_per_image(glow, images, given, seed + index, draws))
        noise = dequantization.uniform_noise(images.shape, [seed + index, 0], config.dtype)
        values = glow.dequantizer.dequantize(images, noise, config.dtype)
        levels.append(level_bits_per_dim(glow, values, given))
        labels.append(batch_labels)
        if config.num_classes:
            classes.append(classify(glow, images))
    return SplitResult(
        np.concatenate(bits),
        np.concatenate(levels),
        np.concatenate(labels),
        np.concatenate(classes) if classes else None,
    )


def classify(glow: Glow, images: Array) -> np.ndarray:
    """[N], the generative classifier's answers: argmax over the classes of log p(image | class).

    The density is that at the middle of each pixel's bin, so that no noise decides.

    Args:
        images: uint8 [N, H, W, C].
    """
    values = glow.dequantizer.dequantize(images, 0.5, glow.config.dtype)
    return np.argmax(glow.class_log_probs(values), axis=1).astype(np.int32)


def bits_per_dim_per_image(
    glow: Glow, images: Array, labels: Labels | None = None, seed: int = 0, draws: int = 1
) -> np.ndarray:
    """[N] bits/dim of uint8 images, an upper bound that tightens with the draws.

    -log2 of the mean over the draws of the dequantisation noise of p(pixels + noise), by dimension: with one
    draw the usual number, with many the bits/dim of the discrete model itself.

    References: Burda et al. 2016, equation 8; Ho et al. 2019, section 4.

    >>> bits_per_dim_per_image(glow, images, draws=2).shape
    (6,)
    """
    if draws < 1:
        raise InputError(f"draws is {draws}; it must be 1 or more")
    nats = math.log(2.0) * glow.config.num_dims
    of_draws = [glow.bits_per_dim(images, labels, seed=seed + DRAW_STRIDE * i).numpy() for i in range(draws)]
    together = tf.reduce_logsumexp(-nats * np.array(of_draws, np.float64), axis=0).numpy()
    return (math.log(draws) - together) / nats


def level_bits_per_dim(glow: Glow, values: Array, labels: Labels | None = None) -> np.ndarray:
    """[B, L]: what each level contributes to the bits/dim of continuous images [B, H, W, C].

    The width of a bin counts for each latent, so a level's part is that of `Glow.level_log_probs` and
    log(bin width) for each latent that leaves there.
    """
    config = glow.config
    log_probs = glow.level_log_probs(values, labels).numpy()
    widths = math.log(glow.dequantizer.bin_width) * np.array(latents_of_levels(config))
    return -(log_probs + widths) / (math.log(2.0) * config.num_dims)


def latents_of_levels(config: GlowConfig) -> list[int]:
    """How many latents leave at each level, level 0 first; they sum to H * W * C."""
    sizes = [math.prod(shape) for shape in config.squeezed_shapes()]
    return [size // 2 for size in sizes[:-1]] + sizes[-1:]


def standard_error(values: np.ndarray) -> float:
    """Of the mean of [N]; NaN for one value.

    >>> standard_error(np.array([1.0, 3.0]))
    1.0
    """
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def distribution_summary(values: np.ndarray) -> dict[str, Any]:
    """A distribution in a few plain numbers, to be kept in a weights file: its size, mean and quantiles."""
    quantiles = np.quantile(values, np.linspace(0, 1, NUM_QUANTILES))
    return {"count": len(values), "mean": float(np.mean(values)), "quantiles": [float(f"{q:.6g}") for q in quantiles]}


def typicality(values: Sequence[float] | np.ndarray, summary: Mapping[str, Any]) -> np.ndarray:
    """[N] two-sided p-values: how often the summarised distribution has a value as far out as each of these.

    2 min(F, 1 - F), F the distribution function between the quantiles; never below 1 / (count + 1).

    Args:
        values: [N].
        summary: of `distribution_summary`.
    References: Nalisnick et al. 2019 ("Detecting out-of-distribution inputs using typicality").

    >>> [round(float(p), 2) for p in typicality([1.0, 2.0, 9.0], {"count": 99, "quantiles": [0, 1, 2, 3, 4]})]
    [0.5, 1.0, 0.01]
    """
    quantiles = np.asarray(summary["quantiles"], np.float64)
    below = np.interp(values, quantiles, np.linspace(0, 1, len(quantiles)), left=0.0, right=1.0)
    return np.maximum(2 * np.minimum(below, 1 - below), 1 / (summary["count"] + 1))


@dataclasses.dataclass(frozen=True)
class Normality:
    """Moments of standardised latents, and how far their distribution is from the standard Normal's.

    Of a standard Normal the mean, skewness and excess kurtosis are 0 and the variance is 1; `distance` is
    Kolmogorov and Smirnov's, the largest difference of the two distribution functions, from 0 to 1.
    """

    mean: float
    variance: float
    skewness: float
    kurtosis: float
    distance: float


def normality(values: Array) -> Normality:
    """The Normality of numbers of any shape.

    >>> found = normality(np.random.default_rng(0).standard_normal([100, 100]))
    >>> round(found.variance, 1), found.distance < 0.02
    (1.0, True)
    """
    values = np.sort(np.asarray(values, np.float64).ravel())
    mean, deviation = values.mean(), values.std()
    standard = (values - mean) / deviation
    expected, count = 0.5 * (1 + tf.math.erf(values / math.sqrt(2)).numpy()), len(values)
    steps = np.arange(count + 1) / count
    distance = max(np.max(steps[1:] - expected), np.max(expected - steps[:-1]))
    return Normality(
        float(mean),
        float(deviation**2),
        float(np.mean(standard**3)),
        float(np.mean(standard**4) - 3),
        float(distance),
    )


def round_trip(glow: Glow, images: Array, labels: Labels | None = None) -> tuple[float, int]:
    """(largest error of decode(encode(image)) in bins, number of bytes that do not come back).

    From the middle of the bins: half a bin is what a byte can bear, while at the edge of its bin, where
    dequantisation noise may put it, any rounding error can turn it into its neighbour.

    Args:
        images: uint8 [B, H, W, C].

    >>> error, wrong = round_trip(glow, images)
    >>> error < 0.01, wrong
    (True, 0)
    """
    values = glow.dequantizer.dequantize(images, 0.5, glow.config.dtype)
    again = glow.decode(tf.identity(glow.encode(values, labels)), labels)
    error = float(tf.reduce_max(tf.abs(again - values))) / glow.dequantizer.bin_width
    wrong = glow.dequantizer.quantize(again) != glow.dequantizer.quantize(values)
    return error, int(tf.math.count_nonzero(wrong))


def bits_per_dim(
    glow: Glow,
    split: ArrayDataset | StreamingDataset,
    batch_size: int = 64,
    seed: int = 0,
    limit: int | None = None,
    check: Callable[[], Any] = lambda: None,
) -> tuple[float, float, int]:
    """Mean bits/dim over a split, and its standard error.

    Args:
        glow: a Glow.
        split: a `ArrayDataset`.
        seed: of the dequantisation noise; batch i draws with seed + i.
        limit: at most this many images, the first ones; None: all.
        check: called before each batch; what it raises ends the evaluation.
    Returns:
        (mean, standard error, number of images).

    >>> from glow_tf.data.dataset import ArrayDataset
    >>> mean, error, count = bits_per_dim(glow, ArrayDataset(images))
    >>> mean > 0, error > 0, count
    (True, True, 6)
    """
    batches, seen = [], 0
    for index, (images, labels) in enumerate(split.batches(batch_size)):
        check()
        if limit is not None:
            images, labels = images[: limit - seen], labels[: limit - seen]
        seen += len(images)
        given = labels if glow.config.num_classes else None
        batches.append(glow.bits_per_dim(images, given, seed=seed + index).numpy())
        if seen == limit:
            break
    values = np.concatenate(batches)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return float(values.mean()), float(error), len(values)


def latent_statistics(glow: Glow, images: Array, labels: Labels | None = None, seed: int = 0) -> dict[str, float]:
    """Mean and variance of z, over everything and level by level; a good model has 0 and 1.

    Args:
        images: uint8 [B, H, W, C].
    Returns:
        {"z/mean", "z/variance", "z/level0/mean", "z/level0/variance", ...: float}.

    >>> sorted(latent_statistics(glow, images))
    ['z/level0/mean', 'z/level0/variance', 'z/mean', 'z/variance']
    """
    noise = tf.random.stateless_uniform(images.shape, [seed, 2], dtype=glow.config.dtype)
    z = glow.encode(glow.dequantizer.dequantize(images, noise, glow.config.dtype), labels)
    named = {"z": z} | {f"z/level{i}": level for i, level in enumerate(glow.split_latents(z))}
    found = {}
    for name, values in named.items():
        found[f"{name}/mean"] = float(tf.reduce_mean(values))
        found[f"{name}/variance"] = float(tf.math.reduce_variance(values))
    return found
