"""Scores of single images: likelihood, a score that corrects for an image's complexity, and typicality.

A high likelihood alone is poor evidence that an image is like the training images: smooth, simple images have a high
likelihood under every model of natural images (blurred photographs more than sharp ones). The corrected score
subtracts the bits that a general-purpose compressor needs for the same image. Typicality asks for a likelihood that
is usual among the training images, neither lower nor higher.

References: Nalisnick et al. 2019 ("Do deep generative models know what they don't know?"); Serrà et al. 2020.
"""

import csv
import dataclasses
import html
import io
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, features

from glow_tf import _progress
from glow_tf._files import printable, spreadsheet_safe, write_file
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics, visualization
from glow_tf.glow import Glow
from glow_tf.metadata import class_names

# {column of `Scores.columns`: its explanation}. Pages and screens show a name with spaces instead of underscores.
COLUMNS = {
    "log_likelihood": "Natural logarithm of the image's probability, in nats. Higher is likelier.",
    "bits_per_dim": "The same per pixel value, in bits. Lower is likelier; smooth images are low.",
    "lossless_bits_per_dim": "Size of the smaller of PNG and WebP, both lossless: the image's complexity.",
    "corrected_bits_per_dim": "bits per dim minus lossless bits per dim. High means unlike the training images; the "
    "most telling score.",
    "typicality_p": "2 min(F, 1 - F), F the share of training images with lower bits per dim. Near 0 means atypical.",
    "most_likely_class": "The class under which the image is most likely.",
}

# Images of an HTML page, and the longer side of their thumbnails in pixels.
PAGE_IMAGES = 300
THUMBNAIL_SIDE = 128

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of N images: those of `COLUMNS`.

    typicality_p needs a summary of the training images in the weights file, most_likely_class a class-conditional
    model; otherwise they are left out.
    """

    names: tuple[str, ...]  # [N]
    columns: dict[str, np.ndarray]  # {name: [N]}


def score(
    glow: Glow, images: np.ndarray, names: Iterable[str], num_importance_samples: int = 1, seed: int = 0
) -> Scores:
    """The Scores of uint8 images [N, H, W, C]; a class-conditional model scores under the mixture of its classes.

    >>> scores = score(glow, images, names=list("abcdef"))
    >>> sorted(scores.columns)
    ['bits_per_dim', 'corrected_bits_per_dim', 'log_likelihood', 'lossless_bits_per_dim']
    """
    config, names = glow.config, tuple(names)
    if len(names) != len(images) or not names:
        raise InputError(f"{len(images)} images and {len(names)} names were given; 1 or more and as many are needed")
    names_of_classes = class_names(glow.metadata, config.num_classes)
    one_sample, bits_of_batches, lossless, classes = [], [], [], []
    with _progress.phase("scoring", len(images)) as advance:
        for start in range(0, len(images), BATCH_SIZE):
            batch = images[start : start + BATCH_SIZE]
            noise_seed = seed + start // BATCH_SIZE
            samples = metrics.bits_per_dim_of_samples(glow, batch, None, noise_seed, num_importance_samples)
            one_sample.append(metrics.importance_weighted(samples[:1], config.num_dims))
            bits_of_batches.append(metrics.importance_weighted(samples, config.num_dims))
            lossless += [lossless_bits(image, config.num_bits) / config.num_dims for image in batch]
            if config.num_classes:
                classes += [names_of_classes[label] for label in metrics.classify(glow, batch)]
            advance(len(batch))
    bits = np.concatenate(bits_of_batches)
    columns = {
        "log_likelihood": -bits * math.log(2.0) * config.num_dims,
        "bits_per_dim": bits,
        "lossless_bits_per_dim": np.array(lossless),
        "corrected_bits_per_dim": bits - lossless,
    }
    summary = training_summary(glow)
    if summary is not None:
        # The training images were scored with one sample of the noise, and more samples lower the bits/dim.
        columns["typicality_p"] = metrics.typicality(np.concatenate(one_sample), summary)
    if classes:
        columns["most_likely_class"] = np.array(classes)
    return Scores(names, columns)


def training_summary(glow: Glow) -> dict[str, Any] | None:
    """`metrics.distribution_summary` of the training images' bits/dim; None if the weights file has no valid one."""
    summary: Any = glow.metadata.get("train_bits_per_dim")
    try:
        quantiles = np.asarray(summary["quantiles"], np.float64)
        is_usable = quantiles.ndim == 1 and len(quantiles) > 1 and np.all(np.diff(quantiles) >= 0)
        return summary if is_usable and summary["count"] > 0 else None
    except (TypeError, KeyError, ValueError, OverflowError):
        return None


def lossless_bits(image: np.ndarray, num_bits: int = 8) -> int:
    """Bits of the smaller of PNG and WebP for the `num_bits` high bits of uint8 [H, W, C], without file headers.

    Transparent pixels keep their colours (WebP's `exact`), since the model encodes them, too.

    >>> lossless_bits(np.zeros([4, 4, 1], np.uint8)) < lossless_bits(images[0])
    True
    """
    # Compressors expect few values to be the low ones.
    values = visualization.checked(image) >> (8 - num_bits)
    picture = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    sizes = [_png_data(visualization.encoded(picture, format="PNG", optimize=True))]
    if features.check("webp") and picture.mode in ("L", "RGB", "RGBA"):
        colour = picture.convert("RGB") if picture.mode == "L" else picture
        data = visualization.encoded(colour, format="WEBP", lossless=True, quality=100, exact=True)
        sizes.append(len(data) - 20)  # RIFF and VP8L headers
    return 8 * min(sizes)


def write_csv(path: str | os.PathLike, scores: Scores) -> None:
    """Writes a table with one row per image: `file`, then the columns.

    Text that a spreadsheet would run as a formula gets an apostrophe in front.

    >>> write_csv("scores.csv", Scores(("a.png",), {"bits_per_dim": np.array([2.5])}))
    >>> print(open("scores.csv").read().strip())
    file,bits_per_dim
    a.png,2.5
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *scores.columns])
    for row in zip(scores.names, *scores.columns.values(), strict=True):
        writer.writerow([_cell(value) if isinstance(value, str) else f"{value:.6g}" for value in row])
    write_file(path, text.getvalue().encode("utf-8", "backslashreplace"))


def write_html(path: str | os.PathLike, scores: Scores, images: np.ndarray, title: str) -> None:
    """Writes a page with the scores of uint8 images: those of the `PAGE_IMAGES` least like the training images."""
    order = np.argsort(-scores.columns["corrected_bits_per_dim"], kind="stable")[:PAGE_IMAGES]
    shown = f"{len(order)} images" if len(order) == len(images) else f"{len(order)} of {len(images):,} images"
    described = [(name.replace("_", " "), COLUMNS[name]) for name in scores.columns]
    page = _PAGE.format(
        title=_escaped(title),
        shown=f"{shown}, sorted by corrected bits per dim: those least like the training images first",
        note=_escaped(NOTE),
        terms="".join(f"<dt>{_escaped(name)}</dt><dd>{_escaped(text)}</dd>" for name, text in described),
        head="".join(f'<th title="{_escaped(text)}">{_escaped(name)}</th>' for name, text in described),
        rows="\n".join(_row(scores, images[index], index) for index in order),
    )
    write_file(path, page.encode("utf-8", "backslashreplace"))


NOTE = (
    "A high likelihood alone does not show that an image is like the training images: smooth and simple images have a "
    "high likelihood under any model. Read it together with the corrected bits per dim and the typicality."
)

_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body{{font:14px sans-serif;margin:2em}} table{{border-collapse:collapse}} th{{position:sticky;top:0;background:#fff}}
th,td{{padding:4px 12px;text-align:right;border-bottom:1px solid #ddd}} td.file{{text-align:left}}
img{{width:96px;image-rendering:pixelated}} dt{{font-weight:bold;float:left;margin-right:1ex}} p,dl{{max-width:60em}}
</style>
<h1>{title}</h1><p>{note}</p><dl>{terms}</dl><p>{shown}.</p>
<table><thead><tr><th>image</th><th>file</th>{head}</tr></thead><tbody>
{rows}
</tbody></table></html>
"""


def _row(scores: Scores, image: np.ndarray, index: int) -> str:
    values = [values[index] for values in scores.columns.values()]
    cells = "".join(f"<td>{_escaped(value if isinstance(value, str) else f'{value:.4g}')}</td>" for value in values)
    thumbnail = Image.fromarray(visualization.to_rgb(image))
    thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    picture = f'<img alt="" src="{visualization.data_uri(np.asarray(thumbnail))}">'
    return f'<tr><td>{picture}</td><td class="file">{_escaped(scores.names[index])}</td>{cells}</tr>'


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _cell(text: str) -> str:
    return spreadsheet_safe(text if text.isprintable() else ascii(text)[1:-1])


def _png_data(data: bytes) -> int:
    """Bytes of the IDAT chunks."""
    total, position = 0, 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"IDAT":
            total += length
        position += length + 12
    return total
