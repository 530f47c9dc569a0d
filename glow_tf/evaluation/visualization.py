"""Labelled grids of images, animations and scatter plots, and the files that hold them.

Images are uint8 [H, W, C] of 1 to 4 channels; every picture that this module draws is uint8 RGB [H, W, 3].
"""

import base64
import importlib.util
import io
import math
import os
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from glow_tf._files import printable, write_file
from glow_tf.errors import InputError

# The file formats of a picture by the ending of its name, and how each is written.
FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".webp": {"format": "WEBP", "lossless": True},
}

# The longest side that a format allows, in pixels.
LONGEST = {"JPEG": 65_500, "WEBP": 16_383}

# Width of a grid in pixels that small images are enlarged to fill, and the bounds of a cell's longer side.
GRID_WIDTH = 900
MIN_CELL, MAX_CELL = 64, 128

BORDER_COLOUR = "#a0a0a0"  # grey: neither black nor white images run into one another
MARK_COLOUR = "#d55e00"
TEXT_COLOUR, NOTE_COLOUR = "#202020", "#606060"

MIN_FONT_SIZE, LARGE_FONT_SIZE = 15, 24
MAX_LABEL_LENGTH = 28  # characters of a row's or column's label

FRAME_MILLISECONDS = 120

# Okabe and Ito's colours, which colour-blind readers can tell apart, and four more; then they repeat.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#000000", "#7f3c8d", "#808080")


def labelled_grid(
    images: np.ndarray,
    *,
    caption: str = "",
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    columns: int | None = None,
    marked_column: int | None = None,
) -> np.ndarray:
    """One picture of all images, enlarged by a whole factor without smoothing, with a caption and labels.

    Args:
        images: uint8 [N, H, W, C].
        caption: a title, and after the first line break notes in smaller letters.
        row_labels: one per row; a label may have several lines.
        column_labels: one per column.
        columns: the number of columns. Default: the number of column labels, otherwise about a square, without empty
            cells if possible.
        marked_column: the index of a column that gets a coloured frame.

    Raises:
        InputError: for images of another type or shape, or another number of labels than of rows or columns.

    >>> labelled_grid(images, caption="Samples at temperature 0.7", columns=3).shape[2]
    3
    """
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise InputError(f"images have shape {images.shape}; one or more of [N, H, W, C] are needed")
    count, height, width, _ = images.shape
    columns = columns or (len(column_labels) if column_labels else _default_columns(count))
    needed = {"rows": (row_labels, math.ceil(count / columns)), "columns": (column_labels, columns)}
    for kind, (labels, number) in needed.items():
        if labels and len(labels) != number:
            raise InputError(f"{len(labels)} labels were given for {number} {kind}")
    size, factor, of_rows, of_columns = _fitted(height, width, columns, row_labels or (), column_labels or ())
    font, gap, border = _font(size), size // 3, max(2, size // 9)
    cells = _cells(images, columns, factor, border, marked_column)

    left = size + max((text.width + gap for text in of_rows), default=0)
    whole_width = max(left + cells.width + size, 24 * size)
    title, _, notes = caption.partition("\n")
    styles = ((title, _font(round(1.2 * size), bold=True), TEXT_COLOUR), (notes, font, NOTE_COLOUR))
    heading = [
        (_Text(_wrapped(text, font, whole_width - 2 * size), font), colour) for text, font, colour in styles if text
    ]
    top = size + sum(text.height + gap for text, _ in heading) + gap
    top += max((text.height + gap for text in of_columns), default=0)

    picture = Image.new("RGB", (whole_width, top + cells.height + size), "white")
    picture.paste(cells, (left, top))
    draw = ImageDraw.Draw(picture)
    y = size
    for text, colour in heading:
        text.draw(draw, size, y, "left", colour)
        y += text.height + gap
    for row, text in enumerate(of_rows):
        middle = top + (row + 0.5) * (factor * height + border)
        text.draw(draw, left - gap - text.width, middle - text.height / 2, "right")
    for column, text in enumerate(of_columns):
        middle = left + (column + 0.5) * (factor * width + border)
        colour = MARK_COLOUR if column == marked_column else TEXT_COLOUR
        text.draw(draw, middle - text.width / 2, top - gap - text.height, "center", colour)
    return np.asarray(picture)


def _default_columns(count: int) -> int:
    """About the square root of the number of images; 8 for 40, which fills 5 rows."""
    square = math.ceil(math.sqrt(count))
    return next((columns for columns in range(square, 2 * square) if count % columns == 0), square)


def _fitted(
    height: int, width: int, columns: int, row_labels: Sequence[str], column_labels: Sequence[str]
) -> "tuple[int, int, list[_Text], list[_Text]]":
    """(font size, factor by which images are enlarged, row labels, column labels), each label inside its cell."""
    factor = max(1, min(max(GRID_WIDTH // columns, MIN_CELL), MAX_CELL) // max(height, width))
    largest = max(MIN_FONT_SIZE, columns * factor * width // 48)
    # Large letters shrink first, then the images grow.
    for size in range(largest, min(largest, LARGE_FONT_SIZE) - 1, -1):
        font = _font(size)
        rows, heads = ([_Text(_shortened(label), font) for label in labels] for labels in (row_labels, column_labels))
        needed = [(text.width + size // 3) / width for text in heads] + [text.height / height for text in rows]
        if max(needed, default=0) <= factor:
            break
    return size, max(factor, *map(math.ceil, needed), 1), rows, heads


def _cells(images: np.ndarray, columns: int, factor: int, border: int, marked_column: int | None) -> Image.Image:
    """The images side by side, each enlarged by `factor` and with a border around it."""
    height, width = (factor * side for side in images.shape[1:3])
    size = (columns * (width + border) + border, math.ceil(len(images) / columns) * (height + border) + border)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for index, image in enumerate(images):
        x, y = index % columns * (width + border), index // columns * (height + border)
        draw.rectangle((x, y, x + width + 2 * border - 1, y + height + 2 * border - 1), BORDER_COLOUR)
        enlarged = Image.fromarray(to_rgb(image)).resize((width, height), Image.Resampling.NEAREST)
        picture.paste(enlarged, (x + border, y + border))
    if marked_column is not None:
        x = marked_column * (width + border)
        draw.rectangle((x, 0, x + width + 2 * border - 1, size[1] - 1), outline=MARK_COLOUR, width=border)
    return picture


class _Text:
    """Lines of text in a font, and the size that they take."""

    def __init__(self, content: str, font: ImageFont.FreeTypeFont) -> None:
        self._content, self._font = content, font
        measure = ImageDraw.Draw(Image.new("L", (1, 1)))
        self.width = math.ceil(measure.multiline_textbbox((0, 0), content, font)[2])
        # The same for any letters, so that neighbouring labels stand on one line.
        tallest = "\n".join("Ág" for _ in content.split("\n"))
        self.height = math.ceil(measure.multiline_textbbox((0, 0), tallest, font)[3])

    def draw(self, draw: ImageDraw.ImageDraw, x: float, y: float, align: str, colour: str = TEXT_COLOUR) -> None:
        draw.multiline_text((round(x), round(y)), self._content, colour, self._font, align=align)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has many more letters than Pillow's default font."""
    specification = importlib.util.find_spec("matplotlib")  # importing it would take a third of a second
    assert specification is not None and specification.origin is not None
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    folder = os.path.join(os.path.dirname(specification.origin), "mpl-data", "fonts", "ttf")
    return ImageFont.truetype(os.path.join(folder, name), size)


def _shortened(label: str) -> str:
    lines = [printable(line) for line in str(label).split("\n")]
    return "\n".join(line if len(line) <= MAX_LABEL_LENGTH else line[: MAX_LABEL_LENGTH - 1] + "…" for line in lines)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text with line breaks, between words where possible, so that it fits the width."""
    paragraphs = [printable(paragraph) for paragraph in text.split("\n")]
    for length in range(max(map(len, paragraphs)) or 1, 0, -1):
        lines = [line for each in paragraphs for line in textwrap.wrap(each, length, break_on_hyphens=False) or [""]]
        if max(map(font.getlength, lines)) <= width:
            break
    return "\n".join(lines)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 to 4] -> [H, W, 3]: grey is repeated, a second or fourth channel (alpha) is left out.

    InputError for another type or shape.
    """
    image = checked(image)
    channels = image.shape[-1]
    return np.repeat(image[..., :1], 3, axis=-1) if channels < 3 else np.ascontiguousarray(image[..., :3])


def checked(image: np.ndarray) -> np.ndarray:
    """The image as an array; InputError unless it is uint8 [H, W, C] with 1 to 4 channels."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or not 1 <= image.shape[-1] <= 4:
        raise InputError(
            f"an image is {image.dtype} of shape {image.shape}; uint8 [H, W, C] of 1 to 4 channels is needed"
        )
    return image


def encoded(picture: Image.Image, **options: Any) -> bytes:
    """The file of a picture, by the options of Pillow's `save`."""
    data = io.BytesIO()
    picture.save(data, **options)
    return data.getvalue()


def png(image: np.ndarray) -> bytes:
    """uint8 [H, W, C] as a PNG file."""
    return encoded(Image.fromarray(to_rgb(image)), format="PNG")


def data_uri(image: np.ndarray) -> str:
    """uint8 [H, W, C] as PNG in a `data:` address, for pages that need no other file."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()


def check_image_path(path: str | os.PathLike) -> None:
    """Raises InputError if the ending of a file's name does not say a format to write.

    >>> check_image_path("grid.tiff")
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: 'grid.tiff' must end in .png, .jpg, .jpeg or .webp
    """
    if os.path.splitext(path)[1].lower() not in FORMATS:
        *most, last = FORMATS
        raise InputError(f"{printable(path)!r} must end in {', '.join(most)} or {last}")


def save_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 [H, W, C] as PNG, JPEG or WebP, by the ending of the name, and creates the folder.

    Raises:
        InputError: see `check_image_path`, or the picture is too large for the format.

    >>> save_image("grid.webp", labelled_grid(images, row_labels=["a", "b"]))
    >>> Image.open("grid.webp").format
    'WEBP'
    """
    check_image_path(path)
    rgb = to_rgb(image)
    is_grey = (rgb == rgb[..., :1]).all()
    picture = Image.fromarray(rgb[..., 0] if is_grey else rgb)
    options = FORMATS[os.path.splitext(path)[1].lower()]
    longest = LONGEST.get(options["format"])
    if longest and max(picture.size) > longest:
        size, name = f"{picture.width}x{picture.height}", options["format"]
        raise InputError(f"the picture has {size} pixels, and {name} allows {longest:,} per side; name a PNG file")
    write_file(path, encoded(picture, **options))


def save_gif(path: str | os.PathLike, frames: Sequence[np.ndarray]) -> None:
    """Writes an endless animation that runs through the frames and back.

    Args:
        frames: uint8 [h, w, C] each; smaller ones get a white margin at the right and at the bottom.

    >>> save_gif("there-and-back.gif", images[:3])
    >>> Image.open("there-and-back.gif").n_frames
    4
    """
    size = tuple(max(frame.shape[axis] for frame in frames) for axis in (1, 0))
    pictures = []
    for frame in [*frames, *frames[-2:0:-1]]:
        picture = Image.new("RGB", size, "white")
        picture.paste(Image.fromarray(to_rgb(frame)))
        pictures.append(picture)
    first, *others = pictures
    animation = {"save_all": True, "append_images": others, "duration": FRAME_MILLISECONDS, "loop": 0}
    write_file(path, encoded(first, format="GIF", **animation))


def scatter(
    points: np.ndarray,
    labels: np.ndarray | None = None,
    names: Sequence[str] = (),
    *,
    caption: str = "",
    axis_names: Sequence[str] = ("", ""),
) -> np.ndarray:
    """A scatter plot, coloured by class, with a legend of the class names.

    The axes show the bulk of the points; the few that lie far outside are drawn as triangles at the edge.

    Args:
        points: [N, 2].
        labels: [N] integers below len(names). Default: one colour.
        names: the class names; those beyond the number of colours are left out of the legend.
        axis_names: labels of the horizontal and the vertical axis.

    Raises:
        InputError: for labels without a name, whose points would not be drawn.

    >>> scatter(np.array([[0, 1], [1, 0]]), labels=np.array([0, 1]), names=["first", "second"]).shape
    (640, 840, 3)
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    points = np.asarray(points, np.float64)
    if labels is not None:
        labels = np.asarray(labels)
        if not np.isin(labels, np.arange(len(names))).all():
            reach = f"labels reach from {labels.min()} to {labels.max()}"
            raise InputError(f"{reach}; integers below {len(names)}, the number of names, are needed")
    figure = Figure(
        figsize=(8.4 if names else 6.4, 6.4), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    )
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low, high = np.quantile(points, [0.02, 0.98], axis=0)
    margin = np.maximum(0.5 * (high - low), 1e-6)
    shown = np.clip(points, low - margin, high + margin)
    is_outside = (shown != points).any(axis=1)
    if is_outside.any():
        caption += f"\n{is_outside.sum()} of {len(points)} points lie outside and are drawn as triangles at the edge"
    for index in range(max(1, len(names))):
        is_chosen = np.ones(len(points), bool) if labels is None else labels == index
        label = _literal(_shortened(names[index])) if index < min(len(names), len(COLOURS)) else None
        colour = COLOURS[index % len(COLOURS)]
        inside, outside = shown[is_chosen & ~is_outside], shown[is_chosen & is_outside]
        axes.scatter(inside[:, 0], inside[:, 1], s=20, color=colour, linewidths=0, label=label)
        axes.scatter(outside[:, 0], outside[:, 1], s=50, color=colour, linewidths=0, marker="^")
    title, _, notes = map(_literal, caption.partition("\n"))
    title = textwrap.fill(title, 62 if names else 46)
    axes.set_title(title, loc="left", fontweight="bold", pad=8 + 18 * len(notes.splitlines()))
    axes.text(0, 1.015, notes, transform=axes.transAxes, color=NOTE_COLOUR)
    axes.set_xlabel(_literal(axis_names[0]))
    axes.set_ylabel(_literal(axis_names[1]))
    axes.grid(alpha=0.3)
    if names:
        figure.legend(title="class", loc="outside right center", frameon=False, markerscale=2)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _literal(text: str) -> str:
    """Escapes text that matplotlib would read as mathematics, or as a label to leave out of the legend."""
    escaped = text.replace("$", r"\$")
    return f"\u200b{escaped}" if escaped.startswith("_") else escaped
