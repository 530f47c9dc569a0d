"""Weights that come with the package: `DIGITS`, the path of a model of 8x8 digits."""

import os
import pathlib

from glow_tf.run_directory import newest_weights

DIGITS = pathlib.Path(__file__).parent / "digits.h5"


def find(given: str | os.PathLike | None, runs: str | os.PathLike) -> tuple[str | os.PathLike, str]:
    """The weights file to use, and in a few words which one that is.

    Args:
        given: a path, or None.
        runs: the folder of runs whose newest weights are taken where none is given.

    >>> path, which = find(None, runs="no-such-folder")
    >>> os.path.basename(path), which
    ('digits.h5', 'the bundled digits')
    """
    if given is not None:
        return given, "as given"
    newest = newest_weights(runs)
    return (DIGITS, "the bundled digits") if newest is None else (newest, "the newest run")
