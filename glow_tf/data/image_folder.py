"""Reads a folder of images into one uint8 array; files that cannot be read are reported, and never stop a run."""

import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from absl import logging

from glow_tf import _progress
from glow_tf.data import image_file, listing, registry
from glow_tf.errors import InputError

MAX_BAD = 0.05  # share of unreadable files
MAX_IMAGE_SIDE = 1024

_WARNINGS_SHOWN = 20

T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, eq=False)
class FolderImages:
    """The images of one folder, in the sorted order of their paths."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N], indices into `class_names`; zeros without classes
    class_names: tuple[str, ...]  # the sorted names of the sub-folders; empty without classes
    paths: tuple[str, ...]  # the file of each image, relative to the folder


def read_folder(
    folder: str | os.PathLike,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int = 3,
    max_bad: float = MAX_BAD,
    limit: int | None = None,
) -> FolderImages:
    """Reads every image under a folder.

    PNG, JPEG, WebP, BMP, TIFF and GIF files (first frame) at any depth are read, chosen by extension; the content may
    be any of these formats. Symbolic links inside the folder are not followed. Hidden files and usual companions
    (.txt, .csv, .json, Thumbs.db, ...) are ignored; every other file that is not a readable image is skipped with a
    warning and counts as bad.

    Classes: when every image lies in one of at least two sub-folders, the first sub-folder of its path is its class.
    Otherwise the images are unlabelled.

    Args:
        image_size: (height, width) of the images, to which each is cropped and resized. Default: their own size,
            which must be the same for all.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; see `image_file.to_mode`.
        max_bad: share of bad files, from 0 to 1, above which the folder is refused.
        limit: only the first images, in the sorted order of their paths, are read. Default: all.

    Raises:
        InputError: if the folder does not exist, holds no image, too many bad files or images of several sizes
            without an `image_size`, or does not fit into memory.

    >>> from PIL import Image
    >>> for name in ("day/a.png", "night/b.png"):
    ...     os.makedirs(os.path.dirname(name))
    ...     Image.new("RGB", (40, 30)).save(name)
    >>> read = read_folder(".", image_size=(8, 8))
    >>> read.images.shape, read.labels.tolist(), read.class_names
    ((2, 8, 8, 3), [0, 1], ('day', 'night'))
    """
    if channels not in (1, 2, 3, 4):
        raise InputError(f"channels is {channels}; it can be 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA)")
    root = registry.check_folder(folder)
    listing.check_not_empty(root)
    files, bad = listing.find_images(root)
    images, paths, unreadable = _decode_all(root, files[:limit], image_size, channels)
    if limit is not None and limit < len(files):
        bad = [each for each in bad if each[0] < files[limit]]
    _report_bad(root, sorted(bad + unreadable), len(paths), max_bad)
    labels, class_names = listing.classes(paths)
    return FolderImages(images, labels, class_names, tuple(paths))


def _decode_all(
    root: str, files: Sequence[str], image_size: tuple[int, int] | None, channels: int
) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    """Returns images [N, H, W, C] in the order of the files, the files read, and (path, reason) of the others."""

    def attempt(path: str) -> tuple[np.ndarray | None, str, set[str]]:
        notes: set[str] = set()
        try:
            image = image_file.decode(os.path.join(root, path), image_size=image_size, channels=channels, notes=notes)
        except Exception as error:  # Pillow's plug-ins raise nearly anything on hostile bytes
            return None, image_file.reason(error), notes
        if max(image.shape[:2]) > MAX_IMAGE_SIDE:
            size = f"{image.shape[0]}x{image.shape[1]}"
            raise InputError(f"{path!r} in {root!r} is {size}; choose a size of up to {MAX_IMAGE_SIDE} with --img_size")
        return image, "", notes

    images = np.zeros((0, *(image_size or (0, 0)), channels), np.uint8)
    paths: list[str] = []
    bad: list[tuple[str, str]] = []
    noted: dict[str, list[str]] = {}
    with _progress.phase("reading images", len(files)) as advance:
        for path, (image, reason, notes) in zip(files, _map_in_threads(attempt, files), strict=True):
            advance(1)
            if image is None:
                bad.append((path, reason))
                continue
            if not paths:
                images = _allocate(root, (len(files), *image.shape))
            if image.shape != images.shape[1:]:
                raise InputError(
                    f"the images of {root!r} differ in size: {paths[0]!r} is {images.shape[1]}x{images.shape[2]}, "
                    f"{path!r} is {image.shape[0]}x{image.shape[1]} (height x width); choose one size for all with "
                    "--img_size"
                )
            images[len(paths)] = image
            paths.append(path)
            for note in notes:
                noted.setdefault(note, []).append(path)
    for note, examples in sorted(noted.items()):
        logging.warning("%d of %d images in %r, such as %r: %s", len(examples), len(paths), root, examples[0], note)
    return images[: len(paths)], paths, bad


def _map_in_threads(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yields function(item) in order; at most a few results per thread wait in memory."""
    num_threads = max(2, os.cpu_count() or 2)
    # Pillow releases the interpreter lock while it decodes, so threads are enough.
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(items), 16 * num_threads):
            yield from pool.map(function, items[start : start + 16 * num_threads])


def _allocate(root: str, shape: tuple[int, ...]) -> np.ndarray:
    """An empty uint8 array; InputError if it would take more than 80% of the machine's memory."""
    needed = int(np.prod(shape, dtype=np.int64))
    available = 0.8 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise InputError(
            f"the {shape[0]} images of {root!r} at {shape[1]}x{shape[2]}x{shape[3]} need {needed / 2**30:.1f}"
            f" GiB, more than 80% of this machine's memory, {available / 2**30:.1f} GiB; lower the image size"
        )
    return np.empty(shape, np.uint8)


def _report_bad(root: str, bad: Sequence[tuple[str, str]], num_good: int, max_bad: float) -> None:
    """Warns of each file that was skipped; too many are an error."""
    total = len(bad) + num_good
    if num_good == 0 or len(bad) > max_bad * total:
        examples = "; ".join(f"{path!r}: {reason}" for path, reason in bad[:3])
        share = f", more than the {max_bad:.0%} that are tolerated" if num_good else ""
        accept = f"train with --max_bad {math.ceil(100 * len(bad) / total) / 100:g} to accept them"
        raise InputError(
            f"{len(bad)} of {total} files in {root!r} cannot be used{share} ({examples}"
            f"{'; ...' if len(bad) > 3 else ''}){f'; remove them, or {accept}' if num_good else ''}"
        )
    for path, reason in bad[:_WARNINGS_SHOWN]:
        logging.warning("skipped %r: %s", path, reason)
    if len(bad) > _WARNINGS_SHOWN:
        logging.warning("skipped %d more files in %r", len(bad) - _WARNINGS_SHOWN, root)
