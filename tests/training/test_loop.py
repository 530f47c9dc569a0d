"""The loop: stopped anywhere it resumes to the same bytes; it survives NaN, signals and full disks."""

import contextlib
import os
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from small_training import CONFIG, STEPS_PER_EPOCH, after_step, fit, images, make_trainer, trainer_at_start

from glow_tf import weights
from glow_tf.config import GlowConfig
from glow_tf.data.dataset import ArrayDataset
from glow_tf.errors import InputError, TrainingFailure
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.training import checkpoint, curves, diagnostics, evaluator, loop, recovery, signals
from glow_tf.training.run_directory import RunDirectory
from glow_tf.training.state import RunRecord
from glow_tf.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("undrawn")


closer_look = pytest.mark.usefixtures("closer_look")


@pytest.fixture(name="closer_look")
def _closer_look():
    """Asked for by tests of pictures and diagnostics, or of runs that are equal in all they do."""


@pytest.fixture(autouse=True)
def only_a_glance(request):
    if "closer_look" not in request.fixturenames:
        request.getfixturevalue("glance")


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may catch it."""


def die(*_, **__):
    raise Killed


@pytest.fixture(params=["one replica", "two replicas"])
def strategy(request, two_replicas):
    return two_replicas if request.param == "two replicas" else None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


_undisturbed = {}


@pytest.fixture
def undisturbed(strategy, closer_look, tmp_path_factory):
    """(variables, files) of three epochs that nothing disturbed."""
    return _run_undisturbed(strategy, tmp_path_factory)


@pytest.fixture
def undisturbed_alone(closer_look, tmp_path_factory):
    """The same on one replica."""
    return _run_undisturbed(None, tmp_path_factory)


def _run_undisturbed(strategy, tmp_path_factory):
    if strategy not in _undisturbed:
        trainer = trainer_of(strategy)
        path = tmp_path_factory.mktemp("undisturbed") / "run"
        assert fit(trainer, path).is_saved
        _undisturbed[strategy] = ends(trainer, path)
    return _undisturbed[strategy]


def trainer_of(strategy):
    """Two replicas have one level, since their tracing takes twice as long as that of one."""
    return trainer_at_start(strategy, num_levels=1 if strategy else 2)


def ends(trainer, path):
    """Everything a run leaves, as bytes."""
    run = RunDirectory(path)
    return [value.tobytes() for value in trainer.values()], run.weights.read_bytes(), run.best_weights.read_bytes()


def restored_record(trainer, path):
    """What the newest state of a run says that the run has reached."""
    record = RunRecord()
    assert checkpoint.Checkpointer(trainer.state, record, RunDirectory(path).state).restore()
    return record


def metadata(file):
    with weights.open_weights(file) as opened:
        return opened.metadata


# ------------------------------------------------------------------------------------------------ stops


def test_the_same_seed_gives_the_same_bytes(strategy, undisturbed, path):
    trainer = trainer_of(strategy)
    fit(trainer, path)
    assert ends(trainer, path) == undisturbed


def test_evaluated_every_second_epoch_it_trains_the_same(strategy, undisturbed, path):
    """Killed in the evaluation of the second epoch, it is made at the next start; the last epoch has one, too."""
    for dies in (True, False):
        trainer = trainer_of(strategy)
        with pytest.MonkeyPatch.context() as patch:
            if dies:
                patch.setattr(metrics, "bits_per_dim", die)
            with pytest.raises(Killed) if dies else contextlib.nullcontext():
                fit(trainer, path, evaluate_every=2)
    assert trainer.step_count == 3 * STEPS_PER_EPOCH and trainer.glow.is_initialized
    assert [value.tobytes() for value in trainer.values()] == undisturbed[0]
    drawn = {file.name for file in RunDirectory(path).results.glob("samples-*")}
    assert drawn == {"samples-epoch0002.png"}


# (where, in which of its calls in one life): one run dies of them one after the other.
DEATHS = [
    ("step", 1),
    (checkpoint.Checkpointer, "_write_checksum", 1),  # in the first save of all: nothing is complete
    (metrics, "bits_per_dim", 1),
    (Glow, "sample", 3),
    (Glow, "save_weights", 1),
    (Glow, "save_weights", 2),  # between the best and the newest
    ("step", 5),
    (checkpoint.Checkpointer, "_write_checksum", 1),
    (Glow, "save_weights", 2),
    (checkpoint, "write_atomically", 1),
    ("step", 8),
    (Glow, "save_weights", 1),
]


def test_killed_anywhere_it_goes_on_to_the_same_bytes(undisturbed, strategy, path):
    for death in DEATHS:
        trainer = trainer_of(strategy)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            if death[0] == "step":
                after_step(trainer, death[1], die)
            else:
                patch.setattr(death[0], death[1], deadly(*death))
            fit(trainer, path)
    trainer = trainer_of(strategy)
    fit(trainer, path)
    assert ends(trainer, path) == undisturbed


def deadly(owner, name, nth):
    original, calls = getattr(owner, name), []

    def call(*arguments, **options):
        calls.append(name)
        return (die if len(calls) == nth else original)(*arguments, **options)

    return call


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 2), (signal.SIGTERM, 6), (signal.SIGHUP, 4)])
def test_a_signal_saves_between_steps(undisturbed_alone, path, number, step, monkeypatch):
    trainer = trainer_at_start()
    handler = signal.getsignal(number)
    told = []
    monkeypatch.setattr(signals, "_tell", told.append)

    def send():
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 20
        while not told:
            assert time.monotonic() < deadline  # the listening thread takes it in its own time
        assert f"{signal.Signals(number).name}: finishing this step" in told[0]

    after_step(trainer, step, send)
    outcome = fit(trainer, path)
    assert (outcome.steps, outcome.stopped_by, outcome.bits_per_dim, outcome.is_saved) == (step, number, None, True)
    assert signal.getsignal(number) is handler
    assert (RunDirectory(path).state / f"ckpt-{step}.sha256").exists()
    trainer = trainer_at_start()
    fit(trainer, path)
    assert ends(trainer, path) == undisturbed_alone


@closer_look
def test_a_signal_ends_an_evaluation(path, monkeypatch):
    """The state is saved first; the next start repeats the evaluation."""
    trainer = trainer_at_start()
    sample = Glow.sample

    def slow_sample(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        os.sched_yield()
        return sample(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Glow, "sample", slow_sample)
        outcome = fit(trainer, path)
    assert (outcome.steps, outcome.stopped_by, outcome.is_saved) == (STEPS_PER_EPOCH, signal.SIGTERM, True)
    outcome = fit(trainer_at_start(), path, epochs=1)
    assert outcome.steps == STEPS_PER_EPOCH
    assert outcome.bits_per_dim is not None


@pytest.mark.parametrize("is_saved", [False, True])
def test_a_kill_at_the_end_of_an_evaluation_costs_no_row_of_metrics(path, monkeypatch, is_saved):
    save = evaluator.Evaluator._save_weights

    def save_and_die(*arguments):
        if is_saved:
            save(*arguments)
        die()

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(evaluator.Evaluator, "_save_weights", save_and_die)
        fit(trainer_at_start(), path, epochs=1)
    fit(trainer_at_start(), path, epochs=1)
    (row,) = curves.History(path / "metrics.csv").rows
    assert row["step"] == STEPS_PER_EPOCH
    assert {"train_bits_per_dim", "learning_rate", "test_bits_per_dim"} <= set(row)


def test_a_long_epoch_is_saved_on_the_way(path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    trainer = trainer_at_start()
    after_step(trainer, 2, die)
    with pytest.raises(Killed):
        fit(trainer, path)
    assert restored_record(trainer, path) and trainer.step_count == 1


def test_the_first_images_go_by_the_seed(path, monkeypatch):
    trainer, seen = make_trainer(num_levels=1, seed=5), []
    monkeypatch.setattr(trainer, "initialize", lambda images: seen.append(images) or die())
    with pytest.raises(Killed):
        fit(trainer, path)
    np.testing.assert_array_equal(seen[0], images()[0].random_subset(26, seed=5)[0])


def test_ignored_signals_stay_ignored(path):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer = trainer_at_start()
        after_step(trainer, 2, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert fit(trainer, path, epochs=1).stopped_by is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_can_be_made_longer(path, tmp_path):
    outcome = fit(trainer_at_start(), path, steps=4)
    assert outcome.steps == 4
    assert outcome.bits_per_dim is not None
    trainer = trainer_at_start()
    assert fit(trainer, path, epochs=2).steps == 2 * STEPS_PER_EPOCH
    whole = trainer_at_start()
    fit(whole, tmp_path / "whole", epochs=2)
    assert all(np.array_equal(a, b) for a, b in zip(trainer.values(), whole.values(), strict=True))
    assert metadata(RunDirectory(path).weights)["step"] == 2 * STEPS_PER_EPOCH


def test_a_finished_run_is_not_evaluated_again(path, monkeypatch):
    first = fit(trainer_at_start(), path, epochs=2)
    before = RunDirectory(path).weights.stat().st_mtime_ns
    monkeypatch.setattr(metrics, "bits_per_dim", die)
    second = fit(trainer_at_start(), path, epochs=2)
    assert second == first
    assert (first.new_steps, second.new_steps) == (2 * STEPS_PER_EPOCH, 0)
    assert RunDirectory(path).weights.stat().st_mtime_ns == before


def test_the_last_evaluation_uses_all_test_images(path):
    fit(trainer_at_start(), path, epochs=2, eval_images=4, keep=2)
    counts = [metadata(RunDirectory(path).snapshot(epoch))["test_images"] for epoch in (1, 2)]
    assert counts == [4, images()[1].num_images]
    assert fit(trainer_at_start(), path, epochs=2, eval_images=4).new_steps == 0


def test_the_best_of_a_finished_run_is_known_to_a_longer_one(path, monkeypatch):
    """The last weights are scored on all test images, and chosen by those that scored the others."""
    results = iter([3.0, 1.0, 1.5, 2.0, 2.5])
    monkeypatch.setattr(metrics, "bits_per_dim", lambda *_, limit, **__: (next(results), 0.1, limit or 12))
    fit(trainer_at_start(), path, epochs=2, eval_images=4)
    fit(trainer_at_start(), path, epochs=3, eval_images=4)
    best = metadata(RunDirectory(path).best_weights)
    assert (best["epoch"], best["test_bits_per_dim"], best["selection_bits_per_dim"]) == (2, 1.5, 1.0)
    assert next(results, None) is None


@closer_look
def test_a_warning_is_printed_once_and_when_it_applies(path, monkeypatch, capfd):
    monkeypatch.setattr(diagnostics, "complaints", lambda found: [f"{tag} is bad" for tag in found])
    fit(trainer_at_start(), path)
    error = capfd.readouterr().err
    warnings = [line for line in error.splitlines() if line.endswith(" is bad")]
    assert any("level0/smallest_s" in line for line in warnings)
    assert len(warnings) == len(set(warnings))
    assert "warning: z/variance is bad" not in error  # too early for the latents


@pytest.mark.parametrize(("share", "steps"), [(1e-9, [3, 9]), (1e9, [3, 6, 9])])
def test_diagnostics_that_take_long_beside_an_epoch_are_rarer(path, monkeypatch, share, steps):
    seen = []
    monkeypatch.setattr(evaluator, "DIAGNOSTICS_SHARE", share)
    monkeypatch.setattr(evaluator.Evaluator, "_draw_and_diagnose", lambda self, _: seen.append(self.trainer.step_count))
    fit(trainer_at_start(), path)
    assert seen == steps


def test_steps_beyond_the_epochs_and_copies_among_the_test_images_are_said(path, caplog):
    train, test = images()
    fit(trainer_at_start(), path, epochs=1, steps=STEPS_PER_EPOCH)
    assert not caplog.records
    test = ArrayDataset(np.concatenate([test.images, train.images[3:5]]))
    assert trainer_at_start().fit(train, test, run_directory=path.with_name("b"), epochs=1, steps=50).steps == 3
    assert "the run ends with its 1 epochs, at step 3; for 50 steps it needs more epochs" in caplog.text
    assert "2 of the 14 test images are also training images" in caplog.text


def test_an_unknown_option_is_refused(path):
    with pytest.raises(InputError, match="fit has no option batch_size; it can be epochs, steps"):
        fit(trainer_at_start(), path, batch_size=4)


def test_a_run_from_weights_counts_their_steps(path, tmp_path, monkeypatch):
    trainer = trainer_at_start()
    fit(trainer, path, epochs=1)
    loaded = metadata(RunDirectory(path).weights)
    assert "previous_steps" not in loaded
    # The metadata of a Glow that was loaded from these weights, which were themselves trained from others.
    for folder, previous in ((tmp_path / "another run", 7), (path, 4)):
        monkeypatch.setattr(trainer.glow, "metadata", loaded | {"previous_steps": 4})
        trainer = trainer_at_start()
        last = list(trainer.glow.named_variables().values())[-1]
        last.assign_add(tf.ones_like(last))  # a run is known by its first weights
        fit(trainer, folder, epochs=2)
        assert metadata(RunDirectory(folder).weights)["previous_steps"] == previous
        # When it is resumed, the weights that it started from have been trained further.
        monkeypatch.setattr(trainer.glow, "metadata", loaded | {"step": 300, "previous_steps": 4000, "run_id": "x"})
        fit(trainer_at_start(), folder, epochs=3)
        assert metadata(RunDirectory(folder).weights)["previous_steps"] == previous


def test_a_run_from_weights_has_its_own_best_and_precision(path, monkeypatch):
    loaded = {"selection_bits_per_dim": 0.5, "selection_images": 4, "mixed_precision": True, "notes": "kept"}
    results = iter([3.0, 2.0, 1.0, 1.5])
    monkeypatch.setattr(metrics, "bits_per_dim", lambda *_, limit, **__: (next(results), 0.1, limit or 12))
    for is_resumed in (False, True):
        trainer = trainer_at_start()
        monkeypatch.setattr(trainer.glow, "metadata", loaded)
        if not is_resumed:
            after_step(trainer, STEPS_PER_EPOCH + 1, die)
        with contextlib.suppress(Killed):
            fit(trainer, path, epochs=3, eval_images=4)
    best = metadata(RunDirectory(path).best_weights)
    assert (best["epoch"], best["selection_bits_per_dim"], best["notes"]) == (3, 1.0, "kept")
    assert "mixed_precision" not in best


def test_snapshots_and_the_best_weights_are_kept(path, monkeypatch, capfd):
    results = iter([(3.0, 0.1), (1.0, 0.1), (20.0, 18.0), (float("nan"), float("nan"))])
    monkeypatch.setattr(metrics, "bits_per_dim", lambda *_, **__: (*next(results), 12))
    fit(trainer_at_start(), path, epochs=4, keep=2)
    error = capfd.readouterr().err
    assert error.count("a few test images have far more bits/dim than the others") == 1
    assert "step 9: 20.0000 ± 18.0000 (decided by a few images) bits/dim on 12 test images" in error
    names = {file.name for file in RunDirectory(path).checkpoints.glob("*.h5")}
    assert names == {"weights.h5", "weights-best.h5", "weights-epoch0003.h5", "weights-epoch0004.h5"}
    assert metadata(RunDirectory(path).best_weights)["epoch"] == 2
    assert metadata(RunDirectory(path).weights)["test_bits_per_dim"] is None  # a NaN result is none
    assert metadata(RunDirectory(path).weights)["epoch"] == 4


# -------------------------------------------------------------------------------------------------- NaN


def test_a_nan_step_is_left_out_counted_and_survives_a_stop(path, capfd):
    trainer = trainer_at_start()
    trainer.nan_from.assign(1)
    trainer.nan_to.assign(3)
    outcome = fit(trainer, path, epochs=2)
    assert outcome.steps == 2 * STEPS_PER_EPOCH
    assert int(trainer.optimizer.updates) == outcome.steps - 2
    assert "step 3: the loss or its gradient is not finite; the step was skipped (2 so far)" in capfd.readouterr().err
    trainer = trainer_at_start()
    record = restored_record(trainer, path)
    assert (record.skipped, record.skipped_in_a_row) == (2, 0)


def test_ten_in_a_row_go_back_and_halve_the_rate_and_ten_more_end_the_run(path, capfd):
    trainer = trainer_at_start()
    trainer.nan_from.assign(5)
    trainer.nan_to.assign(15)
    assert fit(trainer, path, epochs=5).steps == 15
    error = capfd.readouterr().err
    assert "10 steps in a row had no finite gradient, first in the pixels; rolled back to " in error
    assert "ckpt-12 and halved the learning rate to 0.0005" in error
    trainer = trainer_at_start()
    trainer.nan_from.assign(15)
    trainer.nan_to.assign(100)
    message = "10 steps up to step 25 .* been halved; the first non-finite .* in the pixels. Start over .*--fresh"
    with pytest.raises(TrainingFailure, match=message):
        fit(trainer, path, epochs=20)


def test_going_back_takes_the_state_that_was_saved(path):
    trainer = trainer_at_start()
    fit(trainer, path, epochs=1)
    good = trainer.values()
    trainer = trainer_at_start()
    after_step(trainer, 4, lambda: [v.assign(tf.zeros_like(v)) for v in trainer.glow.trainable_variables])
    trainer.nan_from.assign(4)
    trainer.nan_to.assign(100)
    found = []
    original = recovery.Recovery._roll_back

    def roll_back(*arguments):
        original(*arguments)
        found.extend(trainer.values())
        die()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop._Loop, "_save_state", lambda loop: None)
        patch.setattr(recovery.Recovery, "_roll_back", roll_back)
        fit(trainer, path, epochs=20)
    rate = next(i for i, v in enumerate(trainer.variables()) if v is trainer.optimizer.learning_rate)
    assert found[rate] == good[rate] / 2
    good[rate] = found[rate]
    assert all(np.array_equal(a, b) for a, b in zip(found, good, strict=True))
    assert trainer.step_count == 14


def test_a_roll_back_takes_back_no_result(path, monkeypatch):
    """The state that is restored was saved before the evaluation that found the best weights."""
    results = iter([1.0] + [3.0] * 9)
    monkeypatch.setattr(metrics, "bits_per_dim", lambda *_, **__: (next(results), 0.1, 12))
    save = checkpoint.Checkpointer.save
    monkeypatch.setattr(
        checkpoint.Checkpointer, "save", lambda self: save(self) if self.state.step_count == STEPS_PER_EPOCH else None
    )
    trainer = trainer_at_start()
    trainer.nan_from.assign(STEPS_PER_EPOCH)
    trainer.nan_to.assign(STEPS_PER_EPOCH + recovery.MAX_SKIPPED)
    fit(trainer, path, epochs=6)
    assert metadata(RunDirectory(path).best_weights)["epoch"] == 1
    assert metadata(RunDirectory(path).weights)["epoch"] == 6


def test_a_result_that_is_not_finite_is_explained(path, monkeypatch, capfd):
    monkeypatch.setattr(metrics, "bits_per_dim", lambda *_, **__: (float("nan"), None, 12))
    result = fit(trainer_at_start(), path, epochs=1)
    assert np.isnan(result.bits_per_dim)
    assert "warning: the bits/dim of the test images is nan" in capfd.readouterr().err


# ------------------------------------------------------------------------------------------------- disk


def block(path):
    """Nothing can be written to the checkpoints: a stand-in for a full disk that also stops the superuser."""
    path.rename(path.with_name("away"))
    path.write_text("in the way")


def unblock(path):
    path.unlink()
    path.with_name("away").rename(path)


def test_a_disk_that_cannot_be_written_does_not_end_the_run(path, caplog):
    trainer, checkpoints = trainer_at_start(), RunDirectory(path).checkpoints
    after_step(trainer, 5, lambda: block(checkpoints))
    outcome = fit(trainer, path)
    assert outcome.steps == 3 * STEPS_PER_EPOCH
    assert not outcome.is_saved
    assert "the state could not be saved, the older files stay" in caplog.text
    assert "the weights could not be saved, the older files stay" in caplog.text
    unblock(checkpoints)
    assert metadata(RunDirectory(path).weights)["epoch"] == 1
    trainer = trainer_at_start()
    after_step(trainer, 3, die)  # it resumes from there and does not start over
    assert fit(trainer, path).is_saved
    assert metadata(RunDirectory(path).weights)["epoch"] == 3


def test_the_next_save_is_tried_and_makes_it_good(path):
    trainer, checkpoints = trainer_at_start(), RunDirectory(path).checkpoints
    after_step(trainer, 5, lambda: block(checkpoints))
    train_step = trainer.train_step

    def step(*arguments):
        if trainer.step_count == 6:
            unblock(checkpoints)
        return train_step(*arguments)

    trainer.train_step = step
    assert fit(trainer, path).is_saved


def test_one_of_two_failed_saves_is_enough(path):
    (path / "checkpoints" / "weights-best.h5").mkdir(parents=True)
    outcome = fit(trainer_at_start(), path, epochs=1)
    assert not outcome.is_saved
    assert (RunDirectory(path).state / f"ckpt-{STEPS_PER_EPOCH}.sha256").exists()


@closer_look
def test_pictures_that_cannot_be_written_are_told_once(path, caplog):
    trainer = trainer_at_start()
    results = RunDirectory(path).results
    after_step(trainer, 1, lambda: (results.rmdir(), results.write_text("in the way")))
    assert fit(trainer, path, epochs=2).is_saved
    assert caplog.text.count("logs and pictures cannot be written, training continues") == 1


# ------------------------------------------------------------------------------------------- other runs


SETTINGS = {"dataset": "blots", "batch_size": 8}


def test_another_configuration_is_refused_and_named(path):
    fit(trainer_at_start(), path, epochs=1, settings=SETTINGS)
    before = RunDirectory(path).weights.read_bytes()
    with pytest.raises(InputError, match="dataset was 'blots', now 'digits'; .*--fresh"):
        fit(trainer_at_start(), path, settings=SETTINGS | {"dataset": "digits"})
    train, test = images()
    with pytest.raises(InputError, match="cannot be resumed on these images: the images are not those with which"):
        trainer_at_start().fit(ArrayDataset(255 - train.images), test, run_directory=path, epochs=2, settings=SETTINGS)
    assert RunDirectory(path).weights.read_bytes() == before


def test_a_run_whose_folder_is_moved_stops_and_writes_nothing(path):
    trainer, elsewhere = trainer_at_start(), path.with_name("elsewhere")
    after_step(trainer, STEPS_PER_EPOCH + 1, lambda: path.rename(elsewhere))
    with pytest.raises(InputError, match="was moved, removed or replaced while its trainer was running"):
        fit(trainer, path)
    assert not path.exists()
    assert fit(trainer_at_start(), elsewhere, epochs=2).steps == 2 * STEPS_PER_EPOCH


def test_a_run_whose_folder_is_replaced_leaves_the_new_run_alone(path):
    first, second = trainer_at_start(), path.with_name("second")
    fit(first, second, epochs=1, settings={"dataset": "other"})
    trainer = trainer_at_start()
    after_step(trainer, 1, lambda: (path.rename(path.with_name("elsewhere")), second.rename(path)))
    before = RunDirectory(second).weights.read_bytes()
    with pytest.raises(InputError, match="was moved, removed or replaced"):
        fit(trainer, path)
    run = RunDirectory(path)
    assert run.weights.read_bytes() == before
    assert {file.stem for file in run.state.iterdir()} == {f"ckpt-{STEPS_PER_EPOCH}"}


def test_weights_of_another_run_are_not_overwritten(path, tmp_path):
    other = tmp_path / "other"
    for folder, dataset in ((path, "blots"), (other, "others")):
        fit(trainer_at_start(), folder, epochs=1, settings={"dataset": dataset})
    shutil.copy(RunDirectory(other).weights, RunDirectory(path).weights)
    with pytest.raises(InputError, match="weights.h5 belongs to another run"):
        fit(trainer_at_start(), path, settings={"dataset": "blots"})


def test_states_of_another_run_are_not_resumed(path, tmp_path):
    other = tmp_path / "other"
    for folder, dataset in ((path, "blots"), (other, "others")):
        fit(trainer_at_start(), folder, epochs=1, settings={"dataset": dataset})
    shutil.rmtree(RunDirectory(path).state)
    shutil.copytree(RunDirectory(other).state, RunDirectory(path).state)
    with pytest.raises(InputError, match="none of the 1 states"):
        fit(trainer_at_start(), path, settings={"dataset": "blots"})


def test_a_run_that_saved_nothing_may_begin_with_other_settings(path):
    trainer = trainer_at_start()
    after_step(trainer, 1, die)
    with pytest.raises(Killed):
        fit(trainer, path, settings={"batch_size": 8})
    fit(trainer_at_start(), path, epochs=1, settings={"batch_size": 4})


def test_weights_without_a_state_are_not_overwritten(path):
    fit(trainer_at_start(), path, epochs=1)
    for file in RunDirectory(path).state.iterdir():
        file.unlink()
    before = RunDirectory(path).weights.read_bytes()
    with pytest.raises(InputError, match="no state to resume from; .*--weights .*weights.h5 and another --run_dir"):
        fit(trainer_at_start(), path)
    assert RunDirectory(path).weights.read_bytes() == before


def test_states_that_cannot_be_read_are_not_overwritten(path):
    fit(trainer_at_start(), path, epochs=1)
    for file in RunDirectory(path).state.glob("*.index"):
        file.write_bytes(b"garbage")
    with pytest.raises(InputError, match="none of the 1 states"):
        fit(trainer_at_start(), path)


def test_a_lack_of_memory_names_what_to_lower_and_keeps_what_was_saved(path):
    trainer = trainer_at_start()

    def run_out():
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    after_step(trainer, 4, run_out)
    with pytest.raises(InputError, match="out of memory at batch size 8 and images of 8x8x1: .*--backprop recompute"):
        fit(trainer, path, epochs=2)
    assert fit(trainer_at_start(), path, epochs=1).steps == STEPS_PER_EPOCH


@closer_look
def test_values_out_of_range_are_warned_about(path, capfd):
    trainer = trainer_at_start()
    log_abs_s = trainer.glow.named_variables()["level1/conv1x1/log_abs_s"]

    def spoil():
        for variable in (log_abs_s, *trainer.optimizer.ema):
            if variable.shape == log_abs_s.shape:
                variable.assign(tf.fill(variable.shape, -9.0))

    after_step(trainer, STEPS_PER_EPOCH, spoil)
    fit(trainer, path, epochs=1)
    error = capfd.readouterr().err
    assert "warning: smallest |s| of the 1x1 matrices in level 1 is 0.000123; a healthy model has at least" in error
    logs = b"".join(file.read_bytes() for file in RunDirectory(path).test_logs.iterdir())
    tags = (b"diagnostics/level1/smallest_s", b"diagnostics/round_trip_error", b"z/level1/variance")
    assert all(tag in logs for tag in tags)


@pytest.mark.parametrize("metadata", [{"mine": float("inf")}, {"class_names": True}, {"mine": "x" * 5_000_000}])
def test_metadata_that_cannot_be_saved_is_refused_before_training(path, metadata):
    trainer = trainer_at_start()
    with pytest.raises(InputError, match="metadata"):
        fit(trainer, path, metadata=metadata)
    assert trainer.step_count == 0
    assert not RunDirectory(path).weights.exists()


@pytest.mark.parametrize("num_classes", [0, 2])
def test_the_classes_of_a_conditional_model_are_settings_of_the_run(path, monkeypatch, num_classes):
    recorded = []
    monkeypatch.setattr(loop, "_Loop", lambda *arguments: recorded.append(arguments[-1]) or die())
    glow = Glow(GlowConfig(**CONFIG, num_classes=num_classes))
    with pytest.raises(Killed):
        fit(Trainer(glow, batch_size=8), path, metadata={"class_names": ["cat", "dog"]})
    assert recorded[0].get("class_names") == (["cat", "dog"] if num_classes else None)


def test_thousands_of_class_names_are_saved(path):
    names = [f"n{i:06d}_\u732b" for i in range(5000)]
    assert fit(trainer_at_start(), path, epochs=1, metadata={"class_names": names}).is_saved
    assert metadata(RunDirectory(path).weights)["class_names"] == names
