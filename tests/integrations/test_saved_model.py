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
signatures = tf.saved_model.load(sys.argv[1]).signatures
given = np.load(sys.argv[2])
labels = {"labels": tf.constant(given["labels"])} if "labels" in given else {}
def two(kind, **arguments):
    return {f"{kind}_{key}": value.numpy() for key, value in signatures[kind](**arguments, **labels).items()}
n = len(given["images"])
found = two("sample", n=tf.constant(n), temperature=tf.constant(0.7), seed=tf.constant(9))
found |= two("log_prob", images=tf.constant(given["images"])) | two("encode", images=tf.constant(given["images"]))
found |= two("decode", z=tf.constant(given["z"]))
found |= two("bits_per_dim", images=tf.constant(given["bytes"]), seed=tf.constant(3))
labels = {key: value[:1] for key, value in labels.items()}
one = signatures["log_prob"](images=tf.constant(given["images"][:1]), **labels)["log_prob"].numpy()
assert not any(name.split(".")[0] == "glow_tf" for name in sys.modules)
np.savez(sys.argv[3], one=one, **found)
"""


@pytest.mark.parametrize("kind", [{}, {"num_classes": 3, "pixels": "logit"}], ids=["plain", "conditional"])
def test_a_program_without_the_package_gets_the_same_numbers(kind, tmp_path, rng):
    glow = make_glow(dtype="float32", num_bits=5, **kind)
    folder = tmp_path / "model"
    saved_model.save_model(glow, folder)
    labels = [2, 0, 1] if kind else None
    images = random_images(rng, glow, 3)
    given = {"images": images, "z": rng.standard_normal((3, 4, 8, 2)).astype(np.float32)}
    given["bytes"] = rng.integers(0, 256, (3, 4, 8, 2)).astype(np.uint8)
    np.savez(tmp_path / "given.npz", **given, **({"labels": np.array(labels, np.int32)} if labels else {}))
    command = [sys.executable, "-c", READER, folder, tmp_path / "given.npz", tmp_path / "found.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_array_equal(found["sample_images"], glow.sample(3, 0.7, seed=9, labels=labels))
    np.testing.assert_allclose(found["log_prob_log_prob"], glow.log_prob(images, labels), rtol=1e-5)
    np.testing.assert_allclose(found["one"], glow.log_prob(images[:1], labels and labels[:1]), rtol=1e-5)
    np.testing.assert_allclose(found["encode_z"], glow.encode(images, labels), rtol=0, atol=1e-4)
    decoded = glow.decode(given["z"], labels)
    np.testing.assert_allclose(found["decode_continuous"], decoded, rtol=0, atol=1e-4)
    assert np.mean(found["decode_images"] != glow.dequantizer.quantize(decoded)) < 0.01
    bits = glow.bits_per_dim(given["bytes"], labels, seed=3)
    np.testing.assert_allclose(found["bits_per_dim_bits_per_dim"], bits, rtol=1e-5)
    with pytest.raises(InputError, match="exists already"):
        saved_model.save_model(glow, folder)


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path, small_glow):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        saved_model.save_model(small_glow, pathlib.Path(tmp_path, "file", "model"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
