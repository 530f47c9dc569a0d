"""Runs the commands: many command lines in one process, or one in its own."""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from forked import call_all, environment

ROOT = Path(__file__).parents[1]


def run_many(script, command_lines, cwd, imports="any"):
    """[(exit status, output, error output)] of the command lines, one after the other in one process.

    With imports="no tensorflow" it is an error if one of them imports TensorFlow, which takes seconds.
    """
    if imports == "any":
        return call_all((answers_of, (script, command_lines, cwd), environment()))[0]
    done = subprocess.run(
        [sys.executable, __file__, script], input=json.dumps(command_lines), capture_output=True, text=True,
        timeout=300, cwd=cwd, env=environment(), check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [tuple(answer) for answer in json.loads(done.stdout)]


def answers_of(script, command_lines, cwd):
    """As `run_many`, in this process, whose working directory becomes `cwd`."""
    os.chdir(cwd)
    command = importlib.import_module(f"glow_tf.cli.{script}")
    answers = []
    for arguments in command_lines:
        output, errors = io.StringIO(), io.StringIO()
        sys.argv = [command.__file__, *arguments]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                command.run()
            except SystemExit as end:
                status = end.code or 0
            except BaseException as error:
                status = repr(error)
        answers.append((status, output.getvalue(), errors.getvalue()))
    return answers


def start(script, *arguments, cwd, **options):
    """The command in its own process."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()} | options
    return subprocess.Popen([sys.executable, str(ROOT / f"{script}.py"), *arguments], cwd=cwd, **options)


if __name__ == "__main__":
    answers = answers_of(sys.argv[1], json.load(sys.stdin), ".")
    assert "tensorflow" not in sys.modules, "TensorFlow was imported"
    json.dump(answers, sys.stdout)
