"""GLOW-tf2's weights.h5: values computed with its own code, and files made up here."""

import shutil

import h5py
import numpy as np
import pytest
import tensorflow as tf
from helpers import make_glow, random_images
from walk import from_flat, largest_difference, walk

from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.importers import glow_tf2
from glow_tf.training.trainer import Trainer


@pytest.fixture(scope="module")
def expected(reference):
    return dict(np.load(reference / "glow_tf2_k2l2" / "values.npz"))


@pytest.fixture(scope="module")
def path(reference):
    return reference / "glow_tf2_k2l2" / "weights.h5"


@pytest.fixture(scope="module")
def glow(path):
    return glow_tf2.read(path)


# ------------------------------------------------------------------------- against GLOW-tf2's own numbers


def test_configuration_is_inferred(glow):
    assert glow.config == GlowConfig(
        image_shape=(16, 16, 3),
        num_levels=2,
        num_steps=2,
        width=512,
        pixel_range=glow_tf2.PIXEL_RANGE,
        architecture="glow_tf2",
    )


def test_pixels(glow, expected):
    assert largest_difference(glow.dequantizer.dequantize(expected["x_uint8"], 0.5), expected["x"]) < 1e-6
    every_byte = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(glow.dequantizer.quantize(np.float32(0.05 + 0.95 * every_byte / 255)), every_byte)


def test_latents(glow, expected):
    levels = glow.split_latents(glow.encode(expected["x"]))
    flat = np.concatenate([level.numpy().reshape(8, -1) for level in levels], axis=1)
    assert largest_difference(flat, expected["z"]) < 1e-4


def test_likelihood(glow, expected):
    nll = -glow.log_prob(expected["x"]).numpy() / np.log(2)
    assert largest_difference(nll / expected["nll"], 1, "relative") < 1e-5


def test_log_dets_and_priors(glow, expected):
    terms = walk(glow, expected["x"])
    assert largest_difference(terms.log_dets, expected["logdet_steps"]) < 1e-3
    assert largest_difference(terms.log_priors, expected["logp_levels"]) < 1e-3
    assert largest_difference(terms.latents[0], expected["zraw_0"]) < 1e-4
    # At the last level this model holds the halves in the other order.
    assert largest_difference(np.roll(terms.latents[1], 12, axis=-1), expected["zraw_1"]) < 1e-4


@pytest.mark.parametrize(("temperature", "name"), [(1.0, "x_from_z_fixed"), (0.7, "x_from_z_fixed_T07")])
def test_decode(glow, expected, temperature, name):
    images = glow.decode(from_flat(glow, np.float32(temperature) * expected["z_fixed"]))
    assert largest_difference(images, expected[name]) < 1e-3


def test_reconstruction(glow, expected):
    assert largest_difference(glow.decode(from_flat(glow, expected["z"])), expected["x_recon"]) < 1e-3


def test_release_0_0_1(path, expected, tmp_path):
    # Its only difference is the name of the last data set.
    shutil.copy(path, tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "r+") as old:
        group = old["z__norm__last_layer"]
        (new_name,) = (str(name) for name in group.attrs["weight_names"])
        old_name = new_name.replace("Mean_Logvar", "Mean, Logvar")
        assert old_name != new_name
        group.move(new_name, old_name)
        group.attrs["weight_names"] = [old_name.encode()]
    nll = -glow_tf2.read(tmp_path / "old.h5").log_prob(expected["x"]).numpy() / np.log(2)
    assert np.max(np.abs(nll / expected["nll"] - 1)) < 1e-5


def test_everything_else_works_on_a_converted_model(glow, expected, tmp_path):
    glow.save_weights(tmp_path / "weights.h5")
    loaded = Glow.load(tmp_path / "weights.h5")
    np.testing.assert_array_equal(loaded.log_prob(expected["x"]), glow.log_prob(expected["x"]))
    assert loaded.sample(2, seed=1).shape == (2, 16, 16, 3)
    trainer = Trainer(loaded, batch_size=8, learning_rate=1e-4)
    metrics = [trainer.train_step(expected["x_uint8"]) for _ in range(4)]
    assert all(bool(m["is_finite"]) for m in metrics)
    assert metrics[-1]["bits_per_dim"] < metrics[0]["bits_per_dim"]


def test_the_file_itself_is_recognised(path):
    with pytest.raises(InputError, match=r"GLOW-tf2 weights file.*convert.py --from glow-tf2"):
        Glow.load(path)


# ------------------------------------------------------------------------------------------ by itself


def made_up_file(path, side, num_levels=2, num_steps=1, width=4, image_channels=3, change=None):
    """A random file in GLOW-tf2's layout; `change` may alter the list of (layer, arrays)."""
    rng = np.random.default_rng(0)
    layers = []
    for level in range(num_levels):
        channels = image_channels * 2 ** (level + 2)
        for _ in range(num_steps):
            shapes = glow_tf2._step_shapes(channels, width)
            arrays = [0.1 * rng.standard_normal(shape) for shape in shapes.values()]
            arrays[0] = np.sign(arrays[0]) * (0.5 + np.abs(arrays[0]))
            arrays[2] += np.eye(channels)
            layers.append([f"flow_step_{len(layers)}", arrays])
    for level in range(num_levels - 1):
        channels = image_channels * 2 ** (level + 2)
        shapes = [(1, 1, channels // 2, channels), (channels,)]
        layers.append([f"z__norm__intermediate_layer_{level}", [0.1 * rng.standard_normal(s) for s in shapes]])
    deepest = image_channels * 2 ** (num_levels + 1)
    layers.append(["z__norm__last_layer", [0.1 * rng.standard_normal((1, side, side, 2 * deepest))]])
    if change:
        change(layers)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [np.bytes_(name) for name in ("squeeze_layer", *(name for name, _ in layers))]
        file.create_group("squeeze_layer").attrs["weight_names"] = np.zeros([0])
        for name, arrays in layers:
            group = file.create_group(name)
            names = [f"{name}/w_{i}:0" for i in range(len(arrays))]
            group.attrs["weight_names"] = [np.bytes_(n) for n in names]
            for n, array in zip(names, arrays, strict=True):
                group.create_dataset(n, data=np.asarray(array, np.float32))
    return path


def test_shapes_are_inferred(tmp_path):
    glow = glow_tf2.read(made_up_file(tmp_path / "w.h5", side=3, num_levels=3, num_steps=2, width=5), image_size=24)
    c = glow.config
    assert (c.image_shape, c.num_levels, c.num_steps, c.width) == ((24, 24, 3), 3, 2, 5)


def test_it_is_a_bijector_with_negative_scales(tmp_path, rng):
    glow = glow_tf2.read(made_up_file(tmp_path / "w.h5", side=2, num_steps=2))
    images = random_images(rng, glow, 3)
    assert largest_difference(glow.decode(glow.encode(images)), images) < 1e-4


def refuse(path, message, **options):
    with pytest.raises(InputError, match=message) as error:
        glow_tf2.read(path, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_cropped_borders_are_refused(tmp_path, channels):
    # 28 -> 14 -> 7, cropped to 6 -> 3.
    path = made_up_file(tmp_path / "w.h5", side=3, num_levels=3, image_channels=channels)
    refuse(path, "28x28 ones with their borders cropped.*--img_size 24")
    refuse(path, "not 28x28 unless borders are cropped", image_size=28)
    assert glow_tf2.read(path, image_size=24).config.image_shape == (24, 24, channels)


def test_whole_images_of_28_pixels_are_read(tmp_path):
    path = made_up_file(tmp_path / "w.h5", side=7, num_levels=2, image_channels=1)
    assert glow_tf2.read(path).config.image_shape == (28, 28, 1)


def test_wrong_image_size(tmp_path):
    refuse(made_up_file(tmp_path / "w.h5", side=4), "16x16 images after 2 levels, not 32x32$", image_size=32)


def set_shape(layer, index, shape):
    def change(layers):
        layers[layer][1][index] = np.ones(shape)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers[1][1].pop(), "arrays after its flow steps|ends inside|where GLOW-tf2 has"),
        (lambda layers: layers[0][1].insert(3, np.ones(3)), "has 1 flow steps for 10 levels"),
        (lambda layers: layers.insert(1, layers.pop(2)), "arrays after its flow steps|of shape"),
        (set_shape(0, 5, (5,)), r"has flow_step_0/flow_step_0/w_5:0 of shape \(5,\)"),
        (set_shape(1, 0, (1, 1, 1, 20)), r"of shape \(1, 1, 1, 20\) where GLOW-tf2 has \(1, 1, 1, 24\)"),
        (set_shape(2, 0, (1, 1, 6, 13)), "z__norm__intermediate_layer_0.*of shape"),
        (set_shape(3, 0, (1, 4, 4, 20)), "z__norm__last_layer.*of shape"),
        (set_shape(0, 2, (12, 12)), "cannot be inverted in flow_step_0"),
        (lambda layers: layers[0][1][0].fill(0), "scale of zero in flow_step_0"),
    ],
)
def test_another_layout_is_refused(tmp_path, change, message):
    refuse(made_up_file(tmp_path / "w.h5", side=4, change=change), message)


def test_steps_that_do_not_share_the_levels_are_refused(tmp_path):
    path = made_up_file(tmp_path / "w.h5", side=4, change=lambda layers: layers.insert(1, ["more", layers[1][1]]))
    refuse(path, "has 3 flow steps for 2 levels")


def test_damaged_and_other_files(tmp_path):
    path = made_up_file(tmp_path / "w.h5", side=4)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuse(path, "w.h5")
    refuse(tmp_path / "none.h5", "does not exist")
    make_glow().save_weights(tmp_path / "ours.h5")
    refuse(tmp_path / "ours.h5", "a weights file of glow_tf")
    with h5py.File(tmp_path / "keras.h5", "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        file.create_group("dense").attrs["weight_names"] = np.zeros([0])
    refuse(tmp_path / "keras.h5", "Keras 2 file of another model")


@pytest.mark.parametrize("config", [{"coupling": "additive"}, {"permutation": "reverse"}, {"num_classes": 3}])
def test_what_the_architecture_has_not(config):
    with pytest.raises(InputError, match="glow_tf2"):
        make_glow(architecture="glow_tf2", **config)


def test_a_new_model_of_this_architecture_learns(rng):
    glow = Glow(GlowConfig((8, 8, 3), num_levels=2, num_steps=2, width=8, architecture="glow_tf2"))
    images = tf.constant(rng.integers(0, 256, [8, 8, 8, 3]), tf.uint8)
    trainer = Trainer(glow, batch_size=8, learning_rate=1e-2)
    trainer.initialize(images)
    bits = [float(trainer.train_step(images)["bits_per_dim"]) for _ in range(10)]
    assert bits[-1] < bits[0]


def test_the_distribution_finds_every_variable():
    glow = make_glow(architecture="glow_tf2")
    found = {id(v) for v in glow.distribution.trainable_variables}
    assert found == {id(v) for v in glow.trainable_variables}
