"""The reporter: rate and time left, metrics.csv and curves.png, and which pictures it keeps."""

import csv
import io
import time

import numpy as np
import pytest
from PIL import Image
from tqdm import std

from glow_tf.training import curves, pictures, progress
from glow_tf.training.progress import Reporter
from glow_tf.training.run_directory import RunDirectory


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


def test_the_time_left_counts_evaluations(run, clock, terminal):
    reporter = Reporter(run, 40, 8, 10, terminal)

    def steps(numbers):
        for step in numbers:
            reporter.step(step, {"bits_per_dim": 3.0})
            clock[0] += 0.5

    def evaluation(seconds, tracing=0.0):
        with reporter.pause():
            with reporter.warm_up():
                clock[0] += tracing
            clock[0] += seconds

    reporter.step(1, {"bits_per_dim": 3.0})
    assert terminal.shown() == "step 1/40  3.0000 bits/dim"  # one step says nothing about the next
    clock[0] += 0.5
    steps(range(2, 11))
    assert terminal.shown() == "step 10/40  3.0000 bits/dim  16 images/s  0:15 left"
    evaluation(5.0, tracing=60.0)
    steps(range(11, 21))
    # Right from the second epoch on: 10 seconds of steps and three evaluations of 5.
    assert terminal.shown() == "step 20/40  3.0000 bits/dim  16 images/s  0:25 left"
    evaluation(7.0)
    steps(range(21, 31))
    assert terminal.shown() == "step 30/40  3.0000 bits/dim  16 images/s  0:19 left"
    evaluation(7.0)
    steps(range(31, 41))
    assert terminal.shown() == "step 40/40  3.0000 bits/dim  16 images/s  0:07 left"
    reporter.close()


def test_steps_of_a_minute(run, clock, terminal):
    reporter = Reporter(run, 40, 8, 40, terminal)
    for step in range(1, 4):
        reporter.step(step, {"bits_per_dim": 3.0})
        clock[0] += 60.0
    assert terminal.shown() == "step 3/40  3.0000 bits/dim  0.13 images/s  37:00 left"
    assert reporter.images_per_second() == pytest.approx(8 / 60)
    reporter.close()


def test_an_evaluation_that_is_stopped_counts(run, clock, terminal):
    reporter = Reporter(run, 40, 8, 10, terminal)
    with pytest.raises(KeyError), reporter.pause():
        clock[0] += 5.0
        raise KeyError
    reporter.step(1, {"bits_per_dim": 3.0})
    clock[0] += 1.0
    reporter.step(2, {"bits_per_dim": 3.0})
    assert terminal.shown().endswith("8 images/s  0:58 left")
    reporter.close()


def test_from_python_only_lines_are_printed(run, capfd):
    reporter = Reporter(run, 2, 8, 2)
    reporter.step(1, {"bits_per_dim": 3.0})
    reporter.line("epoch 1")
    reporter.close()
    assert capfd.readouterr().err == "epoch 1\n"


def rows_of(run):
    with open(run.path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def evaluate(reporter, step, bits):
    for number in (step - 1, step):
        reporter.step(number, {"bits_per_dim": bits + number - step, "learning_rate": 0.01, "is_finite": True})
    reporter.step(step, {"bits_per_dim": np.nan, "learning_rate": 0.01, "is_finite": False})
    reporter.scalars("train", step, {"z/variance": 0.9, "gradient_norm": 3.0})
    reporter.scalars("test", step, {"bits_per_dim": bits, "z/variance": 1.25, "diagnostics/level0/condition": 8.0})
    reporter.flush()


def test_metrics_csv_has_a_row_per_evaluation_and_survives_a_resume(run, clock):
    reporter = Reporter(run, 40, 8, 10)
    clock[0] += 30.0
    evaluate(reporter, 10, 3.5)
    reporter.flush()
    evaluate(reporter, 20, 3.25)
    reporter.close()
    first = {"step": "10", "seconds": "30", "train_bits_per_dim": "3", "test_bits_per_dim": "3.5"}
    assert first.items() <= rows_of(run)[0].items()
    assert rows_of(run)[0]["test_z_variance"] == "1.25" and rows_of(run)[0]["train_z_variance"] == "0.9"
    assert rows_of(run)[0]["learning_rate"] == "0.01" and "gradient_norm" not in rows_of(run)[0]
    assert rows_of(run)[0]["diagnostics_level0_condition"] == "8"
    # The second evaluation is repeated after a stop; the seconds continue.
    reporter = Reporter(run, 40, 8, 10)
    clock[0] += 5.0
    evaluate(reporter, 20, 3.125)
    evaluate(reporter, 30, 3.0)
    reporter.close()
    assert [(row["step"], row["test_bits_per_dim"]) for row in rows_of(run)] == [
        ("10", "3.5"), ("20", "3.125"), ("30", "3"),
    ]  # fmt: skip
    assert [row["seconds"] for row in rows_of(run)] == ["30", "35", "35"]


def test_a_damaged_metrics_csv_is_replaced(run):
    (run.path / "metrics.csv").write_bytes(b"step,x\nthree,\xff\n")
    reporter = Reporter(run, 40, 8, 10)
    evaluate(reporter, 10, 3.5)
    assert [row["step"] for row in rows_of(run)] == ["10"]


def test_curves_are_drawn_after_evaluations_and_at_the_end(run, clock, monkeypatch):
    drawn = []

    def draw(rows, title):
        clock[0] += 0.5
        drawn.append((len(rows), title))
        return b"png"

    monkeypatch.setattr(curves, "draw", draw)
    reporter = Reporter(run, 60, 8, 10)
    evaluate(reporter, 10, 3.5)
    clock[0] += 20.0
    evaluate(reporter, 20, 3.5)  # less than fifty times the drawing's half second later
    clock[0] += 10.0
    evaluate(reporter, 30, 3.5)
    evaluate(reporter, 40, 3.5)
    reporter.close()
    assert drawn == [(1, "run"), (3, "run"), (4, "run")]
    assert (run.path / "curves.png").read_bytes() == b"png"


def test_curves_show_what_there_is():
    rows = [{"step": 10.0 * i, "seconds": 60.0 * i, "test_bits_per_dim": 3.0} for i in range(1, 4)]
    rows[1] |= {"test_bits_per_dim": np.nan, "diagnostics_level0_condition": 4.0}
    image = Image.open(io.BytesIO(curves.draw(rows, "a $ b_c")))
    assert image.format == "PNG" and image.size == (1280, 720)


def test_curves_have_labels_without_jargon():
    row = dict.fromkeys(("step", "test_z_variance", "test_z_level0_variance", "diagnostics_level12_smallest_s"), 1.0)
    labels = [[label for label, _ in curves._curves([row], columns)] for columns in curves._PANELS.values()]
    assert labels == [[], [], [], ["all levels", "level 0"], [], ["1x1 matrix, level 12"]]


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
    assert temperatures[1]["row_labels"] == [f"temperature {t}" for t in ("0", "0.25", "0.5", "0.7", "0.8", "0.9", "1")]
    assert reconstructions[1]["row_labels"] == ["original", "reconstruction"]
    np.testing.assert_array_equal(reconstructions[0][:5], images)
    np.testing.assert_array_equal(reconstructions[0][5:], images)


def test_a_full_disk_is_warned_about_once(run, monkeypatch, caplog):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(curves, "write_atomically", fail)
    monkeypatch.setattr(progress, "write_atomically", fail)
    reporter = Reporter(run, 40, 8, 10)
    evaluate(reporter, 10, 3.5)
    evaluate(reporter, 20, 3.5)
    reporter.close()
    assert caplog.text.count("cannot be written, training continues: [Errno 28] No space left on device") == 1
