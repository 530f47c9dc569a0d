"""Processors with and without bfloat16 products, by their flags."""

import pytest

from glow_tf.training import hardware


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


def test_an_unknown_processor_is_not_fast(tmp_path):
    assert not hardware.has_fast_bfloat16(tmp_path / "missing")


@pytest.mark.parametrize(("capability", "is_fast"), [((7, 5), False), ((9, 0), True)])
def test_gpus_count_before_the_processor(monkeypatch, tmp_path, capability, is_fast):
    monkeypatch.setattr(hardware.tf.config, "list_physical_devices", lambda kind: ["gpu"])
    details = {"compute_capability": capability}
    monkeypatch.setattr(hardware.tf.config.experimental, "get_device_details", lambda gpu: details)
    assert hardware.has_fast_bfloat16(tmp_path / "missing") == is_fast
