"""The command that trains: wrong input, a hostile surrounding, stops and resumption."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from commands import environment, run_many, start
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from glow_tf.cli import train
from glow_tf.config import GlowConfig, TrainConfig
from glow_tf.glow import Glow
from glow_tf.training import hardware
from glow_tf.training.loop import FitResult
from glow_tf.training.run_directory import RunDirectory

TINY = ["--k_glow", "1", "--l_glow", "1", "--width", "4", "--batch_size", "512"]

# {command line: what the one line of error says}; these are refused before TensorFlow is imported.
WRONG_FLAGS = {
    "--k_glow 0": "--k_glow is 0; it must be an integer from 1 to 512",
    "--l_glow -1": "--l_glow is -1; it must be an integer from 1 to 8",
    "--l_glow 4": "image height 8 is not divisible by 2**4 = 16 (--l_glow is 4); use 16 pixels or fewer levels",
    "--batch_size " + 5000 * "9": "it is not an integer",
    "--n_bits 9": "--n_bits is 9; it must be an integer from 1 to 8",
    "--width 0": "--width is 0",
    "--coupling nice": "--coupling is 'nice'; it can be affine, additive",
    "--backprop foo": "--backprop is 'foo'; it can be stored, recompute, reversible",
    "--img_size 7": "image height 7 is not divisible by 2**2 = 4 (--l_glow is 2); use 4 or 8",
    "--img_size 5000": "--img_size is 5000; it must be an integer from 1 to 1024",
    "--channel_size 5": "--channel_size is 5; it must be an integer from 1 to 4",
    "--batch_size 0": "--batch_size is 0; it must be an integer from 1 to 2147483647",
    "--batch_size many": "flag --batch_size=many: it is not an integer",
    "--epochs 0": "--epochs is 0",
    "--steps 0": "--steps is 0",
    "--eval_images 0": "--eval_images is 0",
    "--learning_rate nan": "--learning_rate is nan; it must be a number from 1e-30",
    "--learning_rate fast": "flag --learning_rate=fast: it is not a number",
    "--learning_rate -1": "--learning_rate is -1.0",
    "--warmup_epochs nan": "--warmup_epochs is nan",
    "--cooldown_epochs nan": "--cooldown_epochs is nan",
    "--cooldown_epochs 1e308": "--cooldown_epochs is 1e+308",
    "--cooldown_epochs -1": "--cooldown_epochs is -1.0",
    "--evaluate_every 0": "--evaluate_every is 0",
    "--beta_2 1": "--beta_2 is 1.0",
    "--ema_decay 1": "--ema_decay is 1.0",
    "--optimizer sgd": "--optimizer is 'sgd'; it can be adamax, adam, muon",
    "--seed -1": "--seed is -1",
    "--seed 99999999999999": "--seed is 99999999999999",
    "--weight_y 0.1": "--weight_y is 0.1, which needs --conditional",
    "--weight_y -1 --conditional": "--weight_y is -1.0; it must be a number from 0 to 1e30",
    "--preset nothing": "--preset is 'nothing'; it can be cifar10-small, ",
    "--weights x --k_glow 4 --width 3": "--k_glow, --width cannot be combined with --weights",
    "--weights x --dequantization uniform": "--dequantization cannot be combined with --weights",
    "--dataset \udcff": "--dataset is \\udcff, which is not UTF-8",
    "--run_dir a\udcff": "--run_dir is a\\udcff, which is not UTF-8",
    "--dataset ./missing": "the folder './missing' does not exist",
    "--dataset ./emty": "the folder './emty' does not exist; did you mean empty?",
    "--weights missing.h5": "missing.h5 does not exist",
    "--weights empty": "empty is a folder without checkpoints/weights.h5",
    "--run_dir file/run": "/file: Not a directory",
    "--run_dir . --fresh": "--fresh cannot archive ., which holds the working directory",
    "--run_dir piped": "piped/.lock is not a regular file",
    "--dataset file": "'file' is not a folder; name the folder that holds the images",
    "digits": "unexpected argument 'digits'; --dataset names the data set",
    "--mixed_precision auto": "unexpected argument 'auto'; write --mixed_precision=auto",
    "--conditional yes": "unexpected argument 'yes'; write --conditional=true",
    "--mixed_precision=maybe": "it must be true, false or auto",
    "--communication ring": "--communication is for --strategy multi_worker",
    "--max_bad nan": "--max_bad is nan; it must be a number from 0 to 1",
    "--max_bad 0.5": "--max_bad is for a folder of images, and digits is a data set",
    "--data_dir empty": "--data_dir has no effect, since digits is not a data set of TFDS; leave it out",
    "--dataset ./photos --run_dir photos/run": "photos/run is inside the folder of images ./photos, so that the run's",
    "--flip=maybe": "it must be true or false",
    "--no_such_flag": "--no_such_flag is not a flag of this command; ",
    "--lr 3": "--lr is not a flag of this command; did you mean --learning_rate?",
    "--learning_rat 3": "did you mean --learning_rate?",
    "--temp 3": "--temp is a flag of sample.py, not of this command; --help lists its flags",
}

WRONG_DATA = {
    "--img_size 4": "4x4 with 1 channels cannot be made of them",
    "--flip": "--flip would change the meaning of the images of digits",
    "--dataset ./empty --conditional": "found 0 images in './empty'",
    "--dataset ./photos --img_size 8 --conditional": "--conditional needs classes; ./photos has neither labels nor",
    "--jit_compile": "--jit_compile needs a GPU",
    "--weights fashion_mnist --dequantization variational": "8x8x1, but the model expects 32x32x1; use --img_size 32 "
    "--channel_size 1, or name other data with --dataset",
    "--weights fashion_mnist --dataset ./photos --img_size 32 --channel_size 1": "photos has no classes, but the model "
    "has 10; name other data",
}


def answers_in(folder, lines, imports):
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    (folder / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(folder / "photos" / name)
    (folder / "piped").mkdir()
    os.mkfifo(folder / "piped" / ".lock")
    before = sorted(folder.rglob("*"))
    answers = run_many("train", [line.split(" ") for line in lines], folder, imports)
    assert sorted(folder.rglob("*")) == before
    return answers


@pytest.mark.parametrize(("wrong", "imports"), [(WRONG_FLAGS, "no tensorflow"), (WRONG_DATA, "any")])
def test_wrong_input_is_one_line_and_nothing_is_written(tmp_path, wrong, imports):
    answers = answers_in(tmp_path, wrong, imports)
    for (line, words), (status, output, error) in zip(wrong.items(), answers, strict=True):
        assert (status, output) == (2, ""), (line, error)
        assert error.startswith("error: "), line
        assert error.count("\n") == 1, error
        assert words in error, (line, error)


def test_the_seed_draws_the_first_weights(caplog, monkeypatch):
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda: False)
    options = train.Options.parse([*TINY, "--seed", "3", "--epochs", "1", "--mixed_precision"])
    trainer, _ = train._build(options, *train._check_options(options), None)
    assert "--mixed_precision is slower here: neither a GPU nor this processor" in caplog.text
    assert "the run has 3 steps and its warm-up 6, so --learning_rate is not reached" in caplog.text
    drawn = Glow(trainer.glow.config, seed=3).named_variables()
    for name, variable in trainer.glow.named_variables().items():
        np.testing.assert_array_equal(variable, drawn[name])


def test_a_run_is_named_after_its_images(tmp_path):
    (tmp_path / "my photos").mkdir()
    names = {"imagenet_resized/32x32": "imagenet_resized-32x32", f"{tmp_path}/my photos/": "my-photos", "/": "images"}
    assert {dataset: train.run_name(dataset) for dataset in names} == names


@pytest.fixture(scope="module")
def begin():
    """Starts the command; what is left running is killed."""
    processes = []

    def start_it(*arguments, **options):
        processes.append(start("main", *arguments, **options))
        return processes[-1]

    yield start_it
    for process in processes:
        process.kill()
        process.wait()


def finish(capsys, config, architecture="openai", **result):
    """(exit status, output, error output) of the end of a run."""
    named = {"steps": 90, "bits_per_dim": 3.0, "standard_error": 0.1, "stopped_by": None, "is_saved": True} | result
    trainer = SimpleNamespace(
        config=TrainConfig(**config),
        glow=SimpleNamespace(config=GlowConfig((8, 8, 1), num_levels=1, architecture=architecture)),
        workers=SimpleNamespace(is_chief=True),
    )
    status = train._finish(FitResult(**named), trainer, RunDirectory("run"))
    return status, *capsys.readouterr()


def test_a_run_at_its_end_says_how_to_train_further(capsys):
    status, output, _ = finish(capsys, {"epochs": 45}, new_steps=0)
    assert status == 0
    assert "this run has reached its end, step 90; to train further, use --epochs 90\n" in output
    assert "use --steps 180\n" in finish(capsys, {"epochs": 45, "steps": 90}, new_steps=0)[1]
    assert "reached its end" not in finish(capsys, {}, new_steps=90)[1]
    decided = finish(capsys, {}, new_steps=90, bits_per_dim=20.0, standard_error=18.0)[1]
    assert decided.startswith("test: 20.0000 bits/dim, standard error 18.0000 (decided by a few images)\n")


def test_a_run_ends_with_the_command_that_draws_its_samples(capsys, monkeypatch):
    lines = []
    for name, architecture in (("main.py", "openai"), ("glow-train", "plus")):
        monkeypatch.setattr(sys, "argv", [f"folder/{name}"])
        lines.append(finish(capsys, {}, architecture, new_steps=90)[1].splitlines()[-1])
    assert lines == [
        "more: python3 sample.py --weights run/checkpoints/weights.h5",
        "more: python3 -m glow_tf sample --weights run/checkpoints/weights.h5 --temp 0.9",
    ]


@pytest.mark.parametrize(
    ("best", "last", "said"),
    [
        ({"test_bits_per_dim": 3.0}, {"test_bits_per_dim": 3.02}, "was 3.0000 after epoch 4 and is 3.0200 now"),
        ({"test_bits_per_dim": 3.0}, {"test_bits_per_dim": 3.009}, None),
        ({"test_bits_per_dim": 3.0}, {"test_bits_per_dim": 3.5, "selection_bits_per_dim": 3.0}, None),
        ({"test_bits_per_dim": 3.5, "selection_bits_per_dim": 3.0}, {"test_bits_per_dim": 3.25}, "is 3.2500 now"),
        ({"test_bits_per_dim": 3.0}, {"test_bits_per_dim": None}, None),
    ],
)
def test_a_run_whose_last_weights_are_not_the_best_names_those(
    capsys, small_glow, tmp_path, monkeypatch, best, last, said
):
    monkeypatch.chdir(tmp_path)
    run = RunDirectory("run")
    run.checkpoints.mkdir(parents=True)
    small_glow.save_weights(run.best_weights, epoch=4, **best)
    small_glow.save_weights(run.weights, epoch=9, **last)
    output = finish(capsys, {}, new_steps=90)[1]
    assert ("the last weights are not the best" in output) == (said is not None)
    assert said is None or (said in output and f"the best weights: {run.best_weights}\n" in output)


def test_a_run_that_could_not_be_saved_is_a_failure(capsys):
    status, _, error = finish(capsys, {}, new_steps=90, is_saved=False)
    assert status == 1 and error == "error: the last save failed; the files in run/checkpoints are older\n"
    status, output, _ = finish(capsys, {}, stopped_by=15, is_saved=False)
    assert status == 143 and "stopped at step 90, which could not be saved; an earlier state may exist. To re" in output


@pytest.mark.parametrize(("count", "is_few"), [(19, True), (20, False)])
def test_few_test_images_are_warned_of(capsys, caplog, count, is_few):
    glow = SimpleNamespace(config=GlowConfig((8, 8, 1), num_levels=1, num_steps=2), num_parameters=1234)
    trainer = SimpleNamespace(glow=glow, workers=SimpleNamespace(is_chief=True))
    splits = {"train": SimpleNamespace(num_images=400), "test": SimpleNamespace(num_images=count)}
    train._announce(trainer, SimpleNamespace(name="mine", **splits), RunDirectory("run"))
    said = f"mine: 400 training and {count} test images of 8x8x1 in 8 bits; K=2, L=1, 1,234 parameters; run directory"
    assert capsys.readouterr().out == f"{said} run\n"
    assert (f"with {count} test images, bits/dim and the statistics of z are rough estimates" in caplog.text) == is_few


@pytest.mark.parametrize("bits", [float("nan"), float("inf")])
def test_a_result_that_is_not_finite_is_a_failure_with_a_reason(capsys, bits):
    status, _, error = finish(capsys, {}, new_steps=90, bits_per_dim=bits)
    assert status == 1
    assert error.startswith(f"error: the test bits/dim is {bits}: ") and "--learning_rate" in error


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


@pytest.fixture(scope="module")
def stopped(begin, tmp_path_factory):
    """(folder, exit status, error output) of the run "my run" in a hostile surrounding, stopped by SIGTERM.

    No HOME, no letters beyond ASCII, no temporary folder, no TensorBoard, and nobody who reads the output.
    """
    folder = tmp_path_factory.mktemp("working folder")
    (folder / "hidden" / "tensorboard").mkdir(parents=True)
    (folder / "hidden" / "tensorboard" / "__init__.py").write_text("raise ImportError('not here')")
    hostile = environment(HOME=None, LC_ALL="C", TMPDIR="/missing")
    hostile["PYTHONPATH"] = f"{folder / 'hidden'}:{hostile['PYTHONPATH']}"
    process = begin(*TINY, "--epochs", "100000", "--run_dir", "my run", cwd=folder, env=hostile, stdout=closed_pipe())
    wait_for(RunDirectory(folder / "my run").weights.exists, process)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    return folder, process.returncode, errors


@pytest.fixture
def folder(stopped, tmp_path):
    """A working folder with a copy of that run."""
    shutil.copytree(stopped[0] / "my run", tmp_path / "my run")
    return tmp_path


def test_sigterm_saves_wherever_it_runs(stopped):
    folder, status, errors = stopped
    assert status == 143
    assert "TensorBoard is not installed" in errors
    assert "SIGTERM: finishing this step, then saving" in errors
    assert "Traceback" not in errors
    assert list(RunDirectory(folder / "my run").state.glob("ckpt-*.sha256"))


def test_ctrl_c_prints_the_command_that_resumes_and_a_second_one_ends_at_once(folder, begin):
    arguments = [*TINY, "--epochs", "100000", "--run_dir", "my run"]
    process = begin(*arguments, cwd=folder)
    run = RunDirectory(folder / "my run")
    states = set(run.state.glob("ckpt-*.sha256"))
    wait_for(lambda: set(run.state.glob("ckpt-*.sha256")) - states, process)
    second = begin(*arguments, cwd=folder)
    output, error = second.communicate(timeout=60)
    assert (second.returncode, output) == (2, "")
    assert error == f"error: the run directory my run is in use by pid {process.pid}; name another one\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"resumed from .*ckpt-\d+, step \d+\n", errors)
    assert "Traceback" not in errors
    step, command = re.search(r"stopped at step (\d+)\. To resume:\n  (.*)\n", output).groups()
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
    refused = run_many("train", [[*TINY, "--k_glow", "2", "--n_bits", "5", *run]], folder, "no tensorflow")[0]
    learned = ["--weights", "my run", "--dequantization", "variational", "--batch_size", "512", "--run_dir", "learned"]
    fresh, longer, noise, more_noise, other_start, full = run_many(
        "train",
        [
            [*TINY, "--k_glow", "2", "--fresh", *run],
            [*TINY, "--k_glow", "2", "--run_dir", "my run", "--epochs", "2", "--cooldown_epochs", "1"],
            [*learned, "--steps", "1"],
            [*learned, "--steps", "2"],
            [*learned, "--weights", "my run.old-1"],
            [*TINY, "--run_dir", "/proc/self/run"],
        ],
        folder,
    )
    assert refused[:2] == (2, "")
    words = "--n_bits was 4, now 5; --k_glow was 1, now 2"
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
    # The model of that run was fine-tuned with learned noise, and the new run was resumed.
    assert noise[0] == more_noise[0] == 0, (noise, more_noise)
    assert "learned/checkpoints/state/ckpt-1, step 1\n" in more_noise[2]
    assert other_start[0] == 2
    assert re.search(r"--weights was 'sha256:\w{16}', now 'sha256:\w{16}'; name another --run_dir", other_start[2])
    glow = Glow.load(folder / "learned")
    assert (glow.config.num_steps, glow.config.dequantization) == (2, "variational")
    assert (glow.metadata["step"], glow.metadata["previous_steps"]) == (2, 6)
    flags = ["--batch_size=512", "--dequantization=variational", "--steps=2", "--weights=my run"]  # not --run_dir
    assert shlex.split(glow.metadata["command"]) == ["python3", "main.py", *flags]
