"""What a user names: files, folders and data sets, looked for before TensorFlow's seconds of import.

A name that leads nowhere is answered with the nearest one that leads somewhere.
"""

import difflib
import os
import re

from glow_tf._files import nearest, suggestion
from glow_tf.errors import InputError


def is_path(name: str) -> bool:
    """Whether the name of a data set can only be a path.

    >>> is_path("./photographs"), is_path("cifar10")
    (True, False)
    """
    return name.startswith((".", "~", os.sep))


def check_folder(folder: str | os.PathLike) -> str:
    """The path of a folder that is there, `~` expanded; InputError otherwise.

    >>> check_folder("missing")
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: the folder 'missing' does not exist
    """
    path = os.path.expanduser(os.fspath(folder))
    if not os.path.lexists(path):
        raise InputError(f"the folder {path!r} does not exist{suggestion(path)}")
    if not os.path.isdir(path):
        raise InputError(f"{path!r} is not a folder; give the folder that holds the images")
    return path


def check_data_set(name: str, data_dir: str | os.PathLike | None = None) -> None:
    """InputError for what is neither a folder nor a data set by its name; `data.load` knows the rest.

    Args:
        data_dir: where TFDS keeps its prepared sets; None: TFDS's own places.

    >>> check_data_set("cifar01")
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: 'cifar01' is neither a data set nor a folder; did you mean cifar10, ...
    """
    if name == "digits" or os.path.isdir(name):
        return
    if is_path(name):
        check_folder(name)
        return
    if _is_of_tfds(name):
        return
    import tensorflow_datasets as tfds

    family = _family(name)
    places = [data_dir] if data_dir else tfds.core.utils.file_utils.list_data_dirs()
    may_be_prepared = any(
        "://" in os.fspath(place) or os.path.isdir(os.path.join(os.path.expanduser(place), family)) for place in places
    )
    if not may_be_prepared:
        raise unknown_data_set(name)


def is_folder(name: str) -> bool:
    """Whether the name of a data set leads to a folder of images: those of data sets go first.

    >>> is_folder("."), is_folder("digits"), is_folder("missing")
    (True, False, False)
    """
    is_there = name != "digits" and os.path.isdir(os.path.expanduser(name))
    return is_there and (is_path(name) or not _is_of_tfds(name))


def is_same_folder(dataset: object, folder: str) -> bool:
    """Whether the data set that weights name, if they do, is that folder, which is there."""
    if not isinstance(dataset, str) or not is_folder(dataset):
        return False
    return os.path.samefile(*map(os.path.expanduser, (dataset, folder)))


def _is_of_tfds(name: str) -> bool:
    # TFDS takes a second, and imports TensorFlow only where one of its sets is used.
    import tensorflow_datasets as tfds

    return _family(name) in tfds.list_builders(with_community_datasets=False)


def _family(name: str) -> str:
    """cifar10 of cifar10:3.0.2, imagenet_resized of imagenet_resized/32x32."""
    return re.split("[/:]", name)[0]


def unknown_data_set(name: str) -> InputError:
    """What to raise for a name that is no data set and no folder: it names those that are spelt alike."""
    import tensorflow_datasets as tfds

    known = ["digits", *tfds.list_builders(with_community_datasets=False)]
    close = difflib.get_close_matches(name.lower(), known, n=4)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    folder = nearest(name)
    if folder is not None and os.path.isdir(folder):
        hint += f"there is a folder {folder}; "
    return InputError(
        f"{name!r} is neither a data set nor a folder; {hint}known are digits, the image data sets of"
        " tensorflow_datasets (mnist, cifar10, celeb_a, ...) and the path of a folder of images"
    )
