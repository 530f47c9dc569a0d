"""Phases: silent in libraries, bars on terminals, lines elsewhere, and never the end of a command."""

import io
import os
import pty
import re
import subprocess
import sys
import types

import pytest

from glow_tf import _progress


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def shown(self):
        """The last state of the bottom line."""
        return re.split(r"[\r\n]", self.getvalue().rstrip("\r \n"))[-1].rstrip()


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which only the tests move: a list of one."""
    from tqdm import std

    now = [1000.0]
    monkeypatch.setattr(std, "time", lambda: now[0])
    return now


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.setitem(_progress._state, "shown", True)


@pytest.fixture
def terminal(monkeypatch, shown):
    stream = Terminal()
    monkeypatch.setattr(_progress, "sys", types.SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture
def log(monkeypatch, shown):
    stream = io.StringIO()
    monkeypatch.setattr(_progress, "sys", types.SimpleNamespace(stderr=stream))
    return stream


def test_silent_unless_a_command_asks(capfd):
    with _progress.phase("evaluating", 10) as advance:
        advance()
        advance(9)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_name_count_and_time_left(clock, terminal):
    with _progress.phase("evaluating", 100) as advance:
        assert terminal.shown().startswith("evaluating   0%")
        clock[0] += 5.0
        advance(25)
        assert terminal.shown().endswith("25/100 images, 00:15 left")
    assert terminal.getvalue().endswith("\r")
    assert "\n" not in terminal.getvalue()


def test_elsewhere_a_line_every_ten_seconds(clock, log):
    with _progress.phase("drawing", 40, unit="pictures") as advance:
        for _ in range(30):
            clock[0] += 1.0
            advance()
    assert log.getvalue() == "".join(f"drawing: {n}/40 pictures, 00:{40 - n} left\n" for n in (10, 20, 30))


def test_short_phases_write_no_line(log):
    with _progress.phase("drawing", 4) as advance:
        advance(4)
    assert log.getvalue() == ""


def test_an_unknown_length_is_announced(log):
    with _progress.phase("initializing"):
        pass
    assert log.getvalue() == "initializing ...\n"


def test_a_brief_phase_is_shown_on_terminals_only(terminal):
    with _progress.brief("importing TensorFlow"):
        assert terminal.shown() == "importing TensorFlow ..."
        _progress.line("warning: odd")
        assert "\rwarning: odd\n" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")


def test_a_brief_phase_writes_nothing_elsewhere(log):
    with _progress.brief("importing TensorFlow"):
        pass
    assert log.getvalue() == ""


def test_an_inner_phase_hides_the_outer_one(clock, terminal):
    with _progress.phase("training", 10, unit="steps") as advance:
        advance()
        with _progress.phase("evaluating", 5):
            assert terminal.shown().startswith("evaluating")
            _progress.line("epoch 1")
            assert "\repoch 1\n" in terminal.getvalue()
            assert terminal.shown().startswith("evaluating")
        assert terminal.shown().startswith("training")
    assert terminal.getvalue().count("\n") == 1


def test_elsewhere_other_lines_and_phases_repeat_nothing(clock, log):
    with _progress.phase("training", 10, unit="steps") as advance:
        clock[0] += 11.0
        advance()
        with _progress.phase("evaluating", 5) as inner:
            inner(5)
        _progress.line("epoch 1")
    assert log.getvalue() == "training: 1/10 steps, 01:39 left\nepoch 1\n"


def test_an_error_closes_the_bar(terminal):
    with pytest.raises(KeyError), _progress.phase("reading", 3):
        raise KeyError
    assert _progress._bars == []


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("closed")])
def test_output_that_fails_is_ignored(monkeypatch, shown, error, is_terminal):
    class Broken(io.StringIO):
        def isatty(self):
            return is_terminal

        def write(self, text):
            raise error

    monkeypatch.setattr(_progress, "sys", types.SimpleNamespace(stderr=Broken()))
    monkeypatch.setattr(_progress, "LINE_SECONDS", 0.0)
    with _progress.phase("reading", 3) as advance:
        advance(2)
        _progress.line("text")


def test_a_terminal_without_a_size_shows_bars(shown, monkeypatch):
    parent, child = pty.openpty()
    with open(child, "w") as stream:
        monkeypatch.setattr(_progress, "sys", types.SimpleNamespace(stderr=stream))
        with _progress.phase("evaluating", 10):
            pass
        assert b"evaluating   0%" in os.read(parent, 1000)
    os.close(parent)


def test_import_is_light():
    code = "import sys; from glow_tf import _progress; print(sorted({'tqdm', 'tensorflow', 'numpy'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
