"""Data sets of TensorFlow Datasets (TFDS): found, prepared, and read from their files.

Importing TFDS takes a second, so this module is imported only where one of its data sets is used.
"""

import contextlib
import dataclasses
import functools
import glob
import json
import logging as python_logging
import math
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from glow_tf import _progress
from glow_tf._files import format_names, printable, read_text
from glow_tf.data import registry
from glow_tf.data.dataset import ArrayDataset, StreamingDataset
from glow_tf.data.holdout import num_validation_images
from glow_tf.data.resize import resize_image
from glow_tf.errors import InputError

IN_MEMORY_BYTES = 2 * 2**30

_SHUFFLE_BUFFER = 10_000  # encoded images, on top of the shuffled files
_NETWORK_SECONDS = 5.0
_REMEDY = "delete that folder and prepare the data set again"
_MAX_JSON_BYTES = 2**24
_MAX_CLASSES = 100_000
_MAX_SIDE = 65_536
_RECORD_BYTES = 16  # the least that an example takes in a file

# In features.json, the keys that TFDS follows to Python classes; it imports whatever module is named there.
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
_CLASS_PREFIX = "tensorflow_datasets.core.features."

_METADATA_FILES = ("features.json", "dataset_info.json", "label.labels.txt")


def _is_for_users(record: python_logging.LogRecord) -> bool:
    """False for TFDS's own warnings about its own deprecated functions."""
    is_of_tfds = f"{os.sep}tensorflow_datasets{os.sep}" in record.pathname
    return not is_of_tfds or record.levelno >= python_logging.ERROR


logging.get_absl_logger().addFilter(_is_for_users)


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
    """Reads a prepared TFDS set; examples are decoded late, so that skipped ones are not decoded."""

    name: str
    builder: tfds.core.DatasetBuilder
    image_size: tuple[int, int]  # (height, width) of the decoded images
    channels: int  # of the decoded images
    class_names: tuple[str, ...]  # of the labels; empty without labels

    def encoded(self, split: str, shuffle_seed: int | None = None, attribute: tuple[str, ...] = ()) -> tf.data.Dataset:
        """Examples {"image": encoded bytes, "label": int64} of a TFDS split in fixed order, or shuffled by a seed.

        `attribute` is the path of another feature to read, such as ("attributes", "Smiling").
        """
        features: dict[str, Any] = {"image": True, "label": True} if self.class_names else {"image": True}
        if attribute:
            features |= functools.reduce(lambda inner, key: {key: inner}, reversed(attribute), True)  # type: ignore
        decoders = tfds.decode.PartialDecoding(features, decoders={"image": tfds.decode.SkipDecoding()})
        shuffles = shuffle_seed is not None
        read_config = tfds.ReadConfig(try_autocache=False, shuffle_seed=shuffle_seed)
        examples = self.builder.as_dataset(
            split=split, shuffle_files=shuffles, decoders=decoders, read_config=read_config
        )
        options = tf.data.Options()
        options.deterministic = True
        if shuffles:
            examples = examples.shuffle(_SHUFFLE_BUFFER, shuffle_seed, reshuffle_each_iteration=False)
        return examples.with_options(options)

    def decode(self, example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """(uint8 [H, W, C], int32 [])."""
        shape = self.builder.info.features["image"].shape
        image = tf.io.decode_image(example["image"], shape[-1], expand_animations=False)
        image = tf.ensure_shape(image, shape)
        target = (*self.image_size, self.channels)
        if tuple(shape) != target:
            resize = functools.partial(resize_image, image_size=self.image_size, channels=self.channels)
            image = tf.ensure_shape(tf.numpy_function(resize, [image], tf.uint8, stateful=False), target)
        label = tf.cast(example["label"], tf.int32) if self.class_names else tf.constant(0)
        return image, label


def open_source(
    name: str,
    data_dir: str | os.PathLike | None,
    image_size: tuple[int, int] | None,
    channels: int | None,
    download: bool,
) -> TfdsSource:
    """Opens a TFDS set, and prepares it where that is possible; InputError if its images cannot be used."""
    with _one_line_errors(f"the data set {name!r} cannot be used"):
        builder = find_builder(name, data_dir)
        height, width, own_channels = _image_feature_shape(name, builder.info.features)
        if image_size is not None:
            size = image_size
        elif height is None or width is None:
            raise InputError(f"the images of {name!r} have no common size; choose one with --img_size")
        else:
            size = (32, 32) if (height, width) == (28, 28) else (height, width)
        channels = channels or own_channels
        if channels != own_channels and {channels, own_channels} != {1, 3}:
            raise InputError(f"{name!r} has {own_channels} channels, which cannot be converted to {channels}")
        class_names = _class_names(name, builder.info.features)
    with _one_line_errors(f"the data set {name!r} cannot be prepared", length=600):
        _prepare(name, builder, download)
    return TfdsSource(name, builder, size, channels, class_names)


def find_builder(name: str, data_dir: str | os.PathLike | None) -> Any:
    """TFDS's builder of a data set; InputError if its files name a Python class that is not one of TFDS.

    TFDS raises nearly anything for an unknown name, configuration or version.
    """
    if not registry.is_tfds_name(name):
        raise InputError(f"{name!r} is not a data set of tensorflow_datasets")
    root = None if data_dir is None else os.path.expanduser(os.fspath(data_dir))
    if root and {"[", "\\"} & set(root):
        raise InputError(f"{root!r} contains [ or a backslash, and tensorflow_datasets reads no such folder; rename it")
    for place in tfds.core.utils.file_utils.list_data_dirs(root):
        folder = os.path.join(glob.escape(os.fspath(place)), registry.family(name))
        for path in [*glob.iglob(os.path.join(folder, "*")), *glob.iglob(os.path.join(folder, "*", "*"))]:
            _check_metadata(path)
    return tfds.builder(name, data_dir=root)


def _check_metadata(folder: str) -> None:
    """InputError if a description in a folder is too large, no regular file, or names a class outside of TFDS."""
    pending = []
    for name in _METADATA_FILES:
        path = os.path.join(folder, name)
        if os.path.lexists(path):
            text = read_text(path, "file of a TFDS data set", _MAX_JSON_BYTES)
            pending += [json.loads(text)] if name == "features.json" else []
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            named = [value[key] for key in _CLASS_KEYS if isinstance(value.get(key), str)]
            foreign = next((each for each in named if not each.startswith(_CLASS_PREFIX)), None)
            if foreign is not None:
                source = os.path.join(folder, "features.json")
                raise InputError(f"{source!r} names the class {printable(foreign)!r}, which is not a feature of TFDS")
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _image_feature_shape(name: str, features: Any) -> tuple[int | None, int | None, int]:
    feature = _feature(features, "image")
    if not isinstance(feature, tfds.features.Image):
        raise InputError(f"{name!r} cannot be used: it has no feature `image` that is an image")
    shape = tuple(feature.shape)
    has_size = all(side is None or 1 <= side <= _MAX_SIDE for side in shape[:2])
    if feature.np_dtype != np.uint8 or len(shape) != 3 or shape[-1] not in (1, 3, 4) or not has_size:
        raise InputError(
            f"the images of {name!r} are {np.dtype(feature.np_dtype)} {shape}; usable are uint8 images of 1, 3 or 4"
            " channels"
        )
    return shape


def _class_names(name: str, features: Any) -> tuple[str, ...]:
    label = _feature(features, "label")
    if not isinstance(label, tfds.features.ClassLabel):
        return ()
    if label.num_classes is None or not 1 <= label.num_classes <= _MAX_CLASSES:
        raise InputError(f"{name!r} has {label.num_classes} classes; usable are 1 to {_MAX_CLASSES}")
    return tuple(label.names)


def _feature(features: Any, name: str) -> Any:
    return features[name] if isinstance(features, tfds.features.FeaturesDict) and name in features else None


def attribute_path(source: TfdsSource, attribute: str) -> tuple[str, ...]:
    """Where a data set's features hold an attribute."""
    types = _attribute_types(source.builder.info.features)
    known = sorted(types, key=lambda path: (types[path] != np.bool_, path))
    if not known:
        raise InputError(f"{source.name!r} has no attributes: no feature is one boolean or integer per image")
    matches = [path for path in known if path == attribute] or [
        path for path in known if path.rsplit("/", 1)[-1] == attribute
    ]
    if len(matches) != 1:
        count, shown = "more than one" if matches else "no", format_names(matches or known, 10)
        raise InputError(f"{source.name!r} has {count} attribute {attribute!r}; it has {shown}")
    return tuple(matches[0].split("/"))


def _attribute_types(features: Any, path: str = "") -> dict[str, np.dtype]:
    """{path: type} of the features that can be an attribute: booleans, integers and labels of two classes."""
    if isinstance(features, tfds.features.FeaturesDict):
        inner = [_attribute_types(features[key], f"{path}/{key}".lstrip("/")) for key in features]
        return functools.reduce(dict.__or__, inner, {})
    has_other_labels = isinstance(features, tfds.features.ClassLabel) and features.num_classes != 2
    if not isinstance(features, tfds.features.Tensor) or features.shape != () or has_other_labels:
        return {}
    dtype = np.dtype(features.np_dtype)
    return {path: dtype} if dtype.kind in "biu" else {}


def splits(source: TfdsSource) -> tuple[tuple[str, int], tuple[str, int]]:
    """(TFDS's name of the split, number of images) for training and for testing."""
    name, infos = source.name, source.builder.info.splits
    counts = {split: info.num_examples for split, info in infos.items()}
    if not counts.get("train"):
        raise InputError(f"the data set {name!r} has no split `train`; it has {format_names(sorted(counts))}")
    tests = [split for split in ("test", "validation") if counts.get(split)]
    for split in ("train", *tests):
        size = sum(os.path.getsize(file) for file in infos[split].filepaths)
        if counts[split] * _RECORD_BYTES > size:
            raise InputError(f"{name!r} should have {counts[split]} images in {split}, but its files have {size} bytes")
    test = next((split for split in tests if _is_labelled(source, split)), None)
    if test is not None:
        return ("train", counts["train"]), (test, counts[test])
    held_out = num_validation_images(counts["train"])
    if counts["train"] < 2:
        raise InputError(f"{name!r} has a single image and no test split")
    which = "labelled test split" if tests else "test split"
    logging.warning("%s has no %s; the last %d training images are held out for it", name, which, held_out)
    return (f"train[:-{held_out}]", counts["train"] - held_out), (f"train[-{held_out}:]", held_out)


def _is_labelled(source: TfdsSource, split: str) -> bool:
    """False for a split without the labels of its data set; in TFDS, such as imagenet2012, these are -1."""
    if not source.class_names:
        return True
    with _one_line_errors(f"the files of {source.name!r} in {str(source.builder.data_path)!r} cannot be read", _REMEDY):
        return bool(next(source.encoded(split).take(1).as_numpy_iterator())["label"] >= 0)


def read_splits(source: TfdsSource) -> Iterator[ArrayDataset | StreamingDataset]:
    """Reads the training and the test split into memory, if they fit."""
    with _one_line_errors(f"the files of {source.name!r} in {str(source.builder.data_path)!r} cannot be read", _REMEDY):
        for split, num_images in splits(source):
            yield _read_split(source, split, num_images)


def _read_split(source: TfdsSource, split: str, num_images: int) -> ArrayDataset | StreamingDataset:
    streamed = StreamingDataset(source, split, num_images)
    shape = (num_images, *source.image_size, source.channels)
    if math.prod(shape) > IN_MEMORY_BYTES:
        return streamed
    images, labels = np.empty(shape, np.uint8), np.empty(num_images, np.int32)
    stored = 0
    *sides, channels = source.builder.info.features["image"].shape
    if None not in sides and sides[0] <= shape[1] and sides[1] <= shape[2] and channels <= source.channels:
        # Padding batches is several times faster than padding images.
        streamed = StreamingDataset(dataclasses.replace(source, image_size=sides, channels=channels), split, num_images)
    with _progress.phase(f"reading {source.name} ({split})", num_images) as advance:
        for image_batch, label_batch in streamed.batches(256).as_numpy_iterator():
            rows = slice(stored, stored + len(image_batch))
            images[rows], labels[rows] = resize_image(image_batch, source.image_size, source.channels), label_batch
            stored += len(image_batch)
            advance(len(image_batch))
    if stored != num_images:
        raise InputError(f"{source.name!r} should have {num_images} images in {split}, but its files hold {stored}")
    if labels.min() < 0 or labels.max() >= max(1, len(source.class_names)):
        found = f"labels from {labels.min()} to {labels.max()}"
        raise InputError(f"{source.name!r} has {len(source.class_names)} classes, but {found}")
    return ArrayDataset(images, labels)


def decoded(source: TfdsSource, examples: tf.data.Dataset) -> np.ndarray:
    """uint8 [N, H, W, C]: the images of encoded examples."""
    images = [np.zeros((0, *source.image_size, source.channels), np.uint8)]
    with _one_line_errors(f"the files of {source.name!r} in {str(source.builder.data_path)!r} cannot be read"):
        images += [image for image, _ in examples.map(source.decode, tf.data.AUTOTUNE).batch(256).as_numpy_iterator()]
    return np.concatenate(images)


@contextlib.contextmanager
def _one_line_errors(what: str, remedy: str = "", length: int = 200) -> Iterator[None]:
    """Turns the exceptions of TFDS, of its data sets' code and of TensorFlow into InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each raises its own types
        raise InputError(f"{what}: {_first_words(error, length)}{remedy and f'; {remedy}'}") from error


def _prepare(name: str, builder: Any, download: bool) -> None:
    """Prepares a data set unless it is; by download only if that is allowed and the server answers.

    Archives that the user put into <data_dir>/downloads/manual are used without any network.
    """
    if builder.is_prepared():
        return
    root = str(builder.data_dir_root)
    archives_at = os.path.join(root, "downloads", "manual")
    urls = builder.url_infos
    if not urls or not all(os.path.isfile(os.path.join(archives_at, info.filename)) for info in urls.values()):
        if not download:
            raise registry.missing_data_set(name, root, f"downloading it needs --dataset {name} --download")
        # TFDS itself would try for minutes.
        try:
            for url in list(urls)[:1]:
                urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_NETWORK_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # a refusal is an answer
        except (OSError, ValueError) as error:
            raise registry.missing_data_set(name, root, "its server cannot be reached") from error
    config = tfds.download.DownloadConfig(manual_dir=archives_at, try_download_gcs=False)
    builder.download_and_prepare(download_config=config)


def _first_words(error: Exception, length: int) -> str:
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error), flags=re.DOTALL)  # TensorFlow's names of operations
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= length else text[:length] + "..."
