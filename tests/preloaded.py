"""What the server of `forked.py` imports before it is forked; none of it may start a thread."""

import gc
import importlib
import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # or numpy starts a thread for each core
gc.disable()
for name in ("matplotlib.figure", "sklearn.datasets", "tensorflow", "tensorflow_datasets", "glow_tf.glow"):
    importlib.import_module(name)
gc.freeze()  # a module stays: no collection in a fork needs to look through it
gc.enable()
del os.environ["OPENBLAS_NUM_THREADS"]
threads = os.listdir("/proc/self/task")
assert len(threads) == 1, f"a process of {len(threads)} threads cannot be forked safely"
