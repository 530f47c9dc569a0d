"""Names of data sets and of folders, checked before TensorFlow's seconds of import."""

import difflib
import glob
import os
import pathlib
import re
from typing import Literal

from glow_tf._files import nearest, printable, suggestion
from glow_tf.data import listing
from glow_tf.errors import InputError

_TFDS_NAME = re.compile(r"[a-z]\w*(/[\w.+-]+)?(:\d+\.\d+\.\d+)?", re.ASCII)
_NEAR = 0.75  # difflib's ratio of similar names: cifar01 is near cifar10, photos is not near toto


def check_folder(folder: str | os.PathLike) -> str:
    """Returns the path of an existing folder, `~` expanded; InputError otherwise.

    >>> check_folder("missing")
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: the folder 'missing' does not exist
    """
    _check_text(os.fspath(folder))
    path = os.path.expanduser(os.fspath(folder))
    if not os.path.lexists(path):
        raise InputError(f"the folder {path!r} does not exist{suggestion(path)}")
    if not os.path.isdir(path):
        raise InputError(f"{path!r} is not a folder; name the folder that holds the images")
    return path


def check_data_set(
    name: str, data_dir: str | os.PathLike | None = None, download: bool = False
) -> Literal["digits", "tfds", "folder"]:
    """Returns what the name of a data set stands for; InputError if there is no such data.

    Args:
        name: "digits", a name of TFDS, or the path of a folder of images. Names take precedence over folders; a path
            that begins with `.`, `/` or `~` is always a folder.
        data_dir: where TFDS keeps its prepared sets. Default: TFDS's own places.
        download: whether a TFDS set may be missing.

    >>> check_data_set("digits")
    'digits'
    >>> check_data_set("cifar01")
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: 'cifar01' is neither a data set nor a folder; did you mean cifar10, ...
    """
    _check_text(name)
    if name == "digits":
        return "digits"
    if not is_path(name):
        if _is_prepared(name, data_dir):
            return "tfds"
        if _is_of_tfds(name):
            # From archives in this folder TFDS prepares a data set without a network.
            archives = [os.path.join(glob.escape(place), "downloads", "manual", "*") for place in _data_dirs(data_dir)]
            if not download and not any(map(glob.glob, archives)):
                raise missing_data_set(
                    name, _data_dirs(data_dir)[0], f"downloading it needs --dataset {name} --download"
                )
            return "tfds"
        if not os.path.lexists(name):
            raise _unknown_data_set(name)
    listing.check_not_empty(check_folder(name))
    return "folder"


def check_recorded(name: object, data_dir: str | os.PathLike | None = None) -> str:
    """Returns the name of a data set that a weights file records; InputError unless it is digits or one of TFDS.

    A folder that only a file names is neither read nor looked for.
    """
    if not isinstance(name, str) or not name:
        raise InputError("the weights do not say what they were trained on; name the data with --dataset")
    if name == "digits" or (not is_path(name) and (_is_prepared(name, data_dir) or _is_of_tfds(name))):
        return name
    name = printable(name)
    raise InputError(f"the weights were trained on {name!r}; if that is a folder, add --dataset {name}")


def is_folder(name: str) -> bool:
    """Whether the name of a data set is that of an existing folder; names of data sets take precedence.

    >>> is_folder("."), is_folder("digits"), is_folder("missing")
    (True, False, False)
    """
    exists = name != "digits" and os.path.isdir(os.path.expanduser(name))
    return exists and (is_path(name) or not _is_of_tfds(name))


def is_in_folder(dataset: object, path: str) -> bool:
    """Whether the data set that weights record, if any, is a folder with that path inside, or is that folder itself.

    Test folders inside of it do not count.
    """
    if not isinstance(dataset, str) or "\0" in dataset or not is_folder(dataset):
        return False
    inner, outer = (pathlib.Path(os.path.realpath(os.path.expanduser(each))) for each in (path, dataset))
    if not inner.is_relative_to(outer):
        return False
    return not any(part.lower() in listing.TEST_NAMES for part in inner.relative_to(outer).parts)


def overlaps(dataset: object, folder: str) -> bool:
    """Whether one of two folders is inside the other: the data set that weights record, if any, and an existing one."""
    if not (isinstance(dataset, str) and is_in_folder(dataset, dataset)):
        return False
    return is_in_folder(dataset, folder) != is_in_folder(folder, dataset)


def is_tfds_name(name: str) -> bool:
    """Whether a name has the form of those of TFDS, such as imagenet_resized/32x32:0.1.0."""
    return _TFDS_NAME.fullmatch(name) is not None


def missing_data_set(name: str, data_dir: str | os.PathLike, why: str) -> InputError:
    """The error for a TFDS data set that is not prepared."""
    folder = f"; the folder of that name is ./{name}" if os.path.isdir(name) else ""
    return InputError(
        f"the data set {name!r} is not in {os.fspath(data_dir)!r} and {why}; copy the prepared folder there, or prepare"
        f" it where there is a network with: tfds build {name} --data_dir={os.fspath(data_dir)}{folder}"
    )


def _check_text(name: str) -> None:
    """InputError for a name that cannot be recorded in files: not UTF-8, or with a null character."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name {printable(name)} is not valid UTF-8; rename the folder") from None
    if "\0" in name:
        raise InputError(f"the name {printable(name)} holds a null character")


def is_path(name: str) -> bool:
    """Whether the name of a data set can only be a path."""
    return name.startswith((".", "~", os.sep))


def family(name: str) -> str:
    """Returns cifar10 for cifar10:3.0.2, imagenet_resized for imagenet_resized/32x32."""
    return re.split("[/:]", name)[0]


def _is_of_tfds(name: str) -> bool:
    # Takes a second, and imports TensorFlow only where one of its sets is used.
    import tensorflow_datasets as tfds

    return is_tfds_name(name) and family(name) in tfds.list_builders(with_community_datasets=False)


def _data_dirs(data_dir: str | os.PathLike | None) -> list[str]:
    import tensorflow_datasets as tfds

    places = [data_dir] if data_dir else tfds.core.utils.file_utils.list_data_dirs()
    return [os.path.expanduser(os.fspath(place)) for place in places]


def _is_prepared(name: str, data_dir: str | os.PathLike | None) -> bool:
    """Whether a version of a data set is prepared, with or without a configuration; remote places may have it."""
    if not is_tfds_name(name):
        return False
    folders = [os.path.join(glob.escape(place), family(name)) for place in _data_dirs(data_dir)]
    patterns = (
        os.path.join(folder, *stars, "dataset_info.json") for folder in folders for stars in (["*"], ["*", "*"])
    )
    return any("://" in pattern or next(glob.iglob(pattern), None) is not None for pattern in patterns)


def _unknown_data_set(name: str) -> InputError:
    import tensorflow_datasets as tfds

    known = ["digits", *tfds.list_builders(with_community_datasets=False)]
    near = difflib.get_close_matches(name.lower(), known, n=4, cutoff=_NEAR)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    folder = nearest(name)
    if folder is not None and os.path.isdir(folder):
        hint += f"there is a folder {folder}; "
    return InputError(
        f"{name!r} is neither a data set nor a folder; {hint}known are digits, the image data sets of"
        " tensorflow_datasets (mnist, cifar10, celeb_a, ...) and the path of a folder of images"
    )
