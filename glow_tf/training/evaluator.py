"""An evaluation during a run: scores, statistics, pictures, warnings, and the weights files."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from glow_tf.config import TrainConfig
from glow_tf.data.dataset import ArrayDataset, StreamingDataset
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.inputs import class_labels
from glow_tf.training import diagnostics, model_card
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

# Before this step the latents of a healthy model are not standard yet.
FIRST_STEP_OF_LATENT_WARNINGS = 500


def num_evaluated(config: TrainConfig, num_train: int, num_test: int) -> int:
    """Test images per evaluation.

    By default at most so many that scoring takes a tenth of an epoch's time: training on an image costs about three
    times as much as scoring one. The number depends on no clock, so that equal runs give equal results.

    >>> num_evaluated(TrainConfig(), num_train=50_000, num_test=10_000)
    10000
    >>> num_evaluated(TrainConfig(), num_train=1_000, num_test=10_000)
    300
    """
    limit = config.eval_images or max(FEWEST_EVALUATED, 3 * num_train // 10)
    return min(limit, num_test)


class Evaluator:
    """Evaluates a run's model with averaged weights.

    Args:
        trainer: the run's Trainer.
        train: the training images.
        test: the test images.
        run: where weights are written.
        record: what the run has reached.
        reporter: shows the results.
        config: its `eval_images` and `keep` are used.
        metadata: plain JSON values for the weights files.
        check: called often; an exception from it ends the evaluation.
        try_to_save: called with a name and a function that writes files.
    """

    def __init__(
        self,
        trainer: "Trainer",
        train: ArrayDataset | StreamingDataset,
        test: ArrayDataset | StreamingDataset,
        run: RunDirectory,
        record: RunRecord,
        reporter: Reporter,
        config: TrainConfig,
        metadata: Mapping[str, Any],
        check: Callable[[], None],
        try_to_save: Callable[[str, Callable[[], None]], None],
    ) -> None:
        self._trainer, self._test = trainer, test
        self._run, self._record, self._reporter = run, record, reporter
        self._metadata = dict(metadata)
        self._keep = config.keep
        self._check, self._try_to_save = check, try_to_save
        self._steps_per_epoch = train.steps_per_epoch(config.batch_size)
        self._limit = num_evaluated(config, train.num_images, test.num_images)
        has_classes = bool(trainer.glow.config.num_classes)
        self._watched, self._train_watched = (
            (images, labels if has_classes else None)
            for images, labels in (split.random_subset(WATCHED_IMAGES, seed=0) for split in (test, train))
        )
        self._test_labels = test.random_subset(WATCHED_IMAGES, seed=0)[1]
        self._typical = train.random_subset(TYPICAL_IMAGES, seed=1)[0]
        self._warned: set[str] = set()
        self._is_traced = False

    def restore_results(self) -> tuple[float, float | None] | None:
        """Takes over the results that the run's weights files hold, which may be newer than its last state.

        Returns:
            (bits/dim, standard error) of the evaluation at this step, or None if it was not completed.

        Raises:
            InputError: if the weights belong to another run.
        """
        record, step = self._record, self._trainer.step_count
        best, newest = (self._metadata_of(path) for path in (self._run.best_weights, self._run.weights))
        if best.get("test_images") == self._limit and best.get("test_bits_per_dim") is not None:
            record.best_bits_per_dim = min(record.best_bits_per_dim, best["test_bits_per_dim"])
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
        if metadata.get("run_id") not in (None, self._record.run_id):
            raise InputError(
                f"{path} belongs to another run ({metadata['run_id']}, not {self._record.run_id}); name another run "
                f"directory, or --fresh to archive this one and start over"
            )
        return metadata

    def evaluate(self, is_last: bool) -> tuple[float, float | None]:
        """Scores, reports, draws and writes the weights.

        Args:
            is_last: whether the run ends here; then all test images are scored.

        Returns:
            (bits/dim, its standard error or None for a single image).
        """
        self._check()
        with self._trainer.ema_weights() as glow:
            if not self._is_traced:
                self._trace(glow)
            bits, error, count = best_bits, *_ = self._score(glow, self._limit)
            if is_last and count < self._test.num_images:
                # The best weights are chosen by the same images each time.
                bits, error, count = self._score(glow, None)
            self._report(glow, bits, error, count)
            metadata = self._weights_metadata(glow, bits, error, count)
            self._try_to_save("weights", lambda: self._save_weights(glow, best_bits, metadata))
        self._record.reported_step = self._trainer.step_count
        return bits, error

    def _trace(self, glow: Glow) -> None:
        """Traces the model's functions, which only the first evaluation has to wait for."""
        with self._reporter.warm_up():
            images, labels = self._watched
            first = None if labels is None else labels[:1]
            glow.bits_per_dim(images[:1], first)
            glow.decode(glow.encode(glow.dequantize(images[:1]), first), first)
        self._is_traced = True

    def _score(self, glow: Glow, limit: int | None) -> tuple[float, float | None, int]:
        return metrics.bits_per_dim(glow, self._test, limit=limit, check=self._check)

    @property
    def _epoch(self) -> int:
        """Epochs begun: 1 during the first."""
        return -(-self._trainer.step_count // self._steps_per_epoch)

    def _report(self, glow: Glow, bits: float, error: float | None, count: int) -> None:
        step, reporter = self._trainer.step_count, self._reporter
        images = self._watched[0]
        statistics = self._latent_statistics(glow, "test", *self._watched)
        self._latent_statistics(glow, "train", *self._train_watched)
        nll = glow.dequantizer.nll_nats(bits, glow.config.num_dims)
        reporter.scalars("test", step, {"bits_per_dim": bits, "nll_nats": nll})
        class_names = self._metadata.get("class_names", ())
        reporter.latents(glow, images, self._test_labels, class_names)
        reporter.pictures(glow, images, self._test_labels, step, self._epoch, self._check, class_names)
        reporter.line(
            f"epoch {self._epoch}, step {step}: {metrics.describe(bits, error, count)}; "
            f"z has mean {statistics['z/mean']:+.3f} and variance {statistics['z/variance']:.3f}"
        )
        self._check()
        findings = diagnostics.examine(glow, *self._watched)
        reporter.scalars("test", step, findings)
        self._warn(findings | statistics)
        if not math.isfinite(bits):
            self._explain(glow, bits)
        self._check()

    def _latent_statistics(self, glow: Glow, split: str, images: Any, labels: Any) -> dict[str, float]:
        self._check()
        statistics = metrics.latent_statistics(glow, images, labels)
        self._reporter.scalars(split, self._trainer.step_count, statistics)
        return statistics

    def _warn(self, findings: Mapping[str, float]) -> None:
        """Warns once of each value that is outside its range, and of latents only when they should be standard."""
        for tag, value in findings.items():
            is_early = tag.startswith("z/") and self._trainer.step_count < FIRST_STEP_OF_LATENT_WARNINGS
            for complaint in [] if is_early or tag in self._warned else diagnostics.complaints({tag: value}):
                self._warned.add(tag)
                self._reporter.line(f"warning: {complaint}")

    def _explain(self, glow: Glow, bits: float) -> None:
        images, labels = self._watched
        values = glow.dequantize(images, seed=0)
        where = diagnostics.first_not_finite(glow, values, class_labels(labels, glow.config.num_classes))
        self._reporter.line(
            f"warning: the bits/dim of the test images is {bits}; the first values that are not finite are in "
            f"{where or 'none of the first images'}"
        )

    def _weights_metadata(self, glow: Glow, bits: float, error: float | None, count: int) -> dict[str, Any]:
        metadata = self._metadata | {
            "run_id": self._record.run_id,
            "step": self._trainer.step_count,
            "epoch": self._epoch,
            "test_bits_per_dim": bits if math.isfinite(bits) else None,
            "test_standard_error": error if error is not None and math.isfinite(error) else None,
            "test_images": count,
        }
        typical = metrics.bits_per_dim_per_image(glow, self._typical)
        if math.isfinite(typical.mean()):
            metadata["train_bits_per_dim"] = metrics.distribution_summary(typical)
        return metadata

    def _save_weights(self, glow: Glow, bits: float, metadata: Mapping[str, Any]) -> None:
        """Writes the newest weights last: they mark the evaluation as complete."""
        run, is_best = self._run, bits < self._record.best_bits_per_dim
        run.check_lock()
        model_card.write(run.model_card, glow, self._trainer.devices, metadata, self._reporter.hours)
        paths = [run.best_weights] if is_best else []
        paths += [run.snapshot(self._epoch)] if self._keep else []
        for path in [*paths, run.weights]:
            run.check_lock()
            glow.save_weights(path, **metadata)
        if is_best:
            self._record.best_bits_per_dim = bits
        if self._keep:
            run.remove_snapshots(keep=self._keep)
