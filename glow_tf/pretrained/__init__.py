"""Weights that come with the package: `DIGITS`, the path of a model of 8x8 digits."""

import contextlib
import os
import pathlib

from glow_tf.errors import InputError
from glow_tf.weights import open_weights

# Where a run keeps its newest weights, below its folder.
RUN_WEIGHTS = pathlib.Path("checkpoints", "weights.h5")

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
        path, which = os.path.join(given, RUN_WEIGHTS) if os.path.isdir(given) else given, "as given"
        if os.path.isdir(given) and not os.path.isfile(path):
            raise InputError(f"{given} is a folder without checkpoints/weights.h5; name a file or a run's folder")
    with open_weights(path):
        pass
    return path, which


def newest_weights(root: str | os.PathLike = "runs") -> pathlib.Path | None:
    """The run's weights.h5 that was written last, of all runs in a folder; None if there are none."""
    times: dict[pathlib.Path, int] = {}
    for run in _runs(root):
        weights = run / RUN_WEIGHTS
        with contextlib.suppress(OSError):  # no weights yet, not a folder, or removed in this moment
            times[weights] = weights.stat().st_mtime_ns
    return max(times, key=times.__getitem__, default=None)


def _runs(root: str | os.PathLike) -> list[pathlib.Path]:
    try:
        return sorted(pathlib.Path(root).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
