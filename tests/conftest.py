"""The environment of the tests, set before TensorFlow starts, and the fixtures that several files share."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import gc
import signal

import numpy as np
import pytest

# The files that take longest, the longest first; two processes that share the files end at about the same time if
# these come first.
LONG_FILES = (
    *("test_glow", "training/test_loop", "cli/test_train", "test_tfp", "bijectors/test_scan", "test_faults"),
    *("test_weights", "bijectors/test_contract", "integrations/test_keras", "cli/test_sample", "bijectors/test_edges"),
    *("importers/test_openai", "integrations/test_import_order", "test_docs", "training/test_distributed"),
    *("importers/test_glow_tf2", "test_conditional", "cli/test_evaluate", "integrations/test_saved_model"),
    *("training/test_trainer", "nn/test_plus", "training/test_options", "cli/test_app", "training/test_hardware"),
)

# Objects that are made between two collections of garbage. TensorFlow keeps most of what it makes while it traces.
COLLECT_AFTER = 50_000


def start_tensorflow():
    """Imports TensorFlow, which takes five seconds.

    It declares two devices for the tests of replicas, or as many as a process started by a test asks for; they must be
    declared before the first operation.
    """
    gc.disable()
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * int(os.environ.get("TEST_DEVICES", 2)),
    )
    gc.freeze()  # a module stays: no collection needs to look through it again
    gc.set_threshold(COLLECT_AFTER)
    gc.enable()


def pytest_collection():
    """Not called in the process that only distributes the files to others, which needs no TensorFlow."""
    start_tensorflow()


def pytest_collection_modifyitems(items):
    order = {f"tests/{name}.py": number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.location[0], len(order)))


# A shell starts what runs in its background with Ctrl-C ignored, nohup with SIGHUP; what is ignored stays ignored in
# every child.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def reference():
    """The folder of values computed with other programs; it is not part of the repository."""
    from helpers import REFERENCE

    if not REFERENCE.is_dir():
        pytest.skip("needs ../shared/reference beside the repository, the values of other programs")
    return REFERENCE


@pytest.fixture
def rng():
    return np.random.default_rng(2018)


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out the drawing of curves, most of the time of a small run."""
    from glow_tf.training import curves

    monkeypatch.setattr(curves, "draw", lambda *_: b"png")


@pytest.fixture
def glance(monkeypatch):
    """Leaves out pictures and diagnostics, most of the time of a short evaluation."""
    from glow_tf.training import evaluator

    monkeypatch.setattr(evaluator.Evaluator, "_draw_and_diagnose", lambda *_: None)


@pytest.fixture(scope="session")
def two_replicas():
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def small_glow():
    """Affine, PLU, two levels of two steps, 4x8x2, float64, all variables random. Shared: do not change it."""
    from helpers import make_glow

    return make_glow()


@pytest.fixture(scope="session")
def conditional_glow():
    """As `small_glow`, of three classes, with the classifier. Shared: do not change it."""
    from helpers import make_glow

    return make_glow(num_classes=3, classifier=True)
