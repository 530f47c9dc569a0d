"""An evaluation of a run: which weights it scores and writes, and on which images each number rests."""

import csv

import numpy as np
import pytest
from small_training import BATCH, CONFIG, fit, images, trainer_at_start

from glow_tf.config import GlowConfig
from glow_tf.data.dataset import ArrayDataset
from glow_tf.dequantization import NoiseStream
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.training import pictures
from glow_tf.training.run_directory import RunDirectory
from glow_tf.training.trainer import Trainer

NO_PICTURE = np.zeros((1, 1, 3), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(the trainer after an epoch, its run, the Glow that was saved)."""
    trainer, path = trainer_at_start(), tmp_path_factory.mktemp("evaluated") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glow_tf.training.curves.draw", lambda *_: b"png")
        patch.setattr(pictures, "draw", lambda glow, *drawn: trainer.drawn.append(drawn) or {"samples": NO_PICTURE})
        trainer.drawn = []
        fit(trainer, path, epochs=1)
    return trainer, RunDirectory(path), Glow.load(path)


def test_the_averages_are_scored_and_written(run):
    trainer, _, glow = run
    averages = [average.numpy() for average in trainer.optimizer.ema]
    saved = [variable.numpy() for variable in glow.trainable_variables]
    assert all(np.array_equal(a, b) for a, b in zip(saved, averages, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(saved, trainer.glow.trainable_variables, strict=True))
    bits, error, count = metrics.bits_per_dim(glow, images()[1])
    assert glow.metadata["test_images"] == count == 12
    found = glow.metadata["test_bits_per_dim"], glow.metadata["test_standard_error"]
    assert found == pytest.approx((bits, error), rel=1e-5)


def test_pictures_are_of_test_images_and_say_when(run):
    ((pixels, _, class_names, when, _),) = run[0].drawn
    np.testing.assert_array_equal(pixels, images()[1].random_subset(256, seed=0)[0])
    assert (class_names, when) == ((), "epoch 1, step 3")


@pytest.mark.usefixtures("undrawn")
def test_a_model_of_classes_is_evaluated_given_the_class(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(pictures, "draw", lambda *_: {"samples": NO_PICTURE})
    train, test = (ArrayDataset(split.images, np.arange(split.num_images) % 2) for split in images())
    small = {"num_levels": 1, "num_steps": 1, "width": 4, "num_classes": 2}
    trainer = Trainer(Glow(GlowConfig(**CONFIG | small)), batch_size=BATCH)
    trainer.glow.named_variables()["top/class_kernel"].assign(rng.standard_normal((2, 8)))
    directory = RunDirectory(tmp_path / "run")
    names = ["cat", "dog"]
    result = trainer.fit(train, test, run_directory=directory, epochs=1, metadata={"class_names": names})
    pixels, labels = test.random_subset(256, seed=0)
    with trainer.ema_weights() as glow:
        assert result.bits_per_dim == pytest.approx(metrics.bits_per_dim(glow, test)[0], rel=1e-5)
        variance = metrics.latent_statistics(glow, pixels, labels)["z/variance"]
    with open(directory.path / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["test_z_variance"]) == pytest.approx(variance, rel=1e-4)
    assert float(row["diagnostics_round_trip_error"]) < 1e-3
    assert (directory.test_logs / "classes.tsv").read_text().split() == [names[label] for label in labels]


def test_typical_images_are_those_of_the_training(run):
    glow, train = run[2], images()[0]
    expected = metrics.distribution_summary(metrics.bits_per_dim_per_image(glow, train.random_subset(512, seed=1)[0]))
    found = glow.metadata["train_bits_per_dim"]
    assert found["count"] == 26 and found["mean"] == pytest.approx(expected["mean"], rel=1e-5)
    assert found["quantiles"] == pytest.approx(expected["quantiles"], rel=1e-4)


def test_latents_are_those_of_either_split(run):
    _, directory, glow = run
    with open(directory.path / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["test_images"] == "12"
    nats = glow.dequantizer.nll_nats(float(row["test_bits_per_dim"]), 64)
    assert float(row["nll_nats"]) == pytest.approx(nats, rel=1e-4)
    for name, split in zip(("train", "test"), images(), strict=True):
        expected = metrics.latent_statistics(glow, split.random_subset(256, seed=0)[0])["z/variance"]
        assert float(row[f"{name}_z_variance"]) == pytest.approx(expected, rel=1e-4)
    pixels, _ = images()[1].random_subset(256, seed=0)
    deepest = glow.split_latents(glow.encode(glow.dequantize(pixels, 0, NoiseStream.DIAGNOSE)))[-1]
    table = np.loadtxt(directory.test_logs / "latents.tsv", delimiter="\t")
    np.testing.assert_allclose(table, np.reshape(deepest, [12, -1]), atol=1e-3)
