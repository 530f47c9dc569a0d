import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from glow_tf.config import GlowConfig, TrainConfig
from glow_tf.errors import InputError

GOOD = {"image_shape": (8, 16, 3), "num_levels": 2}

REFUSED = [
    ({"image_shape": (28, 32, 1), "num_levels": 3}, ["height 28", "2**3 = 8", "24 or 32"]),
    ({"image_shape": (32, 30, 3), "num_levels": 2}, ["width 30", "2**2 = 4", "28 or 32"]),
    ({"image_shape": (4, 8, 3), "num_levels": 3}, ["height 4", "2**3 = 8", "use 8 "]),
    ({"image_shape": (8, 8, 5)}, ["channels", "5", "1 to 4"]),
    ({"image_shape": (8, 8, 0)}, ["channels", "0", "1 to 4"]),
    ({"image_shape": (0, 8, 1)}, ["height", "0", "1 to 1024"]),
    ({"image_shape": (8, 2048, 1)}, ["width", "2048", "1 to 1024"]),
    ({"image_shape": (-8, 8, 1)}, ["height", "-8", "1 to 1024"]),
    ({"image_shape": (8, 8)}, ["image_shape", "(8, 8)", "3 numbers"]),
    ({"image_shape": "888"}, ["image_shape", "'888'", "3 numbers"]),
    ({"image_shape": (8.0, 8, 1)}, ["image_shape", "8.0", "3 numbers"]),
    ({"image_shape": (8, 8, True)}, ["image_shape", "True", "3 numbers"]),
    ({"num_levels": 0}, ["num_levels", "0", "1 to 8"]),
    ({"num_levels": 9}, ["num_levels", "9", "1 to 8"]),
    ({"num_levels": 2.0}, ["num_levels", "2.0", "1 to 8"]),
    ({"num_levels": True}, ["num_levels", "True", "1 to 8"]),
    ({"num_steps": 0}, ["num_steps", "0", "1 to 512"]),
    ({"num_steps": 513}, ["num_steps", "513", "1 to 512"]),
    ({"width": 0}, ["width", "0", "1 to 8192"]),
    ({"width": 8193}, ["width", "8193", "1 to 8192"]),
    ({"num_bits": 0}, ["num_bits", "0", "1 to 8"]),
    ({"num_bits": 9}, ["num_bits", "9", "1 to 8"]),
    ({"num_classes": -1}, ["num_classes", "-1", "0 to 100000"]),
    ({"num_classes": 100_001}, ["num_classes", "100001", "0 to 100000"]),
    ({"coupling": "Affine"}, ["coupling", "'Affine'", "affine, additive"]),
    ({"permutation": "invconv"}, ["permutation", "'invconv'", "conv1x1, shuffle, reverse"]),
    ({"dtype": "float16"}, ["dtype", "'float16'", "float32, float64"]),
    ({"architecture": "realnvp"}, ["architecture", "'realnvp'", "openai"]),
    ({"pixel_range": (0.5, 0.5)}, ["pixel_range", "(0.5, 0.5)"]),
    ({"pixel_range": (1.0, 0.0)}, ["pixel_range", "(1.0, 0.0)"]),
    ({"pixel_range": (float("nan"), 0.0)}, ["pixel_range", "nan"]),
    ({"pixel_range": (0.0, float("inf"))}, ["pixel_range", "inf"]),
    ({"pixel_range": (0, 5e-324)}, ["pixel_range", "(0, 5e-324)", "no narrower"]),
    ({"pixel_range": (-(10**400), 0)}, ["pixel_range", "(-1000"]),
    ({"pixel_range": (1e9, 1e9 + 1)}, ["pixel_range", "between -1e6 and 1e6"]),
    ({"learned_top": "no"}, ["learned_top", "'no'", "True or False"]),
    ({"classifier": 1, "num_classes": 2}, ["classifier", "1", "True or False"]),
    ({"pixel_range": (0.0, 1.0, 2.0)}, ["pixel_range", "2 numbers"]),
    ({"classifier": True}, ["classifier", "num_classes is 0"]),
]


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=[str(change) for change, _ in REFUSED])
def test_what_cannot_work_is_refused_in_one_line(change, said):
    with pytest.raises(InputError) as refusal:
        GlowConfig(**GOOD | change)
    message = str(refusal.value)
    assert "\n" not in message
    for part in said:
        assert part in message


def test_every_choice_survives_json():
    everything = GlowConfig(
        image_shape=(8, 16, 1),
        num_levels=2,
        num_steps=4,
        width=7,
        coupling="additive",
        permutation="shuffle",
        num_bits=5,
        learned_top=False,
        num_classes=6,
        classifier=True,
        pixels="logit",
        pixel_range=(0.0, 1.0),
        architecture="glow_tf2",
        dequantization="variational",
        dtype="float64",
    )
    usual = GlowConfig((32, 32, 3))
    for field in dataclasses.fields(GlowConfig):
        assert getattr(everything, field.name) != getattr(usual, field.name), "not a test of this field"
    for config in (everything, usual):
        assert GlowConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_numbers_of_numpy_become_pythons():
    shape, width = np.array([8, 16, 1]), np.int64(7)
    config = GlowConfig(shape, num_levels=np.int32(2), width=width, pixel_range=np.array([0.0, 1.0], np.float32))
    assert config == GlowConfig((8, 16, 1), num_levels=2, width=7, pixel_range=(0.0, 1.0))
    assert GlowConfig(tf.TensorShape([8, 16, 1]), num_levels=2).image_shape == (8, 16, 1)
    assert json.dumps(config.to_dict()) and json.dumps(TrainConfig(batch_size=width).fixed())
    assert TrainConfig(learning_rate=np.float32(0.5), flip=np.True_) == TrainConfig(learning_rate=0.5, flip=True)
    with pytest.raises(InputError, match="width is 0; it must be an integer"):
        GlowConfig(shape, width=np.int64(0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wdith": 4}, "wdith"),
        ({"width": "64"}, "width is '64', not of type int"),
        ({"width": 64.0}, "width is 64.0, not of type int"),
        ({"width": None}, "width is None"),
        ({"coupling": 1}, "coupling is 1, not of type str"),
        ({"learned_top": 1}, "learned_top is 1, not of type bool"),
        ({"pixel_range": None}, "pixel_range is None"),
        ({"image_shape": {"height": 8}}, "image_shape is"),
    ],
    ids=str,
)
def test_a_dictionary_of_other_things_is_refused(change, said):
    with pytest.raises(InputError) as refusal:
        GlowConfig.from_dict(GlowConfig(**GOOD).to_dict() | change)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_dictionary_without_the_image_shape_is_refused():
    with pytest.raises(InputError, match="no image_shape"):
        GlowConfig.from_dict({"width": 4})


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GlowConfig(**GOOD).width = 3


def test_shapes_of_the_paper():
    config = GlowConfig((32, 64, 3), num_levels=3)
    assert config.num_dims == 6144
    # Channels double a level: half of them leave and space becomes four times as many.
    assert config.squeezed_shapes() == [(16, 32, 12), (8, 16, 24), (4, 8, 48)]


@pytest.mark.parametrize("value", [10**400, 10**5000, -(10**400)], ids=["large", "unprintable", "negative"])
def test_integers_beyond_any_float_are_refused(value):
    numbers = [field for field in dataclasses.fields(TrainConfig) if field.type in (int, float, int | None)]
    assert len(numbers) == 13
    for field in numbers:
        with pytest.raises(InputError, match=f"^{field.name} is .*; it must be "):
            TrainConfig(**{field.name: value})
    for name in (
        "num_levels",
        "num_steps",
        "width",
        "num_bits",
        "num_classes",
        "coupling",
        "learned_top",
        "pixel_range",
    ):
        with pytest.raises(InputError, match=f"^{name} is .*; it (must|can) "):
            GlowConfig(**GOOD | {name: value})
    for shape in ((value, 8, 3), (8, value, 3), (8, 8, value)):
        with pytest.raises(InputError, match=" is .*; it must be an integer from 1 to "):
            GlowConfig(image_shape=shape)


@pytest.mark.parametrize("name, value", [("learning_rate", 1e-46), ("learning_rate", 1e39), ("ema_decay", 1 - 1e-9)])
def test_numbers_that_float32_rounds_to_invalid_ones_are_refused(name, value):
    with pytest.raises(InputError, match="it must be a number"):
        TrainConfig(**{name: value})
    assert TrainConfig(ema_decay=0.9999999, learning_rate=1e-12).ema_decay == 0.9999999


def test_integers_are_numbers_for_training_options():
    options = {"learning_rate": 1, "warmup_epochs": 2, "beta_2": 0, "ema_decay": 0, "weight_y": 1}
    config = TrainConfig(**options)
    assert config == TrainConfig(**{name: float(value) for name, value in options.items()})
    assert all(type(getattr(config, name)) is float for name in options)


def test_a_run_resumes_only_with_the_options_that_decide_its_steps():
    """All others change its length, its speed or its reports."""
    others = {field.name for field in dataclasses.fields(TrainConfig)} - set(TrainConfig().fixed())
    computing = {"backprop", "mixed_precision", "jit_compile"}
    assert others == {"epochs", "steps", "cooldown_epochs", "evaluate_every", "keep"} | computing


@pytest.mark.parametrize("value", [tf.float32, np.float32, np.dtype("float32"), ["float32"]], ids=str)
def test_types_are_texts(value):
    """A type of TensorFlow equals its name, but no file can hold it."""
    with pytest.raises(InputError, match="dtype is .*; it can be float32, float64"):
        GlowConfig(**GOOD | {"dtype": value})
