"""The file weights.h5: named arrays with their configuration, atomic, verified, self-describing.

The file is plain HDF5 followed by one line of text, which HDF5 tools ignore:

    /                        attributes format, format_version, config (JSON), metadata (JSON)
    /metadata                the bytes of the metadata, if they are too long for an attribute
    /level0/coupling/...     one contiguous, unfiltered, little-endian data set per array
    glow_tf sha256 <hex>     the SHA-256 of every byte before this line

The digest covers arrays, names, configuration and HDF5's own tables: without it one flipped bit would silently load
different weights. `head -c -80 weights.h5 | sha256sum` prints the same number.

The digest detects corruption, not tampering, and files may be untrusted: shapes are compared with the expected ones
before anything is allocated, and `_hdf5` opens no other file. This module does not depend on Glow.
"""

import contextlib
import hashlib
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from glow_tf import _hdf5_contents
from glow_tf._files import format_names, open_regular, printable, write_atomically
from glow_tf._hdf5 import H5File, remember, seal
from glow_tf.errors import InputError
from glow_tf.metadata import MAX_CONFIG_BYTES, MAX_METADATA_BYTES, check_metadata, decode, encode

__all__ = ["WeightsFile", "check_metadata", "layout", "open_weights", "read_foreign", "write"]

FORMAT = "glow_tf"
FORMAT_VERSION = 1

_METADATA = "metadata"  # the attribute, or the data set in its place


# ------------------------------------------------------------------------------------------- writing


def write(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    dtype: str | None = None,
) -> None:
    """Writes arrays and their description atomically: the file at `path` is either the old one or the complete new one.

    Equal arguments give equal bytes.

    Args:
        arrays: {readable name ("level0/coupling/conv1_kernel"): array of floats or integers}.
        config, metadata: JSON values (tuples come back as lists): the model, and the origin of its arrays.
        dtype: the type in which floats are stored, such as "float16". Default: the arrays' own types.

    Raises:
        InputError: an array is not finite or not numeric, a name is not a path, or the JSON is too long. The old file
            remains: unloadable weights must not replace loadable ones.
        OSError: the disk is full or not writable; the old file remains and nothing else is left behind.
    """
    if dtype not in (None, "float16", "float32", "float64"):
        raise InputError(f"floats cannot be stored as {dtype}; float16, float32 and float64 are possible")
    attributes = {"config": encode("configuration", config)}
    data_sets = {name: _storable(name, np.asarray(arrays[name]), dtype) for name in sorted(arrays)}
    text = encode("metadata", metadata or {})
    if len(text) <= MAX_CONFIG_BYTES:
        attributes[_METADATA] = text
    else:
        data_sets[_METADATA] = np.frombuffer(text, np.uint8)
    image = io.BytesIO()  # in memory, since the HDF5 library crashes on a full disk
    with h5py.File(image, "w", libver=("earliest", "v110")) as h5:
        h5.attrs["format"] = np.bytes_(FORMAT)
        h5.attrs["format_version"] = np.int64(FORMAT_VERSION)
        for name, value in attributes.items():
            h5.attrs[name] = np.bytes_(value)
        for name, array in data_sets.items():
            h5.create_dataset(name, data=array)
    with image.getbuffer() as view:
        digest = hashlib.sha256(view).hexdigest()
    remember(digest, _hdf5_contents.read(image))
    image.seek(0, io.SEEK_END)
    image.write(seal(digest))
    with image.getbuffer() as view:
        write_atomically(path, view)


def _storable(name: str, array: np.ndarray, dtype: str | None) -> np.ndarray:
    parts = name.split("/")
    is_path = len(parts) <= _hdf5_contents.MAX_DEPTH and not {"", ".", ".."} & set(parts)
    if not is_path or len(name.encode()) > _hdf5_contents.MAX_NAME_BYTES or name == _METADATA:
        raise InputError(
            f"{printable(name)} cannot name an array: names consist of parts joined by '/', such as level0/kernel"
        )
    if dtype is not None and np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):
            array = array.astype(dtype)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype not in map(np.dtype, _hdf5_contents.TYPES):
        raise InputError(f"{name} is of type {array.dtype}; a weights file holds floats and integers")
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinite values; nothing was saved")
    return array


# ------------------------------------------------------------------------------------------- reading


class WeightsFile:
    """A verified weights file, open for reading; created by `open_weights`.

    Attributes:
        config, metadata: as they were written.
        digest: the SHA-256 of every byte before the file's last line; 64 hex digits.
        num_values: the total number of values in its arrays.
    """

    def __init__(self, h5: H5File) -> None:
        if not h5.digest:
            raise h5.error(_why_not_ours(h5))
        self._h5 = h5
        self.digest = h5.digest
        self._names = [name for name in h5.contents["arrays"] if name != _METADATA]
        try:
            self._check_attributes()
            self.config = decode("configuration", h5.contents["attributes"]["config"])
            self.metadata = decode("metadata", self._metadata_text())
        except InputError as error:
            raise error if str(error).startswith(printable(h5.path)) else h5.error(f"is not valid: {error}") from error
        arrays = (h5.contents["arrays"][name] for name in self._names)
        self.num_values = sum(math.prod(array[2]) for array in arrays if not isinstance(array, str))

    def check_size(self, min_num_values: int) -> None:
        """Raises InputError if the file holds fewer numbers than its model needs."""
        if self.num_values < min_num_values:
            raise self._h5.error(
                f"claims a model of at least {min_num_values:,} weights, but contains {self.num_values:,} numbers"
            )

    def read(self, expected: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, np.ndarray]:
        """Reads all arrays, or raises an error.

        Args:
            expected: the shape and dtype of every array; floats may be stored as float16.

        Raises:
            InputError: a name, shape or dtype differs, or a value is not finite; the message names the array.
        """
        problem = difference(self._names, expected, "the model")
        if problem:
            raise self._h5.error(problem)
        for name, (shape, dtype) in expected.items():
            stored_shape, stored_dtype = self._h5.shape_and_dtype(name)
            is_half = stored_dtype == np.float16 and np.issubdtype(dtype, np.floating)
            for what, stored, needed in (
                ("shape", stored_shape, tuple(shape)),
                ("type", np.dtype(dtype) if is_half else stored_dtype, np.dtype(dtype)),
            ):
                if stored != needed:
                    raise self._h5.error(
                        f"has {printable(name)} with {what} {printable(stored)}; the model has {needed}"
                    )
        arrays = self._h5.load(list(expected))
        return {name: arrays[name].astype(dtype, copy=False) for name, (_, dtype) in expected.items()}

    def read_all(self) -> dict[str, np.ndarray]:
        """Reads all arrays in the order of their names, whatever their shapes; InputError as in `read`."""
        return self._h5.load(sorted(self._names))

    def _check_attributes(self) -> None:
        contents = self._h5.contents
        needed = ["format", "format_version", "config", *({_METADATA} - set(contents["arrays"]))]
        problem = difference(contents["attributes"], needed, "a weights file", "the attribute ")
        if problem:
            raise InputError(f"it {problem}")
        stored, version = (contents["attributes"][name] for name in ("format", "format_version"))
        if stored != FORMAT:
            raise InputError(f"its format is {printable(stored)}, not {FORMAT}")
        if version != FORMAT_VERSION:
            raise InputError(f"it has format version {printable(version)}; this program reads version {FORMAT_VERSION}")

    def _metadata_text(self) -> str:
        if _METADATA not in self._h5.contents["arrays"]:
            return self._h5.contents["attributes"][_METADATA]
        shape, dtype = self._h5.shape_and_dtype(_METADATA)
        if dtype != np.uint8 or len(shape) != 1 or shape[0] > MAX_METADATA_BYTES:
            raise InputError(f"its {_METADATA} is not a list of at most {MAX_METADATA_BYTES:,} bytes")
        return self._h5.load([_METADATA])[_METADATA].tobytes().decode("ascii", "replace")


@contextlib.contextmanager
def open_weights(path: str | os.PathLike) -> Iterator[WeightsFile]:
    """Opens a weights file written by `write`: `with open_weights(path) as file: file.config`.

    Raises:
        InputError: the file does not exist, is damaged, or has another format (the message names the format and the
            remedy). Pipes, devices and folders are refused at once.

    >>> from glow_tf import pretrained
    >>> with open_weights(pretrained.DIGITS) as file:
    ...     file.config["num_steps"], file.metadata["dataset"]
    (8, 'digits')
    """
    with open_regular(path, "weights file") as file:
        yield WeightsFile(H5File(path, file))


def difference(stored: Iterable[str], needed: Iterable[str], owner: str, what: str = "") -> str:
    """How names differ from those that are needed, as the end of a sentence; empty if they do not."""
    missing, extra = sorted({*needed} - {*stored}), sorted({*stored} - {*needed})
    problems = [f"lacks {what}{format_names(missing)}"] if missing else []
    problems += [f"has {what}{format_names(extra)}, which {owner} does not have"] if extra else []
    return " and ".join(problems)


# ------------------------------------------------------------------------------------------- other programs' files


def layout(path: str | os.PathLike) -> str:
    """Detects which program wrote an HDF5 file: "glow_tf", "glow-tf2", "keras-2", "keras-3" or "unknown h5".

    InputError, if it is damaged or not HDF5, names its format.
    """
    with open_regular(path, "weights file") as file:
        return _layout(H5File(path, file))


def read_foreign(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads all arrays of another program's HDF5 file, in the order in which the model lists them.

    A Keras 2 weights file orders them by its attributes layer_names and weight_names, and the names are
    "<layer>/<weight name>"; in any other file the arrays are sorted by name. Such a file has no digest, so damage
    inside an array goes undetected unless a value is not finite.

    Raises:
        InputError: the file is damaged, not HDF5, or uses unsupported features: links, external and virtual storage,
            filters, types other than little-endian floats and integers.
    """
    with open_regular(path, "weights file") as file:
        h5 = H5File(path, file)
        if "model_config" in h5.contents["attributes"]:
            raise h5.error("is a whole Keras model, which can carry code; use a file made by save_weights")
        names = _listed_by_keras(h5) if "layer_names" in h5.contents["attributes"] else sorted(h5.contents["arrays"])
        return h5.load(names)


def _listed_by_keras(h5: H5File) -> list[str]:
    names = h5.contents["names"]
    layers = names.get("", [])
    for group in ["", *layers]:
        if group not in names:
            raise h5.error(f"has no list of names in {printable(group) or 'its root'}")
    listed = [f"{layer}/{weight}" for layer in layers for weight in names[layer]]
    if len(set(listed)) != len(listed):
        raise h5.error("lists an array twice")
    missing = [name for name in listed if name not in h5.contents["arrays"]]
    if missing:
        raise h5.error(f"lists {format_names(missing)} but does not contain it")
    return listed


def _layout(h5: H5File) -> str:
    attributes = h5.contents["attributes"]
    if h5.digest or attributes.get("format") == FORMAT:
        return "glow_tf"
    if "layer_names" in attributes:
        layers = h5.contents["names"].get("", [])
        is_glow = all(any(layer.startswith(head) for layer in layers) for head in ("flow_step", "z__norm__"))
        return "glow-tf2" if is_glow else "keras-2"
    if "model_config" in attributes:
        return "keras-2"
    if {"layers", "_layer_checkpoint_dependencies", "vars"} & set(h5.contents["groups"]):
        return "keras-3"
    return "unknown h5"


def _why_not_ours(h5: H5File) -> str:
    return {
        "glow_tf": "has lost its checksum: it is truncated, or another program changed it",
        "glow-tf2": "is a GLOW-tf2 weights file; convert it with: "
        f"python3 convert.py --from glow-tf2 {printable(h5.path)} --out weights.h5",
        "keras-2": "is a Keras 2 file of another model, not a glow_tf weights file",
        "keras-3": "is a Keras 3 weights file, not a glow_tf weights file",
        "unknown h5": "is an HDF5 file, but not a glow_tf weights file",
    }[_layout(h5)]
