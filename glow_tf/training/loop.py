"""The loop around a training step: epochs, evaluation, pictures, weights, and going on after a stop."""

import dataclasses
import math
import time

from absl import logging

from glow_tf.errors import TrainingFailure
from glow_tf.evaluation import metrics
from glow_tf.training import diagnostics, model_card
from glow_tf.training.signals import GracefulShutdown, Stopped

# Images of either split that an epoch's latent statistics, pictures and diagnoses are made of.
WATCHED_IMAGES = 256

# Training images whose bits/dim the weights file summarises, to judge other images by.
TYPICAL_IMAGES = 512

# Between two saves of the state inside a long epoch.
SAVE_SECONDS = 600.0

# So many steps in a row without a finite gradient mean that waiting does not help.
MAX_SKIPPED = 10


def count_steps(epochs, steps_per_epoch, max_steps=None):
    """Of a run: those of its epochs, or `max_steps` where that is less."""
    return epochs * steps_per_epoch if max_steps is None else min(epochs * steps_per_epoch, max_steps)


@dataclasses.dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes:
        steps: made in all, resumed ones included.
        bits_per_dim, standard_error: of the test split with averaged weights; None if the run was stopped.
        stopped_by: the number of the signal that stopped the run, or None.
        is_saved: whether the last save of the state and that of the weights both succeeded.
    """

    steps: int
    bits_per_dim: float | None
    standard_error: float | None
    stopped_by: int | None
    is_saved: bool


class TrainingLoop:
    """Trains to the end, or until SIGINT, SIGTERM or SIGHUP.

    Args:
        trainer: a Trainer, initialised or restored.
        train, test: `ArrayDataset`s.
        run: a RunDirectory.
        state: a Checkpointer.
        reporter: a Reporter.
        epochs: to make in all.
        max_steps: to make in all at most; None: no limit.
        flip: mirror training images at random.
        metadata: for the weights files.
        keep: epoch snapshots of the weights to keep besides the newest and the best.
        evaluate_every: epochs between evaluations; the last epoch has one, too.
    """

    def __init__(
        self,
        trainer,
        train,
        test,
        run,
        state,
        reporter,
        epochs,
        max_steps=None,
        flip=False,
        metadata=None,
        keep=0,
        evaluate_every=1,
    ):
        self._trainer, self._train, self._test = trainer, train, test
        self._run, self._state, self._reporter = run, state, reporter
        self._steps_per_epoch = train.steps_per_epoch(trainer.batch_size)
        self._total = count_steps(epochs, self._steps_per_epoch, max_steps)
        self._flip = flip
        self._metadata = metadata or {}
        self._keep = keep
        self._steps_per_evaluation = evaluate_every * self._steps_per_epoch
        self._watched = test.random_subset(WATCHED_IMAGES, seed=0)
        self._train_watched = train.random_subset(WATCHED_IMAGES, seed=0)
        self._typical = train.random_subset(TYPICAL_IMAGES, seed=1)[0]
        self._unsaved = set()
        self._last_save = time.monotonic()
        self._result: tuple[float | None, float | None] = (None, None)
        self._signals = GracefulShutdown()

    def run(self):
        """Returns the FitResult.

        Raises:
            TrainingFailure: if gradients stay infinite although the state was reloaded at half the rate.
        """
        stopped_by = None
        with self._signals:
            try:
                self._evaluate_if_due()
                while self._trainer.step_count < self._total:
                    self._train_to_end_of_epoch()
                    self._save_state()
                    self._evaluate_if_due()
            except Stopped:
                stopped_by, self._result = self._signals.received, (None, None)
                self._save_state()
        self._reporter.flush()
        return FitResult(self._trainer.step_count, *self._result, stopped_by, not self._unsaved)

    def _evaluate_if_due(self):
        """Where an epoch ends that needs an evaluation and has none that was finished, as after a stop during one."""
        seen = self._trainer.step_count
        if seen > self._state.reported_step and (seen % self._steps_per_evaluation == 0 or seen >= self._total):
            with self._reporter.pause():
                self._evaluate()

    def _train_to_end_of_epoch(self):
        trainer = self._trainer
        epoch, done = divmod(trainer.step_count, self._steps_per_epoch)
        batches = self._train.training_batches(
            trainer.batch_size, trainer.seed, epoch, flip=self._flip, skip=done, shard=trainer.shard
        )
        for images, labels in batches:
            metrics = {name: value.numpy() for name, value in trainer.train_step(images, labels).items()}
            self._after_step(metrics, images, labels)
            self._signals.check()
            if trainer.step_count >= self._total:
                return
            if self._state.skipped_in_a_row == 0 and time.monotonic() - self._last_save > SAVE_SECONDS:
                self._save_state()

    def _after_step(self, metrics, images, labels):
        step = self._trainer.step_count
        self._reporter.step(step, metrics)
        if not metrics["is_finite"]:
            self._after_skipped_step(step, images, labels)
            return
        self._state.skipped_in_a_row = 0
        if step % self._scalar_interval() == 0:
            scalars = {name: value for name, value in metrics.items() if name != "is_finite"} | {
                "images_per_second": self._reporter.images_per_second(),
                "skipped_steps": self._state.skipped,
            }
            self._reporter.scalars("train", step, scalars)

    def _scalar_interval(self):
        return max(1, min(50, self._steps_per_epoch // 10))

    def _after_skipped_step(self, step, images, labels):
        state = self._state
        state.skipped += 1
        state.skipped_in_a_row += 1
        self._reporter.line(
            f"step {step}: the loss or its gradient is not finite; the step was left out ({state.skipped} so far)"
        )
        if state.skipped_in_a_row < MAX_SKIPPED:
            return
        where = self._trainer.diagnose(images, labels)
        if state.rate_was_halved:
            raise TrainingFailure(
                f"{MAX_SKIPPED} steps up to step {step} had no finite gradient, again after the rate was halved; "
                f"first in {where}. Start anew (--fresh) with a smaller --learning_rate, a longer --warmup_epochs "
                f"or --coupling additive"
            )
        self._go_back_and_halve_the_rate(step, where)

    def _go_back_and_halve_the_rate(self, step, where):
        state, skipped = self._state, self._state.skipped
        restored = state.restore() or "the current weights"
        # What follows is not the same batches again: with the same noise they would fail in the same place.
        self._trainer.step_count = step
        rate = self._trainer.optimizer.learning_rate
        rate.assign(rate / 2)
        state.rate_was_halved, state.skipped, state.skipped_in_a_row = True, skipped, 0
        self._reporter.line(
            f"{MAX_SKIPPED} steps in a row had no finite gradient, first in {where}; went back to {restored} and "
            f"halved the learning rate to {float(rate.numpy()):g}"
        )

    def _evaluate(self):
        """Evaluates, draws and writes the weights; a signal ends it early, and the next start does it anew."""
        step = self._trainer.step_count
        with self._trainer.ema_weights() as glow:
            bits, error, count = metrics.bits_per_dim(glow, self._test, check=self._signals.check)
            self._report(glow, bits, error, count)
            self._save_weights(bits, error, count)
        self._result = bits, error
        self._state.reported_step = step
        self._reporter.flush()

    def _epoch_number(self):
        """Epochs begun: 1 during the first."""
        return -(-self._trainer.step_count // self._steps_per_epoch)

    def _report(self, glow, bits, error, count):
        step, epoch = self._trainer.step_count, self._epoch_number()
        images, labels = self._watched
        statistics = self._examine(glow, "test", images, labels)
        self._examine(glow, "train", *self._train_watched)
        nll = glow.dequantizer.nll_nats(bits, glow.config.num_dims)
        self._reporter.scalars("test", step, {"bits_per_dim": bits, "nll_nats": nll})
        self._reporter.latents(glow, images, labels, self._metadata.get("class_names", ()))
        self._reporter.pictures(glow, images, labels, step, epoch, check=self._signals.check)
        self._reporter.line(
            f"epoch {epoch}, step {step}: {metrics.describe(bits, error, count)}; "
            f"z has mean {statistics['z/mean']:+.3f} and variance {statistics['z/variance']:.3f}"
        )
        self._signals.check()
        findings = diagnostics.examine(glow, images, labels)
        self._reporter.scalars("test", step, findings)
        for complaint in diagnostics.complaints(findings | statistics):
            self._reporter.line(f"warning: {complaint}")
        self._signals.check()

    def _examine(self, glow, split, images, labels):
        """Latent statistics of a few images, also to TensorBoard."""
        self._signals.check()
        statistics = metrics.latent_statistics(glow, images, labels if glow.config.num_classes else None)
        self._reporter.scalars(split, self._trainer.step_count, statistics)
        return statistics

    def _save_weights(self, bits, error, count):
        epoch = self._epoch_number()
        result = bits if math.isfinite(bits) else None
        metadata = self._metadata | {
            "step": self._trainer.step_count,
            "epoch": epoch,
            "test_bits_per_dim": result,
            "test_standard_error": error if error is not None and math.isfinite(error) else None,
            "test_images": count,
        }
        typical = metrics.bits_per_dim_per_image(self._trainer.glow, self._typical)
        if math.isfinite(typical.mean()):
            metadata["train_bits_per_dim"] = metrics.distribution_summary(typical)
        paths = [self._run.weights]
        is_best = bits < self._state.best_bits_per_dim
        if is_best:
            paths.append(self._run.best_weights)
        if self._keep:
            paths.append(self._run.snapshot(epoch))

        def save():
            for path in paths:
                self._trainer.glow.save_weights(path, **metadata)
            if is_best:
                self._state.best_bits_per_dim = bits
            if self._keep:
                self._run.remove_snapshots(keep=self._keep)

        self._try_to_save("weights", save)
        model_card.write(self._run.model_card, self._trainer, metadata)

    def _save_state(self):
        self._try_to_save("state", self._state.save)

    def _try_to_save(self, what, save):
        """A full disk does not end a run: the old files stay, and the next save may succeed."""
        self._last_save = time.monotonic()
        try:
            save()
            self._unsaved.discard(what)
        except OSError as error:
            self._unsaved.add(what)
            logging.warning("the %s could not be saved, the older files stay: %s", what, error)
