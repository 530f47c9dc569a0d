"""Edits images through their latents: mixtures, directions, single levels, principal components.

Images are uint8 [N, H, W, C] and become the middle of their bins; z is [N, H, W, C], the latents of every
level. Results are strips, uint8 [rows, columns, H, W, C], which `pictures` shows.

References: Kingma & Dhariwal 2018, section 5.3; White 2016 ("Sampling generative networks") for the spherical path.
"""

import csv
import dataclasses
import io
import os
import zipfile
from collections.abc import Sequence

import numpy as np

from glow_tf._files import check_file, write_atomically
from glow_tf.config import GlowConfig
from glow_tf.data import image_folder
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.inputs import Labels

# Words of an attribute's column.
_YES, _NO = {"1", "true", "yes", "y"}, {"-1", "0", "false", "no", "n"}


def labels_of(glow: Glow, images: np.ndarray, labels: Labels | None = None) -> np.ndarray | None:
    """The labels to encode images under: None for a model without classes, those given, else the likeliest ones.

    Args:
        labels: [N], or None where they are not known.
    """
    if not glow.config.num_classes:
        return None
    if labels is not None:
        return np.asarray(labels, np.int32)
    return metrics.classify(glow, images)


def encode(glow: Glow, images: np.ndarray, labels: Labels | None = None) -> np.ndarray:
    """z of uint8 images."""
    return glow.encode(glow.dequantizer.dequantize(images, 0.5, glow.config.dtype), labels).numpy()


def decode(glow: Glow, z: np.ndarray, labels: Labels | None = None) -> np.ndarray:
    """uint8 images from z."""
    return glow.decode_to_uint8(z, labels).numpy()


def reconstruct(glow: Glow, images: np.ndarray, labels: Labels | None = None) -> np.ndarray:
    """[N, 2, ...]: each image, as the model sees it, beside decode(encode(image)).

    >>> pairs = reconstruct(glow, images)
    >>> pairs.shape, bool((pairs[:, 0] == pairs[:, 1]).all())
    ((6, 2, 4, 4, 1), True)
    """
    seen = glow.dequantizer.quantize(glow.dequantizer.dequantize(images, 0.5, glow.config.dtype)).numpy()
    return np.stack([seen, decode(glow, encode(glow, images, labels), labels)], axis=1)


def temperatures(
    glow: Glow,
    temperatures: Sequence[float],
    columns: int,
    seed: int | None = None,
    labels: Labels | None = None,
) -> np.ndarray:
    """[temperatures, columns, ...]: samples of the same noise in every row.

    >>> temperatures(glow, [0.0, 0.7, 1.0], columns=2, seed=0).shape
    (3, 2, 4, 4, 1)
    """
    if seed is None:
        seed = int(np.random.default_rng().integers(2**31))
    return np.stack([glow.sample(columns, temperature, seed, labels) for temperature in temperatures])


def interpolate(
    glow: Glow, images: np.ndarray, steps: int, labels: Labels | None = None, spherical: bool = False
) -> np.ndarray:
    """[pairs, steps, ...]: from the first to the second of each pair of images, both ends included.

    Of a class-conditional model both are encoded under the label of the first, so both ends come back exactly.

    Args:
        images: [2 * pairs, H, W, C], pair after pair.
        spherical: see `path`.

    >>> interpolate(glow, images[:4], steps=5).shape
    (2, 5, 4, 4, 1)
    """
    if len(images) % 2 or not len(images):
        raise InputError(f"{len(images)} images were given to interpolate between; give pairs, an even number")
    if steps < 2:
        raise InputError(f"{steps} steps were asked for; an interpolation has 2 or more")
    labels = None if labels is None else np.repeat(labels[::2], 2)
    z = encode(glow, images, labels)
    paths = np.stack([path(start, end, steps, spherical) for start, end in zip(z[::2], z[1::2], strict=True)])
    return _decode_strips(glow, paths, None if labels is None else labels[::2])


def path(start: np.ndarray, end: np.ndarray, steps: int, spherical: bool = False) -> np.ndarray:
    """[steps, ...] from start to end.

    Args:
        spherical: along a great circle, the length going evenly from one's to the other's, instead of straight:
            halfway between two independent latents a straight path is shorter by a factor of sqrt(1/2).

    >>> path(np.array([0.0, 1.0]), np.array([1.0, 0.0]), steps=3).tolist()
    [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    >>> path(np.array([0.0, 1.0]), np.array([1.0, 0.0]), steps=3, spherical=True)[1].round(3).tolist()
    [0.707, 0.707]
    """
    return mixture(start, end, np.linspace(0, 1, steps), spherical)


def mixture(
    start: np.ndarray, end: np.ndarray, at: np.ndarray | Sequence[float], spherical: bool = False
) -> np.ndarray:
    """[N, ...]: the places `at` [N] of the `path` from start, at 0, to end, at 1."""
    at = np.reshape(at, [-1] + [1] * start.ndim)
    if not spherical:
        return (1 - at) * start + at * end
    lengths = np.linalg.norm(start), np.linalg.norm(end)
    if min(lengths) == 0:
        return (1 - at) * start + at * end
    ends = start / lengths[0], end / lengths[1]
    angle = np.arccos(np.clip(np.sum(ends[0] * ends[1]), -1, 1))
    if np.sin(angle) < 1e-6:
        return (1 - at) * start + at * end
    directions = (np.sin((1 - at) * angle) * ends[0] + np.sin(at * angle) * ends[1]) / np.sin(angle)
    return ((1 - at) * lengths[0] + at * lengths[1]) * directions


def attribute_direction(
    glow: Glow,
    positive: np.ndarray,
    negative: np.ndarray,
    positive_labels: Labels | None = None,
    negative_labels: Labels | None = None,
) -> np.ndarray:
    """[H, W, C]: the mean z of the images that have an attribute minus that of those that lack it.

    Args:
        positive, negative: uint8 [N, H, W, C] and [M, H, W, C].
        positive_labels, negative_labels: of a class-conditional model.
    """
    for name, images in (("with", positive), ("without", negative)):
        if not len(images):
            raise InputError(f"there are 0 images {name} the attribute; a direction needs both kinds")
    means = [encode(glow, positive, positive_labels).mean(axis=0), encode(glow, negative, negative_labels).mean(axis=0)]
    return means[0] - means[1]


def move(
    glow: Glow,
    images: np.ndarray,
    direction: np.ndarray,
    strengths: Sequence[float] | np.ndarray,
    labels: Labels | None = None,
) -> np.ndarray:
    """[N, strengths, ...]: each image at z + strength * direction.

    >>> direction = attribute_direction(glow, positive=images[:3], negative=images[3:])
    >>> move(glow, images, direction, strengths=[-1.0, 0.0, 1.0]).shape
    (6, 3, 4, 4, 1)
    """
    z = encode(glow, images, labels)
    at = np.reshape(np.asarray(strengths, z.dtype), [1, -1, 1, 1, 1])
    return _decode_strips(glow, z[:, np.newaxis] + at * direction, labels)


def save_direction(path: str | os.PathLike, direction: np.ndarray) -> None:
    """Writes a direction as a NumPy file (.npy).

    >>> save_direction("smile.npy", np.ones([4, 4, 1]))
    >>> load_direction("smile.npy", glow).shape
    (4, 4, 1)
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    data = io.BytesIO()
    np.save(data, direction, allow_pickle=False)
    write_atomically(path, data.getvalue())


def load_direction(path: str | os.PathLike, glow: Glow) -> np.ndarray:
    """The direction of a file, for this model.

    Raises:
        InputError: it is no such file, of another shape, or not finite.
    """
    check_file(path)
    try:
        with open(path, "rb") as file:
            direction = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no direction that --save_direction wrote") from error
    if not isinstance(direction, np.ndarray) or direction.shape != glow.config.image_shape:
        shape = getattr(direction, "shape", None)
        raise InputError(f"{path} holds an array of shape {shape}; this model's latents are {glow.config.image_shape}")
    if direction.dtype.kind != "f" or not np.isfinite(direction).all():
        raise InputError(f"{path} does not hold finite numbers")
    return direction


def redraw_levels(
    glow: Glow,
    images: np.ndarray,
    columns: int,
    temperature: float,
    seed: int | None = None,
    labels: Labels | None = None,
) -> np.ndarray:
    """[N * L, columns, ...]: for each image and each level, finest first, the image and versions of it.

    In a version the latents of that level are drawn anew and the others are kept.

    >>> redraw_levels(glow, images[:2], columns=3, temperature=0.7, seed=0).shape
    (2, 3, 4, 4, 1)
    """
    rng = np.random.default_rng(seed)
    z = encode(glow, images, labels)
    rows = []
    for index in range(len(z)):
        levels = [level.numpy() for level in glow.split_latents(z[index : index + 1])]
        for level in range(len(levels)):
            drawn = [np.repeat(values, columns, axis=0) for values in levels]
            noise = temperature * rng.standard_normal(drawn[level][1:].shape)
            drawn[level] = np.concatenate([drawn[level][:1], noise.astype(z.dtype)])
            rows.append(glow.merge_latents(drawn).numpy())
    repeated = None if labels is None else np.repeat(labels, glow.config.num_levels)
    return _decode_strips(glow, np.stack(rows), repeated)


@dataclasses.dataclass(frozen=True)
class PrincipalComponents:
    """Where z varies most.

    Attributes:
        mean: [H, W, C].
        directions: [count, H, W, C], each as long as the standard deviation along it.
        scores: [N, count], in standard deviations.
        share: [count], of the variance of z.
    """

    mean: np.ndarray
    directions: np.ndarray
    scores: np.ndarray
    share: np.ndarray


def principal_components(z: np.ndarray, count: int) -> PrincipalComponents:
    """The first PrincipalComponents of z [N, H, W, C].

    Raises:
        InputError: unless 1 <= count < N.

    >>> components = principal_components(encode(glow, images), count=2)
    >>> along_components(glow, components, strengths=[-2.0, 0.0, 2.0]).shape
    (2, 3, 4, 4, 1)
    """
    if not 1 <= count < len(z):
        raise InputError(f"{count} components of {len(z)} images were asked for; it can be 1 to {len(z) - 1}")
    mean = z.mean(axis=0)
    left, singular, right = np.linalg.svd((z - mean).reshape(len(z), -1).astype(np.float64), full_matrices=False)
    deviations = singular[:count] / np.sqrt(len(z) - 1)
    directions = (deviations[:, np.newaxis] * right[:count]).reshape(count, *z.shape[1:])
    share = np.square(singular[:count]) / np.sum(np.square(singular))
    return PrincipalComponents(mean, directions.astype(z.dtype), left[:, :count] * np.sqrt(len(z) - 1), share)


def along_components(
    glow: Glow,
    components: PrincipalComponents,
    strengths: Sequence[float] | np.ndarray,
    labels: Labels | None = None,
) -> np.ndarray:
    """[count, strengths, ...]: from the mean of z along each component, in standard deviations."""
    at = np.reshape(np.asarray(strengths, components.mean.dtype), [1, -1, 1, 1, 1])
    z = components.mean + at * components.directions[:, np.newaxis]
    return _decode_strips(glow, z, labels)


def read_images(paths: Sequence[str | os.PathLike], config: GlowConfig) -> np.ndarray:
    """uint8 [N, H, W, C] of image files.

    Raises:
        InputError: naming the file that is missing or cannot be read.
    """
    rules = image_folder.ReadRules()
    images = []
    for name in paths:
        check_file(name)
        try:
            images.append(
                image_folder.decode(
                    name, image_size=config.image_shape[:2], channels=config.image_shape[2], rules=rules
                )
            )
        except Exception as error:  # Pillow's plug-ins raise nearly anything on damaged bytes
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise InputError(f"the image {name} cannot be read: {reason}") from error
    return np.stack(images)


def read_attribute(path: str | os.PathLike, attribute: str) -> tuple[list[str], list[str]]:
    """(files with the attribute, files without it) from a CSV.

    The first line holds the titles, the first column the image files, relative to the CSV's own folder, and the
    attribute's column 1, true or yes, or else 0, -1, false or no. Other values are left out.
    """
    check_file(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no table of comma-separated values: {error}") from error
    titles = [title.strip() for title in rows[0]] if rows else []
    if attribute not in titles[1:]:
        raise InputError(f"{path} has no column {attribute!r}; it has {', '.join(titles[1:][:10]) or 'none'}")
    column, folder = titles.index(attribute, 1), os.path.dirname(os.path.abspath(path))
    positive: list[str] = []
    negative: list[str] = []
    for row in rows[1:]:
        value = row[column].strip().lower() if len(row) > column else ""
        if value in _YES:
            positive.append(os.path.join(folder, row[0]))
        elif value in _NO:
            negative.append(os.path.join(folder, row[0]))
    for name, files in (("1", positive), ("0 or -1", negative)):
        if not files:
            raise InputError(f"column {attribute!r} of {path} has no image with {name}; both kinds are needed")
    return positive, negative


def _decode_strips(glow: Glow, z: np.ndarray, labels: Labels | None = None) -> np.ndarray:
    """Images [rows, columns, ...] from z of that shape; `labels` [rows]."""
    flat = z.reshape(-1, *z.shape[2:])
    images = decode(glow, flat, None if labels is None else np.repeat(labels, z.shape[1]))
    return images.reshape(z.shape[0], z.shape[1], *images.shape[1:])
