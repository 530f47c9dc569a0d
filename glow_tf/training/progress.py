"""The reporter of a run: progress on the screen, TensorBoard, pictures, metrics.csv and curves.png.

No failure to report ends a run: a full disk is warned about once, and a closed pipe is ignored.
"""

import contextlib
import dataclasses
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
from glow_tf.config import GlowConfig
from glow_tf.dequantization import NoiseStream
from glow_tf.glow import Glow
from glow_tf.training import curves, pictures, tensorboard
from glow_tf.training.run_directory import RunDirectory

# Steps of this many seconds make the rate and the time left.
WINDOW_SECONDS = 30.0

# Drawing the curves takes at most this share of a run's time.
CURVES_SHARE = 0.02


class Reporter:
    """Reports a run on the screen and in its directory.

    Lines are always printed. The progress of the steps is shown only by commands, see `_progress.show`, and where a
    stream is given.

    Args:
        run: the run's directory.
        total_steps: the step at which the run ends.
        images_per_step: the batch size.
        steps_per_evaluation: steps between two evaluations.
        stream: where the progress of the steps is shown; default: the error stream.
    """

    def __init__(
        self,
        run: RunDirectory,
        total_steps: int,
        images_per_step: int,
        steps_per_evaluation: int,
        stream: TextIO | None = None,
    ) -> None:
        self._run = run
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self._steps_per_evaluation = steps_per_evaluation
        self._stream = stream
        self._bar: _progress.Bar | None = None
        self._is_shown = stream is not None or _progress.is_shown()
        self._has_warned = False
        self._writers: dict[str, Any] = {}
        with self._tolerating_a_full_disk():
            self._writers = _summary_writers(run)
        self._history = curves.History(run.path / "metrics.csv")
        self._drawing_seconds, self._last_drawn = 0.0, -math.inf
        # (seconds, step) of recent steps; seconds without pauses.
        self._window: list[tuple[float, int]] = []
        self._paused, self._warm_up, self._evaluation_seconds = 0.0, 0.0, 0.0
        self._shown_step = 0

    # Screen

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows one step's metrics; `metrics` are Python numbers."""
        now = time.monotonic() - self._paused
        recent = [(t, s) for t, s in self._window[:-1] if now - t < WINDOW_SECONDS]
        self._window = [*recent, *self._window[-1:], (now, step)]
        self._history.add_step(step, metrics)
        if not self._is_shown:
            return
        text = f"step {step}/{self._total_steps}  {metrics['bits_per_dim']:.4f} bits/dim"
        if self.steps_per_second():
            rate = self.images_per_second()
            text += f"  {rate:{'.0f' if rate >= 10 else '.2g'}} images/s  {_duration(self._seconds_left(step))} left"
        if self._bar is None:
            self._bar = _progress.Bar(text, self._total_steps, "steps", self._stream, "{desc} {bar:20}", "{desc}")
        self._bar.advance(step - self._shown_step, text=text)
        self._shown_step = step

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        _progress.line(text, self._stream)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves an evaluation out of the rate of the steps, and counts those to come in the time left."""
        start, self._warm_up = time.monotonic(), 0.0
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._paused += seconds
            self._evaluation_seconds = seconds - self._warm_up

    @contextlib.contextmanager
    def warm_up(self) -> Iterator[None]:
        """Marks the part of a pause that later ones do not have, such as the tracing of functions."""
        start = time.monotonic()
        yield
        self._warm_up += time.monotonic() - start

    def steps_per_second(self) -> float:
        """Rate of the recent steps, without pauses; 0 before the second step."""
        if not self._window:
            return 0.0
        (start, first), (end, last) = self._window[0], self._window[-1]
        return (last - first) / (end - start) if end > start else 0.0

    def images_per_second(self) -> float:
        """Rate of the recent training images, without pauses; 0 before the second step."""
        return self.steps_per_second() * self._images_per_step

    @property
    def hours(self) -> float:
        """Hours of training so far, evaluations and earlier sessions included."""
        return self._history.seconds / 3600

    def _seconds_left(self, step: int) -> float:
        """At the present rate, with evaluations that take as long as the last one."""
        per = self._steps_per_evaluation
        evaluations = 1 + math.ceil(self._total_steps / per) - math.ceil(step / per)
        return (self._total_steps - step) / self.steps_per_second() + evaluations * self._evaluation_seconds

    # TensorBoard and metrics.csv

    def configuration(self, **sections: Any) -> None:
        """Writes configurations as text and as hyperparameters, {section: dataclass or dictionary}."""
        plain = {name: _as_dictionary(values) for name, values in sections.items()}
        text = "\n\n".join(
            f"**{name}**\n\n```\n{json.dumps(values, indent=1, default=str)}\n```" for name, values in plain.items()
        )
        self._write("train", 0, lambda: tf.summary.text("configuration", text))
        self._write("test", 0, lambda: tensorboard.write_hparams(plain, self._run.path.name))

    def scalars(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes {tag: number} to TensorBoard, and those of an evaluation to the next row of metrics.csv.

        Args:
            split: "train" or "test"; both have the same tags.
            step: batches so far.
            values: {tag: number}.
        """

        def write() -> None:
            for tag, value in values.items():
                tf.summary.scalar(tag, value)

        self._write(split, step, write)
        self._history.add_scalars(split, step, values)

    def latents(self, glow: Glow, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str] = ()) -> None:
        """Replaces the deepest latents of images, by class, on TensorBoard's Projector page.

        Args:
            glow: the model.
            images: uint8 [N, H, W, C].
            labels: [N].
            class_names: may be empty.
        """
        if "test" not in self._writers:
            return
        conditions = labels if glow.config.num_classes else None
        z = glow.encode(glow.dequantize(images, 0, NoiseStream.DIAGNOSE), conditions)
        with self._tolerating_a_full_disk():
            deepest = glow.split_latents(z)[-1].numpy()
            tensorboard.write_projector(self._run.test_logs, deepest, images, labels, class_names)

    def pictures(
        self,
        glow: Glow,
        images: np.ndarray,
        labels: np.ndarray,
        step: int,
        epoch: int,
        check: Callable[[], Any] = lambda: None,
        class_names: Sequence[str] = (),
    ) -> None:
        """Draws samples, a temperature sweep and reconstructions, to TensorBoard and to the results folder.

        The folder holds the newest pictures, and the samples of about every epoch 1, 2, 4, 8, ...

        Args:
            glow: the model.
            images: uint8 test images to reconstruct, [N, H, W, C].
            labels: [N].
            step: batches so far.
            epoch: epochs so far.
            check: called before each drawing; an exception from it ends them.
            class_names: names of the classes of a class-conditional model.
        """
        self._history.note(epoch=epoch)
        drawn = pictures.draw(glow, images, labels, class_names, f"epoch {epoch}, step {step:,}", check)
        with self._tolerating_a_full_disk():
            pictures.save(self._run.results, drawn, epoch)

        def write() -> None:
            for name, image in drawn.items():
                tf.summary.image(name, image[np.newaxis])

        self._write("test", step, write)

    def flush(self) -> None:
        """Writes the row of an evaluation, the curves and the logs to the disk."""
        if self._history.has_evaluation:
            self._history.note(images_per_second=self.images_per_second())
            with self._tolerating_a_full_disk():
                self._history.finish_row()
            if time.monotonic() - self._last_drawn > self._drawing_seconds / CURVES_SHARE:
                self._draw_curves()
        for writer in self._writers.values():
            with self._tolerating_a_full_disk():
                writer.flush()

    def close(self) -> None:
        """Removes the progress bar, draws the last curves and closes the logs."""
        if self._bar is not None:
            self._bar.close()
        if self._drawing_seconds:
            self._draw_curves()
        for writer in self._writers.values():
            with self._tolerating_a_full_disk():
                writer.close()

    def _draw_curves(self) -> None:
        start = time.monotonic()
        with self._tolerating_a_full_disk():
            write_atomically(self._run.path / "curves.png", curves.draw(self._history.rows, self._run.path.name))
        self._last_drawn = time.monotonic()
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


def _as_dictionary(values: Any) -> Any:
    return dataclasses.asdict(values) if isinstance(values, GlowConfig) else values


def _duration(seconds: float) -> str:
    if seconds >= 1e7:
        return "?"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
