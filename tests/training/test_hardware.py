"""Processors with and without bfloat16 products, by their flags, and what `mixed_precision="auto"` makes of them."""

import json
import types

import pytest
from small_training import BATCH, fit

from glow_tf.config import GlowConfig
from glow_tf.glow import Glow
from glow_tf.training import hardware
from glow_tf.training.run_directory import RunDirectory
from glow_tf.training.trainer import Trainer

SMALLEST = {"image_shape": (8, 8, 1), "num_levels": 1, "num_steps": 1, "width": 4, "num_bits": 4}


@pytest.mark.parametrize(
    ("text", "is_fast"),
    [
        ("flags\t\t: fpu sse avx512_bf16 avx512f\n", True),
        ("flags\t\t: fpu sse amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu sse avx2\nbugs\t\t: bf16\n", False),
        ("", False),
    ],
)
def test_flags_of_the_processor(tmp_path, text, is_fast):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert hardware.has_fast_bfloat16(file) == is_fast


def test_all_gpus_are_used_or_else_the_cpus(monkeypatch):
    names = {"GPU": ["GPU:0", "GPU:1"], "CPU": ["CPU:0"]}
    devices = lambda kind: [types.SimpleNamespace(name=name) for name in names[kind]]  # noqa: E731
    monkeypatch.setattr(hardware.tf.config, "list_logical_devices", devices)
    monkeypatch.setattr(hardware.tf.distribute, "MirroredStrategy", list)
    assert hardware.default_strategy() == ["GPU:0", "GPU:1"]
    names["GPU"] = []
    assert hardware.default_strategy() == ["CPU:0"]


def test_an_unknown_processor_is_not_fast(tmp_path):
    assert not hardware.has_fast_bfloat16(tmp_path / "missing")


@pytest.mark.parametrize(("is_fast", "width", "chosen"), [(True, 64, True), (True, 63, False), (False, 512, False)])
def test_auto_needs_width_and_a_fast_processor(monkeypatch, is_fast, width, chosen):
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda: is_fast)
    assert hardware.prefers_bfloat16(width) == chosen


@pytest.mark.parametrize(
    ("capabilities", "is_fast"), [([(7, 5)], False), ([(8, 0)], True), ([(9, 0), (7, 5)], False)], ids=str
)
def test_gpus_count_before_the_processor(monkeypatch, tmp_path, capabilities, is_fast):
    details = [{"compute_capability": c, "device_name": f"GPU {i}"} for i, c in enumerate(capabilities)]
    monkeypatch.setattr(hardware.tf.config, "list_physical_devices", lambda kind: details)
    monkeypatch.setattr(hardware.tf.config.experimental, "get_device_details", lambda gpu: gpu)
    assert hardware.has_fast_bfloat16(tmp_path / "missing") == is_fast
    assert hardware.gpu_names() == ["GPU 0", "GPU 1"][: len(details)]


@pytest.mark.usefixtures("undrawn", "glance")
@pytest.mark.parametrize(("first", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_run_keeps_what_auto_chose_where_it_began(tmp_path, monkeypatch, capfd, first, dtype):
    run = RunDirectory(tmp_path)
    for epochs, here in enumerate([first, not first], 1):
        monkeypatch.setattr(hardware, "prefers_bfloat16", lambda width, here=here: here)
        trainer = Trainer(Glow(GlowConfig(**SMALLEST)), batch_size=BATCH, mixed_precision="auto")
        assert trainer.mixed_precision == here
        fit(trainer, run.path, epochs=epochs)
        assert trainer.mixed_precision == first
        assert f"mixed_precision=auto: the coupling networks compute in {dtype}\n" in "".join(capfd.readouterr())
    assert json.loads(run.settings.read_text()).get("mixed_precision", False) == first
    assert ("coupling networks in bfloat16" in run.model_card.read_text()) == first
    assert trainer.step_count == 6
