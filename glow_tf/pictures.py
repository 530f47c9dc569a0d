"""Images into files: grids with a border between the cells, as PNG."""

import math
import os

import numpy as np
from PIL import Image

# Images are enlarged by whole factors until a cell is about this many pixels high, so that small ones can be seen.
CELL_SIDE = 64

BORDER = 2
BORDER_VALUE = 96  # grey: neither black nor white images run into one another


def grid(images, columns=None):
    """One image of all images.

    Args:
        images: uint8 [N, H, W, C].
        columns: None: as square as can be.
    Returns:
        uint8 [rows * (h + 2) + 2, columns * (w + 2) + 2, C], h and w after enlarging by a whole factor.
    """
    images = np.asarray(images)
    count, height, width, channels = images.shape
    factor = max(1, CELL_SIDE // max(height, width))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = height * factor, width * factor
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full(
        [rows * (height + BORDER) + BORDER, columns * (width + BORDER) + BORDER, channels], BORDER_VALUE, np.uint8
    )
    for index, image in enumerate(images):
        top = BORDER + index // columns * (height + BORDER)
        left = BORDER + index % columns * (width + BORDER)
        canvas[top : top + height, left : left + width] = image
    return canvas


def to_rgb(image):
    """uint8 [H, W, 1 to 4] -> [H, W, 3] for showing: grey is repeated, a second or fourth channel (alpha) is
    left out."""
    channels = image.shape[-1]
    return np.repeat(image[..., :1], 3, axis=-1) if channels < 3 else image[..., :3]


def save_png(path, image):
    """Writes uint8 [H, W, C] as PNG, creating its folder; the file is replaced as a whole."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    part = f"{path}.tmp-{os.getpid()}"
    Image.fromarray(to_rgb(np.asarray(image))).save(part, format="PNG")
    os.replace(part, path)
