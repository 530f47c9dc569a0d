import copy
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import CountingNetwork, make_glow, values_of

from glow_tf.data import image_data
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.integrations.keras import KerasGlow
from glow_tf.training.trainer import Trainer

PIXELS = np.random.default_rng(8).integers(0, 256, (12, 4, 8, 2)).astype(np.uint8)
LABELS = np.arange(12, dtype=np.int32) % 3

# Tracing the model takes most of the time of these tests, and takes twice as long for two levels.
SMALLEST = {"num_levels": 1, "num_steps": 1, "width": 4}


def batches(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(4)


def compiled(glow, **options):
    model = KerasGlow(glow, **options)
    model.compile(adamax())
    return model


def trainer_of(glow):
    return Trainer(glow, batch_size=4, learning_rate=0.01, ema_decay=0.0, seed=5)


@pytest.fixture(scope="module")
def trained():
    """A model, which tests may train further, after two epochs by Keras; its values then, and what `fit` returned."""
    glow = make_glow(num_classes=3, **SMALLEST)
    glow.is_initialized = True
    model = compiled(glow, seed=5)
    history = model.fit(batches(PIXELS, LABELS), epochs=2, verbose=0).history
    return model, values_of(glow), history


def test_fit_gives_the_numbers_of_the_trainer(trained):
    _, values, history = trained
    glow = make_glow(num_classes=3, **SMALLEST)
    glow.is_initialized = True
    trainer = trainer_of(glow)
    for epoch in range(2):
        found = [trainer.train_step(*batch)["bits_per_dim"] for batch in batches(PIXELS, LABELS)]
        assert history["bits_per_dim"][epoch] == pytest.approx(np.mean(found), rel=1e-6)
        assert history["loss"][epoch] == history["bits_per_dim"][epoch]
    for name, value in values_of(glow).items():
        np.testing.assert_allclose(value, values[name], rtol=0, atol=1e-7)


def test_evaluate_gives_the_numbers_of_the_evaluation(trained):
    model, *_ = trained
    split = image_data.ArrayDataset(PIXELS, LABELS)
    expected = metrics.bits_per_dim(model.glow, split, batch_size=4, seed=5)[0]
    for _ in range(2):
        found = model.evaluate(split.batches(4), verbose=0, return_dict=True)
        assert found["bits_per_dim"] == pytest.approx(expected, rel=1e-6)


def test_callbacks_work(trained, tmp_path):
    model, *_ = trained
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


def small(replicas=None, optimizer=None, **kind):
    """An initialised model of one level and one step, float64, compiled with SGD or another optimizer."""
    with replicas.scope() if replicas else tf.distribute.get_strategy().scope():
        glow = make_glow(**SMALLEST | kind)
        glow.is_initialized = True
        model = KerasGlow(glow, seed=5)
        model.compile((optimizer or (lambda: tf_keras.optimizers.SGD(1e-3)))())
    return model


def adamax():
    return tf_keras.optimizers.Adamax(0.01, epsilon=1e-8)


def largest_difference(one, other):
    return max(np.max(np.abs(value - values_of(other.glow)[name])) for name, value in values_of(one.glow).items())


def test_replicas_share_a_batch_that_does_not_divide(two_replicas):
    one, two = small(), small(two_replicas)
    losses = [m.fit(PIXELS[:11], batch_size=4, shuffle=False, verbose=0).history["loss"] for m in (one, two)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    assert largest_difference(one, two) < 1e-15
    assert two.step_count.numpy() == 3
    bits = [m.evaluate(PIXELS[:11], batch_size=4, verbose=0) for m in (one, two)]
    np.testing.assert_allclose(bits[1], bits[0], rtol=1e-6)


def two_kinds_of_training(replicas=None):
    """{"trainer": the Glow after two steps of `Trainer`, "keras": after an epoch by SGD, whose last batch has 3}."""
    by_keras, trainer = small(replicas), trainer_of(small(replicas).glow)
    by_keras.fit(PIXELS[:7], batch_size=4, shuffle=False, verbose=0)
    for i in (0, 4):
        trainer.train_step(PIXELS[i : i + 4])
    return {"keras": by_keras.glow, "trainer": trainer.glow}


# MirroredStrategies over different numbers of devices cannot share a process.
FOUR_REPLICAS = """
import sys
from conftest import start_tensorflow
start_tensorflow()
import numpy as np, tensorflow as tf
from helpers import values_of
from integrations.test_keras import two_kinds_of_training
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)])
glows = two_kinds_of_training(strategy)
np.savez(sys.argv[1], **{f"{k}|{name}": v for k, glow in glows.items() for name, v in values_of(glow).items()})
"""


@pytest.mark.slow
def test_four_replicas_compute_what_one_does(tmp_path):
    folder = pathlib.Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{folder.parent}", "TEST_DEVICES": "4"}
    command = [sys.executable, "-c", FOUR_REPLICAS, tmp_path / "four.npz"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "four.npz")
    for kind, glow in two_kinds_of_training().items():
        assert largest_difference(KerasGlow(glow), small()) > 1e-4
        for name, value in values_of(glow).items():
            np.testing.assert_allclose(found[f"{kind}|{name}"], value, rtol=0, atol=1e-9, err_msg=f"{kind} {name}")


def test_a_step_goes_down_the_gradient_of_the_mean_bits():
    model, glow = small(), make_glow(**SMALLEST)
    model.fit(PIXELS[:3], batch_size=8, shuffle=False, verbose=0)
    with tf.GradientTape() as tape:
        log_prob = glow.transformed_distribution().log_prob(glow.dequantize(PIXELS[:3], seed=5, stream=0))
        loss = tf.reduce_mean(glow.dequantizer.bits_per_dim(log_prob, glow.config.num_dims))
    gradients = tape.gradient(loss, glow.trainable_variables)
    for variable, gradient in zip(glow.trainable_variables, gradients, strict=True):
        variable.assign_sub(float(np.float32(1e-3)) * gradient)  # as Keras holds it
    assert largest_difference(model, KerasGlow(glow)) < 1e-15


def refusal_of(call):
    with pytest.raises(InputError) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.fixture(scope="module")
def conditional():
    return small(num_classes=3)


REFUSED_DATA = {
    "sample_weight": (lambda m: m.fit(PIXELS, LABELS, sample_weight=np.ones(12)), "no sample_weight"),
    "weights in the data": (lambda m: m.fit(batches(PIXELS, LABELS, np.ones(12))), "no sample_weight"),
    "weights of the test": (lambda m: m.evaluate(PIXELS, LABELS, sample_weight=np.ones(12)), "no sample_weight"),
    "class_weight": (lambda m: m.fit(PIXELS, LABELS, class_weight={0: 2.0}), "no class_weight"),
    "floats": (lambda m: m.fit(PIXELS / 255, LABELS), "images are float64; uint8"),
    "floats in a data set": (lambda m: m.fit(batches(PIXELS / 255, LABELS)), "images are float64; uint8"),
    "floats to evaluate": (lambda m: m.evaluate(batches(PIXELS / 255, LABELS)), "images are float64; uint8"),
    "no labels": (lambda m: m.fit(batches(PIXELS)), "give labels, integers from 0 to 2"),
    "no labels to evaluate": (lambda m: m.evaluate(PIXELS), "give labels, integers from 0 to 2"),
    "labels out of range": (lambda m: m.fit(PIXELS, LABELS + 1), "labels reach from 1 to 3"),
    "labels out of range in a data set": (lambda m: m.fit(batches(PIXELS, LABELS + 1)), "labels reach from 1 to"),
    "validation": (lambda m: m.fit(PIXELS, LABELS, validation_data=(PIXELS / 255, LABELS)), "images are float64"),
    "fractions": (lambda m: m.fit(PIXELS, LABELS + 0.5), "labels are float64"),
    "bytes to predict": (lambda m: m.predict(PIXELS), "images are uint8; continuous"),
    "0 .. 255 to predict": (lambda m: m.predict(PIXELS.astype(float)), "images reach from 0 to 255"),
    "bytes to call": (lambda m: m(PIXELS), "images are uint8; continuous"),
    "another shape to predict": (lambda m: m.predict(np.zeros((2, 8, 4, 2))), "(2, 8, 4, 2)"),
    "bytes to predict in a data set": (lambda m: m.predict(batches(PIXELS)), "images are uint8; continuous"),
    "nothing": (lambda m: m.fit(None), "images are NoneType"),
    "a list": (lambda m: m.fit([PIXELS]), "images are tuple"),
    "sample_weight of a batch": (lambda m: m.train_on_batch(PIXELS, LABELS, np.ones(12)), "no sample_weight"),
    "sample_weight of a test batch": (lambda m: m.test_on_batch(PIXELS, LABELS, np.ones(12)), "no sample_weight"),
    "class_weight of a batch": (lambda m: m.train_on_batch(PIXELS, LABELS, class_weight={0: 2.0}), "no class_weight"),
    "floats in a batch": (lambda m: m.train_on_batch(PIXELS / 255, LABELS), "images are float64; uint8"),
    "floats in a test batch": (lambda m: m.test_on_batch(PIXELS / 255, LABELS), "images are float64; uint8"),
    "bytes in a batch to predict": (lambda m: m.predict_on_batch(PIXELS), "images are uint8; continuous"),
    "a batch without labels": (lambda m: m.train_on_batch(PIXELS), "give labels, integers from 0 to 2"),
    "too few labels in a batch": (lambda m: m.train_on_batch(PIXELS, LABELS[:3]), "3 labels were given for 12"),
    "no Glow": (lambda m: KerasGlow("digits"), "takes a Glow, not str"),
    "backprop": (lambda m: KerasGlow(m.glow, backprop="cheap"), "backprop is 'cheap'"),
    "seed": (lambda m: KerasGlow(m.glow, seed=0.5), "seed is 0.5"),
    "jit_compile": (lambda m: m.compile("sgd", jit_compile=True), "no jit_compile"),
    "loss": (lambda m: m.compile("sgd", "mse"), "no loss"),
    "metrics": (lambda m: m.compile("sgd", metrics=["mae"]), "no metrics"),
    "weighted_metrics": (lambda m: m.compile("sgd", weighted_metrics=["mae"]), "no weighted_metrics"),
    "add_loss": (lambda m: m.add_loss(lambda: 1.0), "no add_loss"),
    "add_metric": (lambda m: m.add_metric(1.0, name="one"), "no add_metric"),
}


@pytest.mark.parametrize(("call", "said"), REFUSED_DATA.values(), ids=REFUSED_DATA)
def test_nothing_is_ignored(call, said, conditional):
    before = values_of(conditional.glow)
    assert said in refusal_of(lambda: call(conditional))
    for name, value in values_of(conditional.glow).items():
        np.testing.assert_array_equal(value, before[name])


def checkpoint(path, **options):
    return lambda m, folder: m.fit(
        PIXELS, LABELS, callbacks=[tf_keras.callbacks.ModelCheckpoint(f"{folder}/{path}", **options)]
    )


REFUSED_FILES = {
    "a folder": lambda m, folder: m.save(f"{folder}/model"),
    "HDF5": lambda m, folder: m.save(f"{folder}/model.h5"),
    "save_format": lambda m, folder: m.save(f"{folder}/model", save_format="tf"),
    "the function": lambda m, folder: tf_keras.models.save_model(m, f"{folder}/model"),
    "export": lambda m, folder: m.export(f"{folder}/model"),
    "SavedModel": lambda m, folder: tf.saved_model.save(m, f"{folder}/model"),
    "weights as a checkpoint": lambda m, folder: m.save_weights(f"{folder}/weights"),
    "weights as tf": lambda m, folder: m.save_weights(f"{folder}/weights.h5", save_format="tf"),
    "callback to a folder": checkpoint("model"),
    "callback to HDF5": checkpoint("model.h5"),
    "callback to a checkpoint": checkpoint("weights", save_weights_only=True),
}


@pytest.mark.parametrize("save", REFUSED_FILES.values(), ids=REFUSED_FILES)
def test_a_file_without_the_weights_is_never_written(save, conditional, tmp_path):
    message = refusal_of(lambda: save(conditional, tmp_path))
    for way in ('save_weights("weights.h5")', 'save("model.keras")', "saved_model.save_model"):
        assert way in message
    assert not list(tmp_path.iterdir())


def test_weights_that_must_stay_are_not_overwritten(conditional, tmp_path):
    path = tmp_path / "weights.h5"
    path.write_text("precious")
    assert "weights.h5 exists already" in refusal_of(lambda: conditional.save_weights(path, overwrite=False))
    assert path.read_text() == "precious"


def test_an_archive_holds_every_level(tmp_path):
    model, path = small(num_levels=2), str(tmp_path / "model.keras")
    model.save(path)
    loaded = tf_keras.models.load_model(path)
    assert loaded.glow.config == model.glow.config
    assert largest_difference(model, loaded) == 0


def test_an_archive_trains_on_as_the_model_does(tmp_path):
    model, path = small(optimizer=adamax), str(tmp_path / "model.keras")
    model.fit(batches(PIXELS), verbose=0, callbacks=[tf_keras.callbacks.ModelCheckpoint(path)])
    loaded = tf_keras.models.load_model(path)
    assert loaded.glow.config == model.glow.config and loaded.glow.is_initialized
    assert largest_difference(model, loaded) == 0
    for one in (model, loaded):
        one.fit(batches(PIXELS), verbose=0)
    assert largest_difference(model, loaded) == 0


def test_copies(conditional):
    values = conditional.glow.dequantize(PIXELS)
    same = copy.deepcopy(conditional)
    np.testing.assert_allclose(same(values), conditional(values), rtol=1e-12)
    clone = tf_keras.models.clone_model(conditional)
    assert clone.glow.config == conditional.glow.config and not clone.glow.is_initialized
    assert np.any(clone.glow.named_variables()["level0/coupling/conv1_kernel"].numpy() != 0)  # weights that can learn
    own_network = KerasGlow(make_glow(network=CountingNetwork(8)))
    assert "network of your own" in refusal_of(own_network.get_config)


def test_steps_by_hand_are_those_of_fit():
    by_fit, by_hand = small(), small()
    history = by_fit.fit(PIXELS, batch_size=4, shuffle=False, verbose=0).history
    found = [by_hand.train_on_batch(PIXELS[i : i + 4], reset_metrics=i == 0) for i in (0, 4, 8)]
    np.testing.assert_allclose(found[-1], [history["loss"][0]] * 2, rtol=1e-6)
    assert largest_difference(by_fit, by_hand) == 0
    values = by_fit.glow.dequantize(PIXELS[:3])
    np.testing.assert_allclose(by_fit.predict_on_batch(values), by_fit.glow.log_prob(values), rtol=1e-12)


@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
def test_a_global_policy_does_not_round_the_metric(policy, conditional):
    try:
        tf_keras.mixed_precision.set_global_policy(policy)
        (metric,) = KerasGlow(conditional.glow).metrics
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    for _ in range(300):
        metric.update_state(tf.fill([64], 3.5))
    assert float(metric.result()) == 3.5


def test_weights_by_position_are_refused_and_a_bare_array_validates():
    model, weights = small(), np.ones(12)
    for call in (
        lambda: model.fit(PIXELS, None, 4, 1, 0, None, 0.0, None, True, None, weights),
        lambda: model.evaluate(PIXELS, None, 4, 0, weights),
    ):
        assert "no sample_weight" in refusal_of(call)
    history = model.fit(PIXELS, validation_data=PIXELS, batch_size=12, verbose=0).history
    assert history["val_loss"] == [model.evaluate(PIXELS, batch_size=12, verbose=0)[0]]


def test_a_tf_checkpoint_restores_the_weights(tmp_path):
    model, other = small(num_levels=2), small(seed=3, num_levels=2)
    assert largest_difference(model, other) > 1e-3
    tf.train.Checkpoint(model).write(tmp_path / "state")
    tf.train.Checkpoint(other).read(tmp_path / "state").assert_existing_objects_matched()
    assert largest_difference(model, other) == 0


def test_actnorms_are_initialised_first():
    model, other = KerasGlow(make_glow(**SMALLEST), seed=5), make_glow(**SMALLEST)
    model.compile("sgd")
    for call in (lambda: model.fit(PIXELS), lambda: model.train_step(PIXELS)):
        assert "initialize(images) before fit" in refusal_of(call)
    model.initialize(PIXELS)
    trainer_of(other).initialize(PIXELS)
    assert largest_difference(model, KerasGlow(other)) == 0
    values = model.glow.dequantize(PIXELS[:2])
    np.testing.assert_allclose(model(values), model.glow.log_prob(values), rtol=1e-12)
    np.testing.assert_allclose(model.predict(values, verbose=0), model.glow.log_prob(values), rtol=1e-12)


def test_a_model_of_classes_without_labels_is_the_mixture(conditional):
    values = conditional.glow.dequantize(PIXELS)
    np.testing.assert_allclose(conditional(values), conditional.glow.log_prob(values), rtol=1e-12)
