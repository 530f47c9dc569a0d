"""The training step that benchmarks/accelerator.py exports, and benchmarks/on_accelerator.py runs with JAX."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import glow_tf

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import accelerator
import on_accelerator

OPTIONS = dict(batch_size=4, optimizer="muon", learning_rate=2e-3, ema_decay=0.5)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, [16, 8, 8, 3]).astype(np.uint8)


class _Trainer(glow_tf.Trainer):
    """Its noise is constant, since XLA draws other random numbers than TensorFlow's kernels from the same seed."""

    def _noise(self, step, images, replica):
        return tf.fill(images.shape, 0.5)


def _trainer(images):
    config = glow_tf.GlowConfig((8, 8, 3), num_levels=2, num_steps=2, width=8, architecture="plus")
    trainer = _Trainer(glow_tf.Glow(config), **OPTIONS)
    trainer.initialize(images)
    return trainer


@pytest.fixture(scope="module")
def exported(images, tmp_path_factory):
    path = tmp_path_factory.mktemp("accelerator") / "step.npz"
    accelerator.save_step(_trainer(images), path, with_values=True)
    return path


def test_the_file_holds_every_weight_and_every_state(exported, images):
    trainer = _trainer(images)
    with np.load(exported) as stored:
        indices = dict(reversed(text.split(" ")) for text in stored["weights"])
        weights = {name: stored[f"input{int(index):05d}"] for name, index in indices.items()}
        variables = trainer.glow.named_variables()
        assert set(weights) == set(variables)
        for name, value in weights.items():
            np.testing.assert_array_equal(value, variables[name], name)
        # Per trained weight: itself, its average and first moment, and a second moment where Adam trains it. Beside
        # them the number of updates and Muon's usual norm.
        muon = sum(name.endswith("_kernel") and "/coupling/" in name for name in variables)
        assert len(stored["updated"]) == 4 * len(trainer.glow.trainable_variables) - muon + 2
        assert stored[f"input{int(stored['rate']):05d}"] == np.float32(OPTIONS["learning_rate"])


def test_jax_trains_as_the_trainer_does(exported, images, tmp_path):
    pytest.importorskip("jax")
    trainer, step = _trainer(images), on_accelerator.Step(exported)
    for number, batch in enumerate(np.split(images, 4)):
        ours, theirs = trainer.train_step(batch), step(number, batch, OPTIONS["learning_rate"])
        assert float(theirs["bits_per_dim"]) == pytest.approx(float(ours["bits_per_dim"]), abs=1e-5)
    step.write_weights(tmp_path / "trained", step=4, epoch=1, seconds=1.0)
    accelerator.import_weights(
        SimpleNamespace(folder=tmp_path / "trained", weights=tmp_path / "weights.h5", dataset=None)
    )
    with trainer.ema_weights() as glow:
        expected = glow.bits_per_dim(images)
    glow = glow_tf.Glow.load(tmp_path / "weights.h5")
    assert glow.metadata["step"] == 4
    np.testing.assert_allclose(glow.bits_per_dim(images), expected, atol=1e-4)


def test_mosaics_hold_the_images(tmp_path, monkeypatch):
    images = np.random.default_rng(1).integers(0, 256, [13, 8, 8, 3]).astype(np.uint8)
    monkeypatch.setattr(accelerator, "MOSAIC", (2, 3))
    accelerator.save_mosaics(images, tmp_path)
    np.testing.assert_array_equal(on_accelerator.read_images([tmp_path]), images[:12])
