"""The examples in docstrings, run as they stand; `glow` and `images` are a tiny model and six images for it."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import glow_tf
from glow_tf.config import GlowConfig
from glow_tf.glow import Glow

PACKAGE = Path(glow_tf.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.fixture
def names():
    images = np.random.default_rng(0).integers(0, 256, [6, 4, 4, 1]).astype(np.uint8)
    glow = Glow(GlowConfig((4, 4, 1), num_levels=1, num_steps=2, width=4))
    return {"glow": glow, "images": images, "np": np, "tf": tf}


@pytest.mark.parametrize("module", MODULES)
def test_examples(module, names, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    home = importlib.import_module(f"glow_tf.{module}")
    results = doctest.testmod(home, extraglobs=names, optionflags=OPTIONS)
    assert results.attempted > 0
    assert results.failed == 0
