"""The loop around a training step: epochs, evaluation, pictures, weights, and going on after a stop."""

import dataclasses
import os
import signal
import sys
import time

from absl import logging

from glow_tf import evaluation
from glow_tf.errors import InputError, TrainingFailure

# Test images that an epoch's latent statistics and reconstructions are made of.
WATCHED_IMAGES = 256

# Between two saves of the state inside a long epoch.
SAVE_SECONDS = 600.0

# So many steps in a row without a finite gradient mean that waiting does not help.
MAX_SKIPPED = 10


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        steps: made in all, resumed ones included.
        bits_per_dim, standard_error: of the test split with averaged weights; None if the run was stopped.
        stopped_by: the number of the signal that stopped the run, or None.
        is_saved: whether the last save succeeded.
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
        train, test: `data.Split`s.
        run: a RunDirectory.
        state: a ResumeState.
        reporter: a Reporter.
        epochs: to make in all.
        max_steps: to make in all at most; None: no limit.
        flip: mirror training images at random.
        metadata: for the weights files.
        keep: epoch snapshots of the weights to keep besides the newest and the best.
    """

    def __init__(
        self, trainer, train, test, run, state, reporter, epochs, max_steps=None, flip=False, metadata=None, keep=0
    ):
        self._trainer, self._train, self._test = trainer, train, test
        self._run, self._state, self._reporter = run, state, reporter
        self._steps_per_epoch = train.steps_per_epoch(trainer.batch_size)
        self._total = epochs * self._steps_per_epoch
        if max_steps is not None:
            self._total = min(self._total, max_steps)
        self._flip = flip
        self._metadata = metadata or {}
        self._keep = keep
        self._watched = test.take(WATCHED_IMAGES, seed=0)
        self._train_watched = train.take(WATCHED_IMAGES, seed=0)
        self._skipped_in_a_row = 0
        self._is_saved = True
        self._last_save = time.monotonic()
        self._result = (None, None)

    def run(self):
        """Returns the Outcome.

        Raises:
            TrainingFailure: if gradients stay infinite although the state was reloaded at half the rate.
        """
        with _SignalWatch() as signals:
            while signals.received is None:
                if self._is_at_end_of_epoch():
                    self._end_epoch()
                if self._trainer.batches_seen >= self._total or signals.received is not None:
                    break
                self._train_to_end_of_epoch(signals)
            if signals.received is not None:
                self._save_state()
        self._reporter.flush()
        return Outcome(self._trainer.batches_seen, *self._result, signals.received, self._is_saved)

    def _is_at_end_of_epoch(self):
        seen = self._trainer.batches_seen
        is_boundary = seen > 0 and (seen % self._steps_per_epoch == 0 or seen >= self._total)
        return is_boundary and self._epoch_number() > self._state.epochs_reported

    def _epoch_number(self):
        """Epochs begun: 1 during the first."""
        return -(-self._trainer.batches_seen // self._steps_per_epoch)

    def _train_to_end_of_epoch(self, signals):
        trainer = self._trainer
        epoch, done = divmod(trainer.batches_seen, self._steps_per_epoch)
        batches = self._train.training_batches(
            trainer.batch_size, trainer.seed, epoch, flip=self._flip, skip=done
        )
        for images, labels in batches:
            metrics = {name: value.numpy() for name, value in trainer.train_step(images, labels).items()}
            self._after_step(metrics, images, labels)
            if signals.received is not None or trainer.batches_seen >= self._total:
                return
            if self._skipped_in_a_row == 0 and time.monotonic() - self._last_save > SAVE_SECONDS:
                self._save_state()

    def _after_step(self, metrics, images, labels):
        step = self._trainer.batches_seen
        self._reporter.step(step, metrics)
        if not metrics["is_finite"]:
            self._after_skipped_step(step, images, labels)
            return
        self._skipped_in_a_row = 0
        if step % self._scalar_interval() == 0:
            names = ("nll_nats", "bits_per_dim", "gradient_norm", "learning_rate")
            scalars = {name: metrics[name] for name in names}
            self._reporter.scalars("train", step, scalars | {"images_per_second": self._reporter.images_per_second()})

    def _scalar_interval(self):
        return max(1, min(50, self._steps_per_epoch // 10))

    def _after_skipped_step(self, step, images, labels):
        self._skipped_in_a_row += 1
        self._reporter.line(f"step {step}: the loss or its gradient is not finite; the step was left out")
        if self._skipped_in_a_row < MAX_SKIPPED:
            return
        where = self._trainer.diagnose(images, labels)
        if self._state.rate_was_halved:
            raise TrainingFailure(
                f"{MAX_SKIPPED} steps up to step {step} had no finite gradient, again after the rate was halved; "
                f"first in {where}. Try a smaller --learning_rate, a longer --warmup_epochs or --coupling additive"
            )
        restored = self._state.restore()
        rate = self._trainer.optimizer.learning_rate
        rate.assign(rate / 2)
        self._state.rate_was_halved = True
        # What follows is not the same batches again: with the same noise they would fail in the same place.
        self._trainer.batches_seen = max(self._trainer.batches_seen, step) if restored is None else step
        self._skipped_in_a_row = 0
        self._reporter.line(
            f"{MAX_SKIPPED} steps in a row had no finite gradient, first in {where}; "
            f"went back to {restored or 'the current weights'} and halved the learning rate to {float(rate.numpy()):g}"
        )

    def _end_epoch(self):
        epoch, step = self._epoch_number(), self._trainer.batches_seen
        # Saved first: a stop during the evaluation costs the evaluation only.
        self._save_state()
        images, labels = self._watched
        with self._trainer.averaged() as glow:
            bits, error, count = evaluation.bits_per_dim(glow, self._test)
            self._result = bits, error
            conditions = labels if glow.config.num_classes else None
            statistics = evaluation.latent_statistics(glow, images, conditions)
            nll = glow.pixels.nll_nats(bits, glow.config.num_dims)
            self._reporter.scalars("test", step, {"bits_per_dim": bits, "nll_nats": nll} | statistics)
            train_images, train_labels = self._train_watched
            conditions = train_labels if glow.config.num_classes else None
            self._reporter.scalars("train", step, evaluation.latent_statistics(glow, train_images, conditions))
            self._reporter.pictures(glow, images, labels, step, epoch)
            self._reporter.line(
                f"epoch {epoch}, step {step}: {bits:.4f} ± {error:.4f} bits/dim on {count} test images; "
                f"z has mean {statistics['z/mean']:+.3f} and variance {statistics['z/variance']:.3f}"
            )
            self._save_weights(epoch, bits)
        self._state.epochs_reported = epoch
        if step >= self._total:
            self._save_state()
        self._reporter.flush()

    def _save_weights(self, epoch, bits):
        metadata = self._metadata | {"step": self._trainer.batches_seen, "epoch": epoch, "test_bits_per_dim": bits}
        paths = [self._run.weights]
        if bits < self._state.best_bits_per_dim:
            self._state.best_bits_per_dim = bits
            paths.append(self._run.best_weights)
        if self._keep:
            paths.append(self._run.snapshot(epoch))
        self._try_to_save(lambda: [self._trainer.glow.save_weights(path, **metadata) for path in paths])
        if self._keep:
            self._run.remove_snapshots(keep=self._keep)

    def _save_state(self):
        self._try_to_save(self._state.save)

    def _try_to_save(self, save):
        """A full disk does not end a run: the old files stay, and the next save may succeed."""
        self._last_save = time.monotonic()
        try:
            save()
            self._is_saved = True
        except OSError as error:
            self._is_saved = False
            logging.warning("not saved, the older files stay: %s", error)


class _SignalWatch:
    """Remembers the first SIGINT, SIGTERM or SIGHUP; a second SIGINT ends the process at once.

    Saving inside a handler could interrupt a save, so the loop looks at `received` between steps.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self):
        self.received = None
        self._previous = {}

    def __enter__(self):
        try:
            self._previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        except ValueError:
            self._previous = {}  # not the main thread: signals are somebody else's
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        if self.received is not None and number == signal.SIGINT:
            os._exit(128 + number)
        self.received = number
        print(f"\n{signal.Signals(number).name}: finishing this step, then saving", file=sys.stderr, flush=True)
