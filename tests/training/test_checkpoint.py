"""States are complete or absent, a damaged one is skipped for an older one, and no run silently starts over."""

import os
import shutil
import subprocess
import tempfile
import time

import numpy as np
import pytest
import tensorflow as tf
from small_training import make_trainer, trainer_at_start

from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.training import checkpoint
from glow_tf.training.checkpoint import Checkpointer
from glow_tf.training.state import RunRecord
from glow_tf.training.trainer import Trainer


@pytest.fixture(scope="module")
def trainer():
    return make_trainer()


@pytest.fixture(scope="module")
def three_states(trainer, tmp_path_factory):
    """A folder with states after 10, 20 and 30 batches, every float of them equal to that number."""
    folder = tmp_path_factory.mktemp("states")
    states = checkpointer(trainer, folder)
    for step in (10, 20, 30):
        fill(trainer, step)
        states.record.best_bits_per_dim = 1 / step
        states.save()
    return folder


def checkpointer(trainer, folder, run_id="a run"):
    record = RunRecord()
    record.run_id = run_id
    states = Checkpointer(trainer.state, record, folder, trainer.num_replicas)
    states.record = record
    return states


@pytest.fixture
def folder(three_states, tmp_path):
    return shutil.copytree(three_states, tmp_path / "state")


def fill(trainer, value):
    for variable in trainer.variables():
        if variable.dtype.is_floating:
            variable.assign(tf.fill(variable.shape, tf.cast(value, variable.dtype)))
    trainer.state.step_count = value


def restored_step(trainer, folder):
    """The step that a new process resumes from; everything must be of that step."""
    fill(trainer, -1)
    states = checkpointer(trainer, folder)
    path = states.restore()
    step = trainer.step_count
    assert path == str(folder / f"ckpt-{step}")
    assert all((v.numpy() == step).all() for v in trainer.variables() if v.dtype.is_floating)
    assert states.record.best_bits_per_dim == 1 / step
    assert states.saved_step == step
    return step


def flip_a_bit(file, where=0.5):
    content = bytearray(file.read_bytes())
    content[int(where * (len(content) - 1))] ^= 4
    file.write_bytes(content)


def replace_by_pipe(file):
    file.unlink()
    os.mkfifo(file)


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
    "digest is a pipe": lambda folder: replace_by_pipe(folder / "ckpt-30.sha256"),
    "data is a pipe": lambda folder: replace_by_pipe(folder / "ckpt-30.data-00000-of-00001"),
    "data cut short, digest renewed": lambda folder: (
        (folder / "ckpt-30.data-00000-of-00001").open("r+b").truncate(1000),
        subprocess.run("sha256sum ckpt-30.data* ckpt-30.index > ckpt-30.sha256", shell=True, check=True, cwd=folder),
    ),
    "data of zeros": lambda folder: (folder / "ckpt-30.data-00000-of-00001").write_bytes(bytes(30_000)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_state_is_skipped_and_the_one_before_taken(trainer, folder, name, caplog):
    DAMAGE[name](folder)
    assert restored_step(trainer, folder) == 20
    assert "ckpt-30 is skipped: " in caplog.text


def test_states_keep_the_names_of_earlier_versions(folder):
    """By which a run that is in progress is resumed after an update."""
    names = {name.partition("/.ATTRIBUTES")[0] for name, _ in tf.train.list_variables(str(folder / "ckpt-30"))}
    slots = [f"optimizer/{slot}/0" for slot in ("_first", "_second", "averages")]
    assert {"optimizer/steps", "optimizer/learning_rate", *slots, "variables/level0.Sactnorm.Sshift"} <= names
    record = ("run_id", "num_replicas", "reported_step", "best_bits_per_dim", "skipped", "skipped_in_a_row")
    assert {"step_count", *record, "rate_was_halved", "seconds", "cpu_seconds"} <= names


def test_the_newest_state_is_taken(trainer, folder):
    assert restored_step(trainer, folder) == 30


def test_an_unfinished_save_is_removed(trainer, folder, caplog):
    """As after a kill between TensorFlow's files and the digest, or a power failure before they were durable."""
    (folder / "ckpt-30.sha256").unlink()
    flip_a_bit(folder / "ckpt-30.index")
    assert restored_step(trainer, folder) == 20
    assert "ckpt-30 was not completely saved and is removed" in caplog.text
    assert not list(folder.glob("ckpt-30*"))


def test_where_no_state_can_be_read_it_is_an_error(trainer, folder):
    for file in folder.glob("ckpt-*.index"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the 3 states in .* can be restored; .*--fresh"):
        checkpointer(trainer, folder).restore()
    for file in folder.glob("ckpt-*.sha256"):
        file.unlink()
    with pytest.raises(InputError, match="none of the 3 states"):
        checkpointer(trainer, folder).restore()


def test_a_first_save_that_was_interrupted_begins_anew(trainer, folder):
    for file in [*folder.glob("ckpt-10.*"), *folder.glob("ckpt-20.*"), folder / "ckpt-30.sha256"]:
        file.unlink()
    assert checkpointer(trainer, folder).restore() is None
    assert not list(folder.glob("ckpt-*"))


def test_an_empty_folder_has_no_state(trainer, tmp_path):
    states = checkpointer(trainer, tmp_path / "state")
    assert states.restore() is None
    assert states.saved_step is None


def test_three_states_are_kept_and_nothing_else(trainer, folder):
    fill(trainer, 30)
    states = checkpointer(trainer, folder)
    states.restore()
    for step in (40, 50):
        fill(trainer, step)
        states.save()
    kinds = ("data-00000-of-00001", "index", "sha256")
    assert {file.name for file in folder.iterdir()} == {
        f"ckpt-{step}.{kind}" for step in (30, 40, 50) for kind in kinds
    }


def test_a_damaged_state_is_written_again_in_its_turn(trainer, folder):
    flip_a_bit(folder / "ckpt-30.index")
    states = checkpointer(trainer, folder)
    states.restore()
    fill(trainer, 30)
    states.record.best_bits_per_dim = 1 / 30
    states.save()
    assert restored_step(trainer, folder) == 30


def test_a_state_is_saved_once(trainer, folder):
    states = checkpointer(trainer, folder)
    states.restore()
    before = (folder / "ckpt-30.index").stat().st_mtime_ns
    states.save()
    assert (folder / "ckpt-30.index").stat().st_mtime_ns == before


def test_what_a_checksum_promises_is_durable_before_it(trainer, folder, monkeypatch):
    """A power cut leaves no complete state whose data was never written."""
    calls = []
    monkeypatch.setattr(checkpoint, "sync", lambda path: calls.append(path.suffix))
    monkeypatch.setattr(checkpoint, "write_atomically", lambda path, _: calls.append(path.suffix))
    checkpointer(trainer, folder)._write_checksum(30)
    assert sorted(calls[:2]) == [".data-00000-of-00001", ".index"] and calls[2:] == [".sha256"]


def test_the_digest_is_that_of_sha256sum(folder):
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    subprocess.run(["sha256sum", "--check", "--quiet", "ckpt-30.sha256"], cwd=folder, check=True, timeout=10)


def test_a_state_that_cannot_be_written_is_an_oserror_and_the_older_ones_stay(trainer, folder):
    states = checkpointer(trainer, folder)
    states.restore()
    fill(trainer, 40)
    folder.rename(folder.with_name("away"))
    folder.write_text("in the way")
    with pytest.raises(OSError):
        states.save()
    folder.unlink()
    folder.with_name("away").rename(folder)
    states.record.best_bits_per_dim = 1 / 40
    states.save()
    assert restored_step(trainer, folder) == 40


def test_the_state_of_another_model_is_not_taken(folder):
    other = Trainer(Glow(GlowConfig(image_shape=(8, 8, 1), num_levels=1, num_steps=1, width=4)), batch_size=8)
    with pytest.raises(InputError, match="none of the 3 states"):
        checkpointer(other, folder).restore()


def test_another_number_of_devices_goes_on_with_a_warning(folder, two_replicas, caplog):
    """`trainer_at_start` shares its variables with other tests, which set them themselves."""
    two = trainer_at_start(two_replicas)
    assert restored_step(two, folder) == 30
    assert "the run was on 1 devices and resumes on 2" in caplog.text
    for variable in two.variables():
        values = [local.numpy() for local in two.strategy.experimental_local_results(variable)]
        assert np.array_equal(values[0], values[1])


@pytest.mark.parametrize("name", ["only[pq] 1", "a[!x]", "back\\slash", "*?"])
def test_a_run_whose_path_looks_like_a_pattern_is_resumed(trainer, tmp_path, name, monkeypatch):
    (tmp_path / "tmp[pq]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp[pq]"))  # TMPDIR may look like one, too
    folder = tmp_path / name / "state"
    states = checkpointer(trainer, folder)
    fill(trainer, 10)
    states.record.best_bits_per_dim = 1 / 10
    states.save()
    assert restored_step(trainer, folder) == 10


def test_other_runs_are_left_alone(trainer, tmp_path):
    """A run whose path is a pattern for its siblings' paths prunes its own states and no others."""
    siblings = {name: tmp_path / name / "state" for name in ("ex[pq] 1", "exp 1", "exq 1", "ex* 1", "ex? 1")}
    for folder in siblings.values():
        states = checkpointer(trainer, folder)
        for step in range(1, 5):
            fill(trainer, step)
            states.save()
    for folder in siblings.values():
        assert {file.stem for file in folder.iterdir()} == {"ckpt-2", "ckpt-3", "ckpt-4"}
        assert checkpointer(trainer, folder).restore() == str(folder / "ckpt-4")


def test_states_of_another_run_are_refused(trainer, folder, caplog):
    with pytest.raises(InputError, match="none of the 3 states"):
        checkpointer(trainer, folder, run_id="another run").restore()
    assert "it belongs to another run, 'a run'; this is run 'another run'" in caplog.text


def test_a_roll_back_keeps_the_record_and_the_step(trainer, folder):
    states = checkpointer(trainer, folder)
    states.restore()
    fill(trainer, 37)
    before = {"best_bits_per_dim": 0.001, "reported_step": 35, "skipped": 12, "rate_was_halved": True}
    for name, value in before.items():
        setattr(states.record, name, value)
    flip_a_bit(folder / "ckpt-30.index")
    assert states.roll_back() == str(folder / "ckpt-20")
    assert all((v.numpy() == 20).all() for v in trainer.variables() if v.dtype.is_floating)
    assert trainer.step_count == 37
    assert {name: getattr(states.record, name) for name in before} == before


def test_states_of_earlier_versions_are_restored(trainer, tmp_path):
    """They were saved by a CheckpointManager and have neither a run identifier nor the time that the run took."""
    fill(trainer, 10)
    record = {"reported_step": 5, "skipped": 0, "skipped_in_a_row": 0, "num_replicas": 1, "step_count": 10}
    items = {name: tf.Variable(value, dtype=tf.int64) for name, value in record.items()}
    items |= {"best_bits_per_dim": tf.Variable(1 / 10, dtype=tf.float64), "rate_was_halved": tf.Variable(False)}
    checkpoint = tf.train.Checkpoint(**trainer.state.variables(), **items)
    tf.train.CheckpointManager(checkpoint, str(tmp_path), max_to_keep=3).save(checkpoint_number=10)
    states = checkpointer(trainer, tmp_path)
    states._write_checksum(10)
    assert restored_step(trainer, tmp_path) == 10
    assert states.restore() and states.record.reported_step == 5


def test_the_time_of_a_run_survives_a_resume_and_a_roll_back(trainer, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "process_time", lambda: 2 * clock[0])
    fill(trainer, 10)
    states = checkpointer(trainer, tmp_path)
    clock[0] += 30.0
    states.save()
    clock[0] += 5.0  # lost in a kill
    states = checkpointer(trainer, tmp_path)
    states.restore()
    clock[0] += 10.0
    fill(trainer, 20)
    states.save()
    assert states.roll_back()
    clock[0] += 1.0
    states.record.count_time()
    assert (states.record.seconds, states.record.cpu_seconds) == (41.0, 82.0)


def test_nothing_is_written_after_the_check_fails(trainer, folder):
    def refuse():
        raise InputError("moved")

    states = Checkpointer(trainer.state, RunRecord(), folder, check=refuse)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    fill(trainer, 40)
    with pytest.raises(InputError, match="moved"):
        states.save()
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
