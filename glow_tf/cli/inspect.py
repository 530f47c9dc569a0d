"""Says what a weights file holds, in ten lines and without TensorFlow.

    python3 -m glow_tf inspect weights.h5
    python3 -m glow_tf inspect                      the newest weights under runs/, else the bundled digits

The file's digest is checked and every number read, so a file that is shown can be loaded. Exit status: 0, or 2 and
one line if the file is missing, damaged, or something else.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from glow_tf import pretrained, weights
from glow_tf._files import printable
from glow_tf.cli import app, defaults
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError

# `steps.NON_TRAINABLE`, without importing TensorFlow: P, the signs of s and the channel orders.
_NON_TRAINABLE = ("conv1x1/permutation", "conv1x1/sign_s", "permutation/indices")

_UNKNOWN = "not said"


def describe(path: str | os.PathLike) -> dict[str, str]:
    """{title: text} of a weights file, in the order in which to read them.

    Raises:
        InputError: as `weights.open_weights` and `GlowConfig.from_dict`, or a value is not finite.

    >>> describe(pretrained.DIGITS)["model"]
    'images 8x8x1 of 4 bits; L=2, K=8, width 96'
    """
    with weights.open_weights(path) as file:
        arrays, config, metadata = file.read_all(), GlowConfig.from_dict(file.config), file.metadata
        digest = file.digest
    stored = sum(array.size for array in arrays.values())
    fixed = sum(array.size for name, array in arrays.items() if name.endswith(_NON_TRAINABLE))
    return {
        "file": f"{printable(path)}, {os.stat(path).st_size:,} bytes",
        "model": _model(config),
        "kind": _kind(config),
        "parameters": f"{stored - fixed:,} trained and {fixed:,} fixed, {config.dtype}, in {len(arrays)} arrays",
        "numbers": "all finite",
        "data set": _data_set(metadata),
        "trained": _progress(metadata),
        "bits/dim": _result(metadata),
        "command": _text(metadata.get("command")),
        "SHA-256": digest,
    }


def _model(config: GlowConfig) -> str:
    size = "x".join(map(str, config.image_shape))
    return f"images {size} of {config.num_bits} bits; L={config.num_levels}, K={config.num_steps}, width {config.width}"


def _kind(config: GlowConfig) -> str:
    parts = [f"{config.coupling} coupling", config.permutation, f"pixels {config.pixels}", config.architecture]
    if config.num_classes:
        parts.append(f"{config.num_classes} classes{' with classifier' if config.classifier else ''}")
    return ", ".join(parts)


def _data_set(metadata: Mapping[str, Any]) -> str:
    names = metadata.get("class_names")
    count = f", {len(names)} classes" if isinstance(names, list) and names else ""
    return _text(metadata.get("dataset")) + count


def _progress(metadata: Mapping[str, Any]) -> str:
    known = [f"{name} {_text(metadata[name])}" for name in ("step", "epoch", "seed") if name in metadata]
    return ", ".join(known) or _UNKNOWN


def _result(metadata: Mapping[str, Any]) -> str:
    bits, error, count = (metadata.get(f"test_{name}") for name in ("bits_per_dim", "standard_error", "images"))
    if not _is_number(bits):
        return _UNKNOWN
    error = f", standard error {error:.4f}" if _is_number(error) else ""
    return f"{bits:.4f}{error}, on {_text(count) if _is_number(count) else 'the'} test images"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: object) -> str:
    """A value from a file, on one line."""
    return _UNKNOWN if value is None else printable(value)


def main(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise InputError(f"{len(arguments)} files were named; name one")
    path, _ = pretrained.find(arguments[0] if arguments else None, defaults.RUNS)
    for title, text in describe(path).items():
        print(f"{title:<11} {text}")


def run() -> NoReturn:
    """The command, from the command line; does not return."""
    app.run(main, __doc__)
