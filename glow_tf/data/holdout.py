"""Which images of a folder are held out for testing, and how a folder changed since a run began."""

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

HELD_OUT_FRACTION = 0.05
MAX_HELD_OUT = 10_000

# Bytes of a digest in a fingerprint; among a million images two share a code with probability 0.002.
_CODE_BYTES = 6
_CODE_LENGTH = 8  # the same in base64


def num_validation_images(num_images: int) -> int:
    """Number of images to hold out of a TFDS split, which never changes: 5%, at least 1, at most 10,000."""
    return max(1, min(MAX_HELD_OUT, int(HELD_OUT_FRACTION * num_images)))


def validation_mask(names: Sequence[str]) -> np.ndarray:
    """Returns bool [N]: whether each image is held out for testing, decided by the hash of its name.

    An image is held out when the SHA-256 of its path relative to the folder, read as a fraction in [0, 1), is below
    0.05. So adding or removing other images moves no image between training and testing. There are three exceptions:
    if no hash is below 0.05, the smallest one is held out; of more than 10,000, the smallest 10,000; and of a few
    images that would all be held out, all but the largest hash. In the first two cases an added image can return a test
    image to training. In the last it can make a test image of a training image, and then a run is not resumed.
    """
    hashes = np.array([int.from_bytes(hashlib.sha256(_bytes(name)).digest()[:8], "big") / 2**64 for name in names])
    count = max(1, min(MAX_HELD_OUT, len(names) - 1, int((hashes < HELD_OUT_FRACTION).sum())))
    mask = np.zeros(len(names), bool)
    mask[np.argsort(hashes, kind="stable")[:count]] = True
    return mask


def fingerprint(
    num_train: int,
    num_test: int,
    train_names: Sequence[str] = (),
    test_names: Sequence[str] = (),
    train_images: Iterable[np.ndarray] = (),
    test_images: Iterable[np.ndarray] = (),
) -> dict[str, Any]:
    """JSON values that tell later whether a data set has changed; 16 bytes per image.

    >>> fingerprint(1, 1, ["a.png"], ["b.png"])
    {'num_images': 2, 'num_test_images': 1, 'names_sha256': '...', 'train_codes': 'VEleBbRg', 'test_codes': ...}
    """
    names = sorted([f"train/{name}" for name in train_names] + [f"test/{name}" for name in test_names])
    splits = {"train": train_images, "test": test_images}
    pixels = {f"{split}_pixels": _codes(image.tobytes() for image in images) for split, images in splits.items()}
    return {
        "num_images": num_train + num_test,
        "num_test_images": num_test,
        "names_sha256": hashlib.sha256(b"\0".join(map(_bytes, names))).hexdigest(),
        "train_codes": _codes(map(_bytes, train_names)),
        "test_codes": _codes(map(_bytes, test_names)),
        "pixels_sha256": hashlib.sha256(repr(pixels).encode()).hexdigest(),
        **pixels,
    }


def num_copies(images: Mapping[str, Any]) -> int:
    """Number of different test images with the pixels of a training image, by a fingerprint; 0 if it has no pixels."""
    return len(codes_in(images.get("train_pixels", "")) & codes_in(images.get("test_pixels", "")))


def describe_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, bool]:
    """(how the data set of one fingerprint became that of another, whether training must not resume).

    Resuming is wrong if training images have become test images, under any name. A test image that merely equals one
    that is still trained on is accepted, since data sets contain duplicates. Without a change the message is empty.

    >>> describe_change(fingerprint(1, 1, ["a"], ["b"]), fingerprint(2, 1, ["a", "c"], ["b"]))
    ('since the run began, 1 image was added and 0 images were removed; there are now 3', False)
    >>> describe_change(fingerprint(1, 1, ["a"], ["b"]), fingerprint(1, 1, ["b"], ["a"]))
    ('1 image was trained on and would now be used for testing: since the run began, ...', True)
    """
    has_pixels = bool(old.get("train_pixels") and new.get("train_pixels"))
    keys = ("names_sha256", "num_images", *(["pixels_sha256"] if has_pixels else []))
    if all(old[key] == new[key] for key in keys):
        return "", False
    if not (new["train_codes"] and old["train_codes"]):
        if old["num_images"] == new["num_images"]:
            return "the images are not those with which the run began", True
        return f"the data set had {old['num_images']} images when the run began and now has {new['num_images']}", True
    added, removed, leaked = _moves(old, new, "codes")
    what = f"{_count(added)} added and {_count(removed)} removed"
    if has_pixels:
        _, vanished, leaked_pixels = _moves(old, new, "pixels")
        leaked = max(leaked, leaked_pixels)
        if vanished > removed:
            what += f", and {_count(vanished - removed)} replaced under the same name"
    message = f"since the run began, {what}; there are now {new['num_images']}"
    if leaked:
        message = f"{_count(leaked)} trained on and would now be used for testing: {message}"
    return message, bool(leaked)


def _moves(old: Mapping[str, Any], new: Mapping[str, Any], kind: str) -> tuple[int, int, int]:
    """How many images were added, were removed, and left the training images for the test images."""
    old_train, old_test, new_train, new_test = (
        codes_in(of[f"{split}_{kind}"]) for of in (old, new) for split in ("train", "test")
    )
    # A training and a test folder may hold files of the same name, so each split is compared with itself.
    came = {"train": new_train - old_train, "test": new_test - old_test}
    left = {"train": old_train - new_train, "test": old_test - new_test}
    leaked = len(came["test"] & left["train"])
    moved = leaked + len(came["train"] & left["test"])
    added, removed = (len(sets["train"]) + len(sets["test"]) - moved for sets in (came, left))
    return added, removed, leaked


def _count(number: int) -> str:
    return "1 image was" if number == 1 else f"{number} images were"


def _bytes(name: str) -> bytes:
    return os.fsencode(name.replace(os.sep, "/"))


def _codes(values: Iterable[bytes]) -> str:
    digests = (hashlib.sha256(value).digest() for value in values)
    return "".join(sorted(base64.urlsafe_b64encode(digest[-_CODE_BYTES:]).decode() for digest in digests))


def codes_in(text: str) -> set[str]:
    """The codes of single images in a fingerprint's text."""
    return {text[at : at + _CODE_LENGTH] for at in range(0, len(text), _CODE_LENGTH)}
