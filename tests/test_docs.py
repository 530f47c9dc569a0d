"""The Python blocks of the documentation, run in order as they stand."""

import os
import re
import shutil
from pathlib import Path

import pytest

from glow_tf import pretrained

ROOT = Path(__file__).parents[1]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a run, as if main.py had made it."""
    folder = tmp_path / "runs" / "digits" / "checkpoints"
    os.makedirs(folder)
    shutil.copy(pretrained.DIGITS, folder / "weights.h5")
    shutil.copy(pretrained.DIGITS, tmp_path / "weights.h5")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("document", ["docs/cookbook.md", "README.md", "glow_tf/pretrained/MODEL_CARD.md"])
def test_code_blocks(place, document):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)
    names = {"__name__": "documentation"}
    assert blocks
    for number, block in enumerate(blocks):
        exec(compile(block, f"{document}, block {number}", "exec"), names)


def test_flags_of_the_cookbook_exist():
    flags = set(re.findall(r"--(\w+)", (ROOT / "docs" / "cookbook.md").read_text()))
    commands = "".join((ROOT / "glow_tf" / "commands" / f"{name}.py").read_text() for name in ("train", "sample"))
    assert all(f'"{flag}"' in commands for flag in flags)
