"""Pictures, folders of them, and TFDS data sets that the tests prepare themselves, without a network."""

import struct
import zlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def pictures(count, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def keys(images):
    return [image.tobytes() for image in images]


def random_picture(height=6, width=5, mode="RGB", seed=0):
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,), "LA": (2,)}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(values, mode) if mode == "CMYK" else Image.fromarray(values)


def fill(folder, count, **kwargs):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random_picture(seed=number, **kwargs).save(folder / f"{number:03}.png")
    return folder


def png_of(*chunks):
    """A PNG of (type, content) chunks."""
    content = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        content.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(content)


def png_with_header(width, height):
    """A PNG of a few bytes that claims to be width x height."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png_of((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))


def prepare(
    data_dir, name, version, splits, feature_shape=None, num_classes=10, extra=None, config=None, unlabelled=()
):
    """Writes a TFDS data set to disk, as `tfds build` would.

    Args:
        splits: {split: uint8 [N, H, W, C], or a list of images}; the label of image i is i % num_classes.
        unlabelled: the splits whose labels are all -1.
        extra: {feature: (type, values)}, or a dictionary of such a dictionary; image i of each split has value i.
    """

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            features = _map(extra or {}, lambda dtype, _: dtype)
            if splits["train"] is not None:
                shape = feature_shape or splits["train"][0].shape
                features["image"] = tfds.features.Image(shape=shape, encoding_format="png")
            if num_classes:
                features["label"] = tfds.features.ClassLabel(num_classes=num_classes)
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split, images) for split, images in splits.items()}

        def _generate_examples(self, split, images):
            for number, image in enumerate(images if images is not None else range(4)):
                example = _map(extra or {}, lambda _, values, at=number: values[at])
                example.update({"image": image} if images is not None else {})
                label = -1 if split in unlabelled else number % (num_classes or 1)
                yield number, example | ({"label": label} if num_classes else {})

    Prepared.name = name
    Prepared(data_dir=data_dir).download_and_prepare()


def _map(features, function):
    return {
        key: _map(value, function) if isinstance(value, dict) else function(*value) for key, value in features.items()
    }
