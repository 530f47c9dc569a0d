"""What the wheel and the source archive hold, and the wheel's package run from an empty folder."""

import ast
import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "glow-train": "glow_tf.cli.train:run",
    "glow-sample": "glow_tf.cli.sample:run",
    "glow-evaluate": "glow_tf.cli.evaluate:run",
    "glow-convert": "glow_tf.cli.convert:run",
    "glow-inspect": "glow_tf.cli.inspect:run",
    "glow-explore": "glow_tf.cli.explore:run",
}
BUILD = (
    "import os, sys; from setuptools import build_meta as b; out = sys.argv[1]; os.makedirs(out);"
    "print(os.path.join(out, b.build_wheel(out))); print(os.path.join(out, b.build_sdist(out)))"
)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """(wheel, source archive), built from a copy of what is needed, without network."""
    copy = tmp_path_factory.mktemp("build") / "source"
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    done = subprocess.run([sys.executable, "-c", BUILD, "../out"], cwd=copy, text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [(copy / line) for line in done.stdout.splitlines() if line.endswith((".whl", ".tar.gz"))]


@pytest.fixture(scope="module")
def unpacked(archives, tmp_path_factory):
    """The wheel's contents in a folder."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(archives[0]) as wheel:
        wheel.extractall(folder)
    return folder


def test_wheel_holds_the_whole_package_and_no_more(unpacked):
    found = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "glow_tf").rglob("*.py")}
    bundled = {f"glow_tf/pretrained/{path.name}" for path in (ROOT / "glow_tf/pretrained").glob("*.[hm]*")}
    data = {"glow_tf/py.typed"} | bundled
    assert {"glow_tf/pretrained/digits.h5", "glow_tf/pretrained/MODEL_CARD.md"} <= bundled
    metadata = {name for name in found if ".dist-info/" in name}
    assert found - metadata == ours | data
    assert any(name.endswith("LICENSE") for name in metadata)


def test_wheel_installs_the_commands(unpacked):
    parser = configparser.ConfigParser()
    parser.read(next(unpacked.glob("*.dist-info")) / "entry_points.txt")
    assert dict(parser["console_scripts"]) == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_run_from_the_wheel(unpacked, tmp_path, command):
    module, function = COMMANDS[command].split(":")
    code = f"import {module} as home; assert home.__file__.startswith({str(unpacked)!r}); home.{function}()"
    answer = _run(unpacked, tmp_path, ["-c", code, "--help"])
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert answer.startswith(ast.get_docstring(ast.parse(source)).splitlines()[0])


def test_bundled_weights_are_found_from_the_wheel(unpacked, tmp_path):
    answer = _run(unpacked, tmp_path, ["-m", "glow_tf", "inspect", "digits"])
    assert str(unpacked) in answer
    assert "294,756 trained" in answer


def test_source_archive_can_be_built_and_tested(archives):
    with tarfile.open(archives[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "main.py", "requirements.txt", "check.sh"} <= names
    assert {"glow_tf/py.typed", "glow_tf/pretrained/digits.h5", "docs/results.md", "docs/fashion_mnist.png"} <= names
    assert {"tests/conftest.py", "tests/helpers.py", "tests/bijectors/test_contract.py"} <= names
    assert not any("__pycache__" in name for name in names)


def _run(package_folder, working_folder, arguments):
    environment = os.environ | {"PYTHONPATH": str(package_folder)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=working_folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
