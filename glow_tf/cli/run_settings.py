"""The settings of main.py, their defaults for each data set and preset, and the table that `--help` shows."""

import copy
import dataclasses
import textwrap
import types
from collections.abc import Mapping
from typing import Any

from glow_tf._option import by_flag
from glow_tf.cli import defaults
from glow_tf.config import GlowConfig, TrainConfig

# {flag: field} of a model and of its training.
MODEL = by_flag(GlowConfig)
TRAINING = by_flag(TrainConfig)

# {flag: default}. A class-conditional model has as many classes as its data set.
STANDARD: dict[str, Any] = {name: field.default for name, field in MODEL.items()} | {"conditional": False}
STANDARD |= {name: field.default for name, field in TRAINING.items()}

# Settings whose defaults a data set or preset overrides.
OVERRIDDEN = {name for row in (*defaults.DATASETS.values(), defaults.OTHER, *defaults.PRESETS.values()) for name in row}


def flags() -> dict[str, dataclasses.Field]:
    """{flag: field} of a model and of its training; defaults that a data set or preset overrides are in the table."""
    fields = MODEL | TRAINING
    for name in OVERRIDDEN & set(fields):
        field = fields[name] = copy.copy(fields[name])
        field.default = None
        doc = f"{field.metadata['doc']} Default: see the table."
        field.metadata = types.MappingProxyType({**field.metadata, "doc": doc})
    return fields


def for_run(preset: str | None, dataset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a run: those given (not None), and for the others the defaults of its preset or data set.

    The image's side, `img_size`, is among them where it has a default.
    """
    name = dataset.partition(":")[0]  # without a version, as in cifar10:3.0.2
    row = defaults.PRESETS[preset] if preset else defaults.DATASETS.get(name, defaults.OTHER)
    return STANDARD | row | {name: value for name, value in given.items() if value is not None}


def table(width: int) -> str:
    """The defaults of every data set and preset, for --help."""
    data_sets = {"every data set": STANDARD, **defaults.DATASETS, "others, folders": defaults.OTHER}
    lines = ["Defaults, some of which a data set overrides:", *_rows(data_sets, width), ""]
    return "\n".join([*lines, "Presets:", *_rows(defaults.PRESETS, width)])


def _rows(rows: Mapping[str, Mapping[str, Any]], width: int) -> list[str]:
    names = [name for name in STANDARD if name in OVERRIDDEN]
    lines = []
    for title, settings in rows.items():
        text = " ".join(f"{name}={_shown(settings[name])}" for name in names if name in settings)
        lines += textwrap.wrap(
            text, width, initial_indent=f"  {title:24}", subsequent_indent=" " * 26, break_on_hyphens=False
        )
    return lines


def _shown(value: Any) -> str:
    if value == defaults.HALF_OF_THE_RUN:
        return "half"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
