"""TensorBoard's HParams and Projector pages, read back as TensorBoard reads them; curves that overlay."""

import re

import numpy as np
import pytest
from PIL import Image
from small_training import fit, trainer_at_start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from glow_tf.training import tensorboard
from glow_tf.training.run_directory import RunDirectory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("tb") / "blots"
    fit(trainer_at_start(), path, epochs=1, flip=True, metadata={"class_names": ["zero"]})
    return RunDirectory(path)


def log(folder):
    return EventAccumulator(str(folder)).Reload()


def test_train_and_test_share_the_tags_that_overlay(run):
    train, test = (set(log(folder).Tags()["tensors"]) for folder in (run.train_logs, run.test_logs))
    assert {"bits_per_dim", "nll_nats", "z/mean", "z/variance", "z/level0/mean"} <= train & test


def test_numbers_stand_at_their_steps(run):
    for folder, steps in ((run.train_logs, [1, 2, 3]), (run.test_logs, [3])):
        assert [event.step for event in log(folder).Tensors("bits_per_dim")] == steps


def test_diagnostics_explain_themselves(run):
    metadata = log(run.test_logs).SummaryMetadata
    found = metadata("diagnostics/level0/condition").summary_description
    assert found == "The largest condition number of the 1x1 matrices; a healthy model has 1 to 10000."
    assert metadata("bits_per_dim").summary_description == ""


def test_hparams_lie_beside_the_test_result(run):
    found = log(run.test_logs)
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    values = start.hparams
    assert values["training.learning_rate"].number_value == 0.001
    assert values["training.flip"].bool_value is True
    assert values["model.image_shape"].string_value == "8x8x1"
    assert start.group_name == "blots"


def test_projector_files_agree(run):
    table = np.loadtxt(run.test_logs / "latents.tsv", delimiter="\t")
    names = (run.test_logs / "classes.tsv").read_text().splitlines()
    assert table.shape == (12, 32)  # the deepest of 8x8x1 with two levels: 2x2x8
    assert names == ["zero"] * 12
    assert Image.open(run.test_logs / "images.png").size == (4 * 8, 4 * 8)
    assert "latents.tsv" in (run.test_logs / "projector_config.pbtxt").read_text()


def test_projector_plugin_reads_the_configuration(run):
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    config = text_format.Parse((run.test_logs / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert list(config.embeddings[0].sprite.single_image_dim) == [8, 8]


def test_thumbnails_are_the_images_row_by_row(tmp_path, rng):
    images = rng.integers(0, 256, (3, 2, 4, 3)).astype(np.uint8)
    tensorboard.write_projector(tmp_path, np.zeros((3, 2)), images, [0, 1, 2])
    rows = np.concatenate(images[:2], axis=1), np.concatenate([images[2], np.zeros_like(images[2])], axis=1)
    np.testing.assert_array_equal(Image.open(tmp_path / "images.png"), np.concatenate(rows))
    sizes = re.findall(r"single_image_dim: (\d)", (tmp_path / "projector_config.pbtxt").read_text())
    assert sizes == ["4", "2"]  # width and height


def test_names_cannot_break_the_table(tmp_path):
    images = np.zeros((3, 2, 4, 3), np.uint8)
    tensorboard.write_projector(tmp_path, np.zeros((3, 2)), images, [0, 1, 7], ["a\tb\nc", ""])
    assert (tmp_path / "classes.tsv").read_text() == "a b c\n1\n7\n"


def test_long_latents_of_fewer_images(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "PROJECTED_NUMBERS", 10)
    tensorboard.write_projector(tmp_path, np.zeros((9, 4)), np.zeros((9, 2, 2, 1), np.uint8), [0] * 9)
    assert len((tmp_path / "latents.tsv").read_text().splitlines()) == 2
