"""The pictures of a run: samples, a temperature sweep, reconstructions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glow_tf import _progress, metadata
from glow_tf.evaluation import editing
from glow_tf.evaluation.visualization import labelled_grid, save_image
from glow_tf.glow import Glow

SAMPLE_TEMPERATURE = 0.7
SWEEP_TEMPERATURES = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0)
NUM_COLUMNS = 6
MAX_CLASSES = 10
NUM_RECONSTRUCTIONS = 8


def draw(
    glow: Glow,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    when: str,
    check: Callable[[], Any] = lambda: None,
) -> dict[str, np.ndarray]:
    """Draws the pictures, {name: uint8 [h, w, 3]}.

    Args:
        images, labels: uint8 test images to reconstruct, [N, H, W, C], and their classes [N].
        when: epoch and step, for the captions.
        check: called before each computation; an exception from it ends the drawing.
    """
    with _progress.phase("drawing", len(SWEEP_TEMPERATURES) + 2, "pictures") as advance:

        def sample(count: int, temperature: float, labels: np.ndarray | None = None) -> np.ndarray:
            check()
            drawn = glow.sample(count, temperature, seed=0, labels=labels).numpy()
            advance()
            return drawn

        rows = min(glow.config.num_classes, MAX_CLASSES) or NUM_COLUMNS
        of_rows = np.repeat(np.arange(rows), NUM_COLUMNS) if glow.config.num_classes else None
        names = metadata.class_names({"class_names": class_names}, rows)
        samples = labelled_grid(
            sample(rows * NUM_COLUMNS, SAMPLE_TEMPERATURE, of_rows),
            caption=f"Samples at temperature {SAMPLE_TEMPERATURE:g}\n{when}",
            row_labels=None if of_rows is None else names,
            columns=NUM_COLUMNS,
        )
        temperatures = labelled_grid(
            np.concatenate([sample(NUM_COLUMNS, temperature) for temperature in SWEEP_TEMPERATURES]),
            caption=f"The same noise at rising temperatures\n{when}",
            row_labels=[f"temperature {temperature:g}" for temperature in SWEEP_TEMPERATURES],
            columns=NUM_COLUMNS,
        )
        check()
        images, labels = images[:NUM_RECONSTRUCTIONS], labels[:NUM_RECONSTRUCTIONS]
        pairs = editing.reconstruct(glow, images, labels if glow.config.num_classes else None)
        reconstructions = labelled_grid(
            pairs.reshape(-1, *images.shape[1:]),
            caption=f"Test images and their reconstructions\n{when}",
            row_labels=["original", "reconstruction"],
            columns=len(images),
        )
        advance()
    return {"samples": samples, "temperatures": temperatures, "reconstructions": reconstructions}


def save(folder: Path, drawn: Mapping[str, np.ndarray], epoch: int) -> None:
    """Replaces the pictures in a folder, and adds the samples of about every epoch 1, 2, 4, 8, ..."""
    for name, image in drawn.items():
        save_image(folder / f"{name}.png", image)
    power = 1 << (max(epoch, 1).bit_length() - 1)
    if not any((folder / f"samples-epoch{other:04d}.png").exists() for other in range(power, epoch)):
        save_image(folder / f"samples-epoch{epoch:04d}.png", drawn["samples"])
