"""Describes a weights file in ten lines, without importing TensorFlow.

    python3 -m glow_tf inspect weights.h5           the same as inspect --weights weights.h5
    python3 -m glow_tf inspect                      the newest weights under runs/, or else bundled ones

The checksum is verified and every number is read, so a file that passes can be loaded. Exit status: 0, or 2 with one
line if the file is missing, damaged, or not a weights file.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

from glow_tf import pretrained, weights
from glow_tf._files import printable
from glow_tf._option import option
from glow_tf.cli import app, command_line, defaults
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.metadata import caveat
from glow_tf.training import curves

# `nn.base.NON_TRAINABLE`, without importing TensorFlow: P, the signs of s and the channel orders.
_NON_TRAINABLE = ("conv1x1/permutation", "conv1x1/sign_s", "permutation/indices")

_UNKNOWN = "unknown"


def describe(path: str | os.PathLike) -> dict[str, str]:
    """{title: text} of a weights file, in the order of the printed lines.

    Raises:
        InputError: as `weights.open_weights` and `GlowConfig.from_dict`, or a value is not finite.

    >>> describe(pretrained.DIGITS)["model"]
    'images 8x8x1 of 4 bits; L=2, K=8, width 96'
    """
    with weights.open_weights(path) as file:
        config, metadata, digest = GlowConfig.from_dict(file.config), file.metadata, file.digest
        file.check_size(config.min_num_weights)
        arrays = file.read_all()
    stored = sum(array.size for array in arrays.values())
    fixed = sum(array.size for name, array in arrays.items() if name.endswith(_NON_TRAINABLE))
    names = metadata.get("class_names")
    is_half = any(array.dtype == "float16" for array in arrays.values())
    dtype = f"{config.dtype}{' stored as float16' if is_half else ''}"
    return {
        "file": f"{printable(path)}, {os.stat(path).st_size:,} bytes",
        "model": model_of(config),
        "kind": kind_of(config),
        "parameters": f"{stored - fixed:,} trained and {fixed:,} fixed, {dtype}, in {len(arrays)} arrays",
        "numbers": "all finite",
        "data set": _text(metadata.get("dataset")) + (f", {len(names):,} classes" if names else ""),
        "trained": _progress(metadata, path),
        "bits/dim": _result(metadata) + ", given the class" * bool(config.num_classes),
        "command": _text(metadata.get("command")),
        "SHA-256": digest,
    }


def model_of(config: GlowConfig) -> str:
    """The size of a model, in words."""
    size = "x".join(map(str, config.image_shape))
    return f"images {size} of {config.num_bits} bits; L={config.num_levels}, K={config.num_steps}, width {config.width}"


def kind_of(config: GlowConfig) -> str:
    """The layers of a model, in words."""
    parts = [f"{config.coupling} coupling", config.permutation, f"pixels {config.pixels}", config.architecture]
    if config.dequantization != "uniform":
        parts.append(f"{config.dequantization} dequantisation")
    if config.num_classes:
        parts.append(f"{config.num_classes} classes{' with classifier' if config.classifier else ''}")
    return ", ".join(parts)


def _progress(metadata: Mapping[str, Any], path: str | os.PathLike) -> str:
    names = {"step": "step", "previous_steps": "steps before", "epoch": "epoch", "seed": "seed"}
    known = [f"{text} {_text(metadata[name])}" for name, text in names.items() if name in metadata]
    time = curves.training_time_of(path, metadata.get("step"))
    return ", ".join([*known, time] if time else known) or _UNKNOWN


def _result(metadata: Mapping[str, Any]) -> str:
    bits, error, count = (metadata.get(f"test_{name}") for name in ("bits_per_dim", "standard_error", "images"))
    if bits is None:
        return _UNKNOWN
    spread = "" if error is None else f", standard error {error:.4f}"
    return f"{bits:.4f}{spread}{caveat(bits, error)}, on {'the' if count is None else count} test images"


def _text(value: object) -> str:
    """A value from a file, on one line."""
    return _UNKNOWN if value is None else printable(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(command_line.Options):
    """The flags of inspect."""

    weights: str | None = option(None, app.NEWEST_WEIGHTS_HELP)


def main(options: Options) -> None:
    """Prints what a weights file or a run contains."""
    names = [*options.arguments, *([options.weights] if options.weights else [])]
    if len(names) > 1:
        raise InputError(f"expected one weights file, not {len(names)}")
    path = pretrained.find(names[0] if names else None, defaults.RUNS)
    for title, text in describe(path).items():
        print(f"{title:<11} {text}")


run = functools.partial(app.run, main, Options, __doc__ or "")
