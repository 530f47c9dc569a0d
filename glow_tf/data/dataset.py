"""The training or the test images of a data set, in memory or read from files, and their batches.

The order of the training images is a pure function of (seed, epoch), so a run resumes without iterator
state, and the batches of all shards together do not depend on their number.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from absl import logging

from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.data.tfds import TfdsSource


class _Split(abc.ABC):
    """The batches of an epoch, whatever the images are read from."""

    num_images: int

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of full batches in one epoch; 1 if the images must be repeated to fill it."""
        return max(1, self.num_images // batch_size)

    def training_batches(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        *,
        flip: bool = False,
        skip: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """Yields one epoch of full batches in random order: (uint8 [b, H, W, C], int32 [b]), b known statically.

        The order is a permutation by numpy's Generator([seed, epoch]); images that do not fill a batch are left out
        of this epoch. Fewer images than `batch_size` are repeated to fill one, with a warning.

        Args:
            batch_size: number of images per batch, over all shards.
            flip: whether to mirror each image left to right with probability 1/2, decided by (seed, epoch, position).
            skip: number of batches to leave out at the start, at no cost, to resume inside an epoch.
            shard: (index, count) to yield only part `index` of `count` of each batch, so b = batch_size / count.

        Raises:
            InputError: if `count` does not divide `batch_size`.
        """
        index, count = shard
        if batch_size % count:
            raise InputError(f"the batch size {batch_size} is not divisible by the number of shards, {count}")
        size = batch_size // count
        repeats = math.ceil(batch_size / self.num_images)
        if repeats > 1:
            message = "%d training images are fewer than the batch size %d; they are repeated to fill it"
            logging.log_first_n(logging.WARNING, message, 1, self.num_images, batch_size)
        is_mirrored = np.random.default_rng([seed, epoch, 1]).random(repeats * self.num_images) < 0.5
        rows = slice(index * size, (index + 1) * size)
        return self._epoch(batch_size, [seed, epoch], rows, repeats, is_mirrored & flip, skip)

    @abc.abstractmethod
    def _epoch(
        self, batch_size: int, seeds: list[int], rows: slice, repeats: int, is_mirrored: np.ndarray, skip: int
    ) -> tf.data.Dataset:
        """Yields these rows of each batch after the first `skip`; `is_mirrored` goes by the position in the order."""


class ArrayDataset(_Split):
    """Images, uint8 [N, H, W, C], and labels, int32 [N], held in memory; zeros for images without labels.

    Raises:
        InputError: if images or labels have another type or shape.

    >>> split = ArrayDataset(images, labels=np.arange(6))
    >>> split.num_images, split.steps_per_epoch(batch_size=4)
    (6, 1)
    >>> [labels.tolist() for _, labels in split.batches(4).as_numpy_iterator()]
    [[0, 1, 2, 3], [4, 5]]
    >>> batch, labels = next(split.training_batches(4, seed=0, epoch=0).as_numpy_iterator())
    >>> batch.shape, batch.dtype.name
    ((4, 4, 4, 1), 'uint8')
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            raise InputError(f"images are {images.dtype} {images.shape}, not uint8 [N, H, W, C], N > 0")
        labels = np.zeros(len(images), np.int32) if labels is None else np.asarray(labels)
        if labels.shape != images.shape[:1]:
            raise InputError(f"{len(images)} images, but labels of shape {labels.shape}")
        if labels.dtype.kind not in "iu" or (labels != labels.astype(np.int32)).any():
            raise InputError(f"labels are {labels.dtype}, not integers below 2**31")
        self.images, self.labels = images, labels.astype(np.int32, copy=False)
        self.num_images = len(images)

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Yields each image once, in fixed order: (uint8 [b, H, W, C], int32 [b]); the last batch may be smaller."""
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be 1 or more")

        def generate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for start in range(0, self.num_images, batch_size):
                rows = slice(start, start + batch_size)
                yield self.images[rows], self.labels[rows]

        return _from_generator(generate, None, self.images.shape[1:])

    def _epoch(
        self, batch_size: int, seeds: list[int], rows: slice, repeats: int, is_mirrored: np.ndarray, skip: int
    ) -> tf.data.Dataset:
        generator = np.random.default_rng(seeds)
        order = np.concatenate([generator.permutation(self.num_images) for _ in range(repeats)])

        def generate() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for step in range(skip, self.steps_per_epoch(batch_size)):
                positions = np.arange(step * batch_size, (step + 1) * batch_size)[rows]
                indices, is_flipped = order[positions], is_mirrored[positions]
                images = self.images[indices]
                images[is_flipped] = images[is_flipped, :, ::-1]
                yield images, self.labels[indices]

        return _from_generator(generate, rows.stop - rows.start, self.images.shape[1:])

    def random_subset(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (images, labels) of `count` different images chosen at random, or of all if there are fewer."""
        chosen = np.random.default_rng(seed).permutation(self.num_images)[:count]
        return self.images[chosen], self.labels[chosen]


@dataclasses.dataclass(frozen=True, eq=False)
class StreamingDataset(_Split):
    """Images of a TFDS split that is too large for memory, read from its files; has the methods of `ArrayDataset`.

    The training order comes from shuffled files and a buffer of 10,000 encoded images, both seeded by (seed, epoch):
    a pure function of the two, though less thoroughly mixed than a permutation. Skipped batches are read but not
    decoded.
    """

    source: "TfdsSource"
    split: str  # TFDS's name of the split, such as "train" or "train[:-10000]"
    num_images: int

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """As `ArrayDataset.batches`."""
        decoded = self.source.encoded(self.split).map(self.source.decode, tf.data.AUTOTUNE)
        return decoded.batch(batch_size).prefetch(2)

    def _epoch(
        self, batch_size: int, seeds: list[int], rows: slice, repeats: int, is_mirrored: np.ndarray, skip: int
    ) -> tf.data.Dataset:
        num_steps = max(0, self.steps_per_epoch(batch_size) - skip)
        shuffle_seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])

        def is_in_shard(position: tf.Tensor, _: Any) -> tf.Tensor:
            row = position % batch_size
            return (rows.start <= row) & (row < rows.stop)

        def decode(_: tf.Tensor, example_and_flip: tuple[Any, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            example, is_flipped = example_and_flip
            image, label = self.source.decode(example)
            return tf.cond(is_flipped, lambda: image[:, ::-1], lambda: image), label

        examples = self.source.encoded(self.split, shuffle_seed).repeat(repeats)
        examples = tf.data.Dataset.zip(examples, tf.data.Dataset.from_tensor_slices(is_mirrored))
        examples = examples.skip(skip * batch_size).take(num_steps * batch_size)
        images = examples.enumerate().filter(is_in_shard).map(decode, tf.data.AUTOTUNE)
        return images.batch(rows.stop - rows.start, drop_remainder=True).prefetch(2)

    def random_subset(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (images, labels) of the first `count` images in the training order of (seed, 0)."""
        shuffle_seed = int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])
        examples = self.source.encoded(self.split, shuffle_seed).take(count)
        decoded = examples.map(self.source.decode, tf.data.AUTOTUNE)
        return next(decoded.batch(min(count, self.num_images)).as_numpy_iterator())


def check_split(split: Any, function: str) -> None:
    """Raises InputError, which names the function that was called, unless `split` is one of the classes above."""
    if not isinstance(split, (ArrayDataset, StreamingDataset)):
        raise InputError(f"{function} takes splits, such as ArrayDataset(images), not {type(split).__name__}")


def _from_generator(
    generate: Callable[[], Iterator], batch_size: int | None, image_shape: tuple[int, ...]
) -> tf.data.Dataset:
    signature = (
        tf.TensorSpec([batch_size, *image_shape], tf.uint8),
        tf.TensorSpec([batch_size], tf.int32),
    )
    return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(2)
