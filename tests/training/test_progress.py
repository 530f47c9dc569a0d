"""The progress line: its rate and the time that it says is left."""

import io
import time

import pytest

from glow_tf.training.progress import Reporter
from glow_tf.training.run_directory import RunDirectory


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which only the tests move: a list of one."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def stream(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    return terminal


def shown(stream):
    """The last line on the terminal."""
    return stream.getvalue().split("\r\x1b[K")[-1]


def test_time_left_is_that_of_steps_and_evaluations_apart(tmp_path, clock, stream):
    reporter = Reporter(RunDirectory(tmp_path / "run"), 40, 8, 10, stream)

    def steps(numbers):
        for step in numbers:
            reporter.step(step, {"bits_per_dim": 3.0})
            clock[0] += 0.5

    def evaluation(seconds):
        with reporter.pause():
            clock[0] += seconds

    reporter.step(1, {"bits_per_dim": 3.0})
    assert shown(stream) == "step 1/40  3.0000 bits/dim"  # one step says nothing of the next
    clock[0] += 0.5
    steps(range(2, 11))
    assert shown(stream) == "step 10/40  3.0000 bits/dim  16 images/s  0:15 left"
    evaluation(60.0)  # the first one traces
    steps(range(11, 21))
    assert shown(stream) == "step 20/40  3.0000 bits/dim  16 images/s  0:10 left"
    evaluation(7.0)
    steps(range(21, 31))
    assert shown(stream) == "step 30/40  3.0000 bits/dim  16 images/s  0:19 left"  # 5 and two evaluations
    evaluation(7.0)
    steps(range(31, 41))
    assert shown(stream) == "step 40/40  3.0000 bits/dim  16 images/s  0:07 left"


def test_steps_of_a_minute(tmp_path, clock, stream):
    reporter = Reporter(RunDirectory(tmp_path / "run"), 40, 8, 40, stream)
    for step in range(1, 4):
        reporter.step(step, {"bits_per_dim": 3.0})
        clock[0] += 60.0
    assert shown(stream) == "step 3/40  3.0000 bits/dim  0.13 images/s  37:00 left"
    assert reporter.images_per_second() == pytest.approx(8 / 60)


def test_an_evaluation_that_is_stopped_counts(tmp_path, clock, stream):
    reporter = Reporter(RunDirectory(tmp_path / "run"), 40, 8, 10, stream)
    with pytest.raises(KeyError), reporter.pause():
        clock[0] += 5.0
        raise KeyError
    reporter.step(1, {"bits_per_dim": 3.0})
    clock[0] += 1.0
    reporter.step(2, {"bits_per_dim": 3.0})
    assert shown(stream).endswith("8 images/s  0:38 left")
