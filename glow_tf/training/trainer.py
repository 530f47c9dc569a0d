"""One training step of a Glow, on any number of devices. The loop around it is in `loop.py`."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from glow_tf._gc import paused
from glow_tf.classes import class_logits
from glow_tf.config import AUTO, TrainConfig
from glow_tf.dequantization import NoiseStream, uniform_noise
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.inputs import Array, Labels, class_labels, uint8_images
from glow_tf.training import hardware
from glow_tf.training.distributed import Workers
from glow_tf.training.optimizer import Optimizer
from glow_tf.training.schedule import Schedule
from glow_tf.training.state import TrainState

if TYPE_CHECKING:
    from glow_tf.training.loop import FitResult


class Trainer:
    """Maximises the likelihood of dequantised images, one step at a time.

    Create the Glow under `strategy.scope()`; the trainer takes the strategy from its variables. A step is a pure
    function of the state, the batch and (seed, step): the noise of an image does not depend on the number of replicas
    that share the batch. Each replica computes its share of the batch's mean loss; the shares and their gradients are
    summed over all replicas. With several workers (processes, see `distributed`), each creates the same Glow and
    Trainer and calls the same methods, with its own part of each batch.

    Args:
        schedule: the learning rate's warm-up and cool-down, in steps. Default: a constant rate.
        **options: fields of `TrainConfig`, which replace those of `config`.

    Raises:
        InputError: if the batch cannot be shared evenly among the replicas, or `weight_y` is above 0 for a model
            without a classifier.

    Attributes:
        state: the `TrainState`: everything that a step changes.
        mixed_precision: whether the coupling networks compute in bfloat16; read when the first step is traced. The
            option "auto" lets a single process decide by its hardware, and means float32 for several.

    >>> trainer = Trainer(glow, batch_size=len(images))
    >>> trainer.initialize(images)
    >>> metrics = trainer.train_step(images)
    >>> sorted(metrics)
    ['bits_per_dim', 'gradient_norm', 'is_finite', 'learning_rate', 'nll_nats']
    >>> bool(metrics["is_finite"]), trainer.step_count
    (True, 1)
    """

    def __init__(
        self, glow: Glow, config: TrainConfig | None = None, schedule: Schedule | None = None, **options: Any
    ) -> None:
        config, schedule = config or TrainConfig(), schedule or Schedule()
        for value, kind in ((glow, Glow), (config, TrainConfig), (schedule, Schedule)):
            if not isinstance(value, kind):
                raise InputError(f"Trainer takes a {kind.__name__}, not {type(value).__name__}")
        self.glow = glow
        self.config = dataclasses.replace(config, **options)
        self._variables = glow.trainable_variables
        self.strategy = getattr(self._variables[0], "distribute_strategy", None) or tf.distribute.get_strategy()
        self.workers = Workers(self.strategy)
        self._check_fits()
        with self.strategy.scope():
            self.optimizer = Optimizer(self._variables, self.config, schedule)
        self.state = TrainState(glow.named_variables(), self.optimizer)
        self._holds_averages = False  # inside `ema_weights`
        self.mixed_precision = self.config.mixed_precision
        if self.mixed_precision == AUTO:
            self.mixed_precision = self.workers.count == 1 and hardware.prefers_bfloat16(glow.config.width)
        # Garbage collection is paused while the step is traced, which saves a seventh of the time.
        self._step = tf.function(paused()(self._run_on_replicas), autograph=False)
        self._loss_and_gradients = self._share_of_loss_and_gradients
        if self.config.jit_compile:
            # The sum over the replicas and the optimizer's fused kernels stay outside: XLA cannot compile them.
            self._loss_and_gradients = tf.function(self._loss_and_gradients, autograph=False, jit_compile=True)

    def _check_fits(self) -> None:
        batch_size, weight_y = self.config.batch_size, self.config.weight_y
        if batch_size % self.num_replicas:
            raise InputError(
                f"batch_size {batch_size} cannot be shared evenly among {self.num_replicas} devices; it must be a "
                f"multiple of {self.num_replicas}"
            )
        if weight_y and not self.glow.config.classifier:
            raise InputError(f"weight_y is {weight_y}, but this model has no classifier (classifier=False)")

    @property
    def step_count(self) -> int:
        """Number of training steps so far, including those skipped because of a non-finite gradient."""
        return self.state.step_count

    @property
    def num_replicas(self) -> int:
        """Number of devices that share a batch, over all workers."""
        return self.strategy.num_replicas_in_sync

    @property
    def shard(self) -> tuple[int, int]:
        """(index, count): this worker's part of a batch, an argument of `ArrayDataset.training_batches`."""
        return self.workers.index, self.workers.count

    def initialize(self, images: Array) -> None:
        """Runs `Glow.initialize` on uint8 images [N, H, W, C], once, before the first step. OpenAI's code takes 256."""
        images = uint8_images(images, self.glow.config.image_shape)
        self.glow.initialize(self.glow.dequantize(images, self.config.seed, NoiseStream.INITIALIZE))
        self.optimizer.reset_ema()

    def train_step(self, images: Array, labels: Labels | None = None) -> dict[str, tf.Tensor]:
        """One optimisation step.

        Args:
            images: uint8 [batch_size, H, W, C]; with several workers, this worker's part (see `shard`).
            labels: [batch_size] integers for a class-conditional model, else None.

        Returns:
            {"bits_per_dim", "nll_nats" (per image), "gradient_norm", "learning_rate": [] float,
            "is_finite": [] bool; if False, the step changed only `step_count`}, and if `weight_y` is above 0
            {"class_bits" (the classifier's loss per image), "class_accuracy"}.

        Raises:
            InputError: for an invalid batch, before the model is initialised, and inside a `tf.function`.
        """
        if not self.glow.is_initialized:
            raise InputError(
                "the actnorms are not initialised; call initialize(images) before train_step, or set "
                "glow.is_initialized = True if trained weights were assigned"
            )
        if not tf.executing_eagerly():
            raise InputError("train_step is compiled already; call it outside of tf.function")
        if self._holds_averages:
            raise InputError("train_step inside ema_weights() would be undone at its end; call it after the block")
        images = uint8_images(images, self.glow.config.image_shape)
        if len(images) * self.workers.count != self.config.batch_size:
            parts = f", in {self.workers.count} parts" if self.workers.count > 1 else ""
            raise InputError(
                f"a batch has {len(images)} images; this trainer's batch_size is {self.config.batch_size}{parts}"
            )
        labels = class_labels(labels, self.glow.config.num_classes, len(images))
        self._start_ema()
        with self.workers.raising_worker_lost():
            metrics = self._step(tf.constant(self.step_count), self._distribute(images), self._distribute(labels))
        self.state.step_count += 1
        return metrics

    def _distribute(self, batch: tf.Tensor | None) -> Any:
        """This worker's part of a batch, split into one piece per replica."""
        if self.num_replicas == 1 or batch is None:
            return batch
        size = self.config.batch_size // self.num_replicas

        def piece(context: Any) -> tf.Tensor:
            start = (context.replica_id_in_sync_group - self.workers.first_replica) * size
            return batch[start : start + size]

        return self.strategy.experimental_distribute_values_from_function(piece)

    def _run_on_replicas(self, step: tf.Tensor, images: Any, labels: Any = None) -> dict[str, tf.Tensor]:
        metrics = self.strategy.run(self._replica_step, args=(step, images, labels))
        return {name: self.strategy.experimental_local_results(value)[0] for name, value in metrics.items()}

    def _replica_step(self, step: tf.Tensor, images: tf.Tensor, labels: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """One replica's step: noise, loss and gradients, sum over all replicas, update."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        noise = self._noise(step, images, replica)
        losses, gradients = self._sum_over_replicas(*self._loss_and_gradients(noise, images, labels))
        bits_per_dim = self.glow.dequantizer.bits_per_dim(-losses["nll_nats"], self.glow.config.num_dims)
        # Dense, since the gradient of the class parameters is IndexedSlices, with a row for each image.
        norm = tf.linalg.global_norm([tf.convert_to_tensor(gradient) for gradient in gradients])
        is_finite = tf.math.is_finite(bits_per_dim) & tf.math.is_finite(norm)
        rate = self.optimizer.next_learning_rate(step)
        self.optimizer.apply(gradients, is_finite, step)
        metrics = {"bits_per_dim": bits_per_dim, "gradient_norm": norm, "learning_rate": rate, "is_finite": is_finite}
        return losses | metrics

    def _noise(self, step: tf.Tensor, images: tf.Tensor, replica: tf.Tensor | int) -> tf.Tensor:
        """A replica's slice of the batch's noise.

        Every replica draws the noise of the whole batch, so that it does not depend on the number of replicas.
        """
        shape = [self.config.batch_size, *images.shape[1:]]
        noise = uniform_noise(shape, [self.config.seed, step], self.glow.config.dtype)
        size = images.shape[0]
        return noise[replica * size : (replica + 1) * size]

    def _share_of_loss_and_gradients(
        self, noise: tf.Tensor, images: tf.Tensor, labels: tf.Tensor | None
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """This replica's share of the batch's mean losses, and the gradient of their weighted sum in bits."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._variables)
            distribution = self.glow.transformed_distribution(
                labels, backprop=self.config.backprop, network_dtype=tf.bfloat16 if self.mixed_precision else None
            )
            values, noise_log_prob = self.glow.flow.dequantize(noise, images)
            nll = -tf.reduce_sum(distribution.log_prob(values) - noise_log_prob) / self.config.batch_size
            loss = self.glow.dequantizer.bits_per_dim(-nll, self.glow.config.num_dims)
            losses = {"nll_nats": nll}
            if self.config.weight_y:
                # The latents come from the bijector's cache; the flow does not run again.
                losses |= self._classifier_losses(distribution.bijector.inverse(values), labels)
                loss += self.config.weight_y * losses["class_bits"]
        return losses, tape.gradient(loss, self._variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def _classifier_losses(self, z: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """This replica's share of the classifier's mean loss and accuracy, for latents z encoded under `labels`."""
        logits = class_logits(self.glow.flow, z, labels)
        nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        is_correct = tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32) == labels, nats.dtype)
        return {
            "class_bits": tf.reduce_sum(nats) / (self.config.batch_size * math.log(2.0)),
            "class_accuracy": tf.reduce_sum(is_correct) / self.config.batch_size,
        }

    def _sum_over_replicas(
        self, losses: dict[str, tf.Tensor], gradients: list[tf.Tensor]
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """The means over the global batch: the sums of all replicas' shares."""
        if self.num_replicas == 1:
            return losses, gradients
        context = tf.distribute.get_replica_context()
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, [*losses.values(), *gradients])
        return dict(zip(losses, sums, strict=False)), list(sums[len(losses) :])

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[Glow]:
        """A context in which the moving averages replace the Glow's weights, and in which no step is allowed."""
        self._start_ema()
        raw = [variable.numpy() for variable in self._variables]
        for variable, average in zip(self._variables, self.optimizer.ema, strict=True):
            variable.assign(average)
        is_nested, self._holds_averages = self._holds_averages, True
        try:
            yield self.glow
        finally:
            self._holds_averages = is_nested
            for variable, value in zip(self._variables, raw, strict=True):
                variable.assign(value)

    def _start_ema(self) -> None:
        """Before the first step, sets the averages to the weights, which may have been loaded after the constructor."""
        if not self.step_count:
            self.optimizer.reset_ema()

    def broadcast_variables(self) -> None:
        """Copies the chief's weights, moving averages and optimizer state to every worker; all workers call it."""
        self.workers.share([*self.glow.named_variables().values(), *self.optimizer.variables])
        self.glow.is_initialized = True  # as the chief's

    def fit(self, train: Any, test: Any, **options: Any) -> "FitResult":
        """Trains to the end of the last epoch: `glow_tf.fit(trainer, train, test, **options)`."""
        from glow_tf.training import loop

        return loop.fit(self, train, test, **options)
