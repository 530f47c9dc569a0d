"""rosinality's state_dict: values computed with its own code. Most of it needs torch."""

import collections
import io
import pickle
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from helpers import random_images, values_of
from walk import largest_difference, walk

from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.importers import openai, rosinality


def nhwc(values):
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def expected(reference):
    return dict(np.load(reference / "rosinality" / "values.npz"))


@pytest.fixture(scope="module")
def path(reference):
    return reference / "rosinality" / "model.pt"


@pytest.fixture(scope="module")
def glow(torch, path):
    return rosinality.read(path, 16, 8)


def test_configuration_is_inferred(glow):
    assert glow.config == GlowConfig((16, 16, 3), num_levels=2, num_steps=2, width=64)


def test_bits_per_dim(glow, expected):
    log_prob = glow.log_prob(nhwc(expected["x_nchw"]))
    assert largest_difference(log_prob, expected["log_p"] + expected["logdet"]) < 1e-3
    bits = glow.dequantizer.bits_per_dim(log_prob, glow.config.num_dims)
    assert largest_difference(bits, expected["bits_per_dim"]) < 1e-5


def arrays_of(path):
    """What `rosinality._load` returns, read without torch."""
    types = {"FloatStorage": np.float32, "ByteStorage": np.uint8}

    def tensor(storage, offset, shape, strides, *_):
        steps = [stride * storage.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).astype(np.float32)

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            return {"OrderedDict": collections.OrderedDict, "_rebuild_tensor_v2": tensor}.get(name, name)

        def persistent_load(self, described):
            _, kind, key, *_ = described
            return np.frombuffer(archive.read(f"model/data/{key}"), types[kind])

    with zipfile.ZipFile(path) as archive:
        state = Reader(io.BytesIO(archive.read("model/data.pkl"))).load()
    return {name.removeprefix("module."): value for name, value in state.items()}


def test_bits_per_dim_without_torch(path, expected, monkeypatch):
    monkeypatch.setattr(rosinality, "_load", arrays_of)
    glow = rosinality.read(path, 16, 8)
    assert glow.config == GlowConfig((16, 16, 3), num_levels=2, num_steps=2, width=64)
    bits = glow.dequantizer.bits_per_dim(glow.log_prob(nhwc(expected["x_nchw"])), glow.config.num_dims)
    assert largest_difference(bits, expected["bits_per_dim"]) < 1e-5


def test_log_dets_and_priors(glow, expected):
    terms = walk(glow, nhwc(expected["x_nchw"]))
    for block in range(2):
        assert largest_difference(terms.log_dets[block].sum(axis=0), expected[f"block_logdet_{block}"]) < 1e-3
        assert largest_difference(terms.log_priors[block], expected[f"block_logp_{block}"]) < 1e-3
        assert largest_difference(terms.latents[block], nhwc(expected[f"z_{block}"])) < 1e-4


@pytest.mark.parametrize(("temperature", "name"), [(1.0, "sample_T10_nchw"), (0.7, "sample_T07_nchw")])
def test_samples(glow, expected, temperature, name):
    z = glow.merge_latents([tf.constant(nhwc(expected[f"sample_eps_{block}"])) for block in range(2)]) * temperature
    assert largest_difference(glow.decode(z), nhwc(expected[name])) < 1e-4


def test_reconstruction(glow, expected):
    images = nhwc(expected["x_nchw"])
    assert largest_difference(glow.decode(glow.encode(images)), nhwc(expected["recon_nchw"])) < 1e-4


def test_everything_else_works_on_a_converted_model(glow, expected, tmp_path):
    glow.save_weights(tmp_path / "weights.h5")
    loaded = Glow.load(tmp_path / "weights.h5")
    images = nhwc(expected["x_nchw"])
    np.testing.assert_array_equal(loaded.log_prob(images), glow.log_prob(images))
    assert loaded.sample(2, seed=1).shape == (2, 16, 16, 3)
    openai.write(loaded, tmp_path / "openai")
    again = openai.read(tmp_path / "openai", 16, 8)
    np.testing.assert_allclose(again.log_prob(images), glow.log_prob(images), atol=1e-2)


def state_dict(torch, config, dense=()):
    """A random state_dict in rosinality's layout."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in rosinality._expected_shapes(config, set(dense)).items():
        value = 0.2 * torch.randn(shape, generator=generator)
        last = name.split(".")[-1]
        if last in ("w_p", "l_eye"):
            value = torch.eye(shape[0])
        elif last == "s_sign":
            value = value.sign()
        elif name.endswith("actnorm.scale"):
            value = value.sign() * (0.5 + value.abs())
        elif name.endswith("invconv.weight"):
            value = value / 5 + torch.eye(shape[0])[:, :, None, None]
        state[name] = torch.tensor(1, dtype=torch.uint8) if last == "initialized" else value
    return state


@pytest.mark.parametrize("coupling", ["affine", "additive"])
def test_without_lu_and_with_negative_scales(torch, tmp_path, rng, coupling):
    config = GlowConfig((8, 8, 3), num_levels=2, num_steps=2, width=8, coupling=coupling, num_bits=5)
    torch.save(state_dict(torch, config, dense=[0]), tmp_path / "model.pt")
    glow = rosinality.read(tmp_path / "model.pt", 8, 5)
    assert glow.config == config
    images = random_images(rng, glow, 3)
    assert largest_difference(glow.decode(glow.encode(images)), images) < 1e-3


def test_other_files_are_refused(torch, tmp_path):
    config = GlowConfig((8, 8, 3), num_levels=2, num_steps=2, width=8)
    state = state_dict(torch, config)

    def refused(content, message, size=8):
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(InputError, match=message) as error:
            rosinality.read(tmp_path / "model.pt", size, 8)
        assert "\n" not in str(error.value)

    refused(state, "10 is not divisible", size=10)
    refused({"weight": torch.zeros(3)}, "another program")
    refused({"state": {}, "param_groups": []}, "does not hold a state_dict")
    refused({k: v for k, v in state.items() if k != "blocks.0.prior.scale"}, "lacks blocks.0.prior.scale")
    refused(state | {"blocks.0.flows.0.more": torch.zeros(1)}, "has blocks.0.flows.0.more")
    refused(state | {"blocks.1.flows.1.actnorm.scale": torch.zeros([1, 24, 1, 1])}, "scale of zero")
    refused(rosinality.read, "damaged or not a state_dict")
    (tmp_path / "model.pt").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="damaged or not a state_dict"):
        rosinality.read(tmp_path / "model.pt", 8, 8)


def test_parameters_are_read_as_tensors(torch, tmp_path):
    config = GlowConfig((8, 8, 3), num_levels=1, num_steps=1, width=4)
    state = state_dict(torch, config)
    parameters = {n: torch.nn.Parameter(v) if v.is_floating_point() else v for n, v in state.items()}
    for name, content in (("tensors", state), ("parameters", parameters)):
        torch.save(content, tmp_path / f"{name}.pt")
    expected = values_of(rosinality.read(tmp_path / "tensors.pt", 8, 8))
    for name, value in values_of(rosinality.read(tmp_path / "parameters.pt", 8, 8)).items():
        np.testing.assert_array_equal(value, expected[name])


ODD_TENSORS = {
    "meta": (lambda torch: torch.empty([1 << 20, 1 << 20], device="meta"), "a meta tensor"),
    "sparse": (lambda torch: torch.eye(3).to_sparse(), "sparse"),
    "compressed": (lambda torch: torch.eye(3).to_sparse_csr(), "sparse"),
    "quantized": (lambda torch: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantized"),
    "complex": (lambda torch: torch.ones(3, dtype=torch.complex64), "complex"),
    "expanded": (lambda torch: torch.ones(1).expand(1 << 34), "tensors of 68,719,.* bytes in a file of"),
}


@pytest.mark.parametrize("kind", ODD_TENSORS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_tensors_are_refused_in_one_line(torch, tmp_path, kind):
    make, message = ODD_TENSORS[kind]
    state = state_dict(torch, GlowConfig((8, 8, 3), num_levels=1, num_steps=1, width=4))
    torch.save(state | {"blocks.0.flows.0.actnorm.loc": make(torch)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=message) as error:
        rosinality.read(tmp_path / "model.pt", 8, 8)
    assert "\n" not in str(error.value)


def test_a_zip_bomb_is_refused_before_torch_is_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/0", bytes(30_000_000))
    with pytest.raises(InputError, match="unpacks to 30,000,000 bytes"):
        rosinality.read(tmp_path / "model.pt", 8, 8)


def pickled(function, *arguments):
    """A pickle that calls a function, of protocol 2 as torch writes it."""
    call = type("Call", (), {"__reduce__": lambda self: (function, arguments)})
    return pickle.dumps({"weight": call()}, protocol=2)


@pytest.mark.parametrize("is_zipped", [True, False])
def test_a_pickle_that_fills_the_memory_is_refused_before_torch_is_imported(tmp_path, monkeypatch, is_zipped):
    monkeypatch.setitem(sys.modules, "torch", None)
    content = pickled(bytearray, 10**11)  # torch.load(weights_only=True) makes it
    if is_zipped:
        with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
            archive.writestr("model/data.pkl", content)
    else:
        (tmp_path / "model.pt").write_bytes(pickle.dumps(1, 2) + pickle.dumps(2, 2) + content)
    with pytest.raises(InputError, match="it needs __builtin__ bytearray"):
        rosinality.read(tmp_path / "model.pt", 8, 8)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        rosinality.read(tmp_path / "none.pt", 8, 8)


def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}, protocol=2))
    with pytest.raises(InputError, match="pip install torch"):
        rosinality.read(tmp_path / "model.pt", 8, 8)
