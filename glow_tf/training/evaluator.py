"""An evaluation during a run: scores, statistics, pictures, warnings, and the weights files.

Scoring takes at most a tenth of an epoch's time (see `num_evaluated`); everything else is short or done less often.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from glow_tf import _progress
from glow_tf.config import TrainConfig
from glow_tf.data.dataset import ArrayDataset, StreamingDataset
from glow_tf.dequantization import NoiseStream
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.metadata import is_decided_by_few, total_steps
from glow_tf.training import diagnostics, hardware, model_card, pictures
from glow_tf.training.progress import Reporter
from glow_tf.training.run_directory import RunDirectory
from glow_tf.training.state import RunRecord
from glow_tf.weights import open_weights

if TYPE_CHECKING:
    from glow_tf.training.trainer import Trainer

# Images of either split that statistics, pictures and diagnostics are made from.
WATCHED_IMAGES = 256

# Training images whose bits/dim the weights file summarises, to judge other images by.
TYPICAL_IMAGES = 512

FEWEST_EVALUATED = 64

# Training on an image takes about as long as scoring this many.
TRAINING_COST = 3

# Pictures and diagnostics take at most this share of a run's time; the first and the last are always made.
DIAGNOSTICS_SHARE = 0.05

# Metadata that describe single weights and that not all weights have; those of the weights that a run starts from would
# pass for its own.
_OF_SINGLE_WEIGHTS = ("mixed_precision", "selection_bits_per_dim", "selection_images", "train_bits_per_dim")

# Before this step the latents of a healthy model are not standard yet.
FIRST_STEP_OF_LATENT_WARNINGS = 500


def num_evaluated(config: TrainConfig, num_train: int, num_test: int) -> int:
    """Test images per evaluation.

    By default scoring takes at most a tenth of an epoch's time. The number does not depend on the clock, so that equal
    runs give equal results.

    >>> num_evaluated(TrainConfig(), num_train=50_000, num_test=10_000)
    10000
    >>> num_evaluated(TrainConfig(), num_train=1_000, num_test=10_000)
    300
    >>> num_evaluated(TrainConfig(), num_train=100, num_test=10_000)
    64
    """
    limit = config.eval_images or max(FEWEST_EVALUATED, TRAINING_COST * num_train // 10)
    return min(limit, num_test)


@dataclasses.dataclass(eq=False)
class Evaluator:
    """Evaluates a run's model with averaged weights, and writes these."""

    trainer: "Trainer"
    train: ArrayDataset | StreamingDataset
    test: ArrayDataset | StreamingDataset
    run: RunDirectory
    record: RunRecord
    reporter: Reporter
    config: TrainConfig
    metadata: Mapping[str, Any]  # for the weights files
    check: Callable[[], None]  # called often; an exception from it ends the evaluation
    try_to_save: Callable[[str, Callable[[], None]], None]  # takes a name and a function that writes files

    def __post_init__(self) -> None:
        self._steps_per_epoch = self.train.steps_per_epoch(self.config.batch_size)
        self._limit = num_evaluated(self.config, self.train.num_images, self.test.num_images)
        self.reporter.pace.evaluation_steps = self._limit / (TRAINING_COST * self.config.batch_size)
        self._watched, self._train_watched = (
            split.random_subset(WATCHED_IMAGES, seed=0) for split in (self.test, self.train)
        )
        self._typical = self.train.random_subset(TYPICAL_IMAGES, seed=1)[0]
        self._warned: set[str] = set()
        # The Glow's own metadata are those of the weights that were loaded into it, perhaps of this run.
        loaded = self.trainer.glow.metadata
        is_this_run = loaded.get("run_id") == self.record.run_id
        self._previous_steps = loaded.get("previous_steps") if is_this_run else total_steps(loaded)
        glow = self.trainer.glow
        glow.metadata = {name: value for name, value in loaded.items() if name not in _OF_SINGLE_WEIGHTS}
        self._is_traced = False
        self._last_diagnosed, self._diagnosis_seconds = -math.inf, 0.0

    def restore_results(self) -> tuple[float, float | None] | None:
        """Takes over the results that the run's weights files hold, which may be newer than its last state.

        Returns (bits/dim, standard error) of the evaluation at this step, or None if it was not completed; raises
        InputError if the weights belong to another run.
        """
        record, step = self.record, self.trainer.step_count
        best, newest = (self._metadata_of(path) for path in (self.run.best_weights, self.run.weights))
        # The last weights of a run are scored on all test images, but chosen by as many as those before them.
        chosen = "selection" if "selection_images" in best else "test"
        bits = best.get(f"{chosen}_bits_per_dim")
        if best.get(f"{chosen}_images") == self._limit and bits is not None:
            record.best_bits_per_dim = min(record.best_bits_per_dim, float(bits))
        # Recorded when the run began; the weights that it started from may have been trained further since.
        self._previous_steps = newest.get("previous_steps") or self._previous_steps
        if not record.run_id or newest.get("run_id") != record.run_id or newest.get("step") != step:
            return None
        record.reported_step = step
        bits = newest.get("test_bits_per_dim")
        return math.nan if bits is None else bits, newest.get("test_standard_error")

    def _metadata_of(self, path: Any) -> dict[str, Any]:
        try:
            with open_weights(path) as file:
                metadata = file.metadata
        except InputError:  # missing or damaged: it will be replaced
            return {}
        if metadata.get("run_id") not in (None, self.record.run_id):
            raise InputError(
                f"{path} belongs to another run ({metadata['run_id']}, not {self.record.run_id}); name another run "
                f"directory, or --fresh to archive this one and start over"
            )
        return metadata

    def evaluate(self, is_last: bool) -> tuple[float, float | None]:
        """Scores test images (all of them if `is_last`), reports, diagnoses if that is due, and writes the weights.

        Returns (bits/dim, its standard error or None for a single image).
        """
        self.check()
        with self.trainer.ema_weights() as glow:
            if not self._is_traced:
                self._trace(glow)
            start = time.monotonic()
            score = functools.partial(metrics.bits_per_dim, glow, self.test, check=self.check)
            bits, error, count = score(limit=self._limit)
            selection_bits = bits  # the best weights are chosen by the same images each time
            if count < self.test.num_images:
                seconds = time.monotonic() - start
                self.reporter.pace.last_extra_seconds = seconds * self.test.num_images / count
                if is_last:
                    bits, error, count = score(limit=None)
            self._report(glow, bits, error, count)
            start = time.monotonic()
            if is_last or start - self._last_diagnosed > self._diagnosis_seconds / DIAGNOSTICS_SHARE:
                self._draw_and_diagnose(glow)
                self._last_diagnosed = time.monotonic()
                self._diagnosis_seconds = self._last_diagnosed - start
            metadata = self._weights_metadata(glow, bits, error, count)
            if count != self._limit and math.isfinite(selection_bits):
                metadata |= {"selection_bits_per_dim": selection_bits, "selection_images": self._limit}
            self.reporter.flush()  # before the weights, which mark the evaluation as complete
            self.try_to_save("weights", lambda: self._save_weights(glow, selection_bits, metadata))
        self.record.reported_step = self.trainer.step_count
        return bits, error

    def _trace(self, glow: Glow) -> None:
        """Traces the model's functions, which only the first evaluation has to wait for."""
        with self.reporter.pace.once(), _progress.phase("preparing the evaluation"):
            images, labels = self._watched[0][:1], self._conditions(self._watched[1][:1])
            glow.bits_per_dim(images, labels)
            glow.decode(glow.encode(glow.dequantize(images), labels), labels)
        self._is_traced = True

    def _conditions(self, labels: np.ndarray) -> np.ndarray | None:
        return labels if self.trainer.glow.config.num_classes else None

    @property
    def _epoch(self) -> int:
        """Epochs begun: 1 during the first."""
        return -(-self.trainer.step_count // self._steps_per_epoch)

    def _report(self, glow: Glow, bits: float, error: float | None, count: int) -> None:
        step = self.trainer.step_count
        statistics = self._latent_statistics(glow, "test", *self._watched)
        nll = glow.dequantizer.nll_nats(bits, glow.config.num_dims)
        scores = {"bits_per_dim": bits, "nll_nats": nll, "test_images": count, "epoch": self._epoch}
        self.reporter.scalars("test", step, scores)
        self.reporter.line(
            f"epoch {self._epoch}, step {step}: {metrics.describe(bits, error, count)}; "
            f"z has mean {statistics['z/mean']:+.3f} and variance {statistics['z/variance']:.3f}"
        )
        self._warn(statistics)
        if not math.isfinite(bits):
            images, labels = self._watched
            where = diagnostics.first_not_finite(glow, glow.dequantize(images, seed=0), self._conditions(labels))
            self.reporter.line(
                f"warning: the bits/dim of the test images is {bits}; the first values that are not finite are in "
                f"{where or 'none of the first images'}"
            )
        elif is_decided_by_few(bits, error):
            self.reporter.line(
                "warning: a few test images have far more bits/dim than the others and decide this mean; evaluate.py "
                "names one of them, and with --images prints the bits/dim of each image"
            )

    def _draw_and_diagnose(self, glow: Glow) -> None:
        """Reports pictures and diagnostics, which change no weight and may take long beside a short epoch."""
        reporter, step, epoch = self.reporter, self.trainer.step_count, self._epoch
        images, labels = self._watched
        conditions = self._conditions(labels)
        class_names = self.metadata.get("class_names", ())
        self._latent_statistics(glow, "train", *self._train_watched)
        z = glow.encode(glow.dequantize(images, 0, NoiseStream.DIAGNOSE), conditions)
        reporter.latents(glow.split_latents(z)[-1].numpy(), images, labels, class_names)
        when = f"epoch {epoch}, step {step:,}"
        reporter.pictures(pictures.draw(glow, images, labels, class_names, when, self.check), step, epoch)
        self.check()
        with _progress.phase("examining the layers"):
            findings = diagnostics.examine(glow, images, conditions)
        reporter.scalars("test", step, findings)
        self._warn(findings)
        self.check()

    def _latent_statistics(self, glow: Glow, split: str, images: Any, labels: Any) -> dict[str, float]:
        self.check()
        statistics = metrics.latent_statistics(glow, images, self._conditions(labels))
        self.reporter.scalars(split, self.trainer.step_count, statistics)
        return statistics

    def _warn(self, findings: Mapping[str, float]) -> None:
        """Warns once of each value that is outside its range, and of latents only when they should be standard."""
        for tag, value in findings.items():
            is_early = tag.startswith("z/") and self.trainer.step_count < FIRST_STEP_OF_LATENT_WARNINGS
            for complaint in [] if is_early or tag in self._warned else diagnostics.complaints({tag: value}):
                self._warned.add(tag)
                self.reporter.line(f"warning: {complaint}")

    def _weights_metadata(self, glow: Glow, bits: float, error: float | None, count: int) -> dict[str, Any]:
        metadata = {
            **self.metadata,
            "run_id": self.record.run_id,
            "step": self.trainer.step_count,
            "epoch": self._epoch,
            "test_bits_per_dim": bits if math.isfinite(bits) else None,
            "test_standard_error": error if error is not None and math.isfinite(error) else None,
            "test_images": count,
        }
        if self._previous_steps:
            metadata["previous_steps"] = self._previous_steps
        typical = metrics.bits_per_dim_per_image(glow, self._typical)
        if math.isfinite(typical.mean()):
            metadata["train_bits_per_dim"] = metrics.distribution_summary(typical)
        return metadata

    def _save_weights(self, glow: Glow, bits: float, metadata: Mapping[str, Any]) -> None:
        """Writes the newest weights last: they mark the evaluation as complete."""
        run, is_best = self.run, bits < self.record.best_bits_per_dim
        run.check_lock()
        self.record.count_time()
        seconds = self.record.seconds, self.record.cpu_seconds
        model_card.write(run.model_card, glow, hardware.gpu_names(), metadata, *seconds)
        paths = [run.best_weights] if is_best else []
        paths += [run.snapshot(self._epoch)] if self.config.keep else []
        for path in [*paths, run.weights]:
            run.check_lock()
            glow.save_weights(path, **metadata)
        if is_best:
            self.record.best_bits_per_dim = bits
        if self.config.keep:
            run.remove_snapshots(keep=self.config.keep)
