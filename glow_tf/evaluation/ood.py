"""What a model says about single images: likelihood, a score that allows for their complexity, typicality.

A high likelihood alone does not show that an image is like the training images: smooth, simple images have
a high likelihood under every model of natural images (blurred photographs more than sharp ones). The corrected
score subtracts what a general-purpose compressor needs for the same image, and typicality asks for a
likelihood as usual among the training images, neither lower nor higher.

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

from glow_tf._files import write_atomically
from glow_tf.evaluation import metrics, visualization
from glow_tf.glow import Glow

# Images of each half of the sheet.
SHEET_IMAGES = 24


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of N images; `columns` are those of a table.

    Attributes:
        names: [N].
        columns: {title: [N]}: log_likelihood (nats, of the discrete image), bits_per_dim, lossless_bits_per_dim
            (the smaller of PNG and WebP), corrected_bits_per_dim (the difference of the two; high is foreign),
            and where the model knows its training images' bits/dim typicality_p; where it has classes
            most_likely_class.
    """

    names: tuple[str, ...]
    columns: dict[str, np.ndarray]


def score(glow: Glow, images: np.ndarray, names: Iterable[str], draws: int = 1, seed: int = 0) -> Scores:
    """The Scores of uint8 images [N, H, W, C]; of a class-conditional model those of the mixture of its classes.

    >>> scores = score(glow, images, names=list("abcdef"))
    >>> sorted(scores.columns)
    ['bits_per_dim', 'corrected_bits_per_dim', 'log_likelihood', 'lossless_bits_per_dim']
    """
    config = glow.config
    bits = metrics.bits_per_dim_per_image(glow, images, None, seed, draws)
    lossless = np.array([lossless_bits(image, config.num_bits) for image in images]) / config.num_dims
    columns = {
        "log_likelihood": -bits * math.log(2.0) * config.num_dims,
        "bits_per_dim": bits,
        "lossless_bits_per_dim": lossless,
        "corrected_bits_per_dim": bits - lossless,
    }
    summary = training_summary(glow)
    if summary is not None:
        columns["typicality_p"] = metrics.typicality(bits, summary)
    if config.num_classes:
        columns["most_likely_class"] = np.array([class_name(glow, i) for i in metrics.classify(glow, images)])
    return Scores(tuple(names), columns)


def training_summary(glow: Glow) -> dict[str, Any] | None:
    """`evaluation.distribution_summary` of the training images' bits/dim, from the weights file; None if it lacks."""
    summary: Any = glow.metadata.get("train_bits_per_dim")
    try:
        quantiles = np.asarray(summary["quantiles"], np.float64)
        is_usable = quantiles.ndim == 1 and len(quantiles) > 1 and np.all(np.diff(quantiles) >= 0)
        return summary if is_usable and summary["count"] > 0 else None
    except (TypeError, KeyError, ValueError):
        return None


def class_name(glow: Glow, index: int) -> str:
    """The name of a class, its index where the weights file holds no names."""
    names = glow.metadata.get("class_names") or []
    return str(names[index]) if index < len(names) else str(index)


def lossless_bits(image: np.ndarray, num_bits: int = 8) -> int:
    """Bits that PNG or WebP, the smaller, needs for what a model of `num_bits` sees of an image.

    Containers and headers, the same for every image, do not count.

    Args:
        image: uint8 [H, W, C].

    >>> lossless_bits(np.zeros([4, 4, 1], np.uint8)) < lossless_bits(images[0])
    True
    """
    # The values are shifted to the low bits, where compressors expect them to be few.
    picture = Image.fromarray(_squeezed(np.asarray(image) >> (8 - num_bits)))
    sizes = [_png_data(_encoded(picture, "PNG", optimize=True))]
    if features.check("webp") and picture.mode in ("L", "RGB", "RGBA"):
        data = _encoded(picture.convert("RGB") if picture.mode == "L" else picture, "WEBP", lossless=True, quality=100)
        sizes.append(len(data) - 20)  # RIFF and VP8L headers
    return 8 * min(sizes)


def write_csv(path: str | os.PathLike, scores: Scores) -> None:
    """A table with one line an image: `file`, then the columns.

    >>> write_csv("scores.csv", Scores(("a.png",), {"bits_per_dim": np.array([2.5])}))
    >>> print(open("scores.csv").read().strip())
    file,bits_per_dim
    a.png,2.5
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *scores.columns])
    for name, *values in zip(scores.names, *scores.columns.values(), strict=True):
        writer.writerow([name, *(value if isinstance(value, str) else f"{value:.6g}" for value in values)])
    _write(path, text.getvalue())


def write_html(path: str | os.PathLike, scores: Scores, images: np.ndarray, title: str) -> None:
    """A sheet of the least and the most likely images, smallest and largest bits/dim, in one file."""
    order = np.argsort(scores.columns["bits_per_dim"])
    parts = [
        ("Least likely", order[::-1][:SHEET_IMAGES]),
        ("Most likely", order[:SHEET_IMAGES]),
    ]
    if "typicality_p" in scores.columns:
        parts.append(("Least typical", np.argsort(scores.columns["typicality_p"], kind="stable")[:SHEET_IMAGES]))
    body = "".join(
        f"<h2>{html.escape(name)}</h2><div>{''.join(_figure(scores, images, index) for index in chosen)}</div>"
        for name, chosen in parts
    )
    _write(path, _PAGE.format(title=html.escape(title), body=body, note=html.escape(NOTE)))


NOTE = (
    "A high likelihood alone does not tell images like the training images from others: smooth and simple images "
    "have a high likelihood under any model. Read it with the corrected score and the typicality."
)

_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:14px sans-serif;margin:2em}} div{{display:flex;flex-wrap:wrap;gap:12px}}
figure{{margin:0;width:150px;overflow-wrap:anywhere}} img{{width:128px;image-rendering:pixelated}}</style>
<h1>{title}</h1><p>{note}</p>{body}</html>
"""


def _figure(scores: Scores, images: np.ndarray, index: int) -> str:
    lines = [f"{title} {_shown(values[index])}" for title, values in scores.columns.items()]
    caption = "<br>".join(html.escape(line) for line in (scores.names[index], *lines))
    return (
        f'<figure><img alt="" src="{visualization.data_uri(images[index])}"><figcaption>{caption}</figcaption></figure>'
    )


def _shown(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _squeezed(image: np.ndarray) -> np.ndarray:
    """[H, W, C] as Pillow takes it: grey has no axis of channels."""
    return image[..., 0] if image.shape[-1] == 1 else image


def _encoded(picture: Image.Image, format: str, **options: Any) -> bytes:  # noqa: A002  (Pillow's word)
    data = io.BytesIO()
    picture.save(data, format=format, **options)
    return data.getvalue()


def _png_data(data: bytes) -> int:
    """Bytes of the IDAT chunks."""
    total, position = 0, 8
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"IDAT":
            total += length
        position += length + 12
    return total


def _write(path: str | os.PathLike, text: str) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    # Names that are no Unicode are shown with escapes.
    write_atomically(path, text.encode("utf-8", "backslashreplace"))
