"""Presets and defaults: parameter counts of openai/glow's published runs, valid settings, and the help."""

import numpy as np
import pytest

from glow_tf.cli import command_line, defaults, run_settings, train
from glow_tf.config import TrainConfig
from glow_tf.errors import InputError
from glow_tf.importers import openai
from glow_tf.training.schedule import Schedule

PARAMETERS = {
    "cifar10": 44_603_604,
    "imagenet32": 66_861_588,
    "imagenet64": 112_377_540,
    "lsun64": 66_861_588,
    "celeba256": 175_099_620,
    "cifar10-conditional": 38_397_320,
}


@pytest.mark.parametrize("preset", PARAMETERS)
def test_parameter_counts_are_the_published_ones(preset):
    named = defaults.PRESETS[preset]
    model = run_settings.STANDARD | named | {"classifier": "weight_y" in named}
    config = train.model_config(model, (named["img_size"], named["img_size"], 3), num_classes=10)
    shapes = openai.expected_shapes(config)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == PARAMETERS[preset]


@pytest.mark.parametrize("named", [*defaults.DATASETS.values(), defaults.OTHER, *defaults.PRESETS.values()])
def test_defaults_are_valid_settings(named):
    training = {name: value for name, value in named.items() if name in run_settings.TRAINING}
    assert set(named) <= {*run_settings.STANDARD, "dataset", "img_size"}
    TrainConfig(**training)


def test_a_cool_down_of_half_the_run_follows_its_length():
    small = {name: defaults.PRESETS["cifar10-small"][name] for name in ("warmup_epochs", "cooldown_epochs")}
    for epochs in (5, 8):
        schedule = Schedule.from_config(TrainConfig(epochs=epochs, **small), steps_per_epoch=100)
        assert schedule == Schedule(warmup_steps=20, cooldown_steps=50 * epochs, total_steps=100 * epochs)


def test_a_data_set_of_a_certain_version_has_the_same_defaults():
    assert run_settings.for_run(None, "cifar10:3.0.2", {}) == run_settings.for_run(None, "cifar10", {})
    assert run_settings.for_run(None, "cifar:10", {})["n_bits"] == defaults.OTHER["n_bits"]


def test_every_option_is_a_flag_with_a_sentence_of_help():
    flags = train.Options.flags()
    for name, field in (run_settings.MODEL | run_settings.TRAINING).items():
        assert field.metadata["doc"] in flags[name].metadata["doc"]
        assert field.metadata["doc"][0].isupper() and field.metadata["doc"].endswith(".")


@pytest.mark.parametrize(
    ("word", "value", "recorded"),
    [
        ("--mixed_precision", True, "--mixed_precision"),
        ("--mixed_precision=false", False, "--nomixed_precision"),
        ("--nomixed_precision", False, "--nomixed_precision"),
        ("--mixed_precision=auto", "auto", "--mixed_precision=auto"),
    ],
)
def test_mixed_precision_is_on_off_or_auto(word, value, recorded):
    given = train.Options.parse([word]).given["mixed_precision"]
    assert repr(TrainConfig(mixed_precision=given).mixed_precision) == repr(value)
    assert command_line.serialize("mixed_precision", given) == recorded
    with pytest.raises(InputError, match="mixed_precision is 'maybe'; it must be True or False or auto"):
        TrainConfig(mixed_precision="maybe")


def test_help_shows_the_defaults_of_every_data_set_and_preset():
    usage = train.usage()
    standard = usage.partition("  every data set")[2].partition("\n  digits ")[0]
    assert " ".join(standard.split()) == (
        "l_glow=3 k_glow=32 width=512 coupling=affine n_bits=8 architecture=openai dequantization=uniform "
        "conditional=false batch_size=64 epochs=100 learning_rate=0.001 warmup_epochs=1 cooldown_epochs=0 "
        "optimizer=adamax beta_2=0.999 ema_decay=0.999 weight_y=0 backprop=stored mixed_precision=false flip=false"
    )
    assert "  digits                  l_glow=2 k_glow=8 width=96 n_bits=4 epochs=45 warmup_epochs=2\n" in usage
    assert all(f"\n  {name} " in usage for name in (*defaults.DATASETS, *defaults.PRESETS))
    assert max(map(len, usage.splitlines())) <= 120
