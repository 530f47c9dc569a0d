"""What compares runs and shows latents in TensorBoard: its HParams and Projector pages.

logs/test                             hparams beside the test bits/dim, so that runs make one table
logs/test/projector_config.pbtxt      and the three files it names: latents, classes, thumbnails
"""

import io
import os

import numpy as np
from PIL import Image

from glow_tf._files import write_atomically
from glow_tf.evaluation import visualization

# Numbers that the projector's table holds at most; a browser takes a few MB well.
PROJECTED_NUMBERS = 400_000

_CONFIG = """\
embeddings {
  tensor_name: "deepest latents"
  tensor_path: "latents.tsv"
  metadata_path: "classes.tsv"
  sprite { image_path: "images.png" single_image_dim: %d single_image_dim: %d }
}
"""


def write_hparams(sections, trial):
    """Writes the hparams of a run to the default summary writer.

    Args:
        sections: {section: {name: value}}; values that are no number, flag or text become text.
        trial: the run's name.
    """
    from tensorboard.plugins.hparams import api

    flat = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    api.hparams({name: _plain(value) for name, value in flat.items()}, trial_id=trial)


def _plain(value):
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def write_projector(folder, latents, images, labels, class_names=()):
    """Replaces the projector's files of a log folder.

    Args:
        latents: [N, ...], one row an image; fewer rows where they are long (`PROJECTED_NUMBERS`).
        images: uint8 [N, H, W, C].
        labels: [N] integers, indices of `class_names` where there are any.
    Raises:
        OSError: disk full, no permission.
    """
    rows = np.asarray(latents).reshape(len(latents), -1)
    count = min(len(rows), max(1, PROJECTED_NUMBERS // rows.shape[1]))
    table = "".join("\t".join(f"{value:.4g}" for value in row) + "\n" for row in rows[:count])
    names = "".join(f"{_name(class_names, label)}\n" for label in labels[:count])
    files = {
        "latents.tsv": table.encode(),
        "classes.tsv": names.encode(errors="backslashreplace"),
        "images.png": _sprite(images[:count]),
        # Last: it names the others.
        "projector_config.pbtxt": (_CONFIG % (images.shape[2], images.shape[1])).encode(),
    }
    for name, data in files.items():
        write_atomically(os.path.join(folder, name), data)


def _name(class_names, label):
    name = str(class_names[label]) if 0 <= label < len(class_names) else str(label)
    return " ".join(name.split()) or str(label)


def _sprite(images):
    """A PNG of all images, row by row in a square, as the projector cuts them out again."""
    side = int(np.ceil(np.sqrt(len(images))))
    canvas = np.zeros((side * side, *images.shape[1:]), np.uint8)
    canvas[: len(images)] = images
    count, height, width, channels = canvas.shape
    tiled = canvas.reshape(side, side, height, width, channels).swapaxes(1, 2)
    data = io.BytesIO()
    picture = visualization.to_rgb(tiled.reshape(side * height, side * width, channels))
    Image.fromarray(picture).save(data, format="PNG")
    return data.getvalue()
