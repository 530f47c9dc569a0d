"""The training loop: epochs, evaluations, saves, and resuming after a stop."""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from absl import logging

from glow_tf import _progress
from glow_tf._files import counted
from glow_tf.config import AUTO, GlowConfig, TrainConfig
from glow_tf.data.dataset import ArrayDataset, StreamingDataset, check_split
from glow_tf.data.holdout import fingerprint, num_copies
from glow_tf.errors import InputError, WorkerLost
from glow_tf.metadata import check_metadata
from glow_tf.training import settings as run_settings
from glow_tf.training.checkpoint import Checkpointer
from glow_tf.training.distributed import Chief, TrainingBatches, follow
from glow_tf.training.evaluator import Evaluator
from glow_tf.training.progress import Reporter
from glow_tf.training.recovery import Recovery
from glow_tf.training.run_directory import RunDirectory
from glow_tf.training.schedule import count_steps
from glow_tf.training.signals import GracefulShutdown, Stopped
from glow_tf.training.state import RunRecord

if TYPE_CHECKING:
    from glow_tf.training.trainer import Trainer

# The fields of TrainConfig that `fit` reads; the Trainer reads the others.
OPTIONS = ("epochs", "steps", "flip", "evaluate_every", "eval_images", "keep")

# Images of the data-dependent initialisation at 32x32: OpenAI's n_batch_init. For larger images OpenAI's code uses a
# constant number of pixels, such as 4 images of 256x256, which leaves 64 values for each of the 384 channels of the
# deepest level; 32 images give 512.
INITIAL_IMAGES = 256
FEWEST_INITIAL_IMAGES = 32

# Time between two saves of the state within a long epoch.
SAVE_SECONDS = 600.0


def initial_images(config: GlowConfig) -> int:
    """Number of training images for the data-dependent initialisation."""
    height, width, _ = config.image_shape
    return min(INITIAL_IMAGES, max(FEWEST_INITIAL_IMAGES, INITIAL_IMAGES * 32 * 32 // (height * width)))


@dataclasses.dataclass(frozen=True)
class FitResult:
    """How a run ended."""

    steps: int  # in total, including those before a resume
    bits_per_dim: float | None  # mean over the test images with averaged weights; None if the run was stopped
    standard_error: float | None  # that of `bits_per_dim`; None for a single test image
    stopped_by: int | None  # number of the signal that stopped the run, or None
    is_saved: bool  # whether the last saves of the state and of the weights both succeeded
    new_steps: int = dataclasses.field(default=0, compare=False)  # in this call; 0 if the run had already ended


def fit(
    trainer: "Trainer",
    train: ArrayDataset | StreamingDataset,
    test: ArrayDataset | StreamingDataset,
    run_directory: str | os.PathLike | RunDirectory = "runs/glow",
    *,
    metadata: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    images: Mapping[str, Any] | None = None,
    **options: Any,
) -> FitResult:
    """Trains to the end of the last epoch, or until SIGINT, SIGTERM or SIGHUP.

    Every `evaluate_every` epochs it evaluates, draws pictures and replaces the weights file. It resumes from the run
    directory's state if there is one; otherwise it initialises from data first, unless the weights were loaded. With
    several workers only the chief evaluates and writes.

    Args:
        run_directory: see `RunDirectory`.
        metadata: JSON values for the weights files.
        settings: further JSON values that must stay the same when the run is resumed.
        images: fingerprint of the data set (`ImageData.fingerprint`). Default: that of images in memory, or the number
            of images.
        **options: `epochs`, `steps`, `flip`, `evaluate_every`, `eval_images` or `keep`, instead of the trainer's.

    Raises:
        InputError: if the run directory is in use, not writable, moved, or holds a run with other settings, if none
            of its states can be restored, or if the memory does not suffice.
        TrainingFailure: if gradients are still not finite after a roll-back and at half the learning rate.
        WorkerLost: if another worker is gone; the state is saved first.
    """
    if not hasattr(trainer, "train_step"):
        raise InputError(f"fit takes a Trainer first, not {type(trainer).__name__}")
    for name in options:
        if name not in OPTIONS:
            raise InputError(f"fit has no option {name}; it can be {', '.join(OPTIONS)}")
    for split in (train, test):
        check_split(split, "fit")
    metadata = dict(metadata or {})
    check_metadata(trainer.glow.metadata | metadata)
    config = dataclasses.replace(trainer.config, **options)
    batches = TrainingBatches(train, config, trainer.shard, bool(trainer.glow.config.num_classes))
    if not trainer.workers.is_chief:
        stopped_by = follow(trainer, batches)
        return FitResult(trainer.step_count, None, None, stopped_by, is_saved=True)
    settings = {"model": trainer.glow.config.to_dict()} | config.fixed() | dict(settings or {})
    pixels = {f"{name}_images": getattr(split, "images", ()) for name, split in (("train", train), ("test", test))}
    settings["images"] = dict(images or fingerprint(train.num_images, test.num_images, **pixels))
    if trainer.glow.config.num_classes and metadata.get("class_names"):
        settings["class_names"] = list(metadata["class_names"])  # in another order labels mean other classes
    run = run_directory if isinstance(run_directory, RunDirectory) else RunDirectory(run_directory)
    chief = Chief(trainer)
    with chief.announcing_failure(), run.lock(), _oom_as_input_error(trainer):
        weights = sum(math.prod(v.shape) * v.dtype.size for v in trainer.glow.trainable_variables)
        # Two saves, each of a state (the weights, their averages and at most two slots) and a weights file.
        run.check_writable(2 * 5 * weights)
        run.remove_stale_files()
        _decide_precision(trainer, config, run, metadata, settings)
        loop = _Loop(trainer, batches, test, config, run, chief, metadata, settings)
        try:
            result = loop.run()
            chief.announce_end(result.stopped_by)
            return result
        except WorkerLost:
            # The failed step changed nothing, and saving needs no other worker.
            loop.checkpointer.save()
            raise
        finally:
            with contextlib.suppress(InputError):  # the folder is another run's now
                run.check_lock()
                loop.reporter.close()


@dataclasses.dataclass(eq=False)
class _Loop:
    """A run from its restored or initialised state to its end."""

    trainer: "Trainer"
    batches: TrainingBatches
    test: ArrayDataset | StreamingDataset
    config: TrainConfig
    run_directory: RunDirectory
    chief: Chief
    metadata: Mapping[str, Any]
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        trainer, config, run = self.trainer, self.config, self.run_directory
        self.record = record = RunRecord()
        self.checkpointer = Checkpointer(trainer.state, record, run.state, trainer.num_replicas, run.check_lock)
        restored = self._restore_or_initialize()
        self._total = count_steps(config, self.batches.per_epoch)
        if config.steps is not None and config.steps > self._total:
            message = "the run ends with its %d epochs, at step %d; for %d steps it needs more epochs"
            logging.warning(message, config.epochs, self._total, config.steps)
        copies = 0 if self.test is self.batches.train else num_copies(self.settings["images"])
        if copies:
            message = "%d of the %d test images are also training images, which makes the test bits/dim too low"
            logging.warning(message, copies, self.test.num_images)
        self._steps_per_evaluation = config.evaluate_every * self.batches.per_epoch
        self.reporter = Reporter(run, record, self._total, config.batch_size, self._steps_per_evaluation)
        self.reporter.configuration(model=self.settings["model"], training=config.fixed() | {"epochs": config.epochs})
        if restored is not None:
            self.reporter.line(f"resumed from {restored}, step {trainer.step_count}")
        if config.mixed_precision == AUTO:
            dtype = "bfloat16" if trainer.mixed_precision else "float32"
            self.reporter.line(f"mixed_precision=auto: the coupling networks compute in {dtype}")
        self._signals = GracefulShutdown()
        self._recovery = Recovery(trainer, self.checkpointer, record, self.reporter.line)
        self._evaluator = Evaluator(
            trainer,
            self.batches.train,
            self.test,
            run,
            record,
            self.reporter,
            config,
            self.metadata,
            check=self._check,
            try_to_save=self._try_to_save,
        )
        self._is_first_step = True  # in this process
        self._unsaved: set[str] = set()
        self._last_save = time.monotonic()

    def _restore_or_initialize(self) -> str | None:
        """The path of the restored state, or None for a new run."""
        trainer, run, record = self.trainer, self.run_directory, self.record
        if run.has_saved():
            record.run_id = run_settings.check(run, self.settings, self.config.batch_size)
        run.create()
        restored = self.checkpointer.restore()
        if restored is None and run.weights.exists():
            raise InputError(
                f"{run.path} holds weights but no state to resume from; to continue from these weights give --weights "
                f"{run.weights} and another --run_dir, or --fresh to archive this run and start over"
            )
        if restored is None and not trainer.glow.is_initialized:
            count = min(initial_images(trainer.glow.config), self.batches.train.num_images)
            with _progress.phase(f"initialising from {counted(count, 'image')}"):
                trainer.initialize(self.batches.train.random_subset(count, seed=self.config.seed)[0])
        trainer.glow.is_initialized = True  # also by a restored state
        if not record.run_id:
            values = (variable.numpy().tobytes() for variable in trainer.glow.named_variables().values())
            record.run_id = run_settings.identifier(self.settings, values)
            run_settings.record(run, record.run_id, self.settings)
        return restored

    def run(self) -> FitResult:
        """Trains until the last epoch ends or a signal comes."""
        trainer, first = self.trainer, self.trainer.step_count
        result: tuple[float | None, float | None] = self._evaluator.restore_results() or (None, None)
        stopped_by = None
        with self._signals:
            try:
                result = self._evaluate_if_due() or result
                while trainer.step_count < self._total:
                    self._train_to_end_of_epoch()
                    self._save_state()
                    result = self._evaluate_if_due() or result
            except Stopped:
                stopped_by, result = self._signals.received, (None, None)
                self._save_state()
        self.reporter.flush()
        bits, error = result
        return FitResult(trainer.step_count, bits, error, stopped_by, not self._unsaved, trainer.step_count - first)

    def _evaluate_if_due(self) -> tuple[float, float | None] | None:
        """Evaluates if an evaluation is due and was not completed, as after a stop during one."""
        step, is_last = self.trainer.step_count, self.trainer.step_count >= self._total
        if step <= self.record.reported_step or not (is_last or step % self._steps_per_evaluation == 0):
            return None
        with self.reporter.evaluation(), _progress.brief("evaluating"):
            result = self._evaluator.evaluate(is_last)
            self.run_directory.check_lock()
        return result

    def _check(self) -> None:
        """Raises Stopped after a signal, or InputError if this run may no longer write to its folder."""
        self.run_directory.check_lock()
        self._signals.check()

    def _train_to_end_of_epoch(self) -> None:
        trainer = self.trainer
        while True:
            self.chief.announce_step()
            images, labels = self.batches.batch(trainer.step_count)
            with _progress.brief("tracing the training step") if self._is_first_step else contextlib.nullcontext():
                metrics = {name: value.numpy() for name, value in trainer.train_step(images, labels).items()}
            self._is_first_step = False
            self._report_step(metrics)
            if self._recovery.after_step(metrics["is_finite"], images, labels):
                self.chief.others_agree = False
            self._signals.check()
            if trainer.step_count >= self._total or trainer.step_count % self.batches.per_epoch == 0:
                return
            if self.record.skipped_in_a_row == 0 and time.monotonic() - self._last_save > SAVE_SECONDS:
                self._save_state()

    def _report_step(self, metrics: Mapping[str, Any]) -> None:
        step, reporter = self.trainer.step_count, self.reporter
        reporter.step(step, metrics)
        if metrics["is_finite"] and step % max(1, min(50, self.batches.per_epoch // 10)) == 0:
            scalars = {name: value for name, value in metrics.items() if name != "is_finite"} | {
                "images_per_second": reporter.images_per_second(),
                "skipped_steps": self.record.skipped,
            }
            reporter.scalars("train", step, scalars)

    def _save_state(self) -> None:
        self._try_to_save("state", self.checkpointer.save)

    def _try_to_save(self, what: str, save: Callable[[], None]) -> None:
        """Saves; a full disk does not end the run, since the older files stay and the next save may succeed."""
        self._last_save = time.monotonic()
        try:
            save()
            self._unsaved.discard(what)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):  # the folder no longer belongs to this run
                raise
            self._unsaved.add(what)
            logging.warning("the %s could not be saved, the older files stay: %s", what, error)


def _decide_precision(
    trainer: "Trainer", config: TrainConfig, run: RunDirectory, metadata: dict, settings: dict
) -> None:
    """Lets a run resume in the precision that "auto" chose when it began, and records mixed precision."""
    if config.mixed_precision == AUTO and trainer.workers.count == 1 and run.has_saved():
        trainer.mixed_precision = run.read_json(run.settings).get("mixed_precision") is True
    if trainer.mixed_precision:
        metadata["mixed_precision"] = True
        if not run.has_saved():  # a resume does not compare it, since a flag may change it
            settings["mixed_precision"] = True


@contextlib.contextmanager
def _oom_as_input_error(trainer: "Trainer") -> Iterator[None]:
    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        size = "x".join(map(str, trainer.glow.config.image_shape))
        raise InputError(
            f"out of memory at batch size {trainer.config.batch_size} and images of {size}: use --backprop recompute, "
            f"with which this run can resume, or start another one with a smaller --batch_size or --img_size; what was "
            f"saved is intact"
        ) from error
