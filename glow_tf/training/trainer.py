"""Trains a Glow: one step, and the loop around it. All of tf.distribute lives here."""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from glow_tf import dequantization
from glow_tf._gc import paused
from glow_tf.config import GlowConfig
from glow_tf.data.dataset import ArrayDataset, StreamingDataset
from glow_tf.errors import InputError, WorkerLost
from glow_tf.glow import Glow
from glow_tf.inputs import Array, Labels
from glow_tf.training import diagnostics
from glow_tf.training.checkpoint import Checkpointer
from glow_tf.training.distributed import Workers
from glow_tf.training.loop import FitResult, TrainingLoop, count_steps
from glow_tf.training.optimizer import Optimizer
from glow_tf.training.progress import Reporter
from glow_tf.training.run_directory import RunDirectory

# Images for the data-dependent initialisation of 32x32 images: OpenAI's n_batch_init. Of larger ones OpenAI's code
# takes so many as have as many pixels, 4 of 256x256. That leaves 64 values for each of the 768 channels of the
# deepest level there; 32 images give 512 and cost a minute of a GPU.
INITIAL_IMAGES = 256
FEWEST_INITIAL_IMAGES = 32


def initial_images(config: GlowConfig) -> int:
    """How many training images a model is initialised from."""
    height, width, _ = config.image_shape
    return min(INITIAL_IMAGES, max(FEWEST_INITIAL_IMAGES, INITIAL_IMAGES * 32 * 32 // (height * width)))


def schedule(
    epochs: int, warmup_epochs: float, cooldown_epochs: float, steps_per_epoch: int, max_steps: int | None = None
) -> dict[str, int]:
    """{argument of Trainer: steps} of the learning rate's rise and fall; the fall is at most half of the run.

    >>> schedule(10, warmup_epochs=0.5, cooldown_epochs=3, steps_per_epoch=24)
    {'warmup_steps': 12, 'cooldown_steps': 72, 'total_steps': 240}
    """
    total = count_steps(epochs, steps_per_epoch, max_steps)
    return {
        "warmup_steps": round(warmup_epochs * steps_per_epoch),
        "cooldown_steps": min(round(cooldown_epochs * steps_per_epoch), total // 2),
        "total_steps": total,
    }


def default_strategy() -> tf.distribute.Strategy:
    """MirroredStrategy over all local accelerators, or over the logical CPUs where there is none."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


class Trainer:
    """Maximises the likelihood of dequantised images.

    Make the Glow under `strategy.scope()`; the trainer takes the strategy from its variables. A step is a
    pure function of the weights, the batch and (seed, number of the batch): the noise of an image does not
    depend on how many replicas share the batch. Of several workers (`workers.multi_worker_strategy`) each makes
    the same Glow and the same Trainer and calls the same methods, on its part of each batch.

    Args:
        glow: a Glow.
        batch_size: over all replicas.
        learning_rate, optimizer, warmup_steps, cooldown_steps, total_steps, beta_2, ema_decay: see `Optimizer`.
        backprop: see `Scan`.
        seed: of the noise, and of the order of the images in `fit`.
        weight_y: of the classifier's loss, bits an image, beside the bits/dim (OpenAI's term; the paper's
            conditional models have 0.01); 0 for none.
        mixed_precision: compute the couplings' networks in bfloat16 in training; everything else, the weights and
            the gradients' sums among it, stays float32. The model is the same, only its training is rounded.
        jit_compile: compile the loss and its gradient with XLA. For accelerators: on CPUs XLA's convolutions
            inside a loop are many times slower than TensorFlow's.
    Raises:
        InputError: if the batch cannot be shared evenly among the replicas, or `weight_y` is above 0 for a model
            without a classifier.

    >>> trainer = Trainer(glow, batch_size=len(images))
    >>> trainer.initialize(images)
    >>> metrics = trainer.train_step(images)
    >>> sorted(metrics)
    ['bits_per_dim', 'gradient_norm', 'is_finite', 'learning_rate', 'nll_nats']
    >>> bool(metrics["is_finite"]), trainer.step_count
    (True, 1)
    """

    # Whether every worker is known to have the same values; the chief of a `fit` sees to it before a step.
    workers_agree = True

    def __init__(
        self,
        glow: Glow,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        optimizer: str = "adamax",
        warmup_steps: int = 0,
        cooldown_steps: int = 0,
        total_steps: int = 0,
        beta_2: float = 0.999,
        ema_decay: float = 0.999,
        backprop: str = "stored",
        seed: int = 0,
        weight_y: float = 0.0,
        mixed_precision: bool = False,
        jit_compile: bool = False,
    ) -> None:
        if not 0 <= weight_y < float("inf"):
            raise InputError(f"weight_y is {weight_y}; it must be a number from 0 up, 0.01 is usual")
        if weight_y and not glow.config.classifier:
            raise InputError(f"weight_y is {weight_y}, but this model has no classifier (classifier=False)")
        self.weight_y = weight_y
        self.glow = glow
        self.batch_size = batch_size
        self.backprop = backprop
        self._network_dtype = tf.bfloat16 if mixed_precision else None
        self.seed = seed
        self.step_count = 0
        self._variables = glow.trainable_variables
        self.strategy = getattr(self._variables[0], "distribute_strategy", None) or tf.distribute.get_strategy()
        self.workers = Workers(self.strategy)
        self._is_leading = False
        if batch_size < self.num_replicas or batch_size % self.num_replicas:
            raise InputError(
                f"batch_size {batch_size} cannot be shared evenly among {self.num_replicas} devices; it must be a "
                f"multiple of {self.num_replicas} above 0"
            )
        with self.strategy.scope():
            self.optimizer = Optimizer(
                self._variables,
                optimizer,
                learning_rate,
                warmup_steps=warmup_steps,
                cooldown_steps=cooldown_steps,
                total_steps=total_steps,
                beta_2=beta_2,
                ema_decay=ema_decay,
            )
        self._step = tf.function(paused()(self._distributed_step), autograph=False)
        self._loss_and_gradients = self._traced_loss_and_gradients
        if jit_compile:
            # The sum over the replicas and the optimizer's fused kernels stay outside: XLA cannot compile them.
            self._loss_and_gradients = tf.function(self._traced_loss_and_gradients, autograph=False, jit_compile=True)

    def initialize(self, images: Array) -> None:
        """Data-dependent initialisation, once, before the first step.

        Args:
            images: uint8 [N, H, W, C]; the paper's code takes 256.
        """
        dtype = self.glow.config.dtype
        noise = dequantization.uniform_noise(images.shape, [self.seed, 3], dtype)
        self.glow.initialize(self.glow.dequantizer.dequantize(images, noise, dtype))
        self.optimizer.reset_ema()

    def train_step(self, images: Array, labels: Labels | None = None) -> dict[str, tf.Tensor]:
        """One optimisation step.

        Args:
            images: uint8 [batch_size, H, W, C]; of several workers, this worker's part: see `shard`.
            labels: integers, one an image, for a class-conditional model.
        Returns:
            {"bits_per_dim", "nll_nats" (per image), "gradient_norm", "learning_rate": [] float,
            "is_finite": [] bool; where false the step changed nothing}, and where `weight_y` is above 0
            {"class_bits" (the classifier's loss an image), "class_accuracy"}.
        """
        images = tf.convert_to_tensor(images)
        if len(images) * self.workers.count != self.batch_size:
            parts = f", in {self.workers.count} parts" if self.workers.count > 1 else ""
            raise InputError(f"a batch has {len(images)} images; this trainer's batch_size is {self.batch_size}{parts}")
        if not self.glow.config.num_classes:
            labels = None
        arguments = [images] if labels is None else [images, tf.cast(labels, tf.int32)]
        if self._is_leading:
            self.workers.announce_step(self)
        with self.workers.raising_worker_lost():
            metrics = self._step(tf.constant(self.step_count), *map(self._shared, arguments))
        self.step_count += 1
        return metrics

    def broadcast_variables(self) -> None:
        """Gives every worker the chief's weights, moving averages and optimizer state; all workers call it."""
        self.workers.share([*self.glow.named_variables().values(), *self.optimizer.variables])
        self.workers_agree = True

    @property
    def shard(self) -> tuple[int, int]:
        """(index, count): which part of a batch this worker reads (`ArrayDataset.training_batches`)."""
        return self.workers.index, self.workers.count

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[Glow]:
        """While it lasts the Glow's weights are their moving averages."""
        raw = [variable.numpy() for variable in self._variables]
        for variable, average in zip(self._variables, self.optimizer.ema, strict=True):
            variable.assign(average)
        try:
            yield self.glow
        finally:
            for variable, value in zip(self._variables, raw, strict=True):
                variable.assign(value)

    @property
    def num_replicas(self) -> int:
        """Devices that share a batch, those of all workers together."""
        return self.strategy.num_replicas_in_sync

    @property
    def devices(self) -> list[str]:
        """Names of the GPUs in use, such as "NVIDIA H100"; none on CPUs."""
        found = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
        return [details.get("device_name", "GPU") for details in found]

    def _state_bytes(self):
        """What one save of the resume state and the weights needs at most."""
        return 5 * sum(v.dtype.size * v.shape.num_elements() for v in self._variables)

    def _shared(self, batch):
        """This worker's part of a batch, cut into one piece a replica."""
        if self.num_replicas == 1:
            return batch
        size = self.batch_size // self.num_replicas

        def piece(context):
            start = (context.replica_id_in_sync_group - self.workers.first_replica) * size
            return batch[start : start + size]

        return self.strategy.experimental_distribute_values_from_function(piece)

    def _distributed_step(self, batch_number, images, labels=None):
        metrics = self.strategy.run(self._replica_step, args=(batch_number, images, labels))
        return {name: self.strategy.experimental_local_results(value)[0] for name, value in metrics.items()}

    def _replica_step(self, batch_number, images, labels):
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        noise = self._noise(batch_number, images, context.replica_id_in_sync_group)
        values = self.glow.dequantizer.dequantize(images, noise, self.glow.config.dtype)
        nll, classes, gradients = self._loss_and_gradients(values, labels)
        if replicas > 1:
            # bits_per_dim adds the bin width once a replica; its gradient is a plain sum.
            nll = context.all_reduce(tf.distribute.ReduceOp.SUM, nll)
            classes = {key: context.all_reduce(tf.distribute.ReduceOp.SUM, value) for key, value in classes.items()}
            present = [g for g in gradients if g is not None]
            summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
            gradients = [None if g is None else next(summed) for g in gradients]
        bits_per_dim = self.glow.dequantizer.bits_per_dim(-nll, self.glow.config.num_dims)
        norm = tf.linalg.global_norm([g for g in gradients if g is not None])
        is_finite = tf.math.is_finite(bits_per_dim) & tf.math.is_finite(norm)
        rate = self.optimizer.learning_rate_of_next_step(batch_number)
        self.optimizer.apply(gradients, is_finite, batch_number)
        return {
            "bits_per_dim": bits_per_dim,
            "nll_nats": nll,
            "gradient_norm": norm,
            "learning_rate": rate,
            "is_finite": is_finite,
            **classes,
        }

    def _traced_loss_and_gradients(self, values, labels):
        """This replica's part of the batch's nll and classifier metrics, and the gradient of both together."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._variables)
            distribution = self.glow.transformed_distribution(
                labels, backprop=self.backprop, network_dtype=self._network_dtype
            )
            nll = -tf.reduce_sum(distribution.log_prob(values)) / self.batch_size
            loss = self.glow.dequantizer.bits_per_dim(-nll, self.glow.config.num_dims)
            classes = {}
            if self.weight_y:
                # The latents wait in the bijector's cache: the flow runs once.
                classes = self._class_losses(distribution.bijector.inverse(values), labels)
                loss += self.weight_y * classes["class_bits"]
        return nll, classes, tape.gradient(loss, self._variables)

    def _class_losses(self, z, labels):
        """This replica's part of the batch's means, of latents z that were encoded under their labels."""
        logits = self.glow.class_logits(z, labels)
        nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        right = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == labels, nats.dtype)
        return {
            "class_bits": tf.reduce_sum(nats) / (self.batch_size * math.log(2.0)),
            "class_accuracy": tf.reduce_sum(right) / self.batch_size,
        }

    def _noise(self, batch_number, images, replica):
        """Each replica draws the whole batch's noise and takes its piece: any number of replicas sees the same."""
        seed = tf.stack([tf.constant(self.seed), batch_number])
        noise = dequantization.uniform_noise([self.batch_size, *images.shape[1:]], seed, self.glow.config.dtype)
        size = images.shape[0]
        return noise[replica * size : (replica + 1) * size]

    def diagnose(self, images: Array, labels: Labels | None = None) -> str:
        """Where the last batch stops being finite, in words: a level, step and layer, or a variable.

        Args:
            images: uint8 [batch_size, H, W, C], the last batch given to `train_step`.
        """
        labels = tf.cast(labels, tf.int32) if self.glow.config.num_classes else None
        noise = self._noise(tf.constant(self.step_count - 1), tf.convert_to_tensor(images), 0)
        values = self.glow.dequantizer.dequantize(images, noise, self.glow.config.dtype)
        layer = diagnostics.first_not_finite(self.glow, values, labels)
        if layer is not None:
            return layer
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.glow.transformed_distribution(labels, backprop=self.backprop).log_prob(values))
        named = {name: v for name, v in self.glow.named_variables().items() if v.trainable}
        gradients = zip(named, tape.gradient(loss, list(named.values())), strict=True)
        broken = [name for name, g in gradients if g is not None and not bool(tf.reduce_all(tf.math.is_finite(g)))]
        # The gradient comes from the latents' side.
        return f"the gradient of {broken[-1]}" if broken else "nothing: the batch is finite when it is run again"

    def fit(
        self,
        train: ArrayDataset | StreamingDataset,
        test: ArrayDataset | StreamingDataset,
        epochs: int = 10,
        run_directory: str | os.PathLike | RunDirectory = "runs/glow",
        max_steps: int | None = None,
        flip: bool = False,
        metadata: Mapping[str, Any] | None = None,
        keep: int = 0,
        evaluate_every: int = 1,
        settings: Mapping[str, Any] | None = None,
    ) -> FitResult:
        """Trains, and after every epoch, or every few, evaluates, writes pictures and replaces the weights file.

        Goes on from the run directory's state where there is one; else initialises from data first, unless the
        weights are loaded ones.

        Of several workers the chief alone evaluates and writes; the others need no run directory.

        Args:
            train, test: `ArrayDataset`s.
            epochs: passes over `train`, those of a resumed run included.
            run_directory: a path; `RunDirectory` says what is written where.
            max_steps: stop after so many steps, wherever the epoch is; None: no limit.
            flip: mirror training images at random.
            metadata: plain JSON values for the weights files.
            keep: epoch snapshots of the weights to keep.
            evaluate_every: epochs between evaluations; the last epoch has one, too.
            settings: {name: plain value} that must not change when the run is resumed; None: none.
        Returns:
            a `training_loop.FitResult`.
        Raises:
            InputError: if the run directory is in use, not writable, or holds a run with other settings, if none
                of its states can be read, or if the memory does not suffice.
            TrainingFailure: if gradients stay infinite.
            WorkerLost: if another worker is gone; of what was trained nothing is lost.
        """
        if evaluate_every < 1:
            raise InputError(f"evaluate_every is {evaluate_every}; it must be an integer from 1 up")
        if not self.workers.is_chief:
            stopped_by = self.workers.follow(self, train, flip)
            return FitResult(self.step_count, None, None, stopped_by, is_saved=True)
        run = run_directory if isinstance(run_directory, RunDirectory) else RunDirectory(run_directory)
        with self._as_chief(), run.lock(), self._oom_as_input_error():
            run.check_writable(2 * self._state_bytes())
            run.remove_stale_files()
            run.check_settings({"model": self.glow.config.to_dict(), **(settings or {})})
            run.create()
            state = Checkpointer(self, run.state)
            steps_per_epoch = train.steps_per_epoch(self.batch_size)
            total = count_steps(epochs, steps_per_epoch, max_steps)
            reporter = Reporter(run, total, self.batch_size, steps_per_epoch * evaluate_every)
            self._initialize_or_restore(train, run, state, reporter)
            reporter.configuration(model=self.glow.config, training=settings or {})
            loop = TrainingLoop(
                self,
                train,
                test,
                run,
                state,
                reporter,
                epochs,
                max_steps,
                flip=flip,
                metadata=metadata,
                keep=keep,
                evaluate_every=evaluate_every,
            )
            try:
                outcome = loop.run()
                self.workers.announce_end(outcome.stopped_by)
                return outcome
            except WorkerLost:
                # The step that failed changed nothing, and saving needs no other worker.
                state.save()
                raise
            finally:
                reporter.close()

    @contextlib.contextmanager
    def _as_chief(self):
        """While it lasts the other workers wait for what this one announces; an error ends them, too."""
        self._is_leading = self.workers.count > 1
        self.workers_agree = False
        try:
            yield
        except WorkerLost:
            raise
        except BaseException:
            if self._is_leading:
                self.workers.announce_failure()
            raise
        finally:
            self._is_leading = False

    def _initialize_or_restore(self, train, run, state, reporter):
        restored = state.restore()
        if restored is not None:
            reporter.line(f"resumed from {restored}, step {self.step_count}")
            return
        if run.weights.exists():
            raise InputError(
                f"{run.path} holds weights but no state to go on from; name another run directory or give --fresh"
            )
        if self.glow.is_initialized:
            self.optimizer.reset_ema()
        else:
            self.initialize(train.random_subset(initial_images(self.glow.config), seed=self.seed)[0])

    @contextlib.contextmanager
    def _oom_as_input_error(self):
        try:
            yield
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            size = "x".join(map(str, self.glow.config.image_shape))
            raise InputError(
                f"out of memory at batch size {self.batch_size} and images of {size}: give --backprop recompute, with "
                f"which this run goes on, or start another one with a smaller --batch_size or --img_size; what was "
                f"saved is intact"
            ) from error
