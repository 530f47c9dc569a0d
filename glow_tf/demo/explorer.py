"""What the page of `python3 -m glow_tf explore` asks a model for; it knows nothing of pages.

Values come from a browser, so each is checked: what is refused is an InputError of one line. Images are uint8
[H, W, C] in the model's shape, and grids [h, w, C] are ready to be shown.
"""

import base64
import binascii
import io
import math

import numpy as np

from glow_tf.data import image_data, image_folder
from glow_tf.errors import InputError
from glow_tf.evaluation import editing, ood, visualization

# Images of the grid.
NUM_SAMPLES = 16

MAX_TEMPERATURE = 1.5
MAX_SEED = 2**31 - 1

# Of a slider, times a direction; beyond 2 images leave what the model knows (docs/results.md, "An attribute").
MAX_STRENGTH = 2.0

# Of an uploaded file. The pixels that its header may claim are limited by image_folder.ReadRules.
MAX_UPLOAD_BYTES = 10_000_000

# Test images that can be picked by number.
NUM_TEST_IMAGES = 256

# Training images whose latents give the directions of classes: so many of 32x32, fewer of larger ones.
NUM_TRAINING_IMAGES = 512

# Classes with a slider each, and with a mean.
MAX_CLASSES = 10


class Explorer:
    """A model with images to start from and directions to go in.

    Args:
        glow: a Glow.
        data: the ImageData that test images and the classes' directions come from; None: there are none of
            them, and the first images are samples.
        directions: {name: [H, W, C]} of latents, more of them.

    Attributes:
        class_names: of a class-conditional model, else empty.
        images: uint8 [N, H, W, C], those to pick by number.
        directions: as given, and one of each class: its mean z minus the mean of all.
        class_means: {name: [H, W, C]}.
    """

    def __init__(self, glow, data=None, directions=()):
        self.glow = glow
        self.class_names = [ood.class_name(glow, index) for index in range(glow.config.num_classes)]
        if data is None:
            self.images = glow.sample(NUM_SAMPLES, seed=0).numpy()
        else:
            count = min(NUM_TEST_IMAGES, data.test.num_images)
            self.images = image_data.pick(data.test, range(count))[0]
        self.class_means = {} if data is None else self._class_means(data)
        self.directions = dict(directions)
        if len(self.class_means) > 1:
            middle = np.mean(list(self.class_means.values()), axis=0)
            self.directions |= {name: mean - middle for name, mean in self.class_means.items()}
        self._warm_up()

    def samples(self, temperature, seed, label=None):
        """A grid of NUM_SAMPLES images.

        Args:
            temperature: from 0 to MAX_TEMPERATURE.
            seed: an integer from 0 to MAX_SEED.
            label: the index of a class; None: all classes in turn, if there are any.
        """
        temperature = _number(temperature, "temperature", 0, MAX_TEMPERATURE)
        seed = _whole(seed, "seed", MAX_SEED)
        labels = None
        if label is not None:
            if not self.class_names:
                raise InputError("a class was chosen, but this model has none")
            labels = np.full(NUM_SAMPLES, _whole(label, "class", len(self.class_names) - 1))
        return visualization.grid(self.glow.sample(NUM_SAMPLES, temperature, seed, labels).numpy())

    def test_image(self, number):
        """The image to pick by this number."""
        return self.images[_whole(number, "image number", len(self.images) - 1)]

    def uploaded(self, address):
        """The image of a file that a browser sends as a `data:` address, cropped and resized for the model."""
        if not isinstance(address, str) or not address.startswith("data:"):
            raise InputError("no image was uploaded")
        text = address.partition(",")[2]
        if len(text) > encoded_length(MAX_UPLOAD_BYTES):
            raise InputError(too_large(len(text) * 3 // 4))
        try:
            file = io.BytesIO(base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise InputError("the upload is no base64") from error
        height, width, channels = self.glow.config.image_shape
        try:
            return image_folder.decode(
                file, image_size=(height, width), channels=channels, rules=image_folder.ReadRules()
            )
        except Exception as error:  # Pillow's plug-ins raise nearly anything on damaged bytes
            raise InputError(f"the upload cannot be read: {image_folder.reason(error)}") from error

    def mix(self, first, second, share, spherical=False):
        """The image at `share`, from 0 to 1, of the way from the first image to the second through z.

        Of a class-conditional model both are encoded under the likeliest class of the first.
        """
        share = _number(share, "share", 0, 1)
        pair = np.stack([first, second])
        labels = editing.labels_of(self.glow, pair[:1])
        z = editing.encode(self.glow, pair, None if labels is None else np.repeat(labels, 2))
        mixed = editing.mixture(z[0], z[1], [share], bool(spherical)).astype(z.dtype)
        return self._decoded(mixed, labels)

    def move(self, image, strengths):
        """The image at z plus the sum of strength times direction.

        Args:
            strengths: of `directions`, in their order, each at most MAX_STRENGTH in size.
        """
        if len(strengths) != len(self.directions):
            raise InputError(f"{len(strengths)} strengths were given for {len(self.directions)} directions")
        moved = sum(
            _number(strength, name, -MAX_STRENGTH, MAX_STRENGTH) * direction
            for strength, (name, direction) in zip(strengths, self.directions.items(), strict=True)
        )
        return self._moved(image, moved)

    def change_class(self, image, source, target, strength):
        """The image at z plus strength times (mean z of the class `target` minus that of `source`)."""
        for name in (source, target):
            if name not in self.class_means:
                raise InputError(f"{name!r} is none of the classes {', '.join(self.class_means)}")
        strength = _number(strength, "strength", -MAX_STRENGTH, MAX_STRENGTH)
        return self._moved(image, strength * (self.class_means[target] - self.class_means[source]))

    def _moved(self, image, moved):
        labels = self._common_labels(1)
        z = editing.encode(self.glow, image[np.newaxis], labels)
        return self._decoded((z + moved).astype(z.dtype), labels)

    def _decoded(self, z, labels):
        """The image of z [1, H, W, C]; pixels that overflowed would be shown as black."""
        values = self.glow.decode(z, labels)
        if not np.isfinite(values).all():
            raise InputError("these latents give no finite pixels: they are too far from the training images'")
        return self.glow.dequantizer.quantize(values).numpy()[0]

    def _class_means(self, data):
        """{name: mean z} of the classes, of a few training images."""
        if len(data.class_names) < 2:
            return {}
        height, width, _ = self.glow.config.image_shape
        count = max(1, min(NUM_TRAINING_IMAGES, NUM_TRAINING_IMAGES * 32 * 32 // (height * width)))
        images, labels = data.train.random_subset(count, seed=0)
        chosen = labels < MAX_CLASSES
        images, labels = images[chosen], labels[chosen]
        if not len(images):
            return {}
        z = editing.encode(self.glow, images, self._common_labels(len(images)))
        return {data.class_names[label]: z[labels == label].mean(axis=0) for label in np.unique(labels)}

    def _common_labels(self, count):
        # Under one label, whichever, the latents of all classes can be compared: encode and decode stay inverse.
        return np.zeros(count, np.int32) if self.class_names else None

    def _warm_up(self):
        """Traces what answers need: seconds that the first of them would take."""
        self.samples(0.7, 0)
        self.mix(self.images[0], self.images[-1], 0.5)


def encoded_length(count):
    """Letters that base64 makes of `count` bytes."""
    return 4 * math.ceil(count / 3)


def too_large(size):
    return f"the file has {size:,} bytes; the limit is {MAX_UPLOAD_BYTES:,}"


def _number(value, name, low, high):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InputError(f"{name} is {value!r}; it must be a number from {low:g} to {high:g}")
    return float(value)


def _whole(value, name, high):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= high or value != int(value):
        raise InputError(f"{name} is {value!r}; it must be a whole number from 0 to {high}")
    return int(value)
