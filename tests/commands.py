"""Runs the commands: many command lines in one process, so that TensorFlow is imported once, or one in its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

_MANY = """
import contextlib, importlib, io, json, sys
from absl import flags
from absl.testing import flagsaver
from glow_tf.cli import app
command = importlib.import_module(f"glow_tf.cli.{sys.argv[1]}")
answers = []
_, name, imports = sys.argv
for arguments in json.load(sys.stdin):
    output, errors = io.StringIO(), io.StringIO()
    saved = flagsaver.save_flag_values()
    sys.argv = [command.__file__, *arguments]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            app.run(command.main, command.__doc__)
        except SystemExit as end:
            status = end.code or 0
        except BaseException as error:
            status = repr(error)
    flagsaver.restore_flag_values(saved)
    answers.append([status, output.getvalue(), errors.getvalue()])
assert imports == "any" or "tensorflow" not in sys.modules, "TensorFlow was imported"
print("ANSWERS" + json.dumps(answers))
"""


def environment(**changes):
    """The environment of a command, without the settings of the tests; a change to None unsets a variable."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    changed = kept | {"PYTHONPATH": str(ROOT)} | changes
    return {name: value for name, value in changed.items() if value is not None}


def run_many(script, command_lines, cwd, imports="any"):
    """[(exit status, output, error output)] of the command lines, one after the other in one process.

    With imports="no tensorflow" it is an error if one of them imports TensorFlow, which takes seconds.
    """
    command = [sys.executable, "-c", _MANY, script, imports]
    done = subprocess.run(
        command, input=json.dumps(command_lines), capture_output=True, text=True, timeout=300, cwd=cwd,
        env=environment(), check=False,
    )  # fmt: skip
    if "ANSWERS" not in done.stdout:
        raise RuntimeError(done.stderr)
    return [tuple(answer) for answer in json.loads(done.stdout.split("ANSWERS")[1])]


def start(script, *arguments, cwd, **options):
    """The command in its own process."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()} | options
    return subprocess.Popen([sys.executable, str(ROOT / f"{script}.py"), *arguments], cwd=cwd, **options)
