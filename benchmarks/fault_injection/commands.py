"""Runs the commands with random flags: sensible values, values at the edge, nonsense, and paths to odd files."""

import importlib
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import damage
from PIL import Image

from fault_injection.children import LONGEST_READ, MOST_MEMORY, Row, in_child, memory, silence
from glow_tf.cli import app, command_line
from glow_tf.config import GlowConfig
from glow_tf.glow import Glow

COMMANDS = ("train", "sample", "evaluate", "convert", "inspect")
MODEL = {"image_shape": (8, 8, 1), "num_levels": 1, "num_steps": 1, "width": 4, "num_bits": 4}

PASSED = 77  # exit status of a command whose flags are accepted, and which would import TensorFlow
RUNS_ON = 5  # one command line in five goes on, except those that would train
LONGEST_WAIT = 120.0  # seconds by the clock, of a busy machine

NUMBERS = ("0", "-1", "1", "3", "7", "1e400", "nan", "-inf", "0.5", "9" * 400, "1_0", " 2", "٣", "0x10", "")
TEXTS = ("", "a\nb", "\x1b[2J", "é" * 300, "x" * 5000, "\udcff", "%s%n{0}", "=1+1", "'\"`;", "-", "None", "\u202e")
NAMES = (
    "digits",
    "mnist",
    "cifar01",
    "test:0",
    "test:-1",
    "test:99999999999",
    "test:",
    "class:0",
    "class:zz",
    "http://x",
)
PATHS = (
    "tiny.h5",
    "[a]*?.h5",
    "hostile.h5",
    "pipe",
    "folder",
    "pictures",
    "picture.png",
    "missing",
    "loop",
    "new/x.png",
)
PATHS += ("/dev/zero", "/dev/null", ".", "..", "../..", "~", "~nobody", "a" * 300, "folder/", "pictures/picture.png/x")


def draw_flags(folder, count, seed):
    in_child(_prepare, folder)
    odd, slowest, most, passed, refused = [], 0.0, 0, 0, 0
    for number in range(count):
        status, seconds, growth, arguments, errors = _run(
            folder, COMMANDS[number % len(COMMANDS)], seed * count + number
        )
        problem = _problem(status, errors)
        if problem or (status == 2 and (seconds > LONGEST_READ or growth > MOST_MEMORY)):
            odd.append(f"{problem} {seconds:.1f} s, {growth / 1e6:.0f} MB: {arguments}")
            print(odd[-1], errors[-2000:], file=sys.stderr)
        passed, refused = passed + (status in (0, PASSED)), refused + (status == 2)
        if status == 2:
            slowest, most = max(slowest, seconds), max(most, growth)
    costs = f"in at most {slowest:.2f} s of processor time and {most / 1e6:.0f} MB"
    return [
        Row("command lines of random flags", count, f"{passed} accepted, {refused} refused, {costs}", not odd),
        Row("command lines that end otherwise", count, "; ".join(odd[:3]) or "0", not odd),
    ]


def _prepare(folder):
    """Writes the files that the command lines name."""
    os.chdir(folder)
    Glow(GlowConfig(**MODEL)).save_weights("tiny.h5", dataset="digits", class_names=list("0123456789"))
    Path("[a]*?.h5").write_bytes(Path("tiny.h5").read_bytes())
    Path("hostile.h5").write_bytes(damage.mutant(Path("tiny.h5").read_bytes(), 0))
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    for name in ("folder", "pictures"):
        os.mkdir(name)
    for number, name in enumerate(("picture.png", "pictures/a.png", "pictures/b.png")):
        Image.new("L", (8, 8), 40 * number).save(name)


def _run(folder, command, seed):
    """(exit status, processor time, growth of memory, command line, error output) of one command line."""
    before, start = memory("VmRSS"), time.monotonic()
    log = folder / "log"
    log.write_bytes(b"")
    child = os.fork()
    if child == 0:
        status = 70
        try:
            _be_the_command(folder, command, seed, log)
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(status)
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - start > LONGEST_WAIT:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    arguments, _, errors = log.read_text(errors="replace").partition("\0")
    growth = max(0, usage.ru_maxrss * 1024 - before)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, growth, arguments, errors


def _be_the_command(folder, name, seed, log):
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))
    chance = random.Random(seed)
    command = importlib.import_module(f"glow_tf.cli.{name}")
    arguments = _draw(command, chance)
    if name == "train" or chance.randrange(RUNS_ON):
        app.import_tensorflow = lambda *_, **__: os._exit(PASSED)
    elif name == "evaluate":
        arguments.append("--eval_images=3")
    log.write_text(ascii([name, *arguments]) + "\0")
    silence(log)
    sys.argv = [command.__file__, *arguments]
    command.run()


def _draw(command, chance):
    """The arguments of one command line."""
    known = [
        (name, field) for name, field in command.Options.flags().items() if name not in ("debug", "download", "help")
    ]
    chosen = chance.sample(known, min(len(known), chance.choice((0, 1, 1, 2, 2, 3, 5))))
    arguments = [f"--{name}={_value(field, chance)}" for name, field in chosen]
    if "weights" in command.Options.flags() and chance.random() < 0.6:
        arguments.append("--weights=tiny.h5")
    if chance.random() < (0.8 if command.__name__.endswith(("convert", "inspect")) else 0.05):
        arguments.append(chance.choice(PATHS))
    return arguments


def _value(field, chance):
    if chance.random() < 0.25:
        return chance.choice(TEXTS + NAMES)
    if command_line.kind_of(field) is bool:
        return chance.choice(("true", "false", "maybe"))
    if field.metadata["choices"]:
        return chance.choice((*field.metadata["choices"], "other"))
    return chance.choice(NUMBERS if command_line.kind_of(field) in (int, float) else PATHS + NAMES)


def _problem(status, errors):
    """What is wrong with how a command ended, or an empty string."""
    lines = errors.splitlines()
    messages = [line for line in lines if line.startswith("error: ")]
    if status not in (0, 1, 2, PASSED):
        return f"exit status {status}"
    if "Traceback" in errors or len(messages) != (status in (1, 2)):
        return f"{len(messages)} errors with exit status {status}"
    long = [line for line in messages if len(line) > 1100 or not line.isprintable()]
    return f"not one printable line: {ascii(long[0][:200])}" if long else ""
