"""Weights that come with the package: `DIGITS`, the path of a model of 8x8 digits."""

import os
import pathlib

from glow_tf.errors import InputError
from glow_tf.training.run_directory import RunDirectory, newest_weights
from glow_tf.weights import open_weights

DIGITS = pathlib.Path(__file__).parent / "digits.h5"


def find(given: str | os.PathLike | None, runs: str | os.PathLike) -> tuple[str | os.PathLike, str]:
    """The weights file to use, and in a few words which one that is.

    Args:
        given: the path of a file or of a run directory, or None.
        runs: the folder of runs whose newest weights are taken where none is given.
    Raises:
        InputError: there is none, or what is there can be seen at once to be no weights file of this package.

    >>> path, which = find(None, runs="no-such-folder")
    >>> os.path.basename(path), which
    ('digits.h5', 'the bundled digits')
    """
    path: str | os.PathLike
    if given is None:
        newest = newest_weights(runs)
        path, which = (DIGITS, "the bundled digits") if newest is None else (newest, "the newest run")
    else:
        path, which = RunDirectory(given).weights if os.path.isdir(given) else given, "as given"
        if os.path.isdir(given) and not os.path.isfile(path):
            raise InputError(f"{given} is a folder without checkpoints/weights.h5; name a file or a run's folder")
    with open_weights(path):
        pass
    return path, which
