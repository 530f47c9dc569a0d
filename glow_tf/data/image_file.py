"""Decodes one image file to uint8 pixels, within limits of memory and time that hold for hostile files, too."""

import contextlib
import io
import os
import re
import stat
import struct
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps

from glow_tf._files import printable
from glow_tf.data.listing import FORMATS
from glow_tf.data.resize import crop_and_resize
from glow_tf.errors import InputError

MAX_FILE_BYTES = 2**28
MAX_PIXELS = 64_000_000  # of an image by its header; Pillow itself draws the line at 178,956,970
MAX_SECONDS = 5.0  # processor time of the thread that decodes an image
UNTIMED_BYTES = 2**19  # a file up to this size cannot keep Pillow reading for long
MAX_JPEG_SCANS = 100  # progressive files of cameras and of the web have about 10
MAX_JPEG_MARKERS = 10_000
MAX_TIFF_VALUES = 2**18  # of one tag, such as the offsets of the strips
MAX_TIFF_TAGS = 2**16
MAX_TIFF_TABLES = 8
MAX_SHARED_TAG_BYTES = 2**24
MAX_EXIF_BYTES = 2**20

# What `decode` notes of an image, as the end of a sentence about it.
TRANSPARENT = "transparent pixels are shown on white"
NARROW = "16-bit values use less than 1/16 of their range, so the image is nearly black; scale them to 0..65535"

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_NARROW_FRACTION = 1 / 16

# Marker bytes of a JPEG that are not inside compressed data: there, 0xff is followed by 0 or a restart marker.
_JPEG_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd8-\xfe])")
_JPEG_START, _JPEG_END, _JPEG_SCAN, _JPEG_EXIF = 0xD8, 0xD9, 0xDA, 0xE1

_TIFF_BYTE_TYPES = (1, 2, 6, 7)
_TIFF_TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_PHOTOMETRIC, _TIFF_PLANES, _TIFF_BITS = 262, 284, 258
_WHITE_IS_ZERO, _SEPARATE_PLANES = 0, 2
_TIFF_TABLE_TAGS = (0x8769, 0x8825, 0xA005)  # EXIF, GPS and interoperability: tables of tags inside a table


def decode(
    path: str | os.PathLike | BinaryIO,
    *,
    image_size: tuple[int, int] | None,
    channels: int,
    notes: set[str] | None = None,
) -> np.ndarray:
    """Decodes one image as uint8 [H, W, C], upright by its EXIF orientation; of an animation the first frame.

    A JPEG of at least eight times the requested size is decoded at 1/2, 1/4 or 1/8 of its own size, so that at least
    four times the requested size remains: ten times faster for photographs of 12 Mpx.

    The limits at the top of this module are checked against the headers before a pixel is decoded. All threads
    together decode at most 64 megapixels at a time. Time is checked whenever Pillow asks for more bytes.

    Args:
        path: a file's path, or an open file.
        image_size: (height, width) to crop and resize to, or None for the image's own size.
        channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; see `to_mode`.
        notes: receives what the user should know of this image: TRANSPARENT, NARROW.

    Raises:
        ValueError, OSError and whatever else Pillow raises on a damaged file; `reason` turns it into one line.
    """
    with _open_bounded(path) as file:
        magic, size = file.read(2), file.seek(0, os.SEEK_END)
        file.seek(0)
        if magic == b"\xff\xd8":
            with _budget.take(size // 4):  # a pixel takes up to four bytes
                _check_jpeg(file)
        elif magic in (b"II", b"MM"):
            _check_tags(file, size)
        with Image.open(file, formats=FORMATS) as image:
            num_pixels = _check_header(image)
            _check_planes(image)
            if image_size is not None:
                is_smaller = image.draft(None, (4 * max(image_size), 4 * max(image_size)))
                if is_smaller and "progressive" not in image.info:
                    num_pixels = image.width * image.height
            with _budget.take(num_pixels):
                is_deep = ";16" in str(image.tile)
                image.load()
                profile = image.info.get("Raw profile type exif")  # text of a PNG: name, size, lines of hexadecimals
                exif = image.info.get("exif") or (bytes.fromhex("".join(profile.split("\n")[3:])) if profile else b"")
                _check_exif(exif)  # only now: in a PNG it can follow the pixels
                ImageOps.exif_transpose(image, in_place=True)
                upright = to_mode(image, channels, notes, is_deep)
                if image_size is not None:
                    upright = crop_and_resize(upright, image_size)
                return np.array(upright, np.uint8).reshape(upright.height, upright.width, channels)


def read(path: str | os.PathLike | BinaryIO, image_shape: tuple[int, int, int], name: str) -> np.ndarray:
    """Decodes one image as uint8 of this shape; InputError, in which the image is called `name`, if that fails."""
    height, width, channels = image_shape
    try:
        return decode(path, image_size=(height, width), channels=channels)
    except Exception as error:  # Pillow's plug-ins raise nearly anything on damaged bytes
        why = getattr(error, "strerror", None) or reason(error)
        raise InputError(f"{name} cannot be read: {printable(why)}") from error


def to_mode(image: Image.Image, channels: int, notes: set[str] | None = None, is_deep: bool = False) -> Image.Image:
    """Converts any Pillow image to 8-bit grey (1), grey and alpha (2), RGB (3) or RGBA (4).

    - Values are scaled by the range of their type: the high 8 of 16 bits remain. Integers of 32 bits are read as
      16-bit values. If an image uses less than 1/16 of that range, NARROW is noted.
    - With 1 or 3 channels, transparent pixels are composited over white, and TRANSPARENT is noted. With 2 or 4
      channels alpha stays; it is 255 where the image has none.
    - Colour becomes grey by ITU-R 601 (0.299 R + 0.587 G + 0.114 B).

    Args:
        notes: receives TRANSPARENT and NARROW.
        is_deep: whether Pillow has already reduced 16 bits per channel to 8.

    Raises:
        ValueError: for floating-point pixels, or integers beyond 16 bits: their range is unknown.
    """
    notes = set() if notes is None else notes
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ValueError(f"integer pixels from {low} to {high}, beyond 16 bits")
        # Pillow applies neither of these to 16 bits.
        transparent = image.info.get("transparency")
        if getattr(image, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
            values, high = 65535 - values, 65535 - low
        is_deep, brightest = True, high / 65535
        image = Image.fromarray((values >> 8).astype(np.uint8))
        if transparent is not None:
            image.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    elif is_deep:
        colours = [band for name, band in zip(image.getbands(), _extrema(image), strict=True) if name != "A"]
        brightest = max(high for _, high in colours) / 255
    if is_deep and 0 < brightest < _NARROW_FRACTION:
        notes.add(NARROW)
    if channels in (2, 4):
        return image.convert("RGBA").convert(_MODES[channels])
    if image.has_transparency_data:
        image = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
        if _extrema(image)[-1][0] < 255:
            notes.add(TRANSPARENT)
            canvas = Image.new("RGB", image.size, "white")
            canvas.paste(image, mask=image)  # the only way that needs no third copy
            image = canvas
    for mode in ("RGB", _MODES[channels]):
        image = image if image.mode == mode else image.convert(mode)
    return image


def reason(error: Exception) -> str:
    """Why an image cannot be read, as one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"the content is none of {', '.join(FORMATS)}"
    return " ".join(str(error).split()) or type(error).__name__


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    """(minimum, maximum) of each channel."""
    extrema = image.getextrema()
    return [extrema] if isinstance(extrema[0], (int, float)) else list(extrema)  # type: ignore[list-item]


# Limits


class _BoundedReader(io.BufferedReader):
    """A file whose reads fail once its thread has worked on it for MAX_SECONDS.

    Threads cannot be interrupted, but Pillow reads a file in many small pieces.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self._start = time.thread_time()
        self._num_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._num_reads += 1
        is_due = self._num_reads % 64 == 0 or size is None or size > 4096  # the clock costs more than a small read
        if is_due and time.thread_time() - self._start > MAX_SECONDS:
            raise ValueError(f"decoding takes more than {MAX_SECONDS:g} seconds")
        return super().read(size)


@contextlib.contextmanager
def _open_bounded(path: str | os.PathLike | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(path, (str, os.PathLike)):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        raw, status = io.FileIO(descriptor), os.fstat(descriptor)
        size = status.st_size if stat.S_ISREG(status.st_mode) else -1
    else:
        content = path.read(MAX_FILE_BYTES + 1)
        raw, size = io.BytesIO(content), len(content)  # type: ignore[assignment]
    with _BoundedReader(raw) if size > UNTIMED_BYTES else io.BufferedReader(raw) as file:
        if size < 0:
            raise ValueError("not a regular file")
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{size} bytes are more than the limit of {MAX_FILE_BYTES}")
        yield file


def _check_header(image: Image.Image) -> int:
    """Number of pixels in memory; ValueError if it is too large."""
    width, height = image.size
    num_pixels = width * height * (2 if image.format == "WEBP" and getattr(image, "is_animated", False) else 1)
    if num_pixels > MAX_PIXELS:
        more = " of an animation" if num_pixels > width * height else ""  # libwebp holds two frames
        raise ValueError(f"{width}x{height} pixels{more} are more than the limit of {MAX_PIXELS}")
    return num_pixels


def _check_planes(image: ImageFile.ImageFile) -> None:
    """Refuses the TIFF files with a plane for each channel whose pixels Pillow mixes up without an error."""
    tags = getattr(image, "tag_v2", {})
    is_deep_and_raw = max(tags.get(_TIFF_BITS, [8])) > 8 and image.tile[0].codec_name == "raw"
    if tags.get(_TIFF_PLANES) == _SEPARATE_PLANES and (image.mode == "LA" or is_deep_and_raw):
        raise ValueError("a TIFF of separate colour planes, which Pillow misreads; save it with interleaved channels")


def _check_exif(block: bytes) -> None:
    if len(block) > MAX_EXIF_BYTES:
        raise ValueError(f"{len(block)} bytes of EXIF data are more than the limit of {MAX_EXIF_BYTES}")
    _check_tags(io.BytesIO(block.removeprefix(b"Exif\0\0")), len(block))


def _check_jpeg(file: BinaryIO) -> None:
    """Bounds the EXIF data of a JPEG, which Pillow reads as it opens the file, and the scans over all of its pixels."""
    content = file.read()
    file.seek(0)
    may_be_slow = content.count(b"\xff\xda") > MAX_JPEG_SCANS  # or they are inside a thumbnail, or behind the end
    at, scans, exif = 2, 0, b""
    for _ in range(MAX_JPEG_MARKERS):
        match = _JPEG_MARKER.search(content, at)
        is_long = len(exif) > MAX_EXIF_BYTES
        if match is None or match[1][0] == _JPEG_END or is_long or (scans and not may_be_slow):
            return _check_exif(exif)
        marker, at = match[1][0], match.end()
        length = 0 if marker == _JPEG_START else int.from_bytes(content[at : at + 2], "big")
        if marker == _JPEG_EXIF and content[at + 2 : at + 8] == b"Exif\0\0" and not scans:
            exif += content[at + 8 : at + length]  # Pillow joins several segments
        at += length
        scans += marker == _JPEG_SCAN
        if scans > MAX_JPEG_SCANS:
            raise ValueError(f"a JPEG of more than {MAX_JPEG_SCANS} scans")
    raise ValueError(f"a JPEG of more than {MAX_JPEG_MARKERS} segments")


def _check_tags(file: BinaryIO, size: int) -> None:
    """Bounds the tags of TIFF data: Pillow copies the value of each, and makes Python objects of numbers and strips.

    Since tags may share bytes, a small file could otherwise fill the memory.
    """
    start = file.read(16).ljust(16, b"\0")
    order, is_big = "<" if start[:2] == b"II" else ">", start[2:4] in (b"\x2b\x00", b"\x00\x2b")
    word = struct.Struct(order + ("Q" if is_big else "I"))
    count, entry = struct.Struct(order + ("Q" if is_big else "H")), struct.Struct(order + f"HH{word.size}s{word.size}s")
    tables, total = [word.unpack_from(start, 8 if is_big else 4)[0]], 0
    for table in tables:
        file.seek(min(table, MAX_FILE_BYTES))
        num_entries = count.unpack(file.read(count.size).ljust(count.size, b"\0"))[0]
        entries = file.read(min(num_entries, MAX_TIFF_TAGS) * entry.size)
        for tag, type_, raw_number, value in entry.iter_unpack(entries[: len(entries) // entry.size * entry.size]):
            number = word.unpack(raw_number)[0]
            if number > MAX_TIFF_VALUES and type_ not in _TIFF_BYTE_TYPES:
                raise ValueError(f"a TIFF with {number} values of tag {tag}; the limit is {MAX_TIFF_VALUES}")
            total += number * _TIFF_TYPE_BYTES.get(type_, 1) if number <= size else 0
            if total > size + MAX_SHARED_TAG_BYTES or len(tables) > MAX_TIFF_TABLES:
                raise ValueError("TIFF or EXIF data with tags that overlap")
            if tag in _TIFF_TABLE_TAGS:
                tables.append(word.unpack(value)[0])
    file.seek(0)


class _Budget:
    """Lets threads take from a common amount, and wait while it is used up."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, amount: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + amount <= self._total)
            self._taken += amount
        try:
            yield
        finally:
            with self._changed:
                self._taken -= amount
                self._changed.notify_all()


_budget = _Budget(MAX_PIXELS)
