"""Weights that come with the package, and the location of a run's weights.

Every `<name>.h5` in this folder is bundled under its name: `Glow.load("digits")`, `--weights digits`.
"""

import contextlib
import os
import pathlib

from glow_tf._files import printable, suggestion
from glow_tf.errors import InputError

# The path of a run's newest weights, below its folder.
RUN_WEIGHTS = pathlib.Path("checkpoints", "weights.h5")

BUNDLED = {path.stem: path for path in sorted(pathlib.Path(__file__).parent.glob("*.h5"))}

DIGITS = BUNDLED["digits"]

# The default if there is no run: the bundled weights with the most interesting samples.
DEFAULT = next(name for name in ("fashion_mnist", "cifar10", "digits") if name in BUNDLED)


def locate(name_or_path: str | os.PathLike) -> str | os.PathLike:
    """Returns the weights file for a path, a run's folder, or the name of bundled weights.

    A bundled name takes precedence over a file or folder of the same name; ./digits is the folder.

    Raises:
        InputError: there is no such file, or the folder is not a run's.

    >>> locate("digits") == DIGITS
    True
    >>> locate("digit")
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: digit does not exist; bundled weights: cifar10, digits, fashion_mnist
    """
    path = os.fspath(name_or_path)
    if path in BUNDLED:
        return BUNDLED[path]
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, RUN_WEIGHTS)):
            raise InputError(f"{printable(path)} is a folder without {RUN_WEIGHTS}; name a file or a run's folder")
        return os.path.join(path, RUN_WEIGHTS)
    if not os.path.lexists(path):
        names = f"; bundled weights: {', '.join(BUNDLED)}" if os.path.basename(path) == path else ""
        raise InputError(f"{printable(path)} does not exist{suggestion(path)}{names}")
    return path


def find(
    name_or_path: str | os.PathLike | None, runs: str | os.PathLike, needs_data: bool = False
) -> str | os.PathLike:
    """Returns the weights file to use.

    Args:
        name_or_path: see `locate`. Default: the newest weights in `runs`, or else bundled ones.
        runs: the folder of runs.
        needs_data: whether bundled weights are to be those whose data set needs no download, the digits.

    Raises:
        InputError: see `locate`.

    >>> os.path.basename(find(None, runs="no-such-folder")) == f"{DEFAULT}.h5"
    True
    """
    if name_or_path is not None:
        return locate(name_or_path)
    return newest_weights(runs) or BUNDLED["digits" if needs_data else DEFAULT]


def newest_weights(root: str | os.PathLike = "runs") -> pathlib.Path | None:
    """The most recently written weights.h5 of all runs in a folder; None if there is none."""
    times: dict[pathlib.Path, int] = {}
    for weights in sorted(pathlib.Path(root).glob(f"*/{RUN_WEIGHTS}")):
        with contextlib.suppress(OSError):  # just removed
            times[weights] = weights.stat().st_mtime_ns
    return max(times, key=times.__getitem__, default=None)
