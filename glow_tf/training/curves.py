"""The record of a run's evaluations: metrics.csv, one row each, and curves.png, drawn from it."""

import csv
import io
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glow_tf._files import write_atomically

Row = dict[str, float]

# The first columns of the table.
_FIRST = ("step", "epoch", "seconds", "train_bits_per_dim", "test_bits_per_dim", "learning_rate", "images_per_second")


class History:
    """The rows of a metrics.csv; a resumed run appends to them.

    Args:
        path: the file; a missing or unreadable one has no rows.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self._path = Path(path)
        self.rows: list[Row] = _read(self._path)
        self._start = time.monotonic() - (self.rows[-1].get("seconds", 0.0) if self.rows else 0.0)
        self._row: Row = {}
        self._train_bits: list[float] = []

    @property
    def seconds(self) -> float:
        """Seconds of training so far, evaluations and earlier sessions included."""
        return time.monotonic() - self._start

    def add_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Counts the metrics of a training step for the next row."""
        self._row["step"] = step
        if metrics.get("is_finite", True):
            self._train_bits.append(float(metrics["bits_per_dim"]))
        if "learning_rate" in metrics:
            self._row["learning_rate"] = float(metrics["learning_rate"])

    def add_scalars(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Takes the scalars of an evaluation into the next row.

        Args:
            split: "train" or "test".
            step: batches so far.
            values: {tag: number}; of the training split only statistics of the latents are taken.
        """
        self._row["step"] = step
        for tag, value in values.items():
            is_shared = tag.startswith("z/") or tag == "bits_per_dim"
            if split == "test" or tag.startswith("z/"):
                self._row[(f"{split}_" if is_shared else "") + tag.replace("/", "_")] = float(value)

    def note(self, **values: float) -> None:
        """Takes other numbers into the next row."""
        self._row |= values

    @property
    def has_evaluation(self) -> bool:
        """Whether the next row holds a test result."""
        return "test_bits_per_dim" in self._row

    def finish_row(self) -> None:
        """Appends the row and replaces the file; rows of the same and of later steps are dropped.

        Raises:
            OSError: the file could not be written and is unchanged.
        """
        row, bits = self._row, self._train_bits
        self._row, self._train_bits = {}, []
        row["seconds"] = round(self.seconds, 1)
        if bits:
            row["train_bits_per_dim"] = sum(bits) / len(bits)
        row = {
            column: row[column] for column in [*(c for c in _FIRST if c in row), *(c for c in row if c not in _FIRST)]
        }
        self.rows = [*(old for old in self.rows if old["step"] < row["step"]), row]
        columns = list(dict.fromkeys(column for each in self.rows for column in each))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: _short(value) for column, value in each.items()} for each in self.rows)
        write_atomically(self._path, text.getvalue().encode())


def _read(path: Path) -> list[Row]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = [
                {column: float(cell) for column, cell in row.items() if column and cell} for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError, csv.Error):
        return []
    return [row for row in table if math.isfinite(row.get("step", math.nan))]


def _short(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


# Panels of curves.png: {title: {pattern of the columns that it shows: their label}}.
_PANELS: dict[str, dict[str, str]] = {
    "bits/dim (lower is better)": {"train_bits_per_dim": "training images", "test_bits_per_dim": "test images"},
    "learning rate": {"learning_rate": ""},
    "time so far, in minutes": {"minutes": ""},
    "variance of the test images' latents (ideally 1)": {
        "test_z_variance": "all levels",
        r"test_z_level(\d+)_variance": r"level \1",
    },
    "largest condition number of the 1x1 matrices": {r"diagnostics_level(\d+)_condition": r"level \1"},
    "largest scale of the actnorms, smallest of the others": {
        r"diagnostics_level(\d+)_actnorm_scale": r"actnorm, level \1",
        r"diagnostics_level(\d+)_smallest_s": r"1x1 matrix, level \1",
        r"diagnostics_level(\d+)_smallest_coupling_scale": r"coupling, level \1",
    },
}

# A panel has a logarithmic axis if its values are positive and the largest is this many times the smallest.
_LOGARITHMIC = 10


def draw(rows: Sequence[Row], title: str) -> bytes:
    """Draws the curves of a run as PNG.

    Args:
        rows: of a `History`, at least one.
        title: the name of the run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row | {"minutes": row["seconds"] / 60} if "seconds" in row else row for row in rows]
    figure = Figure(figsize=(16, 9), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title.replace("$", r"\$"))
    for axes, (name, labels) in zip(figure.subplots(2, 3).flat, _PANELS.items(), strict=True):
        values: list[float] = []
        for label, points in _curves(rows, labels):
            values += [value for _, value in points]
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else "", label=label)
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if values and 0 < _LOGARITHMIC * min(values) < max(values):
            axes.set_yscale("log")
        if len(axes.lines) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=3, fontsize="small", frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _curves(rows: Sequence[Row], labels: Mapping[str, str]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """The label and the (step, value) points of each column that has finite values, by the patterns of a panel."""
    columns = dict.fromkeys(column for row in rows for column in row)
    for pattern, label in labels.items():
        for match in filter(None, (re.fullmatch(pattern, column) for column in columns)):
            values = [(row["step"], row.get(match[0], math.nan)) for row in rows]
            points = [(step, value) for step, value in values if math.isfinite(value)]
            if points:
                yield match.expand(label), points
