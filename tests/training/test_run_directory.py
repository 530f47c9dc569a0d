"""The run directory: one trainer at a time, no stale files, and a clear message before a disk is full."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glow_tf.errors import InputError
from glow_tf.pretrained import newest_weights
from glow_tf.training.run_directory import RunDirectory

HOLD = """
import sys
from glow_tf.training.run_directory import RunDirectory
with RunDirectory(sys.argv[1]).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def other_trainer(run):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_paths(run):
    assert run.weights == run.path / "checkpoints" / "weights.h5"
    assert run.best_weights == run.path / "checkpoints" / "weights-best.h5"
    run.create()
    for folder in (run.state, run.train_logs, run.test_logs, run.results):
        assert folder.is_dir()


def test_create_says_what_stands_in_the_way(run):
    run.path.mkdir()
    run.results.write_text("a file")
    with pytest.raises(InputError, match="results cannot be created: File exists"):
        run.create()


def test_a_second_trainer_is_refused_at_once(run, other_trainer):
    start = time.monotonic()
    with pytest.raises(InputError, match=f"is in use by pid {other_trainer.pid};"), run.lock():
        pass
    assert time.monotonic() - start < 1


def test_a_killed_trainer_lets_go(run, other_trainer):
    other_trainer.send_signal(signal.SIGKILL)
    other_trainer.wait()
    with run.lock():
        assert (run.path / ".lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_holds_inside_one_process_and_ends_with_the_block(run):
    with run.lock(), pytest.raises(InputError, match=f"pid {os.getpid()}"), run.lock():
        pass
    with run.lock():
        pass


def test_a_lock_file_that_is_a_link_is_not_followed(run, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("text")
    run.path.mkdir()
    (run.path / ".lock").symlink_to(precious)
    with pytest.raises(InputError, match="cannot be used"), run.lock():
        pass
    assert precious.read_text() == "text"


def test_files_of_dead_writers_are_removed_and_all_others_stay(run):
    run.create()
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    stale = [
        run.checkpoints / f"weights.h5.tmp-{dead.pid}",
        run.results / f"samples.png.tmp-{dead.pid}",
        run.state / "ckpt-3_temp" / "part-00000-of-00001.data-00000-of-00001",
        run.state / "ckpt-3.index.tempstate1234567",
        run.state / f"checkpoint.tmp{'0a' * 16}",
    ]
    kept = [
        run.checkpoints / f"weights.h5.tmp-{os.getpid()}",
        run.weights,
        run.state / "checkpoint",
        run.state / "ckpt-3.index",
        run.path / "notes.tmp-draft",
    ]
    for file in stale + kept:
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    assert len(run.remove_stale_files()) == len(stale)
    assert not any(file.exists() for file in stale)
    assert not (run.state / "ckpt-3_temp").exists()
    assert all(file.exists() for file in kept)


def test_a_stale_file_that_is_a_link_is_removed_and_its_target_kept(run, tmp_path):
    run.create()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("text")
    (run.state / "ckpt_temp").symlink_to(precious)
    run.remove_stale_files()
    assert os.listdir(run.state) == []
    assert (precious / "file").exists()


def test_remove_stale_files_needs_no_folder(run):
    assert run.remove_stale_files() == []


def test_the_newest_snapshots_are_kept(run):
    run.create()
    for epoch in (9, 9998, 9999, 10_000):
        run.snapshot(epoch).touch()
    run.remove_snapshots(keep=2)
    assert {file.name for file in run.checkpoints.glob("*.h5")} == {"weights-epoch9999.h5", "weights-epoch10000.h5"}


def test_check_writable_leaves_nothing_behind(run, tmp_path):
    run.check_writable(1000)
    assert os.listdir(tmp_path) == []
    run.create()
    run.check_writable(1000)
    assert [path for path in run.path.rglob("*") if path.is_file()] == []


def test_check_writable_names_both_numbers(run):
    with pytest.raises(InputError, match=r"has [\d,.]+ MB free; this run needs 1,000,000,000\.0 MB"):
        run.check_writable(10**15)


def test_check_writable_refuses_a_file_in_the_place_of_a_folder(run):
    run.path.write_text("a file")
    with pytest.raises(InputError, match="cannot write to .*run: Not a directory"):
        run.check_writable(0)


@pytest.mark.skipif(not Path("/dev/full").exists() or not os.path.isdir("/proc/self"), reason="needs Linux's /proc")
def test_check_writable_refuses_a_folder_that_takes_no_files():
    with pytest.raises(InputError, match="cannot write to /proc/self"):
        RunDirectory("/proc/self/run").check_writable(0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_check_writable_refuses_a_read_only_folder(run):
    run.create()
    run.checkpoints.chmod(0o500)
    run.state.chmod(0o500)
    with pytest.raises(InputError, match="cannot write to .*state: Permission denied"):
        run.check_writable(0)


def test_newest_weights(tmp_path):
    assert newest_weights(tmp_path / "missing") is None
    assert newest_weights(tmp_path) is None
    for age, name in enumerate(["b", "a", "c"]):
        run = RunDirectory(tmp_path / name)
        run.create()
        run.weights.write_text("x")
        os.utime(run.weights, (1000 - age, 1000 - age))
    RunDirectory(tmp_path / "without weights").create()
    (tmp_path / "a file").write_text("x")
    assert newest_weights(tmp_path) == tmp_path / "b" / "checkpoints" / "weights.h5"


def test_a_lock_file_that_is_a_pipe_is_refused(run):
    run.path.mkdir()
    os.mkfifo(run.path / ".lock")
    for refuses in (run.check_unused, run.lock().__enter__):
        with pytest.raises(InputError, match="lock is not a regular file"):
            refuses()


def test_a_path_that_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not UTF-8"):
        RunDirectory(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))


@pytest.mark.parametrize("replace", ["moved", "removed", "replaced", "locked by another trainer"])
def test_a_moved_or_replaced_folder_is_noticed(run, replace):
    with run.lock():
        run.check_lock()
        if replace == "removed":
            shutil.rmtree(run.path)
        else:
            run.path.rename(run.path.with_name("elsewhere"))
        if replace == "replaced":
            shutil.copytree(run.path.with_name("elsewhere"), run.path)
        with RunDirectory(run.path).lock() if "locked" in replace else contextlib.nullcontext():
            with pytest.raises(InputError, match="was moved, removed or replaced while its trainer was running"):
                run.check_lock()
            with pytest.raises(InputError, match="nothing more is written there"):
                run.write_json(run.settings, {})
    run.check_lock()  # without a lock there is nothing to compare


def test_archive_renames_and_keeps_all(run):
    run.create()
    run.weights.write_text("x")
    assert run.archive() == run.path.with_name("run.old-1")
    assert (run.path.with_name("run.old-1") / "checkpoints" / "weights.h5").exists()
    assert run.archive() is None


@pytest.mark.parametrize("path", [".", "..", "../inner"])
def test_archive_refuses_the_working_directory(tmp_path, monkeypatch, path):
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "outer" / "inner")
    run = RunDirectory(path)
    run.create()
    with pytest.raises(InputError, match="--fresh cannot archive .*, which holds the working directory"):
        run.archive()
    assert run.checkpoints.exists()


def test_a_run_inside_its_images_is_refused(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    with pytest.raises(InputError, match="runs/a is inside the folder of images ., so that the run's pictures"):
        RunDirectory("runs/a").check_outside(".")
    RunDirectory(".runs/a").check_outside(".")  # hidden folders are not read
    RunDirectory("../runs/a").check_outside(".")
    RunDirectory("../photos-runs").check_outside(tmp_path / "photos")


def test_a_removed_working_directory_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match="the working directory no longer exists"):
        RunDirectory("run").check_writable(0)
