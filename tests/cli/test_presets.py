"""The presets: parameter counts of openai/glow's published runs, and that every setting is a flag's."""

import numpy as np
import pytest

from glow_tf.cli import defaults
from glow_tf.config import GlowConfig
from glow_tf.importers import openai

PARAMETERS = {
    "cifar10": 44_603_604,
    "imagenet32": 66_861_588,
    "imagenet64": 112_377_540,
    "lsun64": 66_861_588,
    "celeba256": 175_099_620,
    "cifar10-conditional": 38_397_320,
}


@pytest.mark.parametrize("preset", defaults.PRESETS)
def test_parameter_counts_are_the_published_ones(preset):
    size = defaults.PRESETS[preset]["img_size"]
    settings = defaults.COMMON | defaults.PRESETS[preset]
    config = GlowConfig(
        image_shape=(size, size, 3),
        num_levels=settings["l_glow"],
        num_steps=settings["k_glow"],
        width=settings["width"],
        coupling=settings["coupling"],
        permutation=settings["permutation"],
        num_bits=settings["n_bits"],
        num_classes=10 if settings["conditional"] else 0,
        classifier=bool(settings["weight_y"]),
    )
    shapes = openai.expected_shapes(config)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == PARAMETERS[preset]


def test_presets_set_only_what_there_is():
    for settings in defaults.PRESETS.values():
        assert set(settings) <= {*defaults.COMMON, "dataset", "img_size"}
