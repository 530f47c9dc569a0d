"""Forked children, what they may cost, and the rows that report it."""

import dataclasses
import multiprocessing
import os
import traceback
from pathlib import Path

from glow_tf.errors import InputError

FORK = multiprocessing.get_context("fork")

LONGEST_READ = 5.0
MOST_MEMORY = 200e6


@dataclasses.dataclass
class Row:
    """A row of the table: the attack, how often it ran, and its result."""

    what: str
    count: int
    found: str
    is_right: bool


def in_child(function, *arguments):
    """Calls the function in a forked child and returns its result; re-raises an error of the child."""
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_answer, args=(there, function, arguments))
    child.start()
    there.close()
    try:
        kind, value = here.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"{function.__name__} died with exit code {child.exitcode}") from None
    child.join()
    if kind == "error":
        raise RuntimeError(value)
    return value


def _answer(connection, function, arguments):
    try:
        connection.send(("value", function(*arguments)))
    except BaseException:
        connection.send(("error", traceback.format_exc()))


def silence(log):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


class Reading:
    """Reads files and records any failure other than a one-line refusal."""

    def __init__(self):
        self._slowest, self._memory, self._odd, self._refused = 0.0, 0, [], 0

    def read(self, path, read):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, start = memory("VmRSS"), sum(os.times()[:4])  # processor time, including finished children
        found = None
        try:
            found = read(path)
        except InputError as error:
            self._refused += 1
            if "\n" in str(error):
                self._odd.append(str(error))
        except Exception as error:
            self._odd.append(repr(error))
        self._slowest = max(self._slowest, sum(os.times()[:4]) - start)
        self._memory = max(self._memory, memory("VmHWM") - before)
        return found

    def rows(self, what, count):
        odd = "; ".join(self._odd[:3]) or "0"
        return [
            Row(what, count, f"{self._refused:,} refused", True),
            Row(f"{what}: errors other than one line", count, odd, not self._odd),
            Row(f"{what}: slowest, processor time", count, f"{self._slowest:.2f} s", self._slowest < LONGEST_READ),
            Row(f"{what}: largest growth of memory", count, f"{self._memory / 1e6:.0f} MB", self._memory < MOST_MEMORY),
        ]


def memory(field):
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024
