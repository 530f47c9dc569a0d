"""What a run shows: TensorBoard, pictures, and one line of progress.

Nothing of it may stop a run: a full disk is told once, and a reader who went away is not told at all.
"""

import contextlib
import dataclasses
import json
import math
import os
import sys
import time

import numpy as np
import tensorflow as tf
from absl import logging

from glow_tf import dequantization
from glow_tf.config import GlowConfig
from glow_tf.evaluation import visualization
from glow_tf.training import tensorboard

SAMPLE_TEMPERATURE = 0.7
SWEEP_TEMPERATURES = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0)
NUM_SAMPLES = 36
SWEEP_COLUMNS = 6
NUM_RECONSTRUCTIONS = 8

# Seconds between progress lines where the output is no terminal, and between refreshes where it is one.
LINE_SECONDS = 10.0
REFRESH_SECONDS = 0.2


class Reporter:
    """Writes what a trainer finds out to a run directory and to the screen.

    Args:
        run: a RunDirectory.
        total_steps: where the run will end.
        images_per_step: the batch size.
        steps_per_pause: between two evaluations.
        stream: of the progress line.
    """

    def __init__(self, run, total_steps, images_per_step, steps_per_pause, stream=None):
        self._run = run
        self._results = run.results
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self._progress = _ProgressLine(stream or sys.stderr)
        self._has_warned = False
        self._writers = {}
        with self._tolerating_a_full_disk():
            self._writers = _summary_writers(run)
        self._window = []
        self._steps_per_pause = steps_per_pause
        self._pauses = []

    def configuration(self, **sections):
        """Writes configurations as text, {section: dataclass or dictionary}."""
        text = "\n\n".join(f"**{name}**\n\n```\n{_pretty(values)}\n```" for name, values in sections.items())
        self._write("train", 0, lambda: tf.summary.text("configuration", text))
        plain = {name: _as_dictionary(values) for name, values in sections.items()}
        self._write("test", 0, lambda: tensorboard.write_hparams(plain, self._run.path.name))

    def step(self, step, metrics):
        """Shows one step's metrics on the progress line; `metrics` are Python numbers."""
        now = time.monotonic() - sum(self._pauses)
        recent = [(t, s) for t, s in self._window[:-1] if now - t < 30.0]
        self._window = [*recent, *self._window[-1:], (now, step)]
        text = f"step {step}/{self._total_steps}  {metrics['bits_per_dim']:.4f} bits/dim"
        if self.steps_per_second():
            rate = self.images_per_second()
            text += f"  {rate:{'.0f' if rate >= 10 else '.2g'}} images/s  {_duration(self._seconds_left(step))} left"
        self._progress.show(text)

    @contextlib.contextmanager
    def pause(self):
        """For what is no step: its time is left out of the rate of the steps."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._pauses.append(time.monotonic() - start)

    def _seconds_left(self, step):
        """At the present rate, with pauses like the last one; the first, which traces, tells nothing of later ones."""
        pauses = 1 + math.ceil(self._total_steps / self._steps_per_pause) - math.ceil(step / self._steps_per_pause)
        each = self._pauses[-1] if len(self._pauses) > 1 else 0.0
        return (self._total_steps - step) / self.steps_per_second() + pauses * each

    def steps_per_second(self):
        """Over the last half minute of steps, or the last one if it took longer; 0 before the second."""
        (start, first), (end, last) = self._window[0], self._window[-1]
        return (last - first) / (end - start) if end > start else 0.0

    def images_per_second(self):
        return self.steps_per_second() * self._images_per_step

    def scalars(self, split, step, values):
        """Writes {tag: number} to TensorBoard; `split` is "train" or "test", which share their tags."""

        def write():
            for tag, value in values.items():
                tf.summary.scalar(tag, value)

        self._write(split, step, write)

    def latents(self, glow, images, labels, class_names):
        """Replaces what TensorBoard's projector shows: the deepest latents of images by class.

        Args:
            images: uint8 [N, H, W, C]; `labels` theirs, [N].
            class_names: may be empty.
        """
        if "test" not in self._writers:
            return
        noise = dequantization.uniform_noise(images.shape, [0, 5], glow.config.dtype)
        values = glow.dequantizer.dequantize(images, noise, glow.config.dtype)
        z = glow.encode(values, labels if glow.config.num_classes else None)
        with self._tolerating_a_full_disk():
            tensorboard.write_projector(
                self._run.test_logs, glow.split_latents(z)[-1].numpy(), images, labels, class_names
            )

    def pictures(self, glow, images, labels, step, epoch, check=lambda: None):
        """Samples, a temperature sweep and reconstructions, to TensorBoard and as PNG in the results folder.

        Args:
            images: uint8 test images to reconstruct, [N, H, W, C]; `labels` theirs.
            check: called before each drawing; what it raises ends them.
        """

        def sample(count, temperature):
            check()
            return glow.sample(count, temperature, seed=0).numpy()

        columns = {"samples": None, "temperatures": SWEEP_COLUMNS, "reconstructions": None}
        drawn = {
            "samples": sample(NUM_SAMPLES, SAMPLE_TEMPERATURE),
            "temperatures": np.concatenate([sample(SWEEP_COLUMNS, t) for t in SWEEP_TEMPERATURES]),
            "reconstructions": reconstruction_pairs(glow, images[:NUM_RECONSTRUCTIONS], labels[:NUM_RECONSTRUCTIONS]),
        }
        columns["reconstructions"] = len(drawn["reconstructions"]) // 2
        images = {name: visualization.grid(batch, columns[name]) for name, batch in drawn.items()}
        with self._tolerating_a_full_disk():
            for name, image in images.items():
                visualization.save_png(os.path.join(self._results, f"{name}-epoch{epoch:04d}.png"), image)

        def write():
            for name, image in images.items():
                tf.summary.image(name, visualization.to_rgb(image)[np.newaxis])

        self._write("test", step, write)

    def line(self, text):
        """Prints a line that stays."""
        self._progress.line(text)

    def flush(self):
        for writer in self._writers.values():
            with self._tolerating_a_full_disk():
                writer.flush()

    def close(self):
        for writer in self._writers.values():
            with self._tolerating_a_full_disk():
                writer.close()

    def _write(self, split, step, write):
        """Calls `write`, whose tf.summary calls go to the split's log; without TensorBoard there are none."""
        if split in self._writers:
            with self._tolerating_a_full_disk(), self._writers[split].as_default(step=step):
                write()

    @contextlib.contextmanager
    def _tolerating_a_full_disk(self):
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            if not self._has_warned:
                logging.warning("logs and pictures cannot be written, training goes on: %s", str(error).splitlines()[0])
            self._has_warned = True


def reconstruction_pairs(glow, images, labels):
    """uint8 [2N, H, W, C]: N images, then what decode(encode(image)) gives of each."""
    noise = dequantization.uniform_noise(images.shape, [0, 4], glow.config.dtype)
    labels = labels if glow.config.num_classes else None
    z = glow.encode(glow.dequantizer.dequantize(images, noise, glow.config.dtype), labels)
    return np.concatenate([images, glow.decode_to_uint8(z, labels)])


class _ProgressLine:
    """One line that is drawn over on a terminal, and a line every few seconds elsewhere."""

    def __init__(self, stream):
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._last = -float("inf")

    def show(self, text):
        now = time.monotonic()
        if now - self._last < (REFRESH_SECONDS if self._is_terminal else LINE_SECONDS):
            return
        self._last = now
        self._write(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")

    def line(self, text):
        self._write(f"\r\x1b[K{text}\n" if self._is_terminal else f"{text}\n")

    def _write(self, text):
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # whoever read the output is gone, or it cannot show a letter
            pass


def _summary_writers(run):
    try:
        import tensorboard  # noqa: F401  (tf.summary needs it and says so only when it is first used)
    except ImportError:
        logging.warning("TensorBoard is not installed, so no logs are written: pip install tensorboard")
        return {}
    return {name: tf.summary.create_file_writer(str(getattr(run, f"{name}_logs"))) for name in ("train", "test")}


def _as_dictionary(values):
    return dataclasses.asdict(values) if isinstance(values, GlowConfig) else values


def _pretty(values):
    return json.dumps(_as_dictionary(values), indent=1, default=str)


def _duration(seconds):
    if seconds >= 1e7:
        return "?"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
