"""Signals while the main thread is busy: the first is noted at once, a second Ctrl-C ends the process at once."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUSY = """
import sys, time
from glow_tf.training.signals import GracefulShutdown
with GracefulShutdown() as signals:
    print("ready", flush=True)
    # A step that Python's own handlers cannot interrupt: one long call that lets go of the interpreter lock.
    import hashlib
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[1]))
    print("received", signals.received, flush=True)
"""


@pytest.fixture
def busy():
    processes = []

    def start(rounds):
        command = [sys.executable, "-c", BUSY, str(rounds)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_second_ctrl_c_ends_at_once(busy):
    process = busy(2_000_000_000)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline().startswith("SIGINT: finishing this step, then saving")
    time_before = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert time.monotonic() - time_before < 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_kept_and_ends_nothing(busy, number):
    process = busy(1_000_000)
    process.send_signal(number)
    assert process.stderr.readline() == "\n"
    interrupt = "a second Ctrl-C" if number == signal.SIGINT else "Ctrl-C"
    assert process.stderr.readline() == f"{number.name}: finishing this step, then saving; {interrupt} ends at once\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert output == f"received {int(number)}\n"
    assert process.returncode == 0
