"""The examples in docstrings, run as they stand; `glow` and `images` are a tiny model and six images for it."""

import doctest
import importlib

import numpy as np
import pytest
import tensorflow as tf

from glow_tf.config import GlowConfig
from glow_tf.glow import Glow

MODULES = (
    *("_files", "_gc", "config", "dequantization", "errors", "glow", "metadata", "pretrained", "weights"),
    *(
        f"bijectors.{name}"
        for name in ("actnorm", "coupling", "flow_step", "gaussian", "invertible_conv", "permutation")
    ),
    *("bijectors.scan", "bijectors.squeeze"),
    *(f"data.{name}" for name in ("dataset", "holdout", "image_data", "image_folder", "registry")),
    *(f"evaluation.{name}" for name in ("editing", "metrics", "ood", "visualization")),
    *("cli.inspect", "integrations.keras"),
    *("training.curves", "training.evaluator", "training.schedule", "training.trainer"),
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
