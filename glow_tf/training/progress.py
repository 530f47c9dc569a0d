"""The reporter of a run: progress on the screen, TensorBoard, pictures, metrics.csv and what is drawn from it.

No failure to report ends a run: a full disk is warned about once, and a closed pipe is ignored.
"""

import contextlib
import datetime
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np
import tensorflow as tf
from absl import logging

from glow_tf import _progress
from glow_tf._files import write_atomically
from glow_tf.training import curves, diagnostics, pictures, tensorboard
from glow_tf.training.pace import Pace
from glow_tf.training.run_directory import RunDirectory
from glow_tf.training.state import RunRecord

# Drawing the curves takes at most this share of a run's time.
CURVES_SHARE = 0.02


class Reporter:
    """Reports a run on the screen and in its directory.

    Lines are always printed. The progress of the steps is shown only by commands, see `_progress.show`, and where a
    stream is given.

    Args:
        record: what the run has reached; its time is continued from metrics.csv if that is newer.
        stream: where lines and the progress of the steps are shown; default: the error stream.

    Attributes:
        pace: the time that steps and evaluations take.
    """

    def __init__(
        self,
        run: RunDirectory,
        record: RunRecord,
        total_steps: int,
        images_per_step: int,
        steps_per_evaluation: int,
        stream: TextIO | None = None,
    ) -> None:
        self._run, self._record = run, record
        self._total_steps, self._images_per_step = total_steps, images_per_step
        self._stream = stream
        self._bar: _progress.Bar | None = None
        self._is_shown = stream is not None or _progress.is_shown()
        self._shown_step = 0
        self._has_warned = False
        self._writers: dict[str, Any] = {}
        with self._tolerating_a_full_disk():
            self._writers = _summary_writers(run)
        self._history = curves.History(run.path / "metrics.csv")
        # The table may be newer than the state, and earlier versions kept the time only there.
        record.seconds = max(record.seconds, self._history.last("seconds"))
        record.cpu_seconds = max(record.cpu_seconds, self._history.last("cpu_seconds"))
        if self._history.rows and "cpu_seconds" not in self._history.rows[-1]:
            record.cpu_seconds = math.nan  # the run was begun by a version that did not measure it
        self.pace = Pace(total_steps, steps_per_evaluation)
        self.pace.evaluation_seconds = self._history.last("evaluation_seconds")
        self._drawing_seconds, self._last_drawn, self._is_drawn = 0.0, -math.inf, True

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows one step's metrics; `metrics` are Python numbers."""
        self.pace.step(step)
        self._history.add_step(step, metrics)
        if not self._is_shown:
            return
        text = f"step {step}/{self._total_steps}  {metrics['bits_per_dim']:.4f} bits/dim"
        rate = self.images_per_second()
        if rate:
            text += f"  {rate:{'.0f' if rate >= 10 else '.2g'}} images/s  {_duration(self.pace.seconds_left())} left"
        if self._bar is None:
            self._bar = _progress.Bar(text, self._total_steps, "steps", self._stream, "{desc} {bar:20}", "{desc}")
        self._bar.advance(step - self._shown_step, text=text)
        self._shown_step = step

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        _progress.line(text, self._stream)

    def images_per_second(self) -> float:
        """Rate of the recent training images, without evaluations; 0 before the second step."""
        return self.pace.steps_per_second() * self._images_per_step

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """An evaluation: counted apart from the steps, and written to the disk at its end."""
        with self.pace.evaluation():
            yield
            self.flush()

    def configuration(self, **sections: Mapping[str, Any]) -> None:
        """Writes configurations as text and as hyperparameters, {section: {name: value}}."""
        text = "\n\n".join(
            f"**{name}**\n\n```\n{json.dumps(values, indent=1, default=str)}\n```" for name, values in sections.items()
        )
        self._write("train", 0, lambda: tf.summary.text("configuration", text))
        self._write("test", 0, lambda: tensorboard.write_hparams(sections, self._run.path.name))

    def scalars(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes a split's {tag: number} to TensorBoard, and those of evaluations to the next row of metrics.csv."""

        def write() -> None:
            for tag, value in values.items():
                tf.summary.scalar(tag, value, description=diagnostics.explanation(tag))

        self._write(split, step, write)
        self._history.add_scalars(split, step, values)

    def latents(self, latents: np.ndarray, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> None:
        """Replaces the latents on TensorBoard's Projector page; see `tensorboard.write_projector`."""
        if "test" in self._writers:
            with self._tolerating_a_full_disk():
                tensorboard.write_projector(self._run.test_logs, latents, images, labels, class_names)

    def pictures(self, drawn: Mapping[str, np.ndarray], step: int, epoch: int) -> None:
        """Writes pictures, {name: uint8 [h, w, 3]}, to the results folder (see `pictures.save`) and to TensorBoard."""
        with self._tolerating_a_full_disk():
            pictures.save(self._run.results, drawn, epoch)

        def write() -> None:
            for name, image in drawn.items():
                tf.summary.image(name, image[np.newaxis])

        self._write("test", step, write)

    def flush(self) -> None:
        """Writes the row of an evaluation, the curves and the logs to the disk."""
        if self._history.has_evaluation:
            self._record.count_time()
            numbers = {
                "seconds": round(self._record.seconds, 1),
                "cpu_seconds": round(self._record.cpu_seconds, 1),
                "evaluation_seconds": round(self.pace.evaluation_so_far(), 1),
            }
            if self.images_per_second():
                numbers["images_per_second"] = self.images_per_second()
            with self._tolerating_a_full_disk():
                self._history.finish_row(**numbers)
            self._is_drawn = False
            if time.monotonic() - self._last_drawn > self._drawing_seconds / CURVES_SHARE:
                self._draw_curves()
        for writer in self._writers.values():
            with self._tolerating_a_full_disk():
                writer.flush()

    def close(self) -> None:
        """Removes the progress bar, draws the last curves and closes the logs."""
        if self._bar is not None:
            self._bar.close()
        if not self._is_drawn:
            self._draw_curves()
        for writer in self._writers.values():
            with self._tolerating_a_full_disk():
                writer.close()

    def _draw_curves(self) -> None:
        start = time.monotonic()
        rows, name = self._history.rows, self._run.path.name
        with self._tolerating_a_full_disk():
            write_atomically(self._run.path / "curves.png", curves.draw(rows, f"{name}: training"))
            title = f"{name}: condition of the model at each evaluation; dashed: limits of a healthy one"
            write_atomically(self._run.path / "diagnostics.png", curves.draw(rows, title, diagnostics.PANELS))
        self._last_drawn, self._is_drawn = time.monotonic(), True
        self._drawing_seconds = self._last_drawn - start

    def _write(self, split: str, step: int, write: Callable[[], Any]) -> None:
        """Calls `write`, whose tf.summary calls go to the split's log; does nothing without TensorBoard."""
        if split in self._writers:
            with self._tolerating_a_full_disk(), self._writers[split].as_default(step=step):
                write()

    @contextlib.contextmanager
    def _tolerating_a_full_disk(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            if not self._has_warned:
                reason = str(error).splitlines()[0]
                logging.warning("logs and pictures cannot be written, training continues: %s", reason)
            self._has_warned = True


def _summary_writers(run: RunDirectory) -> dict[str, Any]:
    try:
        import tensorboard  # noqa: F401  (tf.summary needs it and says so only when it is first used)
    except ImportError:
        logging.warning("TensorBoard is not installed, so no logs are written: pip install tensorboard")
        return {}
    return {name: tf.summary.create_file_writer(str(getattr(run, f"{name}_logs"))) for name in ("train", "test")}


def _duration(seconds: float) -> str:
    return "?" if seconds >= 1e7 else str(datetime.timedelta(seconds=int(seconds))).removeprefix("0:").removeprefix("0")
