"""Reads a folder of pictures into one uint8 array: no picture may stop a run, none is lost in silence."""

import concurrent.futures
import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from glow_tf.data import registry
from glow_tf.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

# What lies beside pictures in most data sets and was never meant to be one of them.
_COMPANIONS = frozenset(
    {"", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".md", ".rst"}
    | {".html", ".htm", ".pdf", ".log", ".db", ".py", ".sh", ".mat"}
)
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_TRAIN_NAME = "train"
_TEST_NAMES = ("test", "val", "valid", "validation")
_WARNINGS_SHOWN = 20
_CHUNK = 256  # pictures in flight at once: bounds the memory of decoded but not yet stored ones


@dataclasses.dataclass(frozen=True)
class ReadRules:
    """What is accepted from a folder, and how transparency is shown.

    Attributes:
        background: "black" or "white", what a transparent pixel is composited over.
        max_pixels: a picture whose header claims more is skipped before anything is decoded; Pillow itself
            draws the line at 178,956,970.
        min_side: a picture with a shorter side, in pixels, is skipped; 1 accepts even 1 x N.
        max_bad_fraction: in [0, 1], the share of unreadable files from which on the folder is refused.
    """

    background: str = "black"
    max_pixels: int = 64_000_000
    min_side: int = 1
    max_bad_fraction: float = 0.05

    def __post_init__(self) -> None:
        if self.background not in ("black", "white"):
            raise InputError(f"background is {self.background!r}; it can be 'black' or 'white'")


@dataclasses.dataclass(frozen=True, eq=False)
class FolderImages:
    """The pictures of one folder, in the sorted order of their paths.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: int32 [N], indices into `class_names`; zeros without classes.
        class_names: the sorted names of the sub-folders; empty without classes.
        paths: the file of each image, relative to the folder.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    paths: tuple[str, ...]


def read_folder(
    folder: str | os.PathLike,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    rules: ReadRules | None = None,
) -> FolderImages:
    """Reads every picture under a folder.

    Taken are PNG, JPEG, WebP, BMP, TIFF and GIF (first frame), by extension, at any depth; the content
    may be any of these formats. Symbolic links inside the folder are not followed. Hidden files and the
    usual companions (.txt, .csv, .json, Thumbs.db, ...) are ignored; everything else that is no readable
    picture is skipped with a warning and counts as bad.

    Classes: when every picture lies in one of at least two sub-folders, the first sub-folder of its path
    is its class. Otherwise the pictures are unlabelled.

    Args:
        image_size: (height, width) to bring each picture to, by `crop_and_resize`. None: the pictures
            must all have the same size.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; see `to_mode`.
        rules: what is accepted.
    Raises:
        InputError: if the folder is none, holds no picture, holds more than `max_bad_fraction` bad files
            or pictures of several sizes without an `image_size`, or does not fit into memory.

    >>> for name in ("day/a.png", "night/b.png"):
    ...     os.makedirs(os.path.dirname(name))
    ...     Image.new("RGB", (40, 30)).save(name)
    >>> found = read_folder(".", image_size=(8, 8))
    >>> found.images.shape, found.labels.tolist(), found.class_names
    ((2, 8, 8, 3), [0, 1], ('day', 'night'))
    """
    if channels not in _MODES:
        raise InputError(f"channels is {channels}; it can be 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA)")
    rules = rules or ReadRules()
    root = registry.check_folder(folder)
    files, bad = _find_images(root)
    if not files and not bad:
        raise InputError(f"found 0 images in {root!r}; formats: {', '.join(FORMATS)}")
    images, paths, unreadable = _decode_all(root, files, image_size, channels, rules)
    _report_bad(root, sorted(bad + unreadable), len(paths), rules.max_bad_fraction)
    labels, class_names = _classes(paths)
    return FolderImages(images, labels, class_names, tuple(paths))


def find_splits(folder: str | os.PathLike) -> tuple[str, str | None]:
    """The folders of the training and the test pictures.

    A folder with a sub-folder `train` and one of `test`, `val`, `valid`, `validation` (the first of
    these that exists; case does not matter) has both; with `train` alone, that one and None; every
    other folder is itself the training folder.

    Raises:
        InputError: if the folder does not exist or is none.
    """
    root = registry.check_folder(folder)
    try:
        with os.scandir(root) as entries:
            folders = {entry.name.lower(): entry.path for entry in entries if _is_folder(entry)}
    except OSError as error:
        raise InputError(f"cannot list the folder {root!r}: {error.strerror}") from error
    if _TRAIN_NAME not in folders:
        return root, None
    return folders[_TRAIN_NAME], next((folders[name] for name in _TEST_NAMES if name in folders), None)


def decode(
    path: str | os.PathLike | BinaryIO,
    *,
    image_size: tuple[int, int] | None,
    channels: int,
    rules: ReadRules,
) -> np.ndarray:
    """One picture as uint8 [H, W, C], turned upright by its EXIF orientation.

    The header is judged before a pixel is decoded. A JPEG of at least eight times the wanted size is
    decoded at 1/2, 1/4 or 1/8 of its own, so that four times the wanted size remain: ten times faster
    for photographs of 12 Mpx.

    Args:
        path: of a file, or an open one, which stays open.
    Raises:
        ValueError, OSError and whatever else Pillow raises on a damaged file.
    """
    opened = contextlib.nullcontext(path) if hasattr(path, "read") else open(path, "rb")  # noqa: SIM115
    with opened as file, Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > rules.max_pixels:
            raise ValueError(f"{width}x{height} pixels are more than the limit of {rules.max_pixels}")
        if min(width, height) < rules.min_side:
            raise ValueError(f"{width}x{height} pixels; the shorter side must have {rules.min_side}")
        if image_size is not None:
            image.draft(None, (4 * max(image_size), 4 * max(image_size)))
        upright = to_mode(ImageOps.exif_transpose(image), channels, rules.background)
    if image_size is not None:
        upright = crop_and_resize(upright, image_size)
    return np.asarray(upright, np.uint8).reshape(upright.height, upright.width, channels)


def to_mode(image: Image.Image, channels: int, background: str = "black") -> Image.Image:
    """Any Pillow image as 8-bit grey (1), grey and alpha (2), RGB (3) or RGBA (4).

    Of 16 bits the high 8 are kept. With 1 or 3 channels transparent pixels are composited over
    `background`; with 2 or 4 alpha stays, 255 where the picture has none. Colour becomes grey by
    ITU-R 601 (0.299 R + 0.587 G + 0.114 B).

    Raises:
        ValueError: for floating-point pixels, or integers beyond 16 bits: their range is not known.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):
        image = _high_byte(image)
    if channels in (2, 4):
        return image.convert("RGBA").convert(_MODES[channels])
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, background)
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return image.convert("RGB").convert(_MODES[channels])


def crop_and_resize(image: Image.Image, image_size: tuple[int, int]) -> Image.Image:
    """Brings an image to (height, width) without distorting it.

    The largest centred region with the target's aspect ratio is resized by Pillow's bicubic filter, which
    is antialiased when it shrinks. If that region has the target's size already, to the nearest pixel, it
    is cut out and no more; an odd rest goes from the bottom and the right. A 1 x N picture becomes a flat
    one.
    """
    height, width = image_size
    scale = min(image.width / width, image.height / height)
    crop_width, crop_height = scale * width, scale * height
    left, top = (image.width - crop_width) / 2, (image.height - crop_height) / 2
    if round(crop_width) == width and round(crop_height) == height:
        left, top = int(left), int(top)
        return image.crop((left, top, left + width, top + height))
    box = (left, top, min(left + crop_width, image.width), min(top + crop_height, image.height))
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _find_images(root: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Sorted relative paths of the files to decode, and (path, reason) of those refused by their name."""
    files, bad = [], []
    for path, reason in _walk(root):
        if reason:
            bad.append((path, reason))
        else:
            files.append(path)
    return sorted(files), bad


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """(relative path, why it is refused or "") of everything under root that is not to be ignored."""
    pending = [""]
    while pending:
        parent = pending.pop()
        try:
            with os.scandir(os.path.join(root, parent)) as entries:
                for entry in entries:
                    path = os.path.join(parent, entry.name)
                    if _is_folder(entry):
                        pending.append(path)
                    elif not _is_ignored(entry):
                        yield path, _refusal(entry)
        except OSError as error:
            if not parent:
                raise InputError(f"cannot list the folder {root!r}: {error.strerror}") from error
            yield parent, f"cannot be format_names: {error.strerror}"


def _is_folder(entry: os.DirEntry) -> bool:
    return entry.is_dir(follow_symlinks=False) and not entry.name.startswith((".", "__MACOSX"))


def _is_ignored(entry: os.DirEntry) -> bool:
    """Hidden entries and companions of pictures, but no link to a folder: leaving it out must be told."""
    if entry.name.startswith((".", "__MACOSX")):
        return True
    is_linked_folder = entry.is_symlink() and entry.is_dir()
    return not is_linked_folder and os.path.splitext(entry.name)[1].lower() in _COMPANIONS


def _refusal(entry: os.DirEntry) -> str:
    extension = os.path.splitext(entry.name)[1].lower()
    if entry.is_symlink():
        return "symbolic links are not followed"
    if not entry.is_file(follow_symlinks=False):
        return "not a regular file"
    if extension not in EXTENSIONS:
        return f"{extension!r} is not read; formats: {', '.join(FORMATS)}"
    return ""


def _decode_all(
    root: str,
    files: Sequence[str],
    image_size: tuple[int, int] | None,
    channels: int,
    rules: ReadRules,
) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    """Images [N, H, W, C] in the order of the files, the files read, and (path, reason) of the others."""

    def attempt(path: str) -> np.ndarray | str:
        try:
            return decode(os.path.join(root, path), image_size=image_size, channels=channels, rules=rules)
        except Exception as error:  # Pillow's plug-ins raise nearly anything on hostile bytes
            return reason(error)

    images = np.zeros((0, *(image_size or (0, 0)), channels), np.uint8)
    kept: list[str] = []
    bad: list[tuple[str, str]] = []
    # Pillow lets go of the interpreter lock while it decodes, so threads are enough.
    with concurrent.futures.ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
        for start in range(0, len(files), _CHUNK):
            chunk = files[start : start + _CHUNK]
            for path, image in zip(chunk, pool.map(attempt, chunk), strict=True):
                if isinstance(image, str):
                    bad.append((path, image))
                    continue
                if not kept:
                    images = _allocate(root, (len(files), *image.shape))
                if image.shape != images.shape[1:]:
                    raise InputError(_size_message(root, kept[0], images.shape[1:], path, image.shape))
                images[len(kept)] = image
                kept.append(path)
    return images[: len(kept)], kept, bad


def reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"the content is none of {', '.join(FORMATS)}"
    return " ".join(str(error).split()) or type(error).__name__


def _allocate(root: str, shape: tuple[int, ...]) -> np.ndarray:
    """An empty uint8 array, refused where it would drive the machine into its swap."""
    needed = int(np.prod(shape, dtype=np.int64))
    available = 0.8 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise InputError(
            f"the {shape[0]} images of {root!r} at {shape[1]}x{shape[2]}x{shape[3]} need {needed / 2**30:.1f}"
            f" GiB and 80 % of this machine's memory are {available / 2**30:.1f} GiB; lower the image size"
        )
    return np.empty(shape, np.uint8)


def _size_message(root: str, first: str, first_shape: tuple, path: str, shape: tuple) -> str:
    return (
        f"the images of {root!r} differ in size: {first!r} is {first_shape[0]}x{first_shape[1]}, {path!r} is"
        f" {shape[0]}x{shape[1]} (height x width); give the image size to bring them all to"
    )


def _report_bad(root: str, bad: Sequence[tuple[str, str]], num_good: int, max_bad_fraction: float) -> None:
    """Warns of each file that was skipped; too many are an error."""
    total = len(bad) + num_good
    if num_good == 0 or len(bad) > max_bad_fraction * total:
        examples = "; ".join(f"{path!r}: {reason}" for path, reason in bad[:3])
        raise InputError(
            f"{len(bad)} of {total} files in {root!r} cannot be used, more than the {max_bad_fraction:.0%}"
            f" that are tolerated ({examples}{'; ...' if len(bad) > 3 else ''})"
        )
    for path, reason in bad[:_WARNINGS_SHOWN]:
        logging.warning("skipped %r: %s", path, reason)
    if len(bad) > _WARNINGS_SHOWN:
        logging.warning("skipped %d more files in %r", len(bad) - _WARNINGS_SHOWN, root)


def _classes(paths: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    tops = [path.split(os.sep, 1)[0] if os.sep in path else "" for path in paths]
    names = sorted(set(tops))
    if "" in names or len(names) < 2:
        return np.zeros(len(paths), np.int32), ()
    index = {name: number for number, name in enumerate(names)}
    return np.array([index[top] for top in tops], np.int32), tuple(names)


def _high_byte(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"integer pixels from {values.min()} to {values.max()}, beyond 16 bits")
    return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
