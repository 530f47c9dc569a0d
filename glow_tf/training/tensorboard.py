"""TensorBoard's HParams and Projector pages.

logs/test                             hyperparameters beside the test bits/dim, so that runs form one table
logs/test/projector_config.pbtxt      and the three files that it names: latents, classes, thumbnails
"""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glow_tf._files import write_atomically
from glow_tf.evaluation import visualization

# Numbers in the projector's table, which bounds its size to a few MB.
PROJECTED_NUMBERS = 400_000


def write_hparams(sections: Mapping[str, Mapping[str, Any]], trial: str) -> None:
    """Writes the hyperparameters of a run, {section: {name: value}}, to the default summary writer."""
    from tensorboard.plugins.hparams import api

    flat = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    api.hparams({name: _plain(value) for name, value in flat.items()}, trial_id=trial)


def _plain(value: Any) -> bool | int | float | str:
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def write_projector(
    folder: str | os.PathLike,
    latents: np.ndarray,
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str] = (),
) -> None:
    """Replaces the projector's files of a log folder.

    Args:
        latents: [N, ...]; fewer rows are written if they are long (`PROJECTED_NUMBERS`).
        images: uint8 [N, H, W, C].
        labels: [N], indices of `class_names` if there are any.
    """
    from tensorboard.plugins import projector

    rows = np.asarray(latents).reshape(len(latents), -1)
    count = min(len(rows), max(1, PROJECTED_NUMBERS // rows.shape[1]))
    table = io.BytesIO()
    np.savetxt(table, rows[:count], fmt="%.4g", delimiter="\t")
    names = "".join(f"{_name(class_names, label)}\n" for label in labels[:count])
    files = {
        "latents.tsv": table.getvalue(),
        "classes.tsv": names.encode(errors="backslashreplace"),
        "images.png": _sprite(images[:count]),
    }
    for name, data in files.items():
        write_atomically(os.path.join(folder, name), data)
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name="deepest latents", tensor_path="latents.tsv", metadata_path="classes.tsv"
    )
    embedding.sprite.image_path = "images.png"
    embedding.sprite.single_image_dim.extend([images.shape[2], images.shape[1]])
    projector.visualize_embeddings(os.fspath(folder), config)


def _name(class_names: Sequence[str], label: int) -> str:
    name = str(class_names[label]) if 0 <= label < len(class_names) else str(label)
    return " ".join(name.split()) or str(label)


def _sprite(images: np.ndarray) -> bytes:
    """A PNG of all images, row by row in a square, which is the projector's layout."""
    side = int(np.ceil(np.sqrt(len(images))))
    canvas = np.zeros((side * side, *images.shape[1:]), np.uint8)
    canvas[: len(images)] = images
    count, height, width, channels = canvas.shape
    tiled = canvas.reshape(side, side, height, width, channels).swapaxes(1, 2)
    return visualization.png(tiled.reshape(side * height, side * width, channels))
