"""The card beside the weights: what it says, that nothing escapes its table, and that it never ends a run."""

import dataclasses
import re
import time

import pytest
from small_training import fit, trainer_at_start

from glow_tf import pretrained
from glow_tf.cli import inspect
from glow_tf.config import GlowConfig
from glow_tf.training import model_card
from glow_tf.training.run_directory import RunDirectory

CONFIG = GlowConfig((8, 8, 1), num_levels=2, num_steps=3, width=8)
METADATA = {"dataset": "digits", "command": "python3 main.py", "step": 9, "epoch": 3, "seed": 0}
RESULT = {"test_bits_per_dim": 2.5, "test_standard_error": 0.25, "test_images": 12}


def test_says_what_the_weights_are():
    card = model_card.text(CONFIG, 1234, METADATA | RESULT, "2 CPU cores", seconds=5400, cpu_seconds=9000)
    for row in ("| data | digits, 8x8x1", "| command | `python3 main.py` |", "| steps | 9, epoch 3, seed 0 |",
                "| model | Glow (openai), L=2, K=3, width 8, affine coupling, conv1x1, pixels scale, uniform deq",
                "| test bits/dim | 2.5000 ± 0.2500 on 12 test images |", "| hardware | 2 CPU cores |",
                "| training time | 1.5 hours, 2.5 hours of CPU time |",
                "| licence of the data | CC BY 4.0 (UCI"):  # fmt: skip
        assert row in card
    assert "1,234 parameters" in card
    started = model_card.text(CONFIG, 1, METADATA | {"previous_steps": 90}, "")
    assert "| steps | 9, epoch 3, seed 0, after 90 steps of the weights that it started from |" in started
    of_classes = model_card.text(dataclasses.replace(CONFIG, num_classes=2), 1, METADATA | RESULT, "")
    assert "| test bits/dim | 2.5000 ± 0.2500 on 12 test images, given the class |" in of_classes
    few = {"test_bits_per_dim": 20.0, "test_standard_error": 18.0, "test_images": 12}
    row = "| test bits/dim | 20.0000 ± 18.0000 (decided by a few images) on 12 test images |"
    assert row in model_card.text(CONFIG, 1, few, "")
    assert "Glow.load" in card


def test_names_stay_in_their_cells():
    card = model_card.text(CONFIG, 1, {"dataset": "a|b\n# <script>`", "test_bits_per_dim": None}, "")
    assert "<script>" not in card
    assert "\n# &lt;" not in card
    assert "a\\|b # &lt;script>'" in card
    assert "not finite" in card
    assert "![" not in model_card.text(CONFIG, 1, {"dataset": "![a](http://b)", "test_bits_per_dim": None}, "")


def test_one_test_image_has_no_standard_error():
    card = model_card.text(CONFIG, 1, {"test_bits_per_dim": 2.5, "test_standard_error": None, "test_images": 1}, "")
    assert "| test bits/dim | 2.5000 on 1 test image |" in card
    assert "| training time | unknown |" in card and "| licence of the data | not recorded |" in card


def test_hardware_in_words():
    assert model_card.hardware_of(["H100", "H100", "T4"]) == "2 x H100, 1 x T4"
    assert "CPU cores" in model_card.hardware_of([])


def test_every_run_writes_one(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "process_time", lambda: 1e5 * time.monotonic())  # so that clock and CPU differ
    outcome = fit(trainer_at_start(), tmp_path, epochs=1, metadata={"dataset": "blots"})
    card = RunDirectory(tmp_path).model_card.read_text()
    assert f"{outcome.bits_per_dim:.4f} ± {outcome.standard_error:.4f} on 12 test images" in card
    assert card.startswith("# Glow trained on blots")
    assert re.search(r"\| training time \| \d\.\d minutes, \d+\.\d hours of CPU time \|", card)
    shown = inspect.describe(RunDirectory(tmp_path).weights)
    assert shown["bits/dim"].split(",")[0] in card
    assert re.fullmatch(r"step 3, epoch 1, \d\.\d minutes, \d+\.\d hours of CPU time", shown["trained"])


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("a fault")])
def test_never_ends_a_run(tmp_path, monkeypatch, caplog, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(model_card, "write_atomically", fail)
    assert fit(trainer_at_start(), tmp_path, epochs=1).is_saved
    assert "the model card could not be written" in caplog.text
    assert not RunDirectory(tmp_path).model_card.exists()


def test_the_bundled_card_agrees_with_the_bundled_weights():
    shown = inspect.describe(pretrained.DIGITS)
    card = (pretrained.DIGITS.parent / "MODEL_CARD.md").read_text()
    assert shown["bits/dim"].split(",")[0] in card
    assert shown["parameters"].split()[0] in card
    assert shown["trained"].removeprefix("step ") in card
