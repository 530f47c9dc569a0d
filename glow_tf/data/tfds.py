"""Data sets of TensorFlow Datasets (TFDS): found, prepared, and read from their files."""

import contextlib
import dataclasses
import functools
import math
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from glow_tf.data.dataset import ArrayDataset, StreamingDataset
from glow_tf.data.holdout import num_validation_images
from glow_tf.data.resize import resize_image
from glow_tf.errors import InputError

IN_MEMORY_BYTES = 2 * 2**30

_SHUFFLE_BUFFER = 10_000  # encoded images, on top of the shuffled files
_NETWORK_SECONDS = 5.0
_NAME = re.compile(r"[a-z]\w*(/[\w.+-]+)?(:\d+\.\d+\.\d+)?", re.ASCII)


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
    """Reads a prepared TFDS set: encoded examples first, so that those not wanted are not decoded."""

    builder: Any  # tfds.core.DatasetBuilder
    image_size: tuple[int, int]
    channels: int
    has_labels: bool

    def encoded(
        self, split: str, shuffle_seed: int | None = None, also: tuple[str, ...] | None = None
    ) -> tf.data.Dataset:
        """Examples {"image": encoded bytes, "label": int64} in fixed order, or shuffled by a seed.

        Args:
            also: the path of another feature to read, such as ("attributes", "Smiling").
        """
        import tensorflow_datasets as tfds

        features: dict[str, Any] = {"image": True, "label": True} if self.has_labels else {"image": True}
        if also is not None:
            wanted: Any = True
            for key in reversed(also):
                wanted = {key: wanted}
            features |= wanted
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
        label = tf.cast(example["label"], tf.int32) if self.has_labels else tf.constant(0)
        return resize_image(image, self.image_size, self.channels), label


def find_builder(name: str, data_dir: str | os.PathLike | None) -> Any:
    """TFDS's builder of a data set, or None if it knows no such name; a wrong config or version raises."""
    import tensorflow_datasets as tfds

    if not _NAME.fullmatch(name):
        return None
    root = None if data_dir is None else os.path.expanduser(os.fspath(data_dir))
    try:
        return tfds.builder(name, data_dir=root)
    except tfds.core.DatasetNotFoundError:
        return None
    except Exception as error:  # each data set's code raises what it likes
        raise InputError(f"the data set {name!r} cannot be used: {_first_words(error)}") from error


def open_source(
    name: str, builder: Any, image_size: tuple[int, int] | None, channels: int | None, download: bool
) -> TfdsSource:
    """The prepared set; InputError where it is not there, or has no images of that kind."""
    features = builder.info.features
    height, width, own_channels = _image_feature_shape(name, features)
    if image_size is not None:
        size = image_size
    elif height is None or width is None:
        raise InputError(f"the images of {name!r} have no common size; give the image size to bring them to")
    else:
        size = (32, 32) if (height, width) == (28, 28) else (height, width)
    channels = channels or own_channels
    if channels != own_channels and {channels, own_channels} != {1, 3}:
        raise InputError(f"{name!r} has {own_channels} channels, of which {channels} cannot be made")
    _prepare(name, builder, download)
    _announce_crop(name, (height, width), size)
    return TfdsSource(builder, size, channels, bool(class_names(features)))


def _image_feature_shape(name: str, features: Any) -> tuple[int | None, int | None, int]:
    import tensorflow_datasets as tfds

    feature = _feature(features, "image")
    if not isinstance(feature, tfds.features.Image):
        raise InputError(f"{name!r} cannot be used: it has no feature `image` that is an image")
    shape = tuple(feature.shape)
    if feature.np_dtype != np.uint8 or len(shape) != 3 or shape[-1] not in (1, 3, 4):
        raise InputError(
            f"the images of {name!r} are {np.dtype(feature.np_dtype)} {shape}; usable are uint8 images of 1,"
            " 3 or 4 channels"
        )
    return shape


def class_names(features: Any) -> tuple[str, ...]:
    import tensorflow_datasets as tfds

    label = _feature(features, "label")
    return tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()


def _feature(features: Any, name: str) -> Any:
    import tensorflow_datasets as tfds

    return features[name] if isinstance(features, tfds.features.FeaturesDict) and name in features else None


def attribute_path(name: str, features: Any, attribute: str) -> tuple[str, ...]:
    """Where a data set's features hold an attribute."""
    types = _attribute_types(features)
    known = sorted(types, key=lambda path: (types[path] != np.bool_, path))
    if not known:
        raise InputError(f"{name!r} has no attributes: no feature is one boolean or integer an image")
    found = [path for path in known if path == attribute] or [
        path for path in known if path.rsplit("/", 1)[-1] == attribute
    ]
    if len(found) != 1:
        shown = ", ".join((found or known)[:10]) + (", ..." if len(found or known) > 10 else "")
        count = "more than one" if found else "no"
        raise InputError(f"{name!r} has {count} attribute {attribute!r}; it has {shown}")
    return tuple(found[0].split("/"))


def _attribute_types(features: Any, path: str = "") -> dict[str, np.dtype]:
    """{path: type} of the features that can be an attribute: booleans, integers and labels of two classes."""
    import tensorflow_datasets as tfds

    if isinstance(features, tfds.features.FeaturesDict):
        inner = [_attribute_types(features[key], f"{path}/{key}".lstrip("/")) for key in features]
        return functools.reduce(dict.__or__, inner, {})
    has_other_labels = isinstance(features, tfds.features.ClassLabel) and features.num_classes != 2
    if not isinstance(features, tfds.features.Tensor) or features.shape != () or has_other_labels:
        return {}
    dtype = np.dtype(features.np_dtype)
    return {path: dtype} if dtype.kind in "biu" else {}


def _announce_crop(name: str, own: tuple[int | None, int | None], size: tuple[int, int]) -> None:
    height, width = own
    if height is not None and width is not None and height <= size[0] and width <= size[1]:
        return
    logging.info(
        "%s: images of %s are cropped at their centre to the aspect ratio of %dx%d and resized",
        name, "several sizes" if None in own else f"{height}x{width}", *size,
    )  # fmt: skip


def train_and_test(name: str, builder: Any) -> Iterator[tuple[str, int]]:
    """(TFDS's name of the split, number of images) for training, then for testing."""
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    if not counts.get("train"):
        raise InputError(f"the data set {name!r} has no split `train`; it has {sorted(counts)}")
    test = next((split for split in ("test", "validation") if counts.get(split)), None)
    if test is not None:
        yield "train", counts["train"]
        yield test, counts[test]
        return
    held_out = num_validation_images(counts["train"])
    logging.info("%s has no test split; the last %d training images are held out for it", name, held_out)
    yield f"train[:-{held_out}]", counts["train"] - held_out
    yield f"train[-{held_out}:]", held_out


def read_split(name: str, source: TfdsSource, split: str, num_images: int) -> ArrayDataset | StreamingDataset:
    streamed = StreamingDataset(source, split, num_images)
    shape = (num_images, *source.image_size, source.channels)
    if math.prod(shape) > IN_MEMORY_BYTES:
        return streamed
    images, labels = np.empty(shape, np.uint8), np.empty(num_images, np.int32)
    stored = 0
    with _naming_damaged_files(name, source):
        for image_batch, label_batch in streamed.batches(256).as_numpy_iterator():
            rows = slice(stored, stored + len(image_batch))
            images[rows], labels[rows] = image_batch, label_batch
            stored += len(image_batch)
    if stored != num_images:
        raise InputError(f"{name!r} should have {num_images} images in {split}, but its files hold {stored}")
    return ArrayDataset(images, labels)


def decoded(name: str, source: TfdsSource, examples: tf.data.Dataset) -> np.ndarray:
    """uint8 [N, H, W, C]: the images of encoded examples."""
    images = [np.zeros((0, *source.image_size, source.channels), np.uint8)]
    with _naming_damaged_files(name, source):
        images += [image for image, _ in examples.map(source.decode, tf.data.AUTOTUNE).batch(256).as_numpy_iterator()]
    return np.concatenate(images)


@contextlib.contextmanager
def _naming_damaged_files(name: str, source: TfdsSource) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # TFDS and TensorFlow each have their own for a damaged file
        raise InputError(
            f"the files of {name!r} in {str(source.builder.data_path)!r} cannot be read"
            f" ({_first_words(error)}); delete that folder and prepare the data set again"
        ) from error


def _prepare(name: str, builder: Any, download: bool) -> None:
    """Makes sure that the data set lies prepared in its folder, by download only if that is allowed.

    Archives that the user put into <data_dir>/downloads/manual are used without any network.

    Raises:
        InputError: within 10 seconds if the data set is missing and there is no network.
    """
    import tensorflow_datasets as tfds

    if _is_prepared(builder):
        return
    archives_at = os.path.join(str(builder.data_dir_root), "downloads", "manual")
    if not _has_archives(builder, archives_at):
        if not download:
            raise InputError(_missing_message(name, builder, "downloading was not asked for"))
        if not _is_reachable(builder):
            raise InputError(_missing_message(name, builder, "its server cannot be reached"))
    config = tfds.download.DownloadConfig(manual_dir=archives_at, try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # each data set's code raises what it likes
        raise InputError(f"the data set {name!r} cannot be prepared: {_first_words(error, 600)}") from error


def _is_prepared(builder: Any) -> bool:
    logger = logging.get_absl_logger()
    level = logger.level
    logger.setLevel("ERROR")  # that a folder is missing is for the error to say, once
    try:
        return builder.is_prepared()
    finally:
        logger.setLevel(level)


def _missing_message(name: str, builder: Any, why: str) -> str:
    root = str(builder.data_dir_root)
    return (
        f"the data set {name!r} is not in {str(builder.data_path)!r} and {why}; copy the prepared folder"
        f" there, or prepare it where there is a network with: tfds build {name} --data_dir={root}"
    )


def _has_archives(builder: Any, folder: str) -> bool:
    names = [info.filename for info in builder.url_infos.values()]
    return bool(names) and all(name and os.path.isfile(os.path.join(folder, name)) for name in names)


def _is_reachable(builder: Any) -> bool:
    """Whether the server of the data set answers within a few seconds; it need not answer kindly."""
    url = next(iter(builder.url_infos), None)
    if url is None:
        return True  # nothing that TFDS would download itself
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=_NETWORK_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # a refusal is an answer
        except (OSError, ValueError):
            return
        answered.set()

    # A thread, because a look-up of the host name knows no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_NETWORK_SECONDS)
    return answered.is_set()


def _first_words(error: Exception, length: int = 200) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else text[:length] + "..."
