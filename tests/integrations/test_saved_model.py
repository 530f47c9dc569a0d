import pathlib
import subprocess
import sys

import numpy as np
import pytest
from helpers import make_glow, random_images

from glow_tf.errors import InputError
from glow_tf.integrations import saved_model

# In a process that knows TensorFlow only.
READER = """
import sys
import numpy as np
import tensorflow as tf
def says(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
def read(folder):
    model = tf.saved_model.load(f"{folder}/model")  # it owns the variables of its signatures
    signatures = model.signatures
    given = np.load(f"{folder}/given.npz")
    labels = {"labels": tf.constant(given["labels"])} if "labels" in given else {}
    def two(kind, **arguments):
        return {f"{kind}_{key}": value.numpy() for key, value in signatures[kind](**arguments, **labels).items()}
    n = len(given["images"])
    found = two("sample", n=tf.constant(n), temperature=tf.constant(0.7), seed=tf.constant(9))
    found |= two("log_prob", images=tf.constant(given["images"])) | two("encode", images=tf.constant(given["images"]))
    found |= two("decode", z=tf.constant(given["z"]))
    found |= two("bits_per_dim", images=tf.constant(given["bytes"]), seed=tf.constant(3))
    def images_of(scale, dtype=np.float32):
        return tf.constant((given["images"] * scale + scale / 2).astype(dtype))
    def differentiate():
        images = tf.Variable(given["images"])
        with tf.GradientTape() as tape:
            log_prob = signatures["log_prob"](images=tf.convert_to_tensor(images), **labels)["log_prob"]
        return tape.gradient(log_prob, images)
    found["gradient"] = says(differentiate)
    for name in ("log_prob", "encode"):
        for case, images in {
            "bytes": images_of(255), "unit": images_of(1), "NaN": images_of(np.nan), "wide": tf.zeros([2, 8, 4, 2]),
            "uint8": tf.constant(given["bytes"]), "float64": tf.zeros([3, 4, 8, 2], tf.float64),
            "one": tf.zeros([4, 8, 2]),
        }.items():
            found[f"{name} of {case}"] = says(lambda: signatures[name](images=images, **labels))
    arguments = {"n": tf.constant(n), "temperature": tf.constant(-0.5), "seed": tf.constant(9), **labels}
    found["temperature"] = says(lambda: signatures["sample"](**arguments))
    found["decode"] = says(lambda: signatures["decode"](z=tf.zeros([3, 8, 4, 2]), **labels))
    labels = {key: value[:1] for key, value in labels.items()}
    if labels:
        found["one label"] = says(lambda: signatures["log_prob"](images=tf.constant(given["images"]), **labels))
    one = signatures["log_prob"](images=tf.constant(given["images"][:1]), **labels)["log_prob"].numpy()
    np.savez(f"{folder}/found.npz", one=one, **found)
for folder in sys.argv[1:]:
    read(folder)
assert not any(name.split(".")[0] == "glow_tf" for name in sys.modules)
"""


LABELS = [2, 0, 1]
KINDS = {"plain": {}, "conditional": {"num_classes": 3, "pixels": "logit"}}


@pytest.fixture(scope="module")
def read_elsewhere(tmp_path_factory):
    """{kind: (its Glow, its folder, what it was given there, what the other program found)}."""
    cases = {}
    for kind, config in KINDS.items():
        glow, folder = make_glow(dtype="float32", num_bits=5, **config), tmp_path_factory.mktemp(kind)
        rng = np.random.default_rng(2018)
        saved_model.save_model(glow, folder / "model")
        given = {"images": random_images(rng, glow, 3), "z": rng.standard_normal((3, 4, 8, 2)).astype(np.float32)}
        given["bytes"] = rng.integers(0, 256, (3, 4, 8, 2)).astype(np.uint8)
        given |= {"labels": np.array(LABELS, np.int32)} if config else {}
        np.savez(folder / "given.npz", **given)
        cases[kind] = glow, folder, given
    folders = [folder for _, folder, _ in cases.values()]
    done = subprocess.run(
        [sys.executable, "-c", READER, *folders], cwd=folders[0], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {kind: (*case, np.load(case[1] / "found.npz")) for kind, case in cases.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_without_the_package_gets_the_same_numbers(kind, read_elsewhere):
    glow, folder, given, found = read_elsewhere[kind]
    labels, images = (LABELS if "labels" in given else None), given["images"]
    np.testing.assert_array_equal(found["sample_images"], glow.sample(3, 0.7, seed=9, labels=labels))
    np.testing.assert_allclose(found["log_prob_log_prob"], glow.log_prob(images, labels), rtol=1e-5)
    np.testing.assert_allclose(found["one"], glow.log_prob(images[:1], labels and labels[:1]), rtol=1e-5)
    np.testing.assert_allclose(found["encode_z"], glow.encode(images, labels), rtol=0, atol=1e-4)
    decoded = glow.decode(given["z"], labels)
    np.testing.assert_allclose(found["decode_continuous"], decoded, rtol=0, atol=1e-4)
    assert np.mean(found["decode_images"] != glow.dequantizer.quantize(decoded)) < 0.01
    bits = glow.bits_per_dim(given["bytes"], labels, seed=3)
    np.testing.assert_allclose(found["bits_per_dim_bits_per_dim"], bits, rtol=1e-5)
    assert "LookupError: No gradient defined" in str(found["gradient"])
    refused = {
        "bytes": "images reach from ",
        "unit": "images reach from ",
        "NaN": "images reach from ; continuous pixels in [-0.5, 0.5) are needed",
        "wide": "Shape of tensor images [2,8,4,2] is not compatible with expected shape [?,4,8,2]",
        "one": "Shape of tensor images [4,8,2] is not compatible with expected shape [?,4,8,2]",
        "uint8": "expected to be a float tensor but is a uint8 tensor",
        "float64": "expected to be a float tensor but is a double tensor",
    }
    for name in ("log_prob", "encode"):
        for case, message in refused.items():
            said = str(found[f"{name} of {case}"])
            assert all(part in said for part in message.split("; ")), (name, case, said)
    assert "temperature is " in str(found["temperature"])
    assert "[3,8,4,2] is not compatible with expected shape [?,4,8,2]" in str(found["decode"])
    if labels:
        assert "labels were given for" in str(found["one label"])
    with pytest.raises(InputError, match="exists already"):
        saved_model.save_model(glow, folder / "model")


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path, small_glow):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        saved_model.save_model(small_glow, pathlib.Path(tmp_path, "file", "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
