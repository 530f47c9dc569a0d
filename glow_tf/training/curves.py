"""The record of a run's evaluations: metrics.csv, one row each, and curves.png and diagnostics.png, drawn from it."""

import csv
import io
import math
import os
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glow_tf._files import read_text, write_atomically

Row = dict[str, float]

# The first columns of the table.
_FIRST = (
    "step",
    "epoch",
    "seconds",
    "cpu_seconds",
    "train_bits_per_dim",
    "test_bits_per_dim",
    "learning_rate",
    "images_per_second",
    "evaluation_seconds",
)


class History:
    """The rows of a metrics.csv, none if it is missing or unreadable; a resumed run appends to them."""

    def __init__(self, path: str | os.PathLike) -> None:
        self._path = Path(path)
        self.rows: list[Row] = _read(self._path)
        self._row: Row = {}
        self._train_bits: list[float] = []

    def last(self, column: str) -> float:
        """A number of the last row; 0 if there is none."""
        return self.rows[-1].get(column, 0.0) if self.rows else 0.0

    def add_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Counts the metrics of a training step for the next row."""
        self._row["step"] = step
        if metrics.get("is_finite", True):
            self._train_bits.append(float(metrics["bits_per_dim"]))
        if "learning_rate" in metrics:
            self._row["learning_rate"] = float(metrics["learning_rate"])

    def add_scalars(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Takes the scalars of a split's evaluation into the next row; of "train" only statistics of the latents."""
        self._row["step"] = step
        for tag, value in values.items():
            is_shared = tag.startswith("z/") or tag == "bits_per_dim"
            if split == "test" or tag.startswith("z/"):
                self._row[(f"{split}_" if is_shared else "") + tag.replace("/", "_")] = float(value)

    @property
    def has_evaluation(self) -> bool:
        """Whether the next row holds a test result."""
        return "test_bits_per_dim" in self._row

    def finish_row(self, **values: float) -> None:
        """Appends the row, with further numbers, and replaces the file; drops rows of later steps.

        A row of the same step, from an evaluation that was not completed, gives what is not known any more.
        """
        repeated = next((old for old in self.rows if old["step"] == self._row["step"]), {})
        row, bits = repeated | self._row | values, self._train_bits
        self._row, self._train_bits = {}, []
        if bits:
            row["train_bits_per_dim"] = statistics.median(bits)  # one outlier among the images would decide the mean
        row = {column: row[column] for column in dict.fromkeys([*_FIRST, *row]) if column in row}
        self.rows = [*(old for old in self.rows if old["step"] < row["step"]), row]
        columns = list(dict.fromkeys(column for each in self.rows for column in each))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: _short(value) for column, value in each.items()} for each in self.rows)
        write_atomically(self._path, text.getvalue().encode())


def training_time(seconds: float, cpu_seconds: float) -> str:
    """Training time by the clock and of all CPU cores, in words; empty for 0 seconds.

    >>> training_time(5400, 300), training_time(90, 0), training_time(0, 0)
    ('1.5 hours, 5.0 minutes of CPU time', '1.5 minutes', '')
    """
    clock, cpu = (f"{t / 3600:.1f} hours" if t >= 3600 else f"{t / 60:.1f} minutes" for t in (seconds, cpu_seconds))
    return f"{clock}, {cpu} of CPU time" if cpu_seconds > 0 else clock if seconds else ""


def training_time_of(weights: str | os.PathLike, step: int | None) -> str:
    """Training time of a weights file in its run's folder, from the run's metrics.csv; empty if unknown.

    The weights file itself does not hold it, since equal runs write equal weights.
    """
    rows = History(Path(os.path.abspath(weights)).parent.parent / "metrics.csv").rows
    row = next((row for row in rows if row["step"] == step), {})
    return training_time(row.get("seconds", 0.0), row.get("cpu_seconds", 0.0))


def _read(path: Path) -> list[Row]:
    try:
        rows = csv.DictReader(io.StringIO(read_text(path, "table")))
        table = [{column: float(cell) for column, cell in row.items() if column and cell} for row in rows]
    except (ValueError, TypeError, csv.Error):  # InputError is a ValueError
        return []
    return [row for row in table if math.isfinite(row.get("step", math.nan))]


def _short(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


class Panel(NamedTuple):
    """One of a picture's axes."""

    title: str
    lines: Mapping[str, str]  # {regular expression for the columns that it shows: their label}
    limits: tuple[float, ...] = ()  # of the healthy range, drawn as dashed lines
    is_logarithmic: bool = False


CURVES = (
    Panel("bits/dim (lower is better)", {"train_bits_per_dim": "training images", "test_bits_per_dim": "test images"}),
    Panel("learning rate", {"learning_rate": ""}),
    Panel("time so far, in minutes", {"minutes": "by the clock", "cpu_minutes": "of all CPU cores"}),
)


def draw(rows: Sequence[Row], title: str, panels: Sequence[Panel] = CURVES) -> bytes:
    """Draws numbers of a run, at least one row of a `History`, against its steps, as PNG; four panels in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row | {c.replace("seconds", "minutes"): row[c] / 60 for c in row if c.endswith("seconds")} for row in rows]
    height, width = math.ceil(len(panels) / 4), min(4, len(panels))
    figure = Figure(figsize=(5 * width, 4.5 * height), dpi=80)
    FigureCanvasAgg(figure)
    figure.suptitle(title.replace("$", r"\$"))
    # Matplotlib's own layouts take longer than the drawing.
    margins = {"left": 0.2 / width, "right": 1 - 0.08 / width, "bottom": 0.2 / height, "top": 1 - 0.16 / height}
    margins["hspace"] = 0.42
    for axes, panel in zip(figure.subplots(height, width, gridspec_kw=margins).flat, panels, strict=True):
        for label, points in _lines(rows, panel.lines):
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else "", label=label)
        axes.set_title(panel.title)
        axes.set_xlabel("step")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, fontsize="small", frameon=False)
        for limit in panel.limits if axes.lines else ():
            axes.axhline(limit, color="grey", linestyle="--")
        if panel.is_logarithmic and axes.lines:
            axes.set_yscale("log")
            axes.minorticks_off()
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _lines(rows: Sequence[Row], labels: Mapping[str, str]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """The label and the (step, value) points of each column that has finite values."""
    columns = dict.fromkeys(column for row in rows for column in row)
    for pattern, label in labels.items():
        for match in filter(None, (re.fullmatch(pattern, column) for column in columns)):
            values = [(row["step"], row.get(match[0], math.nan)) for row in rows]
            points = [(step, value) for step, value in values if math.isfinite(value)]
            if points:
                yield match.expand(label), points
