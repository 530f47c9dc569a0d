"""The reporter: rate and time left, metrics.csv and what is drawn from it, and which pictures it keeps."""

import contextlib
import csv
import io
import os
import time

import numpy as np
import pytest
from matplotlib import figure
from PIL import Image
from tqdm import std

from glow_tf.evaluation import editing
from glow_tf.training import curves, diagnostics, pictures, progress
from glow_tf.training.progress import Reporter
from glow_tf.training.run_directory import RunDirectory
from glow_tf.training.state import RunRecord


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which only the tests move: a list of one."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(std, "time", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def shown(self):
        """The text of the progress bar, without the bar."""
        return self.getvalue().rstrip("\r ").split("\r")[-1].rstrip("# 0123456789").rstrip()


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create()
    return run


class Simulation:
    """A run on the fake clock: steps, saves, evaluations with pictures, another program on the machine."""

    def __init__(self, clock, run, stream, per_epoch, epochs):
        self.clock, self.per_epoch, self.total = clock, per_epoch, per_epoch * epochs
        self.reporter = Reporter(run, RunRecord(), self.total, 8, per_epoch, stream)
        self.estimates = []  # (time, time left)

    def epoch(self, first, step_seconds, save=0.0, evaluation=0.0, tracing=0.0, slowdown=0.0):
        for step in range(first, first + self.per_epoch):
            self.clock[0] += step_seconds * (1.0 + slowdown * (self.clock[0] // 60 % 2))
            self.reporter.step(step + 1, {"bits_per_dim": 3.0})
            self.estimates.append((self.clock[0], self.reporter.pace.seconds_left()))
        self.clock[0] += save
        with self.reporter.evaluation():
            with self.reporter.pace.once():
                self.clock[0] += tracing
            self.clock[0] += evaluation
            self.reporter.scalars("test", first + self.per_epoch, {"bits_per_dim": 3.0})

    def worst_error(self):
        """Largest relative error of the estimates, in parts of the time that was left."""
        return max(abs(left / (self.clock[0] - now) - 1) for now, left in self.estimates)


@pytest.fixture
def simulate(run, clock, terminal, undrawn):
    """Makes simulations on the same clock and folder."""
    with contextlib.ExitStack() as stack:

        def make(per_epoch, epochs):
            simulation = Simulation(clock, run, terminal, per_epoch, epochs)
            stack.callback(simulation.reporter.close)
            return simulation

        yield make


def test_the_time_left_counts_evaluations(simulate, terminal):
    simulation = simulate(per_epoch=10, epochs=4)
    simulation.epoch(0, 0.5, evaluation=5.0, tracing=60.0)
    assert terminal.shown() == "step 10/40  3.0000 bits/dim  16 images/s  0:15 left"
    simulation.epoch(10, 0.5, evaluation=7.0)
    # Right from the second epoch on: 10 seconds of steps and three evaluations of 5.
    assert terminal.shown() == "step 20/40  3.0000 bits/dim  16 images/s  0:25 left"
    simulation.epoch(20, 0.5, evaluation=7.0)
    assert terminal.shown() == "step 30/40  3.0000 bits/dim  16 images/s  0:19 left"


def test_one_step_says_nothing_about_the_next(run, clock, terminal):
    reporter = Reporter(run, RunRecord(), 40, 8, 10, terminal)
    reporter.step(1, {"bits_per_dim": 3.0})
    assert terminal.shown() == "step 1/40  3.0000 bits/dim"
    reporter.close()


def test_before_the_first_evaluation_its_time_is_guessed_from_that_of_a_step(simulate, terminal):
    simulation = simulate(per_epoch=10, epochs=2)
    simulation.reporter.pace.evaluation_steps = 4
    simulation.epoch(0, 1.0, evaluation=5.0)
    assert terminal.shown().endswith("0:18 left")  # ten steps and twice four
    simulation.epoch(10, 1.0, evaluation=5.0)
    assert terminal.shown().endswith("0:05 left")


@pytest.mark.parametrize("step_seconds", [0.3, 40.0])
def test_the_time_left_is_right_within_a_fifth_from_the_second_epoch_on(simulate, step_seconds):
    """With saves, evaluations of a tenth of the time, and another program that is busy in every second minute."""
    simulation = simulate(per_epoch=200, epochs=12)
    for epoch in range(12):
        if epoch == 1:
            simulation.estimates.clear()
        tracing = 30.0 if epoch == 0 else 0.0
        simulation.epoch(200 * epoch, step_seconds, 2.0, 20 * step_seconds, tracing, slowdown=1.0)
    # The last epoch has only its own end left.
    simulation.estimates = simulation.estimates[: -simulation.per_epoch]
    assert simulation.worst_error() < 0.2


def test_the_time_left_is_right_at_once_after_a_resume(simulate):
    """The table tells how long evaluations take."""
    simulate(per_epoch=100, epochs=6).epoch(0, 0.5, evaluation=30.0, tracing=30.0)
    simulation = simulate(per_epoch=100, epochs=6)
    for epoch in range(1, 6):
        simulation.epoch(100 * epoch, 0.5, evaluation=30.0)
    del simulation.estimates[0]
    assert simulation.worst_error() < 0.05


def test_a_longer_last_evaluation_counts(run, clock, terminal):
    reporter = Reporter(run, RunRecord(), 40, 8, 10, terminal)
    reporter.pace.evaluation_seconds, reporter.pace.last_extra_seconds = 5.0, 60.0
    for step in (21, 22):
        reporter.step(step, {"bits_per_dim": 3.0})
        clock[0] += 1.0
    assert terminal.shown().endswith("1:28 left")  # 18 steps, two evaluations and the rest of the test images
    reporter.close()


def test_steps_of_a_minute(run, clock, terminal):
    reporter = Reporter(run, RunRecord(), 40, 8, 40, terminal)
    for step in range(1, 4):
        reporter.step(step, {"bits_per_dim": 3.0})
        clock[0] += 60.0
    assert terminal.shown() == "step 3/40  3.0000 bits/dim  0.13 images/s  37:00 left"
    assert reporter.images_per_second() == pytest.approx(8 / 60)
    reporter.close()


def test_an_evaluation_that_is_stopped_counts(run, clock, terminal):
    reporter = Reporter(run, RunRecord(), 40, 8, 10, terminal)
    with pytest.raises(KeyError), reporter.evaluation():
        clock[0] += 5.0
        raise KeyError
    reporter.step(1, {"bits_per_dim": 3.0})
    clock[0] += 1.0
    reporter.step(2, {"bits_per_dim": 3.0})
    assert terminal.shown().endswith("8 images/s  0:58 left")
    reporter.close()


def test_from_python_only_lines_are_printed(run, capfd):
    reporter = Reporter(run, RunRecord(), 2, 8, 2)
    reporter.step(1, {"bits_per_dim": 3.0})
    reporter.line("epoch 1")
    reporter.close()
    assert capfd.readouterr().err == "epoch 1\n"


def rows_of(run):
    with open(run.path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def evaluate(reporter, step, bits):
    with reporter.evaluation():
        report(reporter, step, bits)


def report(reporter, step, bits):
    for number, train_bits in ((step - 2, 1e5), (step - 1, bits - 1), (step, bits)):  # the first has an outlier
        reporter.step(number, {"bits_per_dim": train_bits, "learning_rate": 0.01, "is_finite": True})
    reporter.step(step, {"bits_per_dim": np.nan, "learning_rate": 0.01, "is_finite": False})
    reporter.scalars("train", step, {"z/variance": 0.9, "gradient_norm": 3.0})
    reporter.scalars("test", step, {"bits_per_dim": bits, "z/variance": 1.25, "diagnostics/level0/condition": 8.0})


def test_metrics_csv_has_a_row_per_evaluation_and_survives_a_resume(run, clock, undrawn):
    record = RunRecord()
    reporter = Reporter(run, record, 40, 8, 10)
    clock[0] += 30.0
    evaluate(reporter, 10, 3.5)
    evaluate(reporter, 20, 3.25)
    reporter.close()
    first = {"step": "10", "seconds": "30", "train_bits_per_dim": "3.5", "test_bits_per_dim": "3.5"}
    assert first.items() <= rows_of(run)[0].items()
    assert rows_of(run)[0]["test_z_variance"] == "1.25" and rows_of(run)[0]["train_z_variance"] == "0.9"
    assert rows_of(run)[0]["learning_rate"] == "0.01" and "gradient_norm" not in rows_of(run)[0]
    assert rows_of(run)[0]["diagnostics_level0_condition"] == "8"
    # The second evaluation is repeated after a kill that lost the record; the seconds continue.
    reporter = Reporter(run, RunRecord(), 40, 8, 10)
    clock[0] += 5.0
    evaluate(reporter, 20, 3.125)
    evaluate(reporter, 30, 3.0)
    reporter.close()
    assert [(row["step"], row["test_bits_per_dim"]) for row in rows_of(run)] == [
        ("10", "3.5"), ("20", "3.125"), ("30", "3"),
    ]  # fmt: skip
    assert [row["seconds"] for row in rows_of(run)] == ["30", "35", "35"]
    assert [float(row["cpu_seconds"]) for row in rows_of(run)] == sorted(float(r["cpu_seconds"]) for r in rows_of(run))
    assert float(rows_of(run)[0]["cpu_seconds"]) >= 0


def test_cpu_time_of_a_run_that_did_not_measure_it_is_unknown(run, undrawn):
    (run.path / "metrics.csv").write_text("step,seconds\n5,120\n")
    record = RunRecord()
    Reporter(run, record, 40, 8, 10).close()
    assert record.seconds == 120 and np.isnan(record.cpu_seconds)
    assert curves.training_time(record.seconds, record.cpu_seconds) == "2.0 minutes"


def test_a_pipe_in_place_of_metrics_csv_is_not_waited_for(run):
    os.mkfifo(run.path / "metrics.csv")
    assert curves.History(run.path / "metrics.csv").rows == []
    assert curves.training_time_of(run.weights, 5) == ""


def test_the_training_time_is_that_of_the_weights_step(run):
    (run.path / "metrics.csv").write_text("step,seconds,cpu_seconds\n5,120,60\n10,7200,90\n")
    assert curves.training_time_of(run.weights, 5) == "2.0 minutes, 1.0 minutes of CPU time"
    assert curves.training_time_of(run.weights, 10) == "2.0 hours, 1.5 minutes of CPU time"
    assert curves.training_time_of(run.weights, 7) == ""


def test_a_damaged_metrics_csv_is_replaced(run):
    (run.path / "metrics.csv").write_bytes(b"step,x\nthree,\xff\n")
    reporter = Reporter(run, RunRecord(), 40, 8, 10)
    evaluate(reporter, 10, 3.5)
    assert [row["step"] for row in rows_of(run)] == ["10"]


def test_curves_are_drawn_after_evaluations_and_at_the_end(run, clock, monkeypatch):
    drawn = []

    def draw(rows, title, panels=()):
        clock[0] += 0.25
        drawn.append((len(rows), title.split(":")[0]))
        return b"png"

    monkeypatch.setattr(curves, "draw", draw)
    reporter = Reporter(run, RunRecord(), 60, 8, 10)
    evaluate(reporter, 10, 3.5)
    clock[0] += 20.0
    evaluate(reporter, 20, 3.5)  # less than fifty times the drawing's half second later
    clock[0] += 10.0
    evaluate(reporter, 30, 3.5)
    evaluate(reporter, 40, 3.5)
    reporter.close()
    assert drawn == [(1, "run"), (1, "run"), (3, "run"), (3, "run"), (4, "run"), (4, "run")]  # two pictures each
    assert (run.path / "curves.png").read_bytes() == (run.path / "diagnostics.png").read_bytes() == b"png"


@pytest.fixture
def axes_of(monkeypatch):
    """Draws, and returns {title of the axes: axes}."""
    figures = []
    create = figure.Figure.__init__
    monkeypatch.setattr(figure.Figure, "__init__", lambda self, *a, **k: figures.append(self) or create(self, *a, **k))

    def draw(*arguments):
        image = Image.open(io.BytesIO(curves.draw(*arguments)))
        assert image.format == "PNG"
        return {axes.get_title(): axes for axes in figures[-1].axes}

    return draw


def test_curves_show_what_there_is(axes_of):
    columns = {"train_bits_per_dim": 4.0, "test_bits_per_dim": 3.0, "cpu_seconds": 300.0}
    rows = [{"step": 10.0 * i, "seconds": 60.0 * i} | columns for i in range(1, 4)]
    rows[1]["test_bits_per_dim"] = np.nan
    axes = axes_of(rows, "a $ b_c")
    drawn = {
        title: {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes[title].lines}
        for title in axes
    }
    steps = [10.0, 20.0, 30.0]
    assert drawn == {
        "bits/dim (lower is better)": {"training images": (steps, [4.0] * 3), "test images": ([10.0, 30.0], [3.0] * 2)},
        "learning rate": {},
        "time so far, in minutes": {"by the clock": (steps, [1.0, 2.0, 3.0]), "of all CPU cores": (steps, [5.0] * 3)},
    }


def test_diagnostics_show_every_level_against_its_limits(axes_of):
    levels = {f"diagnostics_level{level}_condition": 10.0 for level in range(3)}
    rows = [{"step": 10.0 * i, "test_z_variance": 0.9, "test_z_level0_variance": 0.8} | levels for i in range(1, 4)]
    axes = axes_of(rows, "run", diagnostics.PANELS)
    assert len(axes) == len(diagnostics.RANGES)
    condition, variance = axes["largest condition number of the 1x1 matrices"], axes["variance of z"]
    assert (condition.get_yscale(), variance.get_yscale()) == ("log", "linear")
    drawn = {axes: [line.get_ydata()[0] for line in axes.lines] for axes in (condition, variance)}
    assert drawn == {condition: [10.0, 10.0, 10.0, 1.0, 1e4], variance: [0.9, 0.8, 0.5, 2.0]}
    assert variance.get_xlabel() == "step"
    assert [text.get_text() for text in variance.get_legend().get_texts()] == ["all levels", "level 0"]
    assert not axes["largest scale of the actnorms"].lines


def test_results_hold_the_newest_pictures_and_a_few_of_the_way(tmp_path):
    for epoch in (1, 2, 3, 4, 10, 20, 30, 40):
        drawn = {name: np.full((4, 4, 3), epoch, np.uint8) for name in ("samples", "temperatures", "reconstructions")}
        pictures.save(tmp_path, drawn, epoch)
    ways = {f"samples-epoch{epoch:04d}.png" for epoch in (1, 2, 4, 10, 20, 40)}
    assert {file.name for file in tmp_path.iterdir()} == ways | {f"{name}.png" for name in drawn}
    assert np.asarray(Image.open(tmp_path / "samples.png")).max() == 40


def test_class_conditional_samples_have_a_row_per_class(conditional_glow, rng, monkeypatch):
    grids = []
    monkeypatch.setattr(pictures, "labelled_grid", lambda images, **options: grids.append((images, options)) or images)
    images = rng.integers(0, 256, (5, 4, 8, 2)).astype(np.uint8)
    pictures.draw(conditional_glow, images, np.zeros(5, int), ["cat", "dog", "owl"], "epoch 1, step 3")
    samples, temperatures, reconstructions = grids
    assert samples[1]["row_labels"] == ["cat", "dog", "owl"] and len(samples[0]) == 18
    expected = conditional_glow.sample(18, 0.7, seed=0, labels=np.repeat([0, 1, 2], 6))
    np.testing.assert_array_equal(samples[0], expected)
    assert samples[1]["caption"] == "Samples at temperature 0.7\nepoch 1, step 3"
    swept = editing.temperatures(conditional_glow, pictures.SWEEP_TEMPERATURES, 6, seed=0)
    np.testing.assert_array_equal(temperatures[0], swept.reshape(-1, 4, 8, 2))
    assert temperatures[1]["row_labels"] == [f"temperature {t}" for t in ("0", "0.25", "0.5", "0.7", "0.8", "0.9", "1")]
    assert reconstructions[1]["row_labels"] == ["original", "reconstruction"]
    np.testing.assert_array_equal(reconstructions[0][:5], images)
    np.testing.assert_array_equal(reconstructions[0][5:], images)


def test_a_full_disk_is_warned_about_once(run, monkeypatch, caplog):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(curves, "write_atomically", fail)
    monkeypatch.setattr(progress, "write_atomically", fail)
    reporter = Reporter(run, RunRecord(), 40, 8, 10)
    evaluate(reporter, 10, 3.5)
    evaluate(reporter, 20, 3.5)
    reporter.close()
    assert caplog.text.count("cannot be written, training continues: [Errno 28] No space left on device") == 1
