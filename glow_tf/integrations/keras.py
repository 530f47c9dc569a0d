"""A Glow as a tf_keras.Model: `compile`, `fit`, `evaluate`, `predict`, callbacks, `.keras` archives.

It has a Glow rather than being one: a Keras model takes over the names and the tracking of its attributes, and its
own `save_weights` finds no layers in a tf.Module and writes an empty file without an error.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from glow_tf import dequantization, inputs, persistence
from glow_tf.bijectors import BACKPROP_MODES
from glow_tf.config import GlowConfig
from glow_tf.dequantization import NoiseStream
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.inputs import Array

WAYS_TO_SAVE = (
    'save_weights("weights.h5") writes weights that Glow.load reads, save("model.keras") the whole model, and '
    "glow_tf.integrations.saved_model.save_model a SavedModel"
)


@contextlib.contextmanager
def _plain_input_errors() -> Iterator[None]:
    """Raises an InputError as it was first raised: Keras, AutoGraph and graphs wrap it in lines of their own."""
    try:
        yield
    except Exception as error:
        plain = inputs.error_of_assertion(error)
        cause: BaseException | None = error
        while cause is not None:
            plain = cause if isinstance(cause, InputError) else plain
            cause = cause.__cause__ or cause.__context__
        if plain is None or plain is error:
            raise
        raise plain from None


def _refusing(name: str, reason: str) -> Callable:
    def refuse(self: Any, *args: Any, **options: Any) -> None:
        raise InputError(f"KerasGlow has no {name}{reason}")

    return refuse


@tf_keras.saving.register_keras_serializable("glow_tf")
class KerasGlow(tf_keras.Model):
    """Trains a Glow with Keras, to the same numbers as `Trainer` with the same optimizer.

        model = KerasGlow(glow)
        model.initialize(images)
        model.compile(tf_keras.optimizers.Adamax(1e-3, epsilon=1e-8))
        model.fit(train.training_batches(64, seed=0, epoch=0), validation_data=test.batches(64), epochs=10)

    The data are uint8 images [B, H, W, C], or pairs of images and labels [B]. The loss and the metric `bits_per_dim`
    are bits/dim of dequantised images: with noise of (seed, i) in training batch i, and of (seed + i, 0) in batch i of
    an evaluation, as `evaluation.metrics.bits_per_dim`. The noise of an image does not depend on how many replicas
    share its batch, and a last batch that cannot be shared evenly is trained on like any other.

    The model, its loss and its weighting of images are fixed, so other losses, metrics and weights are refused.
    `save_weights("weights.h5")` and `ModelCheckpoint("weights.h5", save_weights_only=True)` write files that
    `Glow.load` reads; `save("model.keras")` and `ModelCheckpoint("model.keras")` write archives with the optimizer,
    which `tf_keras.models.load_model` reads. Keras' other formats would not hold the weights and are refused.

    Args:
        glow: a Glow, made under the strategy's scope if there is one, as this model must be.
        backprop: see `Scan`.
        seed: seed of the noise.

    >>> model = KerasGlow(glow)
    >>> model.predict(glow.dequantize(images), verbose=0).shape
    (6,)
    """

    def __init__(self, glow: Glow, backprop: str = "stored", seed: int = 0) -> None:
        if not isinstance(glow, Glow):
            raise InputError(f"KerasGlow takes a Glow, not {type(glow).__name__}")
        if backprop not in BACKPROP_MODES:
            raise InputError(f"backprop is {backprop!r}; it can be {', '.join(BACKPROP_MODES)}")
        inputs.check_seed(seed)
        super().__init__(name="keras_glow", dtype=glow.config.dtype)  # Keras would cast images to its own type
        self.glow = glow
        self.backprop = backprop
        self.seed = seed
        first_replica = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.step_count = tf.Variable(0, trainable=False, name="step_count", aggregation=first_replica)
        self._batches_tested = tf.Variable(0, trainable=False, name="batches_tested", aggregation=first_replica)
        # By default Keras would sum in the type of its global policy; a sum in float16 stops growing.
        self._bits_per_dim = tf_keras.metrics.Mean(name="bits_per_dim", dtype=tf.float32)
        self.built = True

    def initialize(self, images: Array) -> None:
        """Data-dependent initialisation from uint8 images [N, H, W, C], before the first `fit`; see `Trainer`."""
        self.glow.initialize(self.glow.dequantize(images, self.seed, NoiseStream.INITIALIZE))

    @property
    def metrics(self) -> list[tf_keras.metrics.Metric]:
        """The mean bits/dim, which Keras resets at every epoch."""
        return [self._bits_per_dim]

    def call(self, images: Array, training: bool | None = None) -> tf.Tensor:
        """[B], nats: `Glow.log_prob` of continuous images, under the mixture of classes if there are any."""
        return self.glow.log_prob(images)

    @_plain_input_errors()
    def __call__(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        """As Keras' `__call__`."""
        return super().__call__(*args, **kwargs)

    # -------------------------------------------------------------------------------------- training

    def compile(
        self,
        optimizer: Any = "adamax",
        loss: None = None,
        metrics: None = None,
        loss_weights: None = None,
        weighted_metrics: None = None,
        **options: Any,
    ) -> None:
        """Sets the optimizer; InputError for XLA, a loss, metrics or weights: the loss and the metric are bits/dim."""
        if options.get("jit_compile"):
            raise InputError("KerasGlow has no jit_compile; Trainer(glow, jit_compile=True) trains with XLA")
        _refuse("compile", loss=loss, metrics=metrics, loss_weights=loss_weights, weighted_metrics=weighted_metrics)
        super().compile(optimizer, **options)

    # They would be ignored.
    add_loss = _refusing("add_loss", ": its loss is bits/dim")
    add_metric = _refusing("add_metric", ": its metric is bits_per_dim")

    @_plain_input_errors()
    def fit(self, x: Any = None, y: Any = None, *args: Any, **options: Any) -> tf_keras.callbacks.History:
        """As Keras' `fit`.

        Raises:
            InputError: before training, for images that are not uint8, missing or invalid labels, weights of images or
                classes, and callbacks that would save a file without the weights.
        """
        self._check_initialized()
        _refuse("fit", class_weight=options.get("class_weight", *args[7:8]))
        callbacks = options.get("callbacks", *args[3:4])
        for callback in tf.nest.flatten(getattr(callbacks, "callbacks", callbacks)):  # of a CallbackList, or a list
            if isinstance(callback, tf_keras.callbacks.ModelCheckpoint):
                _check_path(callback.filepath, None, callback.save_weights_only)
        _check_data(self._unpack, x, y, options.get("sample_weight", *args[8:9]))
        validation = options.get("validation_data", *args[5:6])
        if isinstance(validation, (np.ndarray, tf.Tensor)):
            options["validation_data"] = validation = (validation,)  # Keras takes no bare array
        if validation is not None:
            _check_data(self._unpack, *(validation if isinstance(validation, (tuple, list)) else [validation]))
        return super().fit(x, y, *args, **options)

    @_plain_input_errors()
    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **options: Any) -> Any:
        """As Keras' `evaluate`; its noise is the same at every call. Raises InputError as `fit`."""
        _check_data(self._unpack, x, y, options.get("sample_weight", *args[2:3]))
        self._batches_tested.assign(0)
        return super().evaluate(x, y, *args, **options)

    @_plain_input_errors()
    def predict(self, x: Any, *args: Any, **options: Any) -> Any:
        """As Keras' `predict`: the log densities [B] of continuous images, in nats."""
        _check_data(self._check_continuous, x)
        return super().predict(x, *args, **options)

    @_plain_input_errors()
    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: None = None, class_weight: None = None, **options: Any
    ) -> Any:
        """As Keras' `train_on_batch`. Raises InputError as `fit`."""
        self._check_initialized()
        _refuse("train_on_batch", class_weight=class_weight)
        _check_data(self._unpack, x, y, sample_weight)
        return super().train_on_batch(x, y, **options)

    @_plain_input_errors()
    def test_on_batch(self, x: Any, y: Any = None, sample_weight: None = None, **options: Any) -> Any:
        """As Keras' `test_on_batch`. Raises InputError as `fit`."""
        _check_data(self._unpack, x, y, sample_weight)
        return super().test_on_batch(x, y, **options)

    @_plain_input_errors()
    def predict_on_batch(self, x: Any) -> Any:
        """As Keras' `predict_on_batch`; see `predict`."""
        _check_data(self._check_continuous, x)
        return super().predict_on_batch(x)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step of `fit`, on one replica's part of a batch: its share of the mean over the whole batch."""
        self._check_initialized()
        images, labels = self._unpack(data)
        with tf.GradientTape() as tape:
            bits, batch_size = self._bits(images, labels, [self.seed, self.step_count])
            loss = tf.reduce_sum(bits) / tf.cast(batch_size, bits.dtype)
        # Keras' optimizers sum the gradients of the replicas.
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        self.step_count.assign_add(1)
        return self._updated(bits)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One step of `evaluate`, on one replica's part of a batch."""
        images, labels = self._unpack(data)
        bits, _ = self._bits(images, labels, [self.seed + self._batches_tested, NoiseStream.SCORE])
        self._batches_tested.assign_add(1)
        return self._updated(bits)

    def _check_initialized(self) -> None:
        if not self.glow.is_initialized:
            raise InputError(
                "the actnorms are not initialised; call initialize(images) before fit, or set "
                "glow.is_initialized = True if trained weights were assigned"
            )

    def _check_continuous(self, data: Any) -> None:
        inputs.continuous_images(data[0] if isinstance(data, tuple) else data, self.glow.config)

    def _unpack(self, data: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
        images, labels, weights = tf_keras.utils.unpack_x_y_sample_weight(data)
        _refuse("KerasGlow", sample_weight=weights)
        config = self.glow.config
        images = inputs.uint8_images(images, config.image_shape)
        if not config.num_classes:
            labels = None  # data sets have labels that such a model does not use
        return images, inputs.class_labels(labels, config.num_classes, tf.shape(images)[0])

    def _bits(self, images: tf.Tensor, labels: tf.Tensor | None, seed: Sequence[Any]) -> tuple[tf.Tensor, tf.Tensor]:
        """(bits/dim [b] of this replica's images, the number of images of all replicas)."""
        glow = self.glow
        size = tf.shape(images)[0]
        first, batch_size = _place_in_batch(size)
        noise_shape = [batch_size, *glow.config.image_shape]
        noise = dequantization.uniform_noise(noise_shape, tf.stack(seed), glow.config.dtype)[first : first + size]
        values, noise_log_prob = glow.flow.dequantize(noise, images)
        log_prob = glow.transformed_distribution(labels, backprop=self.backprop).log_prob(values)
        return glow.dequantizer.bits_per_dim(log_prob - noise_log_prob, glow.config.num_dims), batch_size

    def _updated(self, bits: tf.Tensor) -> dict[str, tf.Tensor]:
        self._bits_per_dim.update_state(bits)
        return {"loss": self._bits_per_dim.result(), "bits_per_dim": self._bits_per_dim.result()}

    # -------------------------------------------------------------------------------------- files

    def save(
        self, filepath: str | os.PathLike, overwrite: bool = True, save_format: Any = None, **options: Any
    ) -> None:
        """Writes a `.keras` archive; InputError for another format."""
        _check_path(filepath, save_format, weights_only=False)
        super().save(filepath, overwrite=overwrite, **options)

    def _trackable_children(self, save_type: str = "checkpoint", **options: Any) -> dict[str, Any]:
        # What every way to write a SavedModel calls, `tf.saved_model.save` too.
        if save_type == "savedmodel":
            raise InputError(f"KerasGlow cannot be written as a SavedModel; {WAYS_TO_SAVE}")
        return super()._trackable_children(save_type, **options)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded archive as the saved model was compiled."""
        self.compile(**tf_keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    export = _refusing("export", f"; {WAYS_TO_SAVE}")

    def save_weights(
        self, filepath: str | os.PathLike, overwrite: bool = True, save_format: Any = None, options: Any = None
    ) -> None:
        """Writes `weights.h5`, as `Glow.save_weights`; InputError for another format, or a file that must stay."""
        _check_path(filepath, save_format, weights_only=True)
        if not overwrite and os.path.exists(filepath):
            raise InputError(f"{os.fspath(filepath)} exists already and overwrite is False")
        self.glow.save_weights(filepath)

    def load_weights(
        self, filepath: str | os.PathLike, skip_mismatch: bool = False, by_name: bool = False, options: Any = None
    ) -> None:
        """Reads `weights.h5`; see `Glow.load_weights`."""
        _refuse("load_weights", skip_mismatch=skip_mismatch, by_name=by_name)
        self.glow.load_weights(filepath)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, for `.keras` archives.

        Raises:
            InputError: for a Glow with a coupling network of its own, which such values do not describe.
        """
        if self.glow.network is not None:
            raise InputError("an archive cannot hold a coupling network of your own; save_weights writes its weights")
        return {"glow": self.glow.config.to_dict(), "backprop": self.backprop, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "KerasGlow":
        """The inverse of `get_config`, with new weights."""
        return cls(Glow(GlowConfig.from_dict(config["glow"])), config["backprop"], config["seed"])

    def save_own_variables(self, store: Any) -> None:
        """Writes the variables of the Glow into a `.keras` archive."""
        for name, value in persistence.values_of(self.glow).items():
            store[name.replace("/", ".")] = value
        store["step_count"] = self.step_count.numpy()
        store["is_initialized"] = self.glow.is_initialized

    def load_own_variables(self, store: Any) -> None:
        """Reads what `save_own_variables` wrote."""
        for name, variable in self.glow.named_variables().items():
            variable.assign(store[name.replace("/", ".")][()])
        self.step_count.assign(store["step_count"][()])
        self.glow.is_initialized = bool(store["is_initialized"][()])


def _check_data(check: Callable[[Any], Any], x: Any, *others: Any) -> None:
    """Checks arrays, or the element types of a data set, before anything is traced or trained."""
    if isinstance(x, tf.data.Dataset):
        tf.function(check, autograph=False).get_concrete_function(x.element_spec)
    elif x is None or isinstance(x, (np.ndarray, tf.Tensor, str)):
        check((x, *others))


def _place_in_batch(size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(index of this replica's first image in the whole batch, number of images in the whole batch)."""
    context = tf.distribute.get_replica_context()
    replicas = context.num_replicas_in_sync if context else 1
    if replicas == 1:
        return tf.zeros([], tf.int32), size
    replica = context.replica_id_in_sync_group
    sizes = context.all_reduce(tf.distribute.ReduceOp.SUM, size * tf.one_hot(replica, replicas, dtype=tf.int32))
    return tf.reduce_sum(sizes[:replica]), tf.reduce_sum(sizes)


def _refuse(method: str, **arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None and value is not False:
            raise InputError(f"{method} takes no {name}: the loss of a Glow is the mean bits/dim of all images")


def _check_path(path: str | os.PathLike, save_format: Any, weights_only: bool) -> None:
    contents, known, endings = (
        ("the weights", "h5", (".h5", ".hdf5")) if weights_only else ("this model", "keras", ".keras")
    )
    if save_format not in (None, known) or not os.fspath(path).endswith(endings):
        raise InputError(f"{os.fspath(path)} cannot hold {contents} in that format; {WAYS_TO_SAVE}")
