"""Kills trainers at any moment and lets their runs finish."""

import contextlib
import hashlib
import random
import statistics
import sys
import time
from pathlib import Path

import matplotlib.figure  # noqa: F401  (every child draws curves; imported once for all)
import numpy as np
import tensorflow as tf

from fault_injection.children import FORK, Row, in_child, silence
from glow_tf import _files, weights
from glow_tf.config import GlowConfig
from glow_tf.data import image_data
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.training.checkpoint import Checkpointer
from glow_tf.training.run_directory import RunDirectory
from glow_tf.training.trainer import Trainer

# A model that starts in a second, without a graph: the kills test files, not the network.
KILLED = {"image_shape": (4, 4, 1), "num_levels": 1, "num_steps": 2, "width": 4}
KILLED_EPOCHS = 20
LONGEST_LIFE = 4.0  # seconds until a kill; the first step finishes after about two


def kill(folder, count, seed, epochs):
    """Kills trainers, two in five inside a save, and lets each run finish; all runs must end with the same bytes."""
    chance = random.Random(seed)
    train_killed(folder / "reference", epochs, None)
    wanted = (folder / "reference" / "digest").read_text()
    journal = Journal(epochs)
    number, kills = 0, {"inside a save": 0, "at any moment": 0}
    to_do = {"inside a save": 2 * count // 5, "at any moment": count - 2 * count // 5}
    runs_ended = wrong_ends = unreadable = lost = failures = 0
    path = folder / "run-0"
    while any(kills[kind] < to_do[kind] for kind in to_do) or (path / "digest").exists() or path.exists():
        if (path / "digest").exists():
            runs_ended += 1
            wrong_ends += (path / "digest").read_text() != wanted
            number, path, journal.last_complete = number + 1, folder / f"run-{number + 1}", 0
            continue
        open_kinds = [kind for kind in to_do if kills[kind] < to_do[kind]]
        kind = chance.choice(open_kinds) if open_kinds else None
        killed_inside, exit_code = journal.live(path, kind, chance)
        if exit_code not in (0, -9):
            failures += 1
            if failures > 3:
                break
        if exit_code == -9:
            # A kill that misses its save counts as one at any moment.
            kills["inside a save" if killed_inside and kind == "inside a save" else "at any moment"] += 1
        unreadable += count_unreadable(path)
        print(f"\r{sum(kills.values())} of {count} kills", end="", file=sys.stderr)
    lost = journal.lost
    total = sum(kills.values())
    return [
        Row("SIGKILL of a trainer", total, f"{kills['inside a save']} of them inside a save", failures == 0),
        Row("files unreadable after a kill", total, str(unreadable), unreadable == 0),
        Row("resumed from before the last complete save", total, str(lost), lost == 0),
        Row("killed runs whose result differs in a byte", runs_ended, str(wrong_ends), wrong_ends == 0 < runs_ended),
    ]


class Journal:
    """The saves that the children of one run report.

    Attributes:
        last_complete: the step of the last completed save of the state.
        lost: how often a child resumed from an earlier state.
    """

    def __init__(self, epochs):
        self._epochs = epochs
        self.last_complete = 0
        self.lost = 0
        self._durations = [0.02]

    def live(self, path, kind, chance):
        """Runs one child; returns (whether it died inside a save, exit code). If `kind` is None it is not killed."""
        here, there = FORK.Pipe(duplex=False)
        child = FORK.Process(target=train_killed, args=(path, self._epochs, there))
        child.start()
        there.close()
        if kind == "inside a save":
            self._wait_for_a_save(here, chance.randint(1, 3))
            time.sleep(chance.uniform(0, statistics.median(self._durations[-50:])))
            child.kill()
        elif kind == "at any moment":
            child.join(chance.uniform(0.2, LONGEST_LIFE))
            child.kill()
        open_save = self._read_to_the_end(here)
        child.join()
        return open_save, child.exitcode

    def _wait_for_a_save(self, here, number):
        with contextlib.suppress(EOFError):
            while number:
                message = here.recv()
                self._note(message)
                number -= message[0] == "begin"

    def _read_to_the_end(self, here):
        open_save = self._is_open
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._note(here.recv())
                open_save = self._is_open
        self._is_open = False
        return open_save

    _is_open = False

    def _note(self, message):
        kind, what, step, at = message
        if kind == "restored":
            self.lost += step < self.last_complete
        elif kind == "begin":
            self._is_open, self._began = True, at
        elif kind == "end":
            self._is_open = False
            self._durations.append(at - self._began)
            if what == "state":
                self.last_complete = step


def train_killed(path, epochs, connection):
    """The child process: resumes the run, reports its saves, and finally writes a digest of all variables and files."""
    if connection is None:
        in_child(_train_killed, path, epochs, None)
    else:
        _train_killed(path, epochs, connection)


def _train_killed(path, epochs, connection):
    silence(Path(f"{path}.log"))
    tf.config.run_functions_eagerly(True)
    rng = np.random.default_rng(0)
    train = image_data.ArrayDataset(rng.integers(0, 256, [8, 4, 4, 1]).astype(np.uint8))
    test = image_data.ArrayDataset(rng.integers(0, 256, [4, 4, 4, 1]).astype(np.uint8))
    trainer = Trainer(Glow(GlowConfig(**KILLED)), batch_size=4)
    if connection is not None:
        _announce(connection, trainer)
    trainer.fit(train, test, epochs=epochs, run_directory=path, keep=2)
    run, digest = RunDirectory(path), hashlib.sha256()
    for variable in [*trainer.glow.named_variables().values(), *trainer.optimizer.variables]:
        digest.update(variable.numpy().tobytes())
    for file in (run.weights, run.best_weights):
        digest.update(file.read_bytes())
    _files.write_atomically(run.path / "digest", digest.hexdigest().encode())


def _announce(connection, trainer):
    """Makes every save and restore report to the parent."""

    def telling(what, method):
        def told(*arguments, **options):
            connection.send(("begin", what, trainer.step_count, time.monotonic()))
            result = method(*arguments, **options)
            connection.send(("end", what, trainer.step_count, time.monotonic()))
            return result

        return told

    restore = Checkpointer.restore

    def restored(state):
        result = restore(state)
        connection.send(("restored", "state", trainer.step_count, time.monotonic()))
        return result

    Checkpointer.restore = restored
    Checkpointer.save = telling("state", Checkpointer.save)
    Glow.save_weights = telling("weights", Glow.save_weights)


def count_unreadable(path):
    unreadable = 0
    for file in RunDirectory(path).checkpoints.glob("*.h5"):
        try:
            with weights.open_weights(file):
                pass
        except InputError:
            unreadable += 1
    return unreadable
