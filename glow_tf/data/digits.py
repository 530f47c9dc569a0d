"""Scikit-learn's digits: the data set that needs no download."""

import numpy as np

from glow_tf.data.dataset import ArrayDataset
from glow_tf.data.resize import resize_image
from glow_tf.errors import InputError

CLASS_NAMES = tuple("0123456789")

_NUM_TRAIN = 1541
_SPLIT_SEED = 20180709  # the permutation that separates test from training images never changes


def load_digits(image_size: tuple[int, int] | None, channels: int | None) -> tuple[ArrayDataset, ArrayDataset]:
    """Returns 1,541 training and 256 test images, grey 8x8 or padded to `image_size`; see `image_data.load`."""
    from sklearn import datasets  # takes a second to import

    size, channels = image_size or (8, 8), channels or 1
    if min(size) < 8 or channels not in (1, 3):
        raise InputError(
            f"digits are 8x8 and grey; {size[0]}x{size[1]} with {channels} channels cannot be made of them"
            " (possible: 8x8 or larger, 1 or 3 channels)"
        )
    digits = datasets.load_digits()
    raw = (16 * np.minimum(digits.images, 15)).astype(np.uint8)[..., np.newaxis]
    images = resize_image(raw, size, channels)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
    train, test = (ArrayDataset(images[rows], digits.target[rows]) for rows in np.split(order, [_NUM_TRAIN]))
    return train, test
