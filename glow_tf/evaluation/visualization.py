"""Images into files: grids with a border between the cells, as PNG; sequences as GIF; scatter plots."""

import base64
import io
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from glow_tf._files import write_atomically

# Images are enlarged by whole factors until a cell is about this many pixels high, so that small ones can be seen.
CELL_SIDE = 64

BORDER = 2
BORDER_VALUE = 96  # grey: neither black nor white images run into one another

FONT_SIZE = 14

# Milliseconds of a frame of a GIF.
FRAME_MILLISECONDS = 120

# Okabe and Ito's colours, which the colour-blind tell apart too, and more of the same kind; then they repeat.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#000000", "#7f3c8d", "#808080")


def grid(images: np.ndarray, columns: int | None = None, row_names: Sequence[str] = ()) -> np.ndarray:
    """One image of all images.

    Args:
        images: uint8 [N, H, W, C].
        columns: None: as square as can be.
        row_names: written to the left of the rows.
    Returns:
        uint8 [rows * (h + 2) + 2, columns * (w + 2) + 2, C], h and w after enlarging by a whole factor; wider, and
        RGB, where there are names.

    >>> grid(images).shape
    (134, 200, 1)
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
    return _with_row_names(canvas, row_names, height + BORDER) if row_names else canvas


def _with_row_names(canvas: np.ndarray, names: Sequence[str], row_height: int) -> np.ndarray:
    font = ImageFont.load_default(FONT_SIZE)
    margin = int(max(font.getlength(name) for name in names)) + 3 * BORDER
    picture = Image.new("RGB", (canvas.shape[1] + margin, canvas.shape[0]), (BORDER_VALUE,) * 3)
    picture.paste(Image.fromarray(to_rgb(canvas)), (margin, 0))
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(names):
        draw.text((margin - BORDER, (row + 0.5) * row_height), name, "white", font, anchor="rm")
    return np.asarray(picture)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 to 4] -> [H, W, 3] for showing: grey is repeated, a second or fourth channel (alpha) is
    left out."""
    channels = image.shape[-1]
    return np.repeat(image[..., :1], 3, axis=-1) if channels < 3 else image[..., :3]


def data_uri(image: np.ndarray) -> str:
    """uint8 [H, W, C] as PNG inside of a `data:` address, for pages that need no other file."""
    data = io.BytesIO()
    Image.fromarray(to_rgb(np.asarray(image))).save(data, format="PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 [H, W, C] as PNG, creating its folder; the file is replaced as a whole.

    >>> save_png("grid.png", grid(images, row_names=["a", "b"]))
    >>> Image.open("grid.png").mode
    'RGB'
    """
    _write(path, Image.fromarray(to_rgb(np.asarray(image))), format="PNG")


def save_gif(path: str | os.PathLike, strips: np.ndarray, row_names: Sequence[str] = ()) -> None:
    """Writes strips as a GIF: one frame a column, all rows in each, there and back for ever.

    Args:
        strips: uint8 [rows, columns, H, W, C].

    >>> save_gif("there-and-back.gif", images.reshape(2, 3, 4, 4, 1))
    >>> Image.open("there-and-back.gif").n_frames
    4
    """
    order = [*range(strips.shape[1]), *range(strips.shape[1] - 2, 0, -1)]
    columns = 1 if row_names else None
    frames = [Image.fromarray(to_rgb(grid(strips[:, column], columns, row_names))) for column in order]
    _write(path, frames[0], format="GIF", save_all=True, append_images=frames[1:], duration=FRAME_MILLISECONDS, loop=0)


def _write(path: str | os.PathLike, picture: Image.Image, **options: Any) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    data = io.BytesIO()
    picture.save(data, **options)
    write_atomically(path, data.getvalue())


def scatter(
    points: np.ndarray,
    labels: np.ndarray | None = None,
    names: Sequence[str] = (),
    axis_names: Sequence[str] = ("", ""),
    side: int = 640,
) -> np.ndarray:
    """A scatter plot, coloured by class.

    Args:
        points: [N, 2].
        labels: [N] integers, or None.
        names: of the classes.
        axis_names: of the horizontal and the vertical axis.
        side: of the plot in pixels, without the legend.
    Returns:
        uint8 [H, W, 3].

    >>> scatter(np.array([[0, 1], [1, 0]]), labels=np.array([0, 1]), names=["first", "second"]).shape
    (640, 780, 3)
    """
    points = np.asarray(points, np.float64)
    margin = 40
    reach = 1.05 * max(np.max(np.abs(points)), 1e-9)
    picture = Image.new("RGB", (side + (140 if names else 0), side), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(FONT_SIZE)

    def place(value: float) -> float:
        return margin + (value / reach + 1) / 2 * (side - 2 * margin)

    draw.rectangle((margin, margin, side - margin, side - margin), outline="#808080")
    for at in range(-int(reach), int(reach) + 1):
        tick = place(at)
        draw.line((tick, side - margin, tick, side - margin + 4), "#808080")
        draw.line((margin - 4, side - place(at), margin, side - place(at)), "#808080")
        draw.text((tick, side - margin + 6), str(at), "black", font, anchor="ma")
        draw.text((margin - 6, side - tick), str(at), "black", font, anchor="rm")
    draw.text((side / 2, side - 4), axis_names[0], "black", font, anchor="md")
    draw.text((4, 4), axis_names[1], "black", font)
    labels = np.zeros(len(points), int) if labels is None else labels
    for (x, y), label in zip(points, labels, strict=True):
        x, y = place(x), side - place(y)
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=COLOURS[label % len(COLOURS)])
    for row, name in enumerate(names):
        top = margin + row * (FONT_SIZE + 6)
        draw.ellipse((side, top, side + 8, top + 8), fill=COLOURS[row % len(COLOURS)])
        draw.text((side + 14, top + 4), name, "black", font, anchor="lm")
    return np.asarray(picture)
