"""Lists the image files under a folder, and finds its training and test folders and its classes."""

import contextlib
import os
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from glow_tf._files import format_names
from glow_tf.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

# Files that usually accompany images and are ignored.
_COMPANIONS = frozenset(
    {"", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".md", ".rst"}
    | {".html", ".htm", ".pdf", ".log", ".db", ".py", ".sh", ".mat"}
)

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "eval", "evaluation")


def find_images(root: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the sorted relative paths of image files, and (path, reason) of the files refused by their names."""
    found = list(_walk(root))
    return sorted(path for path, reason in found if not reason), [(path, reason) for path, reason in found if reason]


def check_not_empty(root: str) -> None:
    """Raises InputError for a folder without images; the search ends at the first image."""
    if next(_walk(root), None) is None:
        raise InputError(f"found 0 images in {root!r}; formats: {', '.join(FORMATS)}")


def find_splits(root: str) -> tuple[str, str | None]:
    """Returns the folder of the training images and that of the test images, None if there is none.

    - A folder with a sub-folder called train or training and one called test, testing, val, valid, validation, eval
      or evaluation (the first of these; case does not matter) has both.
    - A folder whose images all lie in a sub-folder called train or training has only that one.
    - A folder that holds nothing but one sub-folder stands for the latter, if that has such sub-folders.
    - Every other folder is itself the training folder.

    A reading that leaves images out, or in which a training or test folder is not taken for one, is reported by a
    warning. Folders without images do not count.
    """
    folder, (folders, files) = root, _with_images(root)
    while len(folders) == 1 and not files and not _first(folders, TRAIN_NAMES + TEST_NAMES):
        folder = os.path.join(folder, folders[0])
        folders, files = _with_images(folder)
    train, test = _first(folders, TRAIN_NAMES), _first(folders, TEST_NAMES)
    if train is None and test is None:
        return root, None
    others = [name for name in folders if name not in (train, test)] + files
    if train is not None and test is not None:
        if others or folder != root:
            rest = f"; not used: {format_names(others)}" if others else ""
            logging.warning("%r: training images are read from %r, test images from %r%s", folder, train, test, rest)
        return os.path.join(folder, train), os.path.join(folder, test)
    if train is not None and not others:
        if any(name.lower() in TEST_NAMES and os.path.isdir(os.path.join(folder, name)) for name in os.listdir(folder)):
            logging.warning("%r: the test folder holds no images; some of %r are held out instead", folder, train)
        return os.path.join(folder, train), None
    if others:
        logging.warning(
            "%r: %r is read together with what is beside it (%s), because there is no folder of %s images",
            folder, train or test, format_names(others), "test" if train else "training",
        )  # fmt: skip
    return folder, None


def _with_images(root: str) -> tuple[list[str], list[str]]:
    """The sorted names of the folders in `root` that hold images, at any depth, and of the image files beside them."""
    try:
        with os.scandir(root) as iterator:
            entries = sorted(iterator, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot list the folder {root!r}: {error.strerror}") from error
    folders = [entry.name for entry in entries if _is_folder(entry) and _holds_images(entry.path)]
    files = [entry.name for entry in entries if not (_is_folder(entry) or _is_ignored(entry) or _refusal(entry))]
    return folders, files


def _holds_images(folder: str) -> bool:
    """Whether there are images at any depth; the search ends at the first one."""
    with contextlib.suppress(InputError):  # a folder that cannot be listed is reported with the files
        return next(_walk(folder), None) is not None
    return False


def _first(folders: Sequence[str], names: Sequence[str]) -> str | None:
    """The folder that is called by the first possible one of these names; case does not matter."""
    return next((folder for name in names for folder in folders if folder.lower() == name), None)


def classes(paths: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns labels int32 [N] and the class names of images by their first folders; no names without classes.

    There are classes if every image lies in one of at least two folders.
    """
    tops = [path.split(os.sep, 1)[0] if os.sep in path else "" for path in paths]
    names = sorted(set(tops))
    if "" in names or len(names) < 2:
        return np.zeros(len(paths), np.int32), ()
    index = {name: number for number, name in enumerate(names)}
    printable = tuple(os.fsencode(name).decode(errors="backslashreplace") for name in names)  # they may not be UTF-8
    if len(set(printable)) < len(names):
        raise InputError(f"two class folders are both called {format_names(sorted(printable))} in UTF-8; rename one")
    return np.array([index[top] for top in tops], np.int32), printable


def warn_of_mixed_splits(root: str, paths: Sequence[str]) -> None:
    """Warns if training and test folders somewhere inside a folder are read as one set of images."""
    folders = {name for path in paths for name in os.path.dirname(path).split(os.sep)}
    train, test = (sorted(name for name in folders if name.lower() in names) for names in (TRAIN_NAMES, TEST_NAMES))
    if train and test:
        logging.warning(
            "%r: the images in folders %r and %r are read as one set; to keep them apart, name the folder that"
            " holds these two and no other images", root, train[0], test[0],
        )  # fmt: skip


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """Yields (relative path, why it is refused or "") of everything under root that is not ignored."""
    pending = [""]
    while pending:
        parent = pending.pop()
        try:
            with os.scandir(os.path.join(root, parent)) as entries:
                for entry in entries:
                    path = os.path.join(parent, entry.name)
                    if _is_folder(entry):
                        pending.append(path)
                    elif not _is_ignored(entry):
                        yield path, _refusal(entry)
        except OSError as error:
            if not parent:
                raise InputError(f"cannot list the folder {root!r}: {error.strerror}") from error
            yield parent, f"cannot be listed: {error.strerror}"


def _is_folder(entry: os.DirEntry) -> bool:
    return entry.is_dir(follow_symlinks=False) and not entry.name.startswith((".", "__MACOSX"))


def _is_ignored(entry: os.DirEntry) -> bool:
    """Whether an entry is hidden or a companion of images; a link to a folder is neither, so it is reported."""
    if entry.name.startswith((".", "__MACOSX")):
        return True
    is_linked_folder = entry.is_symlink() and entry.is_dir()
    return not is_linked_folder and os.path.splitext(entry.name)[1].lower() in _COMPANIONS


def _refusal(entry: os.DirEntry) -> str:
    extension = os.path.splitext(entry.name)[1].lower()
    if entry.is_symlink():
        return "symbolic links are not followed"
    if not entry.is_file(follow_symlinks=False):
        return "not a regular file"
    if extension not in EXTENSIONS:
        return f"{extension!r} is not read; formats: {', '.join(FORMATS)}"
    return ""
