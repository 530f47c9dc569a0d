"""Tests a training run and its files against kills, damage, hostile files and NaN; prints a table.

    python3 benchmarks/faults.py --kills 500 --mutants 10000 --images 5000 --nans 100

The exit status is 1 if any row fails. The same --seed draws the same kills, damage and steps, but the exact moment at
which a process dies depends on the machine.

Every part runs in children that are forked after TensorFlow is imported and before it is initialised, which saves the
import; no part may use TensorFlow in this process.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hostile_h5
import numpy as np
import tensorflow as tf
from PIL import Image

from glow_tf import _files, weights
from glow_tf.config import GlowConfig
from glow_tf.data import image_data
from glow_tf.errors import InputError
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.importers import openai
from glow_tf.training.checkpoint import Checkpointer
from glow_tf.training.run_directory import RunDirectory
from glow_tf.training.schedule import Schedule
from glow_tf.training.trainer import Trainer

FORK = multiprocessing.get_context("fork")

# A model that starts in a second, without a graph: the kills test files, not the network.
KILLED = {"image_shape": (4, 4, 1), "num_levels": 1, "num_steps": 2, "width": 4}
KILLED_EPOCHS = 20
LONGEST_LIFE = 4.0  # seconds until a kill; the first step finishes after about two
LONGEST_READ = 5.0
MOST_MEMORY = 200e6
MOST_DIFFERENCE = 0.01  # bits/dim
BOMB = 200_000  # groups, levels or bytes in the hostile files


@dataclasses.dataclass
class Row:
    """A row of the table: the attack, how often it ran, and its result."""

    what: str
    count: int
    found: str
    is_right: bool


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="kills of a trainer, two in five inside a save")
    parser.add_argument(
        "--mutants",
        type=int,
        default=0,
        help="damaged weights files, and a tenth as many checkpoint indices",
    )
    parser.add_argument("--images", type=int, default=0, help="damaged image files")
    parser.add_argument("--nans", type=int, default=0, help="training steps that are made NaN")
    parser.add_argument("--small", action="store_true", help="small models and bombs, for the test suite")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if options.kills:
            rows += kill(folder, options.kills, options.seed, 4 if options.small else KILLED_EPOCHS)
        if options.mutants:
            rows += in_child(mutate_weights, folder, options.mutants, options.seed)
            rows += in_child(mutate_indices, folder, max(1, options.mutants // 10), options.seed)
            rows += in_child(read_hostile, folder, 20_000 if options.small else BOMB)
        if options.images:
            rows += in_child(fuzz_images, folder, options.images, options.seed)
        if options.nans:
            rows += inject_nans(options.nans, options.seed, options.small)
    print_table(rows)
    sys.exit(0 if all(row.is_right for row in rows) else 1)


def print_table(rows):
    print("| attack | count | result | ok |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.count:,} | {row.found} | {'yes' if row.is_right else 'NO'} |")


# ------------------------------------------------------------------------------------------------ children


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


# --------------------------------------------------------------------------------------------------- kills


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
    _silence(Path(f"{path}.log"))
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


def _silence(log):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


# ------------------------------------------------------------------------------------------- weights files


def mutate_weights(folder, count, seed):
    """Mutates weights files; half of the mutants keep their digest, which exposes them, the others get a valid one."""
    path = folder / "mutant.h5"
    hostile_h5.valid(path)
    original = path.read_bytes()
    reading = Reading()
    wrong = 0
    for number in range(count):
        changed = hostile_h5.mutant(original, seed * count + number)
        is_resealed = number % 2 == 1
        path.write_bytes(hostile_h5.reseal(changed) if is_resealed else changed)
        found = reading.read(path, lambda p: read_expected(p))
        if found is not None and not is_resealed:
            wrong += any(not np.array_equal(found[name], array) for name, array in hostile_h5.ARRAYS.items())
    return [
        *reading.rows("mutated weights files", count),
        Row("mutants loaded as different weights", count - count // 2, str(wrong), wrong == 0),
    ]


def mutate_indices(folder, count, seed):
    """Mutates the index of an OpenAI checkpoint; unchecked, it would make TensorFlow abort the process."""
    prefix = folder / "openai"
    glow = Glow(GlowConfig(image_shape=(8, 8, 3), num_levels=2, num_steps=2, width=8))
    openai.write(glow, prefix)
    index = prefix.with_name("openai.index")
    original, reading = index.read_bytes(), Reading()
    for number in range(count):
        index.write_bytes(hostile_h5.mutant(original, seed * count + number))
        reading.read(prefix, lambda path: openai.read(path, 8, 8))
    return reading.rows("mutated checkpoint indices", count)


def read_hostile(folder, count):
    reading = Reading()
    own = hostile_h5.write_all(folder / "own", count)
    foreign = hostile_h5.write_all(folder / "foreign", count, hostile_h5.FOREIGN)
    accepted = [name for name, path in own.items() if reading.read(path, read_expected) is not None]
    accepted += [name for name, path in foreign.items() if reading.read(path, weights.read_foreign) is not None]
    total = len(own) + len(foreign)
    return [
        *reading.rows("hostile files", total),
        Row("hostile files accepted", total, ", ".join(accepted) or "0", not accepted),
    ]


def read_expected(path):
    with weights.open_weights(path) as file:
        return file.read(hostile_h5.EXPECTED)


class Reading:
    """Reads files and records any failure other than a one-line refusal."""

    def __init__(self):
        self._slowest, self._memory, self._odd, self._refused = 0.0, 0, [], 0

    def read(self, path, read):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, start = _memory("VmRSS"), sum(os.times()[:4])  # processor time, including finished children
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
        self._memory = max(self._memory, _memory("VmHWM") - before)
        return found

    def rows(self, what, count):
        odd = "; ".join(self._odd[:3]) or "0"
        return [
            Row(what, count, f"{self._refused:,} refused", True),
            Row(f"{what}: errors other than one line", count, odd, not self._odd),
            Row(f"{what}: slowest, processor time", count, f"{self._slowest:.2f} s", self._slowest < LONGEST_READ),
            Row(f"{what}: largest growth of memory", count, f"{self._memory / 1e6:.0f} MB", self._memory < MOST_MEMORY),
        ]


def _memory(field):
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


# -------------------------------------------------------------------------------------------------- images


def fuzz_images(folder, count, seed):
    """Reads a folder of damaged pictures, one in twenty of them intact, and trains on it."""
    _silence(folder / "images.log")
    pictures = folder / "pictures"
    pictures.mkdir()
    originals = _originals(seed)
    for number in range(count):
        extension, original = originals[number % len(originals)]
        is_sound = number % 20 == 0
        content = original if is_sound else hostile_h5.mutant(original, seed * count + number)
        (pictures / f"{number:06d}{extension}").write_bytes(content)
    start = time.monotonic()
    images = image_data.load(str(pictures), image_size=8, channels=3, max_bad=1.0)
    seconds = time.monotonic() - start
    trainer = Trainer(Glow(GlowConfig(image_shape=(8, 8, 3), num_levels=1, num_steps=2, width=8)), batch_size=16)
    outcome = trainer.fit(images.train, images.test, epochs=1, run_directory=folder / "fuzzed")
    usable = images.train.num_images + images.test.num_images
    found = f"{usable:,} usable, read in {seconds:.0f} s, {outcome.steps} steps to {outcome.bits_per_dim:.2f} bits/dim"
    return [Row("fuzzed images, then trained on", count, found, outcome.bits_per_dim is not None)]


def _originals(seed):
    """[(extension, bytes), ...] of small pictures in every format and several modes."""
    rng = np.random.default_rng(seed)
    found = []
    for extension in (".png", ".jpg", ".webp", ".bmp", ".tiff", ".gif"):
        for mode in ("RGB", "L", "P", "RGBA"):
            picture = Image.fromarray(rng.integers(0, 256, [24, 20, 3]).astype(np.uint8)).convert(mode)
            if extension == ".jpg" and mode in ("P", "RGBA"):
                picture = picture.convert("CMYK")
            stream = io.BytesIO()
            picture.save(stream, Image.registered_extensions()[extension])
            found.append((extension, stream.getvalue()))
    return found


# ----------------------------------------------------------------------------------------------------- NaN


def inject_nans(count, seed, is_small):
    """Runs the same training with and without NaN at random steps."""
    clean, _, steps = in_child(train_with_nans, 0, count, seed, is_small)
    hurt, skipped, _ = in_child(train_with_nans, count, count, seed, is_small)
    difference = abs(hurt - clean)
    return [
        Row("steps made NaN, and skipped", count, f"{skipped} of {steps:,} steps", skipped == count),
        Row(
            "final bits/dim with and without NaN",
            count,
            f"{hurt:.4f} and {clean:.4f}, difference {difference:.4f}",
            difference < MOST_DIFFERENCE,
        ),
    ]


class SabotagedTrainer(Trainer):
    """A trainer whose dequantisation noise, and so its loss and gradients, is NaN in some batches."""

    nan_batches = ()

    def _noise(self, batch_number, images, replica):
        noise = super()._noise(batch_number, images, replica)
        is_hit = tf.reduce_any(tf.constant(self.nan_batches, tf.int32) == batch_number)
        return tf.where(is_hit, tf.constant(np.nan, noise.dtype), noise)


def train_with_nans(num_nans, most_nans, seed, is_small):
    """(bits/dim of the digits' test images, skipped steps, steps)."""
    images = image_data.load("digits")
    size = {"num_steps": 2, "width": 16} if is_small else {"num_steps": 8, "width": 64}
    glow = Glow(GlowConfig(image_shape=(8, 8, 1), num_levels=2, num_bits=4, **size))
    trainer = SabotagedTrainer(glow, batch_size=64, schedule=Schedule(warmup_steps=48))
    steps = 15 * most_nans
    trainer.nan_batches = random.Random(seed).sample(range(steps), num_nans)
    trainer.initialize(images.train.random_subset(256, seed=0)[0])
    skipped = 0
    while trainer.step_count < steps:
        epoch, done = divmod(trainer.step_count, images.train.steps_per_epoch(64))
        for batch, _ in images.train.training_batches(64, 0, epoch, skip=done):
            skipped += not bool(trainer.train_step(batch)["is_finite"])
            if trainer.step_count == steps:
                break
    with trainer.ema_weights():
        bits = np.mean([metrics.bits_per_dim(glow, images.test, seed=noise)[0] for noise in range(0, 100, 10)])
    return float(bits), skipped, steps


if __name__ == "__main__":
    main()
