"""The examples in docstrings, run as they stand; `glow` and `images` are a tiny model and six images for it."""

import doctest
import importlib

import numpy as np
import pytest

from glow_tf.config import GlowConfig
from glow_tf.glow import Glow

MODULES = ("config", "editing", "errors", "evaluation", "glow", "keras_model", "scoring", "training")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.fixture
def names():
    images = np.random.default_rng(0).integers(0, 256, [6, 4, 4, 1]).astype(np.uint8)
    return {"glow": Glow(GlowConfig((4, 4, 1), num_levels=1, num_steps=2, width=4)), "images": images, "np": np}


@pytest.mark.parametrize("module", MODULES)
def test_examples(module, names, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    home = importlib.import_module(f"glow_tf.{module}")
    results = doctest.testmod(home, extraglobs=names, optionflags=OPTIONS)
    assert results.attempted > 0
    assert results.failed == 0
