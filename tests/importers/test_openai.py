"""OpenAI's checkpoints: values computed with OpenAI's own code, and a round trip through files."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers import make_glow, random_images, values_of
from walk import from_flat, largest_difference, walk

from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.importers import openai
from glow_tf.training.trainer import Trainer

# (image size, bits) of each reference, which their checkpoints do not hold.
REFERENCES = {"a": (16, 8), "b": (16, 5), "c": (16, 8), "d": (32, 8)}

FLOAT32 = {"dtype": "float32", "image_shape": (8, 8, 3)}


class Case:
    """One reference: what was computed with OpenAI's code, and the model read from its checkpoint."""

    def __init__(self, folder, size, bits):
        self.prefix = str(folder / "model_best_loss.ckpt")
        self.settings = json.loads((folder / "config.json").read_text())["hyperparameters"]
        self.expected = dict(np.load(folder / "values.npz"))
        self.size, self.bits = size, bits
        self.glow = openai.read(self.prefix, size, bits)
        conditional = self.glow.config.num_classes
        self.labels = tf.constant(self.expected["y"]) if conditional else None
        self.sample_labels = tf.constant(self.expected["sample_y"]) if conditional else None

    def bits_per_dim(self, noise, glow=None):
        glow = glow or self.glow
        images = glow.dequantizer.dequantize(self.expected["x_uint8"], noise)
        return glow.dequantizer.bits_per_dim(glow.log_prob(images, self.labels), glow.config.num_dims)


@pytest.fixture(scope="module", params=REFERENCES)
def case(request, reference):
    return Case(reference / f"openai_{request.param}", *REFERENCES[request.param])


@pytest.fixture(scope="module")
def case_a(reference):
    return Case(reference / "openai_a", *REFERENCES["a"])


# --------------------------------------------------------------------------- against OpenAI's own numbers


def test_configuration_is_inferred(case):
    s = case.settings
    assert case.glow.config == GlowConfig(
        image_shape=(s["image_size"], s["image_size"], 3),
        num_levels=s["n_levels"],
        num_steps=s["depth"],
        width=s["width"],
        coupling=["additive", "affine"][s["flow_coupling"]],
        permutation=["reverse", "shuffle", "conv1x1"][s["flow_permutation"]],
        num_bits=s["n_bits_x"],
        learned_top=s["learntop"],
        num_classes=s["n_y"] if s["ycond"] else 0,
        classifier=s["weight_y"] > 0,
    )


def test_bits_per_dim(case):
    assert largest_difference(case.bits_per_dim(0.0), case.expected["bits_x"], "zero noise") < 1e-5
    assert largest_difference(case.bits_per_dim(0.5), case.expected["bits_x_half"], "half") < 1e-5


def test_bits_per_dim_of_the_averaged_weights(case):
    glow = openai.read(case.prefix, case.size, case.bits, averaged=True)
    assert largest_difference(case.bits_per_dim(0.0, glow), case.expected["bits_x_ema"]) < 1e-5
    assert not np.allclose(case.expected["bits_x_ema"], case.expected["bits_x"], rtol=0, atol=1e-3)


def test_log_dets_and_priors(case):
    terms = walk(case.glow, case.expected["x_float"], case.labels)
    assert largest_difference(terms.log_dets, case.expected["logdet_steps"], "log-dets of steps") < 1e-3
    assert largest_difference(terms.log_dets.sum(axis=(0, 1)), case.expected["logdet"], "log-det") < 1e-3
    assert largest_difference(terms.log_priors, case.expected["logp_levels"], "priors of levels") < 1e-3
    assert largest_difference(terms.log_priors.sum(axis=0), case.expected["logp"], "prior") < 1e-3
    for level, latent in enumerate(terms.latents):
        assert largest_difference(latent, case.expected[f"z_{level}"], f"z_{level}") < 1e-4


def test_latents(case):
    levels = case.glow.split_latents(case.glow.encode(case.expected["x_float"], case.labels))
    assert len(levels) == case.glow.config.num_levels
    for i, level in enumerate(levels):
        assert largest_difference(level, case.expected[f"eps_{i}"], f"eps_{i}") < 1e-4


def test_reconstruction(case):
    z = from_flat(case.glow, case.expected["eps_flat"])
    tolerance = 1e-3 if case.size == 32 else 1e-4
    assert largest_difference(case.glow.decode(z, case.labels), case.expected["recon_float"]) < tolerance


def test_reconstruction_of_bytes(case):
    images = case.glow.dequantizer.dequantize(case.expected["x_uint8"], 0.5)
    again = case.glow.decode(case.glow.encode(images, case.labels), case.labels)
    np.testing.assert_array_equal(case.glow.dequantizer.quantize(again), case.expected["recon_uint8_half"])


@pytest.mark.parametrize(("temperature", "suffix"), [(0.7, "T07"), (1.0, "T10")])
def test_samples(case, temperature, suffix):
    z = from_flat(case.glow, np.float32(temperature) * case.expected["sample_eps_flat"])
    samples = case.glow.decode(z, case.sample_labels)
    bin_bytes = 2 ** (8 - case.bits)
    found = case.glow.dequantizer.quantize(samples).numpy() // bin_bytes
    wanted = case.expected[f"sample_uint8_{suffix}"] // bin_bytes
    # In bins: at 5 bits neighbouring bytes are 8 apart.
    assert largest_difference(found, wanted, f"bins; differing: {np.mean(found != wanted):.2%}") <= 1
    assert np.mean(found != wanted) < 0.001
    assert largest_difference(samples, case.expected[f"sample_float_{suffix}"], "continuous") < 1e-4


def test_classifier(reference):
    case = Case(reference / "openai_c", *REFERENCES["c"])
    logits = case.glow.classify(case.expected["x_float"])
    bits = tf.nn.sparse_softmax_cross_entropy_with_logits(case.labels, logits) / np.log(2)
    assert largest_difference(bits, case.expected["bits_y"]) < 1e-4
    errors = np.argmax(logits, axis=-1) != case.labels
    np.testing.assert_array_equal(errors, case.expected["classification_error"])


def test_everything_else_works_on_a_converted_model(case, tmp_path):
    path = tmp_path / "weights.h5"
    case.glow.save_weights(path)
    loaded = Glow.load(path)
    assert loaded.metadata == {"converted_from": "openai", "averaged": False}
    np.testing.assert_array_equal(case.bits_per_dim(0.5, loaded), case.bits_per_dim(0.5))
    labels = None if case.labels is None else case.labels[:2]
    assert loaded.sample(2, seed=1, labels=labels).dtype == tf.uint8
    assert np.isfinite(loaded.bits_per_dim(case.expected["x_uint8"], case.labels)).all()


def test_training_goes_on(case_a, tmp_path):
    path = tmp_path / "weights.h5"
    case_a.glow.save_weights(path)
    loaded = Glow.load(path)
    trainer = Trainer(loaded, batch_size=8, learning_rate=1e-3)
    metrics = [trainer.train_step(case_a.expected["x_uint8"]) for _ in range(8)]
    bits = [float(m["bits_per_dim"]) for m in metrics]
    assert all(bool(m["is_finite"]) for m in metrics)
    assert abs(bits[0] - case_a.expected["bits_x"].mean()) < 0.5
    assert bits[-1] < bits[0]


def test_a_reference_checkpoint_is_exported_as_it_was(case):
    reader = tf.train.load_checkpoint(case.prefix)
    lu = case.settings["lu_decomposition"]
    exported = openai.export(case.glow, lu=lu)
    names = {name for name in reader.get_variable_to_shape_map() if name.startswith("model/")}
    assert set(exported) == {name for name in names if not name.endswith(openai.AVERAGED)}
    for name, array in exported.items():
        original = reader.get_tensor(name)
        assert array.dtype == original.dtype and array.shape == original.shape
        if name == "model/prior/p/W":
            array, original = array[:, :, -1], original[:, :, -1]
        tolerance = 1e-6 if name.endswith("invconv/W") else 0.0
        np.testing.assert_allclose(array, original, rtol=0, atol=tolerance, err_msg=name)


# ----------------------------------------------------------------------------------------- by itself


@pytest.mark.parametrize(
    ("parameters", "config"),
    [
        (44_603_604, {}),
        (66_861_588, {"num_steps": 48}),
        (112_377_540, {"num_steps": 48, "image_shape": (64, 64, 3), "num_levels": 4}),
        (66_861_588, {"num_steps": 48, "image_shape": (64, 64, 3)}),
        (175_099_620, {"image_shape": (256, 256, 3), "num_levels": 6, "coupling": "additive"}),
        (200_432_868, {"num_steps": 64, "image_shape": (128, 128, 3), "num_levels": 5, "coupling": "additive"}),
        (38_397_320, {"coupling": "additive", "num_classes": 10, "classifier": True}),
        (57_695_876, {"num_steps": 48, "coupling": "additive", "num_classes": 1000, "classifier": True}),
    ],
    ids=["cifar10", "imagenet32", "imagenet64", "lsun64", "celeba256", "lsun128", "cond-cifar10", "cond-imagenet32"],
)
def test_published_parameter_counts(parameters, config):
    shapes = openai.expected_shapes(GlowConfig(**{"image_shape": (32, 32, 3)} | config))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters


KINDS = {
    "affine": {},
    "additive": {"coupling": "additive", "num_bits": 5},
    "shuffle": {"permutation": "shuffle"},
    "reverse": {"permutation": "reverse"},
    "unit top": {"learned_top": False},
    "one level": {"num_levels": 1, "image_shape": (4, 4, 1)},
    "conditional": {"num_classes": 3, "classifier": True},
    "conditional, unit top": {"num_classes": 3, "learned_top": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lu", [False, True], ids=["dense", "lu"])
def test_round_trip(kind, lu, tmp_path):
    glow = make_glow(**FLOAT32 | KINDS[kind])
    if lu and glow.config.permutation != "conv1x1":
        pytest.skip("only 1x1 convolutions have an LU form")
    prefix = str(tmp_path / "exported.ckpt")
    openai.write(glow, prefix, lu=lu)
    again = openai.read(prefix, glow.config.image_shape[0], glow.config.num_bits)
    assert again.config == glow.config
    if lu or glow.config.permutation != "conv1x1":
        for name, value in values_of(again).items():
            np.testing.assert_array_equal(value, values_of(glow)[name], err_msg=name)
    # The factors of a dense matrix depend on the pivots, so the matrices are compared.
    exported = openai.export(again, lu=lu)
    for name, array in openai.export(glow, lu=lu).items():
        tolerance = 1e-6 if name.endswith("invconv/W") else 0.0
        np.testing.assert_allclose(exported[name], array, rtol=0, atol=tolerance, err_msg=name)
    reader = tf.train.load_checkpoint(prefix)
    assert {n: tuple(s) for n, s in reader.get_variable_to_shape_map().items()} == openai.expected_shapes(
        glow.config, lu
    )


def test_reading_draws_no_weights(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(np.random, "default_rng", None)
    assert read_changed(tmp_path, exported).is_initialized


def test_round_trip_keeps_the_density(tmp_path, rng):
    glow = make_glow(**FLOAT32)
    openai.write(glow, tmp_path / "x")
    again = openai.read(tmp_path / "x.index", 8, 8)
    images = random_images(rng, glow, 4)
    np.testing.assert_allclose(again.log_prob(images), glow.log_prob(images), rtol=0, atol=1e-3)


def save(prefix, arrays):
    names, values = list(arrays), list(arrays.values())
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)


@pytest.fixture(scope="module")
def exported():
    return openai.export(make_glow(**FLOAT32))


def read_changed(tmp_path, arrays, image_size=8, **options):
    save(tmp_path / "x", arrays)
    return openai.read(tmp_path / "x", image_size, 8, **options)


def test_what_is_not_the_model_is_ignored(exported, tmp_path):
    others = {"Variable": np.float32(1), "Variable_1": np.zeros(3, np.float32), "global_step": np.int64(1)}
    averages = {name + openai.AVERAGED: array for name, array in exported.items()}
    glow = read_changed(tmp_path, exported | others | averages)
    np.testing.assert_array_equal(openai.export(glow)["model/0/0/f1/l_1/W"], exported["model/0/0/f1/l_1/W"])


def test_averaged_values_are_taken_where_there_is_one(tmp_path):
    lu = openai.export(make_glow(**FLOAT32), lu=True)
    fixed = ("invconv/P", "invconv/sign_S")
    averages = {name + openai.AVERAGED: array + 1 for name, array in lu.items() if not name.endswith(fixed)}
    found = openai.export(read_changed(tmp_path, lu | averages, averaged=True), lu=True)
    for name, array in lu.items():
        if name != "model/prior/p/W":
            np.testing.assert_array_equal(found[name], array if name.endswith(fixed) else array + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("model/1/0/f1/l_2/W"), "lacks model/1/0/f1/l_2/W"),
        (lambda a: a.pop("model/0/0/actnorm_center/b"), "lacks model/0/0/actnorm_center/b"),
        (lambda a: a.pop("model/prior/p/logs"), "lacks model/prior/p/logs"),
        (lambda a: a.update({"model/0/0/f2/W": np.zeros(1, np.float32)}), "has model/0/0/f2/W, which the model"),
        (lambda a: a.update({"model/classifier/W": np.zeros(1, np.float32)}), "has model/classifier/W, which"),
        (lambda a: a.update({"model/1/1/f1/l_2/W": np.zeros([1, 1, 7, 7], np.float32)}), "l_2/W of shape"),
        (lambda a: a.update({"model/1/1/invconv/W": np.zeros([24, 24], np.float32)}), "inverted in model/1/1"),
        (lambda a: a.update({"model/0/0/actnorm_center/b": np.full([1, 1, 1, 12], np.nan, np.float32)}), "NaN"),
        (lambda a: a.update({"model/0/0/actnorm_center/b": np.zeros([1, 1, 1, 12], np.int32)}), "of type int32"),
        (lambda a: a.update({"model/9/0/actnorm_center/b": np.zeros([1, 1, 1, 12], np.float32)}), "num_levels is 10"),
    ],
)
def test_a_changed_checkpoint_is_refused(exported, tmp_path, change, message):
    arrays = dict(exported)
    change(arrays)
    with pytest.raises(InputError, match=message):
        read_changed(tmp_path, arrays)


@pytest.mark.parametrize(
    ("name", "message"),
    [("invconv/P", "not a permutation matrix"), ("invconv/sign_S", "other than 1 and -1")],
)
def test_changed_fixed_factors_are_refused(tmp_path, name, message):
    arrays = openai.export(make_glow(**FLOAT32), lu=True)
    arrays[f"model/0/1/{name}"] = arrays[f"model/0/1/{name}"] * 0.5
    with pytest.raises(InputError, match=f"model/0/1/{name}.*{message}"):
        read_changed(tmp_path, arrays)


def test_a_changed_shuffle_is_refused(tmp_path):
    arrays = openai.export(make_glow(**FLOAT32, permutation="shuffle"))
    arrays["model/0/1/shuffle/indices"] = np.zeros(12, np.int32)
    with pytest.raises(InputError, match="model/0/1/shuffle/indices that is not a permutation"):
        read_changed(tmp_path, arrays)


def test_wrong_image_size(exported, tmp_path):
    with pytest.raises(InputError, match=r"10 is not divisible by 2\*\*2"):
        read_changed(tmp_path, exported, image_size=10)


def test_averages_that_are_not_there(exported, tmp_path):
    with pytest.raises(InputError, match="holds no averaged values"):
        read_changed(tmp_path, exported, averaged=True)
    averages = {name + openai.AVERAGED: array for name, array in exported.items()}
    del averages["model/0/0/f1/l_2/W" + openai.AVERAGED]
    with pytest.raises(InputError, match="lacks model/0/0/f1/l_2/W/ExponentialMovingAverage"):
        read_changed(tmp_path, exported | averages, averaged=True)


def test_damaged_files(exported, tmp_path):
    save(tmp_path / "whole", exported)
    data = ".data-00000-of-00001"

    def copy(name):
        for suffix in (".index", data):
            shutil.copy(tmp_path / f"whole{suffix}", tmp_path / f"{name}{suffix}")
        return tmp_path / name

    def refused(prefix, message):
        with pytest.raises(InputError, match=message) as error:
            openai.read(prefix, 8, 8)
        assert "\n" not in str(error.value)

    refused(tmp_path / "nothing", "nothing.index does not exist")
    refused(tmp_path, "is a folder")
    index = (tmp_path / "whole.index").read_bytes()
    for length in (0, 10, len(index) // 2, len(index) - 1):
        prefix = copy("short")
        prefix.with_suffix(".index").write_bytes(index[:length])
        refused(prefix, "damaged or not a TensorFlow checkpoint")
    (copy("gone").parent / f"gone{data}").unlink()
    refused(tmp_path / "gone", "gone")
    values = (tmp_path / f"whole{data}").read_bytes()
    prefix = copy("cut")
    (tmp_path / f"cut{data}").write_bytes(values[: len(values) // 2])
    refused(prefix, "its data has .* bytes, but its index needs")
    flipped = bytearray(values)
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / f"cut{data}").write_bytes(flipped)
    refused(prefix, "cannot be read at model/")


@pytest.mark.parametrize("folder", ["ex[pq] 1", "a*b", "a?b"])
def test_a_prefix_is_not_a_pattern(exported, tmp_path, folder):
    (tmp_path / folder).mkdir()
    save(tmp_path / folder / "x", exported)
    assert openai.read(tmp_path / folder / "x", 8, 8).config.num_levels == 2


def test_another_programs_checkpoint(tmp_path):
    save(tmp_path / "other", {"dense/kernel": np.zeros([2, 2], np.float32)})
    with pytest.raises(InputError, match="checkpoint of another program"):
        openai.read(tmp_path / "other", 8, 8)


@pytest.mark.parametrize(
    ("config", "lu", "message"),
    [
        ({"pixel_range": (0.0, 1.0)}, False, "pixel_range"),
        ({"permutation": "shuffle"}, True, "LU form"),
        ({"architecture": "glow_tf2"}, False, "architecture glow_tf2"),
        ({"pixels": "logit"}, False, "logit of the pixels"),
        ({"dequantization": "variational"}, False, "variational dequantisation"),
    ],
)
def test_models_that_openai_has_not(config, lu, message):
    with pytest.raises(InputError, match=message):
        openai.export(make_glow(**config), lu=lu)


def test_writing_where_there_is_no_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        openai.write(make_glow(), tmp_path / "none" / "x")


def test_a_prefix_that_is_not_utf_8_is_one_line(tmp_path):
    glow = make_glow()
    with pytest.raises(InputError, match="is not UTF-8; name another prefix"):
        openai.write(glow, tmp_path / "x\udcff")
