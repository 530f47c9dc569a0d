"""Glow (Kingma & Dhariwal 2018) for TensorFlow 2: a normalizing flow of images.

    Glow, GlowConfig              the model
    Trainer, TrainConfig, fit     its training
    InputError                    raised for invalid input, with a one-line message

These names are imported on first use, which keeps importing the package fast.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from glow_tf._gc import importing

if TYPE_CHECKING:
    from glow_tf.config import GlowConfig, TrainConfig
    from glow_tf.errors import InputError
    from glow_tf.glow import Glow
    from glow_tf.training.loop import fit
    from glow_tf.training.trainer import Trainer

# TensorFlow reads both variables on import. Setting them later would mislead TFP into looking for a Keras that
# TensorFlow did not load; without them it finds tf_keras. oneDNN's kernels, which TensorFlow disables on some
# processors, reduce a training step from 1.07 s to 0.75 s.
if "tensorflow" not in sys.modules:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

_HOMES = {
    "Glow": "glow_tf.glow",
    "GlowConfig": "glow_tf.config",
    "TrainConfig": "glow_tf.config",
    "Trainer": "glow_tf.training.trainer",
    "fit": "glow_tf.training.loop",
    "InputError": "glow_tf.errors",
}

__all__ = ["Glow", "GlowConfig", "InputError", "TrainConfig", "Trainer", "fit"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'glow_tf' has no attribute {name!r}")
    with importing("tensorflow"):
        value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # later uses do not call this function
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
