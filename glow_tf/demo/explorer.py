"""The model of the page of `python3 -m glow_tf explore`, independent of the page's layout.

Values come from a browser, so each is validated, and an invalid one raises a one-line InputError. Images are uint8
[H, W, C] in the model's shape; grids are complete pictures with captions.
"""

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glow_tf._files import printable
from glow_tf.data import image_data, image_file
from glow_tf.errors import InputError
from glow_tf.evaluation import editing, metrics, visualization
from glow_tf.glow import Glow
from glow_tf.metadata import class_names

NUM_SAMPLES = 16

MAX_TEMPERATURE = 1.5
MAX_SEED = 2**31 - 1
MAX_STRENGTH = 2.0  # beyond this, images become implausible (docs/results.md, "Attributes")

# The largest upload; image_file limits the number of pixels that its header may claim.
MAX_UPLOAD_BYTES = 10_000_000

NUM_TEST_IMAGES = 256  # that can be picked by number

# The number of 32x32 training images from which class directions are computed; fewer if they are larger.
NUM_TRAINING_IMAGES = 512

MAX_CLASSES = 10  # that get a slider and a mean


class Explorer:
    """A model with images to start from and directions to move them in.

    Args:
        data: the data set that provides test images and class directions. Default: none; the images are then
            samples.
        directions: {name: [H, W, C]}, additional directions in z.

    Attributes:
        class_names: the names of a class-conditional model's classes, otherwise empty.
        images: uint8 [N, H, W, C], the images to pick by number.
        images_name: a noun for one of `images`.
        directions: those of the argument, and for each class its mean z minus the mean of all class means.
        class_means: {name: [H, W, C]}.
    """

    def __init__(
        self,
        glow: Glow,
        data: image_data.ImageData | None = None,
        directions: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.glow = glow
        self.class_names = class_names(glow.metadata, glow.config.num_classes)
        self.images_name = "sample" if data is None else "test image"
        if data is None:
            self.images = glow.sample(NUM_SAMPLES, seed=0).numpy()
        else:
            self.images = image_data.pick(data.test, range(min(NUM_TEST_IMAGES, data.test.num_images)))[0]
        self.class_means = {} if data is None else self._class_means(data)
        self.directions = dict(directions or {})
        if len(self.class_means) > 1:
            taken = [name for name in self.class_means if name in self.directions]
            if taken:
                raise InputError(f"the direction {taken[0]!r} is called like a class; give it another name")
            middle = np.mean(list(self.class_means.values()), axis=0)
            self.directions |= {name: mean - middle for name, mean in self.class_means.items()}
        # Trace the compiled functions now; otherwise the first answers would take seconds.
        self.samples(0.7, 0)
        self.mix(self.images[0], self.images[-1], 0.5)

    @property
    def description(self) -> str:
        """A sentence about the images that the model takes."""
        height, width, channels = self.glow.config.image_shape
        colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels}-channel")
        bits = self.glow.config.num_bits
        return (
            f"The model sees {colours} images of {height}x{width} pixels in {bits} bits per channel ({2**bits} values)."
        )

    def samples(self, temperature: Any, seed: Any, label: Any = None) -> np.ndarray:
        """A labelled grid of NUM_SAMPLES images; of all classes in turn if `label`, the index of a class, is None."""
        temperature = _number(temperature, "temperature", 0, MAX_TEMPERATURE)
        seed = _whole(seed, "seed", MAX_SEED)
        title, labels = f"{NUM_SAMPLES} samples at temperature {temperature:g}", None
        if label is not None:
            if not self.class_names:
                raise InputError("a class was chosen, but this model has no classes")
            label = _whole(label, "class", len(self.class_names) - 1)
            labels, title = np.full(NUM_SAMPLES, label), f"{title}, class {self.class_names[label]}"
        samples = self.glow.sample(NUM_SAMPLES, temperature, seed, labels).numpy()
        return visualization.labelled_grid(samples, caption=f"{title}\nseed {seed}")

    def test_image(self, number: Any) -> np.ndarray:
        """The image with this number."""
        return self.images[_whole(number, "image number", len(self.images) - 1)]

    def uploaded(self, address: Any) -> np.ndarray:
        """The image in a `data:` address, cropped and resized for the model."""
        if not isinstance(address, str) or not address.startswith("data:"):
            raise InputError("no image was uploaded")
        text = address.partition(",")[2]
        if len(text) > encoded_length(MAX_UPLOAD_BYTES):
            raise InputError(too_large(len(text) * 3 // 4))
        try:
            file = io.BytesIO(base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise InputError("the upload is not base64") from error
        return image_file.read(file, self.glow.config.image_shape, "the upload")

    def mix(self, first: np.ndarray, second: np.ndarray, share: Any, spherical: bool = False) -> np.ndarray:
        """The image at `share`, from 0 to 1, of the way from the first image to the second through z.

        A class-conditional model encodes both with the most likely class of the first.
        """
        share = _number(share, "share", 0, 1)
        pair = np.stack([first, second])
        labels = metrics.classify(self.glow, pair[:1]) if self.class_names else None
        z = editing.encode(self.glow, pair, None if labels is None else np.repeat(labels, 2))
        return self._decode(editing.mixture(z[0], z[1], [share], spherical).astype(z.dtype), labels)

    def move(self, image: np.ndarray, strengths: Sequence[Any]) -> np.ndarray:
        """The image at z plus the sum of strength * direction, with a strength per entry of `directions`."""
        if len(strengths) != len(self.directions):
            raise InputError(f"there are {len(strengths)} strengths for {len(self.directions)} directions")
        named = zip(strengths, self.directions.items(), strict=True)
        moves = (_number(strength, name, -MAX_STRENGTH, MAX_STRENGTH) * z for strength, (name, z) in named)
        return self._moved(image, sum(moves))

    def change_class(self, image: np.ndarray, source: str, target: str, strength: Any) -> np.ndarray:
        """The image at z plus strength * (the mean z of class `target` minus the mean z of class `source`)."""
        for name in (source, target):
            if name not in self.class_means:
                raise InputError(f"{printable(name)!r} is not one of the classes {', '.join(self.class_means)}")
        strength = _number(strength, "strength", -MAX_STRENGTH, MAX_STRENGTH)
        return self._moved(image, strength * (self.class_means[target] - self.class_means[source]))

    def _moved(self, image: np.ndarray, offset: Any) -> np.ndarray:
        labels = self._common_labels(1)
        z = editing.encode(self.glow, image[np.newaxis], labels)
        return self._decode((z + offset).astype(z.dtype), labels)

    def _decode(self, z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """The image of z [1, H, W, C]; raises InputError if pixels overflow, which would otherwise appear black."""
        values = self.glow.decode(z, labels)
        if not np.isfinite(values).all():
            raise InputError("these latents decode to non-finite pixels; choose smaller strengths")
        return self.glow.dequantizer.quantize(values).numpy()[0]

    def _class_means(self, data: image_data.ImageData) -> dict[str, np.ndarray]:
        """{name: mean z} of the first classes, from a subset of the training images."""
        if len(data.class_names) < 2:
            return {}
        height, width, _ = self.glow.config.image_shape
        count = max(1, min(NUM_TRAINING_IMAGES, NUM_TRAINING_IMAGES * 32 * 32 // (height * width)))
        images, labels = data.train.random_subset(count, seed=0)
        is_shown = labels < MAX_CLASSES
        images, labels = images[is_shown], labels[is_shown]
        if not len(images):
            return {}
        z = editing.encode(self.glow, images, self._common_labels(len(images)))
        names = list(map(printable, data.class_names))
        return {names[label]: z[labels == label].mean(axis=0) for label in np.unique(labels)}

    def _common_labels(self, count: int) -> np.ndarray | None:
        # With a single label, whichever it is, the latents of all classes are comparable and decode inverts encode.
        return np.zeros(count, np.int32) if self.class_names else None


def encoded_length(count: int) -> int:
    """The number of characters that encode `count` bytes in base64."""
    return 4 * math.ceil(count / 3)


def too_large(size: int) -> str:
    """The message for an upload of `size` bytes, which is too large."""
    return f"the file has {size:,} bytes; the limit is {MAX_UPLOAD_BYTES:,}"


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InputError(f"{name} is {printable(repr(value))}; it must be a number from {low:g} to {high:g}")
    return float(value)


def _whole(value: Any, name: str, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= high or value != int(value):
        raise InputError(f"{name} is {printable(repr(value))}; it must be a whole number from 0 to {high}")
    return int(value)
