"""States: complete or not there, damaged ones are seen and older ones taken, and nothing begins anew in silence."""

import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from small_training import make_trainer, trainer_at_start

from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.training.checkpoint import Checkpointer
from glow_tf.training.trainer import Trainer


@pytest.fixture(scope="module")
def trainer():
    return make_trainer()


@pytest.fixture(scope="module")
def three_states(trainer, tmp_path_factory):
    """A folder with states after 10, 20 and 30 batches, every float of them equal to that number."""
    folder = tmp_path_factory.mktemp("states")
    state = Checkpointer(trainer, folder)
    for step in (10, 20, 30):
        fill(trainer, step)
        state.best_bits_per_dim = 1 / step
        state.save()
    return folder


@pytest.fixture
def folder(three_states, tmp_path):
    return shutil.copytree(three_states, tmp_path / "state")


def fill(trainer, value):
    for variable in trainer.variables():
        if variable.dtype.is_floating:
            variable.assign(tf.fill(variable.shape, tf.cast(value, variable.dtype)))
    trainer.step_count = value


def restored_step(trainer, folder):
    """The step that a new process resumes from; everything must be of that step."""
    fill(trainer, -1)
    state = Checkpointer(trainer, folder)
    path = state.restore()
    step = trainer.step_count
    assert path == str(folder / f"ckpt-{step}")
    assert all((v.numpy() == step).all() for v in trainer.variables() if v.dtype.is_floating)
    assert state.best_bits_per_dim == 1 / step
    assert state.saved_step == step
    return step


def flip_a_bit(file, where=0.5):
    content = bytearray(file.read_bytes())
    content[int(where * (len(content) - 1))] ^= 4
    file.write_bytes(content)


DAMAGE = {
    "data flipped": lambda folder: flip_a_bit(folder / "ckpt-30.data-00000-of-00001"),
    "data flipped at its end": lambda folder: flip_a_bit(folder / "ckpt-30.data-00000-of-00001", 1),
    "index flipped": lambda folder: flip_a_bit(folder / "ckpt-30.index", 0.1),
    "index flipped later": lambda folder: flip_a_bit(folder / "ckpt-30.index", 0.9),
    "digest flipped": lambda folder: flip_a_bit(folder / "ckpt-30.sha256"),
    "data cut short": lambda folder: (folder / "ckpt-30.data-00000-of-00001").open("r+b").truncate(1000),
    "index empty": lambda folder: (folder / "ckpt-30.index").write_bytes(b""),
    "index missing": lambda folder: (folder / "ckpt-30.index").unlink(),
    "data missing": lambda folder: (folder / "ckpt-30.data-00000-of-00001").unlink(),
    "files of two states": lambda folder: shutil.copy(folder / "ckpt-20.index", folder / "ckpt-30.index"),
    "data of zeros": lambda folder: (folder / "ckpt-30.data-00000-of-00001").write_bytes(bytes(30_000)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_state_is_skipped_and_the_one_before_taken(trainer, folder, name, caplog):
    DAMAGE[name](folder)
    assert restored_step(trainer, folder) == 20
    assert "ckpt-30 was skipped: " in caplog.text


def test_the_newest_state_is_taken(trainer, folder):
    assert restored_step(trainer, folder) == 30


def test_an_unfinished_save_is_removed(trainer, folder, caplog):
    """As after a kill between TensorFlow's files and the digest, or a power failure before they were durable."""
    (folder / "ckpt-30.sha256").unlink()
    flip_a_bit(folder / "ckpt-30.index")
    assert restored_step(trainer, folder) == 20
    assert "ckpt-30 was not saved to its end and is removed" in caplog.text
    assert not list(folder.glob("ckpt-30*"))


@pytest.mark.parametrize("garbage", [b"\xff\xfe\x00garbage", b"", b"model_checkpoint_path: 7", None])
def test_the_list_of_states_is_not_needed(trainer, folder, garbage):
    if garbage is None:
        (folder / "checkpoint").unlink()
    else:
        (folder / "checkpoint").write_bytes(garbage)
    assert restored_step(trainer, folder) == 30


def test_where_no_state_can_be_read_it_is_an_error(trainer, folder):
    for file in folder.glob("ckpt-*.index"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the 3 states in .* can be read; .*--fresh"):
        Checkpointer(trainer, folder).restore()
    for file in folder.glob("ckpt-*.sha256"):
        file.unlink()
    with pytest.raises(InputError, match="none of the 3 states"):
        Checkpointer(trainer, folder).restore()


def test_a_first_save_that_was_interrupted_begins_anew(trainer, folder):
    for file in [*folder.glob("ckpt-10.*"), *folder.glob("ckpt-20.*"), folder / "ckpt-30.sha256"]:
        file.unlink()
    assert Checkpointer(trainer, folder).restore() is None
    assert not list(folder.glob("ckpt-*"))


def test_an_empty_folder_has_no_state(trainer, tmp_path):
    state = Checkpointer(trainer, tmp_path / "state")
    assert state.restore() is None
    assert state.saved_step is None


def test_three_states_are_kept_and_nothing_else(trainer, folder):
    fill(trainer, 30)
    state = Checkpointer(trainer, folder)
    state.restore()
    for step in (40, 50):
        fill(trainer, step)
        state.save()
    kinds = ("data-00000-of-00001", "index", "sha256")
    assert {file.name for file in folder.iterdir()} == {
        "checkpoint", *(f"ckpt-{step}.{kind}" for step in (30, 40, 50) for kind in kinds)
    }  # fmt: skip


def test_a_damaged_state_is_written_again_in_its_turn(trainer, folder):
    flip_a_bit(folder / "ckpt-30.index")
    state = Checkpointer(trainer, folder)
    state.restore()
    fill(trainer, 30)
    state.best_bits_per_dim = 1 / 30
    state.save()
    assert restored_step(trainer, folder) == 30


def test_a_state_is_saved_once(trainer, folder):
    state = Checkpointer(trainer, folder)
    state.restore()
    before = (folder / "ckpt-30.index").stat().st_mtime_ns
    state.save()
    assert (folder / "ckpt-30.index").stat().st_mtime_ns == before


def test_the_digest_is_that_of_sha256sum(folder):
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    subprocess.run(["sha256sum", "--check", "--quiet", "ckpt-30.sha256"], cwd=folder, check=True, timeout=10)


def test_a_state_that_cannot_be_written_is_an_oserror_and_the_older_ones_stay(trainer, folder, monkeypatch):
    state = Checkpointer(trainer, folder)
    state.restore()
    fill(trainer, 40)
    folder.rename(folder.with_name("away"))
    folder.write_text("in the way")
    with pytest.raises(OSError, match="the state could not be written to"):
        state.save()
    folder.unlink()
    folder.with_name("away").rename(folder)
    state.best_bits_per_dim = 1 / 40
    state.save()
    assert restored_step(trainer, folder) == 40


def test_the_state_of_another_model_is_not_taken(folder):
    other = Trainer(Glow(GlowConfig(image_shape=(8, 8, 1), num_levels=1, num_steps=1, width=4)), batch_size=8)
    with pytest.raises(InputError, match="none of the 3 states"):
        Checkpointer(other, folder).restore()


def test_another_number_of_devices_goes_on_with_a_warning(folder, two_replicas, caplog):
    """`trainer_at_start` shares its variables with other tests, which set them themselves."""
    two = trainer_at_start(two_replicas)
    assert restored_step(two, folder) == 30
    assert "the run was on 1 devices and goes on with 2" in caplog.text
    for variable in two.variables():
        values = [local.numpy() for local in two.strategy.experimental_local_results(variable)]
        assert np.array_equal(values[0], values[1])
