"""Edits images through their latents: mixtures, attribute directions, single levels, principal components.

Images are uint8 [N, H, W, C], encoded at the middle of their bins; z is [N, H, W, C], the latents of every level.
Several results per image are rows of images, uint8 [rows, columns, H, W, C], for `visualization.labelled_grid`.

References: Kingma & Dhariwal 2018, "Semantic manipulation"; White 2016 ("Sampling generative networks") for the
spherical path.
"""

import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from glow_tf._files import load_npy, printable, write_file
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.inputs import Labels, class_labels, temperature_of


def encode(glow: Glow, images: np.ndarray, labels: Labels | None = None) -> np.ndarray:
    """Encodes uint8 images as z."""
    return glow.encode(glow.dequantize(images), labels).numpy()


def decode(glow: Glow, z: np.ndarray, labels: Labels | None = None) -> np.ndarray:
    """Decodes z to uint8 images."""
    return glow.decode_to_uint8(z, labels).numpy()


def reconstruct(glow: Glow, images: np.ndarray, labels: Labels | None = None) -> np.ndarray:
    """[2, N, H, W, C]: the images as the model sees them, in its number of bits, and decode(encode(images)).

    >>> originals, reconstructions = reconstruct(glow, images)
    >>> originals.shape, bool((originals == reconstructions).all())
    ((6, 4, 4, 1), True)
    """
    seen = glow.dequantizer.quantize(glow.dequantize(images)).numpy()
    return np.stack([seen, decode(glow, encode(glow, images, labels), labels)])


def temperatures(
    glow: Glow, temperatures: Sequence[float], columns: int, seed: int, labels: Labels | None = None
) -> np.ndarray:
    """[temperatures, columns, H, W, C]: samples from the same noise, scaled by a temperature in each row.

    >>> temperatures(glow, [0.0, 0.7, 1.0], columns=2, seed=0).shape
    (3, 2, 4, 4, 1)
    """
    return np.stack([glow.sample(columns, temperature, seed, labels) for temperature in temperatures])


def interpolate(
    glow: Glow, images: np.ndarray, columns: int, labels: Labels | None = None, spherical: bool = False
) -> np.ndarray:
    """[pairs, columns, H, W, C]: from the first to the second image of each pair, both ends included.

    A class-conditional model encodes both under the label of the first, so that both ends come back exactly.

    Args:
        images: [2 * pairs, H, W, C], pair after pair.
        spherical: see `mixture`.

    >>> interpolate(glow, images[:4], columns=5).shape
    (2, 5, 4, 4, 1)
    """
    if len(images) % 2 or not len(images) or columns < 2:
        raise InputError(
            f"an interpolation needs pairs of images and 2 or more columns, not {len(images)} and {columns}"
        )
    labels = class_labels(labels, glow.config.num_classes, len(images))
    labels = None if labels is None else np.repeat(labels[::2], 2)
    z = encode(glow, images, labels)
    shares = np.linspace(0, 1, columns)
    paths = np.stack([mixture(start, end, shares, spherical) for start, end in zip(z[::2], z[1::2], strict=True)])
    return _decode_rows(glow, paths, None if labels is None else labels[::2])


def mixture(
    start: np.ndarray, end: np.ndarray, shares: np.ndarray | Sequence[float], spherical: bool = False
) -> np.ndarray:
    """[N, ...]: points on the path from `start`, at share 0, to `end`, at share 1.

    Args:
        shares: [N].
        spherical: whether the path is a great circle, along which the length changes evenly, instead of a straight
            line. Halfway between two independent latents a straight line is shorter by a factor of sqrt(1/2).

    >>> start, end = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    >>> mixture(start, end, [0, 0.5, 1]).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    >>> mixture(start, end, [0.5], spherical=True).round(3).tolist()
    [[0.707, 0.707]]
    """
    shares = np.reshape(shares, [-1] + [1] * start.ndim)
    straight = (1 - shares) * start + shares * end
    lengths = np.linalg.norm(start), np.linalg.norm(end)
    if not spherical or min(lengths) == 0:
        return straight
    first, last = start / lengths[0], end / lengths[1]
    angle = np.arccos(np.clip(np.sum(first * last), -1, 1))
    if np.sin(angle) < 1e-6:
        return straight
    directions = (np.sin((1 - shares) * angle) * first + np.sin(shares * angle) * last) / np.sin(angle)
    return ((1 - shares) * lengths[0] + shares * lengths[1]) * directions


def attribute_direction(
    glow: Glow,
    positive: np.ndarray,
    negative: np.ndarray,
    positive_labels: Labels | None = None,
    negative_labels: Labels | None = None,
) -> np.ndarray:
    """[H, W, C]: the mean z of images with an attribute minus the mean z of images without it."""
    for name, images in (("with", positive), ("without", negative)):
        if not len(images):
            raise InputError(f"there are no images {name} the attribute; a direction needs both")
    with_it, without_it = encode(glow, positive, positive_labels), encode(glow, negative, negative_labels)
    return with_it.mean(axis=0) - without_it.mean(axis=0)


def apply_direction(
    glow: Glow,
    images: np.ndarray,
    direction: np.ndarray,
    strengths: Sequence[float] | np.ndarray,
    labels: Labels | None = None,
) -> np.ndarray:
    """[N, strengths, H, W, C]: each image at z + strength * direction.

    >>> direction = attribute_direction(glow, positive=images[:3], negative=images[3:])
    >>> apply_direction(glow, images, direction, strengths=[-1.0, 0.0, 1.0]).shape
    (6, 3, 4, 4, 1)
    """
    direction = np.asarray(direction)
    if direction.shape != glow.config.image_shape:
        raise InputError(f"the direction has shape {direction.shape}; this model's is {glow.config.image_shape}")
    z = encode(glow, images, labels)[:, np.newaxis]
    return _decode_rows(glow, z + _as_column(strengths, z.dtype) * direction, labels)


def save_direction(path: str | os.PathLike, direction: np.ndarray) -> None:
    """Writes a direction as a NumPy file (.npy).

    >>> save_direction("smile.npy", np.ones([4, 4, 1]))
    >>> load_direction("smile.npy", glow).shape
    (4, 4, 1)
    """
    data = io.BytesIO()
    np.save(data, direction, allow_pickle=False)
    write_file(path, data.getvalue())


def load_direction(path: str | os.PathLike, glow: Glow) -> np.ndarray:
    """Reads a direction for this model; InputError unless the file holds finite numbers in the shape of its latents."""
    direction = load_npy(path, "direction that --save_direction wrote")
    if direction.shape != glow.config.image_shape:
        raise InputError(
            f"{printable(path)} holds an array of shape {direction.shape}; this model's latents are "
            f"{glow.config.image_shape}"
        )
    if direction.dtype.kind != "f" or not np.isfinite(direction).all():
        raise InputError(f"{printable(path)} does not hold finite numbers")
    return direction


def resample_levels(
    glow: Glow, images: np.ndarray, columns: int, temperature: float, seed: int, labels: Labels | None = None
) -> np.ndarray:
    """[N * L, columns, H, W, C]: for each image and each level, finest first, the image and versions of it.

    In a version the latents of that level are new samples and those of the other levels are the image's.

    >>> resample_levels(glow, images[:2], columns=3, temperature=0.7, seed=0).shape
    (2, 3, 4, 4, 1)
    """
    temperature = float(temperature_of(temperature, tf.float64))
    rng = np.random.default_rng(seed)
    z = encode(glow, images, labels)
    rows = []
    for index in range(len(z)):
        levels = [np.repeat(level, columns, axis=0) for level in glow.split_latents(z[index : index + 1])]
        for level, values in enumerate(levels):
            noise = temperature * rng.standard_normal(values[1:].shape)
            changed = np.concatenate([values[:1], noise.astype(z.dtype)])
            rows.append(glow.merge_latents([*levels[:level], changed, *levels[level + 1 :]]).numpy())
    return _decode_rows(glow, np.stack(rows), None if labels is None else np.repeat(labels, glow.config.num_levels))


@dataclasses.dataclass(frozen=True)
class PrincipalComponents:
    """The directions in which z varies most."""

    mean: np.ndarray  # [H, W, C]
    directions: np.ndarray  # [count, H, W, C], each as long as the standard deviation along it
    scores: np.ndarray  # [N, count], in standard deviations
    share: np.ndarray  # [count], of the variance of z


def principal_components(z: np.ndarray, count: int) -> PrincipalComponents:
    """The first `count` principal components of z [N, H, W, C].

    Raises:
        InputError: unless 1 <= count < N.

    >>> components = principal_components(encode(glow, images), count=2)
    >>> along_components(glow, components, strengths=[-2.0, 0.0, 2.0]).shape
    (2, 3, 4, 4, 1)
    """
    if not 1 <= count < len(z):
        raise InputError(f"{len(z)} images have 1 to {len(z) - 1} principal components, not {count}")
    from sklearn.decomposition import PCA  # takes a second to import

    z = np.asarray(z)
    flat = z.reshape(len(z), -1).astype(np.float64)
    pca = PCA(min(count, flat.shape[1]), random_state=0).fit(flat)
    tiny = np.finfo(np.float64).tiny  # images that are all equal have no variance
    deviations = np.sqrt(pca.explained_variance_)
    directions = (deviations[:, np.newaxis] * pca.components_).reshape(-1, *z.shape[1:])
    scores = pca.transform(flat) / np.maximum(deviations, tiny)
    share = pca.explained_variance_ / max(flat.var(axis=0, ddof=1).sum(), tiny)
    mean = pca.mean_.reshape(z.shape[1:])
    return PrincipalComponents(mean.astype(z.dtype), directions.astype(z.dtype), scores, share)


def along_components(
    glow: Glow,
    components: PrincipalComponents,
    strengths: Sequence[float] | np.ndarray,
    labels: Labels | None = None,
) -> np.ndarray:
    """[count, strengths, H, W, C]: from the mean of z along each component, in standard deviations."""
    directions = components.directions[:, np.newaxis]
    return _decode_rows(glow, components.mean + _as_column(strengths, components.mean.dtype) * directions, labels)


def _as_column(strengths: Sequence[float] | np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.reshape(np.asarray(strengths, dtype), [1, -1, 1, 1, 1])


def _decode_rows(glow: Glow, z: np.ndarray, labels: Labels | None = None) -> np.ndarray:
    """Decodes z [rows, columns, H, W, C], each row under its label of `labels` [rows]."""
    images = decode(glow, z.reshape(-1, *z.shape[2:]), None if labels is None else np.repeat(labels, z.shape[1]))
    return images.reshape(*z.shape[:2], *images.shape[1:])
