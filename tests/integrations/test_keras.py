import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import make_glow, values_of

from glow_tf.data import image_data
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.integrations.keras import KerasGlow
from glow_tf.training.trainer import Trainer

PIXELS = np.random.default_rng(8).integers(0, 256, (12, 4, 8, 2)).astype(np.uint8)
LABELS = np.arange(12, dtype=np.int32) % 3


def batches(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(4)


def compiled(glow, **options):
    model = KerasGlow(glow, **options)
    model.compile(tf_keras.optimizers.Adamax(0.01, epsilon=1e-8))
    return model


@pytest.fixture(scope="module")
def trained():
    """A model after two epochs by Keras, and the history that `fit` returned."""
    glow = make_glow(num_classes=3)
    glow.is_initialized = True
    model = compiled(glow, seed=5)
    return model, model.fit(batches(PIXELS, LABELS), epochs=2, verbose=0).history


def test_fit_gives_the_numbers_of_the_trainer(trained):
    model, history = trained
    glow = make_glow(num_classes=3)
    trainer = Trainer(glow, batch_size=4, learning_rate=0.01, ema_decay=0.0, seed=5)
    for epoch in range(2):
        found = [trainer.train_step(*batch)["bits_per_dim"] for batch in batches(PIXELS, LABELS)]
        assert history["bits_per_dim"][epoch] == pytest.approx(np.mean(found), rel=1e-6)
        assert history["loss"][epoch] == history["bits_per_dim"][epoch]
    for name, value in values_of(glow).items():
        np.testing.assert_allclose(value, values_of(model.glow)[name], rtol=0, atol=1e-7)


def test_evaluate_gives_the_numbers_of_the_evaluation(trained):
    model, _ = trained
    split = image_data.ArrayDataset(PIXELS, LABELS)
    expected = metrics.bits_per_dim(model.glow, split, batch_size=4, seed=5)[0]
    for _ in range(2):
        found = model.evaluate(split.batches(4), verbose=0, return_dict=True)
        assert found["bits_per_dim"] == pytest.approx(expected, rel=1e-6)


def test_callbacks_work(trained, tmp_path):
    model, _ = trained
    callbacks = [
        tf_keras.callbacks.ModelCheckpoint(
            tmp_path / "weights.h5", "val_bits_per_dim", save_best_only=True, save_weights_only=True
        ),
        tf_keras.callbacks.TensorBoard(tmp_path / "logs", write_graph=False),
        tf_keras.callbacks.EarlyStopping("val_bits_per_dim", patience=0, min_delta=99, restore_best_weights=True),
    ]
    pairs = batches(PIXELS, LABELS)
    history = model.fit(pairs, validation_data=pairs, epochs=5, verbose=0, callbacks=callbacks).history
    assert len(history["val_bits_per_dim"]) == 2  # stopped early
    best = Glow.load(tmp_path / "weights.h5")
    assert best.config == model.glow.config
    assert list((tmp_path / "logs").rglob("events*"))
    model.load_weights(tmp_path / "weights.h5")
    for name, value in values_of(best).items():
        np.testing.assert_array_equal(value, values_of(model.glow)[name])


def test_what_cannot_work_is_said():
    glow = make_glow(num_classes=3)
    with pytest.raises(InputError, match="initialize"):
        compiled(glow).train_step((PIXELS[:2], LABELS[:2]))
    with pytest.raises(InputError, match="labels"):
        compiled(glow).test_step(PIXELS[:2])
    model = KerasGlow(make_glow())
    model.initialize(PIXELS)
    assert model.glow.is_initialized
    values = model.glow.dequantizer.dequantize(PIXELS[:2], 0.5)
    np.testing.assert_allclose(model(values), model.glow.log_prob(values), rtol=1e-6)
