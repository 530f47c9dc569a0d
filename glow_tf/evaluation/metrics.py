"""Bits/dim, generative classification, round trips, and how Gaussian the latents of a trained model are."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from glow_tf import _progress
from glow_tf._files import counted
from glow_tf.config import GlowConfig
from glow_tf.data.dataset import ArrayDataset, StreamingDataset, check_split
from glow_tf.dequantization import NoiseStream
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.inputs import Array, Labels
from glow_tf.metadata import caveat

# Distance between the seeds of two noise samples of one batch; batches use consecutive seeds.
SAMPLE_STRIDE = 1_000_003

# Points of a distribution's summary: the quantiles 0, 1/64, ..., 1.
NUM_QUANTILES = 65


@dataclasses.dataclass(frozen=True, eq=False)
class SplitResult:
    """Scores of all images of a split."""

    bits_per_dim: np.ndarray  # [N]; for a class-conditional model given the label
    # [N, L], level 0 first, which includes the density of learned noise; sums to the bits/dim of one noise sample.
    level_bits_per_dim: np.ndarray
    labels: np.ndarray  # [N]
    classes: np.ndarray | None  # [N], predictions of the generative classifier of a class-conditional model
    round_trip_error: float  # largest |decode(encode(image)) - image|, in bins
    num_wrong_bytes: int  # that decode(encode(image)) changes
    num_bytes: int  # of all images

    @property
    def accuracy(self) -> float:
        """Accuracy of the generative classifier, in [0, 1]."""
        return float(np.mean(self.classes == self.labels))

    def per_class(self) -> dict[int, tuple[int, float, float | None]]:
        """{label: (number of images, mean bits/dim, accuracy or None)}, for the labels that occur."""
        rows = {}
        for label in np.unique(self.labels):
            chosen = self.labels == label
            accuracy = None if self.classes is None else float(np.mean(self.classes[chosen] == label))
            rows[int(label)] = int(chosen.sum()), float(self.bits_per_dim[chosen].mean()), accuracy
        return rows


def evaluate(
    glow: Glow,
    split: ArrayDataset | StreamingDataset,
    batch_size: int = 64,
    seed: int = 0,
    num_importance_samples: int = 1,
) -> SplitResult:
    """Scores every image of a split.

    Args:
        seed: seed of the dequantisation noise; batch i uses seed + i.
        num_importance_samples: noise samples per image, see `bits_per_dim_per_image`.

    >>> from glow_tf.data.dataset import ArrayDataset
    >>> result = evaluate(glow, ArrayDataset(images), batch_size=4)
    >>> result.bits_per_dim.shape, result.level_bits_per_dim.shape, result.classes
    ((6,), (6, 1), None)
    """
    check_split(split, "evaluate")
    config = glow.config
    bits, levels, labels, classes, trips = [], [], [], [], []
    with _progress.phase("evaluating", split.num_images) as advance:
        for index, (images, batch_labels) in enumerate(split.batches(batch_size)):
            conditions = batch_labels if config.num_classes else None
            values, noise_log_prob = glow.dequantize_and_log_prob(images, seed + index)
            levels.append(level_bits_per_dim(glow, values, conditions))
            levels[-1][:, 0] += noise_log_prob / (math.log(2.0) * config.num_dims)
            seeds = _sample_seeds(seed + index, num_importance_samples)[1:]  # the levels have used the first
            others = [glow.bits_per_dim(images, conditions, seed=each).numpy() for each in seeds]
            bits.append(importance_weighted([levels[-1].sum(axis=1), *others], config.num_dims))
            trips.append(round_trip(glow, images, conditions))
            labels.append(batch_labels)
            if config.num_classes:
                classes.append(classify(glow, images))
            advance(len(images))
    errors, wrong = zip(*trips, strict=True)
    return SplitResult(
        np.concatenate(bits),
        np.concatenate(levels),
        np.concatenate(labels),
        np.concatenate(classes) if classes else None,
        round_trip_error=float(np.max(errors)),
        num_wrong_bytes=sum(wrong),
        num_bytes=split.num_images * config.num_dims,
    )


def classify(glow: Glow, images: Array) -> np.ndarray:
    """Returns [N] predictions of the generative classifier for uint8 images, argmax over the classes of log p.

    The density is evaluated at the middle of each pixel's bin, so no noise affects the prediction.
    """
    return np.argmax(glow.class_log_probs(glow.dequantize(images)), axis=1).astype(np.int32)


def bits_per_dim_per_image(
    glow: Glow, images: Array, labels: Labels | None = None, seed: int = 0, num_importance_samples: int = 1
) -> np.ndarray:
    """Returns [N] bits/dim of uint8 images, an upper bound that tightens with more importance samples.

    -log2 of the mean over the samples of the dequantisation noise of p(pixels + noise), per dimension: the usual
    bound with one sample, and in the limit the bits/dim of the discrete model.

    References: Burda et al. 2016, equation 8; Ho et al. 2019, section 4.

    >>> bits_per_dim_per_image(glow, images, num_importance_samples=2).shape
    (6,)
    """
    bits = bits_per_dim_of_samples(glow, images, labels, seed, num_importance_samples)
    return importance_weighted(bits, glow.config.num_dims)


def bits_per_dim_of_samples(
    glow: Glow, images: Array, labels: Labels | None, seed: int, num_importance_samples: int
) -> list[np.ndarray]:
    """Returns bits/dim [N] of uint8 images for each sample of the dequantisation noise."""
    seeds = _sample_seeds(seed, num_importance_samples)
    return [glow.bits_per_dim(images, labels, seed=each).numpy() for each in seeds]


def _sample_seeds(seed: int, num_importance_samples: int) -> list[int]:
    if num_importance_samples < 1:
        raise InputError(f"num_importance_samples is {num_importance_samples}; it must be 1 or more")
    return [seed + SAMPLE_STRIDE * i for i in range(num_importance_samples)]


def importance_weighted(bits: Sequence[np.ndarray], num_dims: int) -> np.ndarray:
    """Returns [N] bits/dim of the mean probability, from the bits/dim [N] of each noise sample."""
    nats = math.log(2.0) * num_dims
    log_mean = np.logaddexp.reduce(-nats * np.array(bits, np.float64)) - math.log(len(bits))
    return -log_mean / nats


def level_bits_per_dim(glow: Glow, values: Array, labels: Labels | None = None) -> np.ndarray:
    """Returns [B, L] contributions of each level to the bits/dim of continuous images [B, H, W, C].

    The contribution of a level is that of `Glow.level_log_probs` plus log(bin width) for each of its latents.
    """
    config = glow.config
    log_probs = glow.level_log_probs(values, labels).numpy()
    widths = math.log(glow.dequantizer.bin_width) * np.array(latents_per_level(config))
    return -(log_probs + widths) / (math.log(2.0) * config.num_dims)


def latents_per_level(config: GlowConfig) -> list[int]:
    """Number of latents of each level, level 0 first; they sum to H * W * C."""
    sizes = [math.prod(shape) for shape in config.squeezed_shapes()]
    return [size // 2 for size in sizes[:-1]] + sizes[-1:]


def standard_error(values: np.ndarray) -> float | None:
    """Standard error of the mean of [N]; None for a single value.

    >>> standard_error(np.array([1.0, 3.0]))
    1.0
    """
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1, dtype=np.float64) / math.sqrt(len(values)))  # float32 would overflow at 1e19


def describe(bits: float, error: float | None, count: int, noun: str = "test image") -> str:
    """A mean of bits/dim with its standard error, the number of images behind it, and whether a few of them decide it.

    >>> describe(3.35, 0.0125, 10_000)
    '3.3500 ± 0.0125 bits/dim on 10,000 test images'
    >>> describe(20.0, 18.0, 12)
    '20.0000 ± 18.0000 (decided by a few images) bits/dim on 12 test images'
    >>> describe(3.35, None, 1)
    '3.3500 bits/dim on 1 test image (no standard error)'
    """
    if error is None:
        return f"{shown(bits)} bits/dim on {counted(count, noun)} (no standard error)"
    return f"{shown(bits)} ± {shown(error)}{caveat(bits, error)} bits/dim on {counted(count, noun)}"


def shown(score: float, sign: str = "") -> str:
    """A score in four decimals, or in three digits if it is huge; `sign` "+" also marks positive ones.

    >>> shown(3.35, "+"), shown(-1.25e28)
    ('+3.3500', '-1.25e+28')
    """
    return f"{score:{sign}.4f}" if abs(score) < 1e9 else f"{score:{sign}.3g}"


def distribution_summary(values: np.ndarray) -> dict[str, Any]:
    """Size, mean and quantiles of [N], as plain numbers for a weights file."""
    quantiles = np.quantile(values, np.linspace(0, 1, NUM_QUANTILES))
    return {"count": len(values), "mean": float(np.mean(values)), "quantiles": [float(f"{q:.6g}") for q in quantiles]}


def typicality(values: Sequence[float] | np.ndarray, summary: Mapping[str, Any]) -> np.ndarray:
    """Returns [N] two-sided p-values of values under a summarised distribution.

    2 min(F, 1 - F), with F the share of lower values, linear between the quantiles; at least 1 / (count + 1).

    Args:
        values: [N].
        summary: the result of `distribution_summary`.

    References: Nalisnick et al. 2019 ("Detecting out-of-distribution inputs using typicality").

    >>> [round(float(p), 2) for p in typicality([1.0, 2.0, 9.0], {"count": 99, "quantiles": [0, 1, 2, 3, 4]})]
    [0.5, 1.0, 0.01]
    """
    quantiles = np.asarray(summary["quantiles"], np.float64)
    below = np.interp(values, quantiles, np.linspace(0, 1, len(quantiles)), left=0.0, right=1.0)
    return np.maximum(2 * np.minimum(below, 1 - below), 1 / (summary["count"] + 1))


class Normality(NamedTuple):
    """Moments of standardised latents, and their distance from the standard Normal, whose variance is 1, the rest 0."""

    mean: float
    variance: float
    skewness: float  # third standardised moment
    kurtosis: float  # fourth standardised moment minus 3
    ks_statistic: float  # Kolmogorov-Smirnov: the largest difference of the distribution functions, in [0, 1]


def normality(values: Array) -> Normality:
    """The Normality of numbers of any shape.

    >>> result = normality(np.random.default_rng(0).standard_normal([100, 100]))
    >>> round(result.variance, 1), result.ks_statistic < 0.02
    (1.0, True)
    """
    from scipy import stats  # takes half a second to import

    values = np.asarray(values, np.float64).ravel()
    return Normality(
        float(np.mean(values)),
        float(np.var(values)),
        float(stats.skew(values)),
        float(stats.kurtosis(values)),
        float(stats.ks_1samp(values, stats.norm.cdf, method="asymp").statistic),
    )


def round_trip(glow: Glow, images: Array, labels: Labels | None = None) -> tuple[float, int]:
    """Returns (largest error of decode(encode(image)) in bins, number of bytes that it changes), for uint8 images.

    Starts at the middle of the bins, where an error below half a bin changes no byte. At the edge of a bin, where
    dequantisation noise may fall, any rounding error can change the byte.

    >>> error, wrong = round_trip(glow, images)
    >>> error < 0.01, wrong
    (True, 0)
    """
    values = glow.dequantize(images)
    decoded = glow.decode(tf.identity(glow.encode(values, labels)), labels)
    error = float(tf.reduce_max(tf.abs(decoded - values))) / glow.dequantizer.bin_width
    wrong = glow.dequantizer.quantize(decoded) != glow.dequantizer.quantize(values)
    return error, int(tf.math.count_nonzero(wrong))


def bits_per_dim(
    glow: Glow,
    split: ArrayDataset | StreamingDataset,
    batch_size: int = 64,
    seed: int = 0,
    limit: int | None = None,
    check: Callable[[], Any] = lambda: None,
) -> tuple[float, float | None, int]:
    """Returns (mean bits/dim over a split, its standard error or None for a single image, number of images).

    Args:
        seed: seed of the dequantisation noise; batch i uses seed + i.
        limit: number of images, a fixed random subset of the split; None for all images.
        check: called before each batch; an exception from it ends the evaluation.

    >>> from glow_tf.data.dataset import ArrayDataset
    >>> mean, error, count = bits_per_dim(glow, ArrayDataset(images))
    >>> mean > 0, error > 0, count
    (True, True, 6)
    """
    check_split(split, "bits_per_dim")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be 1 or more")
    if limit is not None and limit < split.num_images:
        split = ArrayDataset(*split.random_subset(limit, seed=0))
    batches = []
    with _progress.phase("evaluating", split.num_images) as advance:
        for index, (images, labels) in enumerate(split.batches(batch_size)):
            check()
            conditions = labels if glow.config.num_classes else None
            batches.append(glow.bits_per_dim(images, conditions, seed=seed + index).numpy())
            advance(len(images))
    values = np.concatenate(batches)
    return float(values.mean(dtype=np.float64)), standard_error(values), len(values)


def latent_statistics(glow: Glow, images: Array, labels: Labels | None = None) -> dict[str, float]:
    """Mean and variance of the z of uint8 images, over everything and per level; a good model has 0 and 1.

    >>> sorted(latent_statistics(glow, images))
    ['z/level0/mean', 'z/level0/variance', 'z/mean', 'z/variance']
    """
    z = glow.encode(glow.dequantize(images, 0, NoiseStream.LATENTS), labels)
    named = {"z": z} | {f"z/level{i}": level for i, level in enumerate(glow.split_latents(z))}
    statistics = {}
    for name, values in named.items():
        statistics[f"{name}/mean"] = float(tf.reduce_mean(values))
        statistics[f"{name}/variance"] = float(tf.math.reduce_variance(values))
    return statistics
