"""glow_tf after TensorFlow and Keras, as isort sorts the imports, in processes without the tests' environment."""

import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = """
import {first}
import numpy as np
import glow_tf
import tf_keras
from glow_tf.integrations.keras import KerasGlow
model = KerasGlow(glow_tf.Glow(glow_tf.GlowConfig((4, 4, 1), num_levels=1, num_steps=1, width=4)))
images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1)).astype(np.uint8)
model.initialize(images)
model.compile(tf_keras.optimizers.SGD(1e-3))
model.fit(images, verbose=0)
assert model.glow.distribution.sample(2).shape == (2, 4, 4, 1)
"""


@pytest.mark.parametrize("first", ["tensorflow, tf_keras", "tf_keras", "glow_tf"])
def test_any_order_of_imports_works(first):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TF_USE", "TF_ENABLE"))}
    environment["PYTHONPATH"] = str(pathlib.Path(__file__).parents[2])
    command = [sys.executable, "-c", PROGRAM.format(first=first)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
