"""The command that trains: wrong input, a hostile surrounding, stops and resumption."""

import os
import re
import shlex
import signal
import subprocess
import time

import pytest
from commands import environment, run_many, start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from glow_tf.training.run_directory import RunDirectory

TINY = ["--k_glow", "1", "--l_glow", "1", "--width", "4", "--batch_size", "512"]

# {command line: what the one line of error says}.
WRONG = {
    "--k_glow 0": "num_steps is 0; it must be an integer from 1 to 512",
    "--l_glow -1": "num_levels is -1; it must be an integer from 1 to 8",
    "--l_glow 4": "image height 8 is not divisible by 2**4 = 16 (num_levels is 4); use 16 or fewer levels",
    "--n_bits 9": "num_bits is 9; it must be an integer from 1 to 8",
    "--width 0": "width is 0",
    "--coupling nice": "coupling is 'nice'; it can be affine, additive",
    "--img_size 7": "7x7 with 1 channels cannot be made of them",
    "--img_size 5000": "image size is 5000x5000; each side can be 1 to 1024 pixels",
    "--channel_size 5": "channels is 5; it can be 1 (grey) or 3 (RGB)",
    "--batch_size 0": "flag --batch_size=0: 0 is not a positive integer",
    "--batch_size many": "flag --batch_size=many: invalid literal",
    "--epochs 0": "flag --epochs=0",
    "--learning_rate nan": "learning_rate is nan; it must be a number above 0",
    "--learning_rate -1": "learning_rate is -1.0",
    "--warmup_epochs nan": "--warmup_epochs is nan",
    "--cooldown_epochs nan": "--cooldown_epochs is nan",
    "--cooldown_epochs 1e308": "flag --cooldown_epochs=1e308",
    "--cooldown_epochs -1": "flag --cooldown_epochs=-1",
    "--evaluate_every 0": "flag --evaluate_every=0",
    "--beta_2 1": "beta_2 is 1.0",
    "--ema_decay 1": "ema_decay is 1.0",
    "--optimizer sgd": "optimizer is 'sgd'; it can be adamax, adam",
    "--seed -1": "flag --seed=-1",
    "--seed 99999999999999": "flag --seed=99999999999999",
    "--flip": "--flip would change what the images of digits mean",
    "--dataset no_such_set": "'no_such_set' is neither a data set nor a folder",
    "--dataset ./missing": "the folder './missing' does not exist",
    "--dataset ./emty": "the folder './emty' does not exist; did you mean empty?",
    "--weights missing.h5": "missing.h5 does not exist; bundled weights: ",
    "--weights empty": "empty is a folder without checkpoints/weights.h5",
    "--dataset ./empty": "found 0 images in './empty'; formats: PNG, JPEG",
    "--run_dir file/run": "/file: Not a directory",
    "digits": "unexpected argument 'digits'; the data set is named by --dataset",
    "--no_such_flag": "Unknown command line flag 'no_such_flag'",
}  # fmt: skip


def test_wrong_input_is_one_line_and_nothing_is_written(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    answers = run_many("train", [shlex.split(line) for line in WRONG], tmp_path)
    for (line, words), (status, output, error) in zip(WRONG.items(), answers, strict=True):
        assert (status, output) == (2, ""), (line, error)
        assert error.startswith("error: "), line
        assert error.count("\n") == 1, error
        assert words in error, line
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "file"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the tests below start the command, one after the other on the same run."""
    return tmp_path_factory.mktemp("working folder")


@pytest.fixture
def begin(folder):
    """Starts the command in that folder; what a test leaves running is killed."""
    processes = []

    def start_here(*arguments, **options):
        processes.append(start("main", *arguments, cwd=folder, **options))
        return processes[-1]

    yield start_here
    for process in processes:
        process.kill()
        process.wait()


def closed_pipe():
    """A pipe that nobody reads any more."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    return write_end


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sigterm_saves_wherever_it_runs(folder, begin):
    """No HOME, no letters beyond ASCII, no temporary folder, no TensorBoard, and nobody who reads the output."""
    (folder / "hidden" / "tensorboard").mkdir(parents=True)
    (folder / "hidden" / "tensorboard" / "__init__.py").write_text("raise ImportError('not here')")
    hostile = environment(HOME=None, LC_ALL="C", TMPDIR="/missing")
    hostile["PYTHONPATH"] = f"{folder / 'hidden'}:{hostile['PYTHONPATH']}"
    process = begin(*TINY, "--epochs", "100000", "--run_dir", "my run", env=hostile, stdout=closed_pipe())
    run = RunDirectory(folder / "my run")
    wait_for(run.weights.exists, process)
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    errors = process.stderr.read()
    assert process.wait(timeout=20) == 143
    assert time.monotonic() - before < 10
    assert "warning: TensorBoard is not installed" in errors
    assert "SIGTERM: finishing this step, then saving" in errors
    assert "Traceback" not in errors
    assert list(run.state.glob("ckpt-*.sha256"))


def test_ctrl_c_prints_the_command_that_goes_on_and_a_second_one_ends_at_once(folder, begin):
    arguments = [*TINY, "--epochs", "100000", "--run_dir", "my run"]
    process = begin(*arguments)
    run = RunDirectory(folder / "my run")
    states = set(run.state.glob("ckpt-*.sha256"))
    wait_for(lambda: set(run.state.glob("ckpt-*.sha256")) - states, process)
    before = time.monotonic()
    second = begin(*arguments)
    output, error = second.communicate(timeout=20)
    assert (second.returncode, output) == (2, "")
    assert error == f"error: the run directory my run is in use by pid {process.pid}; name another one\n"
    assert time.monotonic() - before < 10  # one second, the interpreter's start included, where no tests run beside
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert re.search(r"resumed from .*ckpt-\d+, step \d+\n", errors)
    assert "Traceback" not in errors
    step, command = re.search(r"stopped at step (\d+)\. To go on:\n  (.*)\n", output).groups()
    assert shlex.split(command)[-2:] == ["--run_dir", "my run"]
    with subprocess.Popen(
        ["sh", "-c", f"exec {command}"], cwd=folder, stderr=subprocess.PIPE, text=True, env=environment()
    ) as again:
        assert any(f"ckpt-{step}, step {step}\n" in line for line in again.stderr)
        assert any("/300000 " in line for line in again.stderr)  # the first step is done
        again.send_signal(signal.SIGINT)
        assert any("SIGINT: finishing this step" in line for line in again.stderr)
        again.send_signal(signal.SIGINT)
        assert "Traceback" not in again.stderr.read()
        assert again.wait(timeout=10) == 130


def test_other_settings_are_refused_and_fresh_moves_the_run_aside(folder):
    run = ["--run_dir", "my run", "--epochs", "1"]
    refused, fresh, longer, full = run_many(
        "train",
        [
            [*TINY, "--k_glow", "2", "--n_bits", "5", *run],
            [*TINY, "--k_glow", "2", "--fresh", *run],
            [*TINY, "--k_glow", "2", "--run_dir", "my run", "--epochs", "2", "--cooldown_epochs", "1"],
            [*TINY, "--run_dir", "/proc/self/run"],
        ],
        folder,
    )
    assert refused[0] == 2
    words = "model.num_bits was 4, now 5; model.num_steps was 1, now 2"
    assert words in refused[2]
    assert fresh[0] == 0, fresh
    assert "the earlier run was moved to my run.old-1\n" in fresh[1]
    assert RunDirectory(folder / "my run.old-1").weights.exists()
    assert RunDirectory(folder / "my run").weights.exists()
    assert longer[0] == 0, longer
    assert "step 3\n" in longer[2] and "epoch 2, step 6: " in longer[2]
    # Of the resumed steps 4 to 6 of 6: a warm-up of two epochs still rises while the cool-down of one falls.
    rates = EventAccumulator(str(RunDirectory(folder / "my run").train_logs)).Reload().Tensors("learning_rate")
    found = [float(make_ndarray(event.tensor_proto)) for event in rates[-3:]]
    assert found == pytest.approx([4e-3 / 6, 2e-3 / 3, 1e-3 / 3])
    assert full[0] == 2
    assert "cannot write to /proc/self" in full[2]
