"""The Python blocks of the documentation, run in order as they stand."""

import os
import re
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from PIL import Image

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


@pytest.mark.parametrize(
    "document",
    ["docs/commands.md", "docs/cookbook.md", "docs/integrations.md", "README.md", "glow_tf/pretrained/MODEL_CARD.md"],
)
def test_code_blocks(place, two_replicas, monkeypatch, document):
    # TensorFlow cannot sum over one device and then over two in the same process.
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: two_replicas)
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)
    names = {"__name__": "documentation"}
    assert blocks
    for number, block in enumerate(blocks):
        exec(compile(block, f"{document}, block {number}", "exec"), names)


DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("glow_tf/pretrained/*.md")]
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_exist(document):
    commands = "".join(path.read_text() for path in [*ROOT.glob("glow_tf/**/*.py"), *ROOT.glob("benchmarks/*.py")])
    text = (ROOT / document).read_text()
    if document != "README.md":  # where every flag is this package's, or TensorBoard's
        text = "\n".join(re.findall(r"(?:main|sample|evaluate|convert|benchmarks/\w+)\.py(.*)", text))
    for flag in set(re.findall(r"(?<![\w-])--(\w+)", text)) - {"logdir"}:
        defined = (f'"{flag}"', f'"--{flag}"', f"    {flag}: ")  # the last is a field of TrainConfig
        assert any(text in commands for text in defined), f"{document} names --{flag}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_exist(document):
    text = (ROOT / document).read_text()
    linked = [(ROOT / document).parent / name for name in re.findall(r"(?:\]\(|src=\")([^):#\"]+)[)\"]", text)]
    named = [ROOT / name for name in re.findall(r"\b((?:tests|benchmarks)/[\w/]+\.py)\b", text)]
    assert [path for path in linked + named if not path.exists()] == []
    for path in linked:
        if path.suffix == ".png":
            Image.open(path).verify()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sections_exist(document):
    for file, section in re.findall(r"\]\(([^):]*)#([^)]+)\)", (ROOT / document).read_text()):
        linked = (ROOT / document).parent / file if file else ROOT / document
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
        names = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
        assert section in names, f"{document} links to {file}#{section}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_line_of_a_paragraph_reads_as_an_item_of_a_list(document):
    text = re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^(?![ >|]|\d+\. |[-+*] ).*\w.*\n {0,3}(?:\d+\.|[-+*]) .*", text, re.MULTILINE) == []
