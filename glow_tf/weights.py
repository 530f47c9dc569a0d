"""The file weights.h5: named arrays with their configuration, atomic, verified, self-describing.

The file is plain HDF5 with one line of text behind it, which HDF5 tools ignore:

    /                        attributes format, format_version, config (JSON), metadata (JSON)
    /level0/coupling/...     one contiguous, unfiltered, little-endian data set for each array
    glow_tf sha256 <hex>     the SHA-256 of every byte before this line

So one digest covers arrays, names, configuration and HDF5's own tables: without it one flipped bit loads as
other weights, in silence. `head -c -80 weights.h5 | sha256sum` gives the same number.

The digest tells damage, not malice, and weights also come from other people: `h5_reader` reads them, and the HDF5
library only writes. This module knows nothing of Glow.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NoReturn

import h5py
import numpy as np

from glow_tf._files import format_names, open_regular, printable, write_atomically
from glow_tf.h5_reader import (
    MAX_DEPTH,
    MAX_JSON_BYTES,
    MAX_NAME_BYTES,
    H5File,
    H5Object,
    number_encodings,
    seal,
)

FORMAT = "glow_tf"
FORMAT_VERSION = 1

_ATTRIBUTES = ("format", "format_version", "config", "metadata")


# ------------------------------------------------------------------------------------------- writing


def write(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    config: Mapping,
    metadata: Mapping | None = None,
) -> None:
    """Writes arrays and what they belong to; the file at `path` is the old one or the new one, never a part.

    Equal arguments give equal bytes.

    Args:
        path: of the file; its folder exists.
        arrays: readable names ("level0/coupling/kernel_1") to arrays of floats or integers.
        config: what is needed to rebuild the model; JSON values only (tuples come back as lists).
        metadata: where the arrays come from: data set, step, seed, class names.
    Raises:
        ValueError: an array is not finite or not of numbers, a name is no path, or the JSON is too long.
            The old file stays: weights that could not be loaded must not replace weights that can.
        OSError: disk full, no permission; the old file stays and nothing else is left behind.
    """
    attributes = {"config": _to_json("config", config), "metadata": _to_json("metadata", metadata or {})}
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("earliest", "v110")) as h5:  # the format that the reader below knows
        h5.attrs["format"] = np.bytes_(FORMAT)
        h5.attrs["format_version"] = np.int64(FORMAT_VERSION)
        for name, text in attributes.items():
            h5.attrs[name] = np.bytes_(text)
        for name in sorted(arrays):
            h5.create_dataset(name, data=_storable(name, np.asarray(arrays[name])))
    with image.getbuffer() as view:
        digest = hashlib.sha256(view).hexdigest()
    image.seek(0, io.SEEK_END)
    image.write(seal(digest))
    with image.getbuffer() as view:
        write_atomically(path, view)


def _to_json(name: str, value: Mapping) -> bytes:
    text = json.dumps(dict(value), sort_keys=True, allow_nan=False).encode("ascii")
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{name} takes {len(text)} bytes as JSON; a weights file holds {MAX_JSON_BYTES}")
    return text


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    parts = name.split("/")
    if len(parts) > MAX_DEPTH or len(name.encode()) > MAX_NAME_BYTES or {"", ".", ".."} & set(parts):
        raise ValueError(f"{name!r} cannot name an array: names are parts joined by '/', as level0/kernel")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype not in number_encodings().values():
        raise ValueError(f"{name} is of type {array.dtype}; a weights file holds floats and integers")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite values; nothing was saved")
    return array


# ------------------------------------------------------------------------------------------- reading


class WeightsFile:
    """A verified weights file, open for reading; `open_weights` makes it.

    Attributes:
        config: as it was written.
        metadata: as it was written.
        digest: the SHA-256 of every byte before the file's last line, which is the right one; 64 hex digits.
    """

    def __init__(self, h5: H5File) -> None:
        if not h5.sealed:
            raise h5.error(_why_not_ours(h5))
        self._h5 = h5
        self._check_format()
        self.digest = h5.digest
        self.config = self._json("config")
        self.metadata = self._json("metadata")

    def read(self, expected: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> dict[str, np.ndarray]:
        """All arrays, or none.

        Args:
            expected: for every array of the file its shape and dtype.
        Raises:
            InputError: a name, shape or dtype differs, or a value is not finite; it names the array.
        """
        h5 = self._h5
        found = h5.walk()
        _check_names(h5, found, expected, "", "the model")
        stored = {name: h5.stored(name, found[name]) for name in expected}
        for name, (shape, dtype) in expected.items():
            _check_equal(h5, name, "shape", stored[name].shape, tuple(shape))
            _check_equal(h5, name, "type", stored[name].dtype, np.dtype(dtype))
        return h5.load(stored)

    def read_all(self) -> dict[str, np.ndarray]:
        """All arrays, whatever they are, in the order of their names.

        Raises:
            InputError: one cannot be read, or a value is not finite; it names the array.
        """
        h5 = self._h5
        return h5.load({name: h5.stored(name, data_set) for name, data_set in h5.walk().items()})

    def _check_format(self) -> None:
        h5 = self._h5
        _check_names(h5, h5.root.attributes, _ATTRIBUTES, "attribute ", "a weights file")
        if h5.text("format") != FORMAT.encode():
            raise h5.error(f"has the format {printable(h5.text('format'))}, not {FORMAT}")
        version = h5.integer("format_version")
        if version != FORMAT_VERSION:
            raise h5.error(f"has format version {version}; this program reads version {FORMAT_VERSION}")

    def _json(self, name: str) -> dict:
        try:
            value = json.loads(self._h5.text(name), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self._h5.error(f"has no JSON object in its attribute {name}")
        return value


@contextlib.contextmanager
def open_weights(path: str | os.PathLike) -> Iterator[WeightsFile]:
    """Opens a weights file that `write` made: `with open_weights(path) as file: file.config`.

    Raises:
        InputError: there is no such file, it is something else (the message says what, and what to do
            about it), or it is damaged. It answers at once for pipes, devices and folders.

    >>> from glow_tf import pretrained
    >>> with open_weights(pretrained.DIGITS) as file:
    ...     file.config["num_steps"], file.metadata["dataset"]
    (8, 'digits')
    """
    with open_regular(path) as file:
        yield WeightsFile(H5File(path, file))


def layout(path: str | os.PathLike) -> str:
    """Whose HDF5 file it is: "glow_tf", "glow-tf2", "keras-2", "keras-3" or "unknown h5".

    Raises:
        InputError: it is no HDF5 file (the message says what it is) or a damaged one.
    """
    with open_regular(path) as file:
        return _layout(H5File(path, file))


def read_foreign(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All arrays of somebody else's HDF5 file, in the order in which a model lists them.

    A Keras 2 weights file orders them by its attributes layer_names and weight_names, and the names are
    "<layer>/<weight name>"; in any other file the order is that of the names. Such a file has no digest, so
    damage inside an array goes unseen unless a value is not finite.

    Raises:
        InputError: damaged, not HDF5, or in need of what is not read: soft and external links, external and
            virtual storage, filters, types other than little-endian floats and integers.
    """
    with open_regular(path) as file:
        h5 = H5File(path, file)
        if "model_config" in h5.root.attributes:
            raise h5.error("is a whole Keras model, which can carry code; use a file made by save_weights")
        found = _listed_by_keras_2(h5) if "layer_names" in h5.root.attributes else h5.walk()
        return h5.load({name: h5.stored(name, data_set) for name, data_set in found.items()})


def _check_names(h5: H5File, found: Iterable[str], expected: Iterable[str], what: str, owner: str) -> None:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    problems = [f"lacks {what}{format_names(missing)}"] if missing else []
    problems += [f"has {what}{format_names(extra)}, which {owner} has not"] if extra else []
    if problems:
        raise h5.error(" and ".join(problems))


def _check_equal(h5: H5File, name: str, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise h5.error(f"has {printable(name)} with {what} {found}; the model has {expected}")


def _listed_by_keras_2(h5: H5File) -> dict[str, H5Object]:
    found = {}
    for layer in h5.names(h5.root, "layer_names"):
        group = h5.descend(h5.root, layer)
        for weight in h5.names(group, "weight_names"):
            name = f"{layer}/{weight}"
            if name in found:
                raise h5.error(f"lists {printable(name)} twice")
            found[name] = h5.descend(group, weight)
    return found


def _layout(h5: H5File) -> str:
    attributes = h5.root.attributes
    if h5.sealed or ("format" in attributes and h5.text("format") == FORMAT.encode()):
        return "glow_tf"
    if "layer_names" in attributes:
        layers = h5.names(h5.root, "layer_names")
        is_glow = all(any(layer.startswith(head) for layer in layers) for head in ("flow_step", "z__norm__"))
        return "glow-tf2" if is_glow else "keras-2"
    if "model_config" in attributes:
        return "keras-2"
    if {"layers", "_layer_checkpoint_dependencies", "vars"} & set(h5.links(h5.root)):
        return "keras-3"
    return "unknown h5"


def _why_not_ours(h5: H5File) -> str:
    return {
        "glow_tf": "has lost the digest at its end: cut short, or changed by another program",
        "glow-tf2": "is a GLOW-tf2 weights file; convert it with: "
        f"python3 convert.py --from glow-tf2 {printable(h5.path)} --out weights.h5",
        "keras-2": "is a Keras 2 file of another model, not a glow_tf weights file",
        "keras-3": "is a Keras 3 weights file, not a glow_tf weights file",
        "unknown h5": "is an HDF5 file, but not a glow_tf weights file",
    }[_layout(h5)]


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} in JSON")
