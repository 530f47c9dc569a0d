"""What the commands share, each tried in a process of its own; none of these needs TensorFlow."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """
import sys
from glow_tf.cli import app
from glow_tf.errors import InputError, TrainingFailure
def main(arguments):
"""


def run(body, *arguments, before=(), **options):
    """(exit status, output, error output) of a command whose `main` has this body."""
    code = HEAD + "".join(f"    {line}\n" for line in body.splitlines()) + "command_line.run(main, 'usage')\n"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | options.pop("environment", {})
    command = [*before, sys.executable, "-c", code, *arguments]
    defaults = {"capture_output": True, "text": True, "timeout": 20, "env": environment}
    done = subprocess.run(command, check=False, **defaults | options)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("raise InputError('two\\nlines')", 2, "error: two lines\n"),
        ("raise TrainingFailure('no gradient')", 1, "error: no gradient\n"),
        ("raise MemoryError", 2, "error: out of memory; a smaller --batch_size or --img_size needs less\n"),
        ("open('/missing/file', 'w')", 2, "error: /missing/file: No such file or directory\n"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_what_the_user_can_mend_is_one_line(body, status, message):
    assert run(body) == (status, "", message)
    assert "Traceback" in run(body, "--debug")[2] or status == 130


def test_a_fault_of_the_program_is_a_traceback():
    status, _, error = run("raise KeyError('mine')")
    assert status == 1
    assert "Traceback" in error


def test_the_status_is_what_main_returns():
    assert run("return 143")[0] == 143
    assert run("print(arguments)", "a", "b") == (0, "['a', 'b']\n", "")


def test_help_and_wrong_flags_answer_at_once():
    start = time.monotonic()
    status, output, _ = run("raise KeyError", "--help")
    assert (status, output.splitlines()[0]) == (0, "usage")
    status, _, error = run("raise KeyError", "--no_such_flag")
    assert status == 2
    assert error.startswith("error: Unknown command line flag 'no_such_flag'")
    assert time.monotonic() - start < 10


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    body = "for i in range(20000): print(i)\nopen('done', 'w').close()"
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "w") as closed:
        assert run(body, cwd=tmp_path, capture_output=False, stdout=closed, stderr=closed)[0] == 0
    assert (tmp_path / "done").exists()


def test_streams_that_were_closed_at_the_start_do_no_harm(tmp_path):
    body = "file = open('kept', 'w')\nprint('output')\nprint('more', file=sys.stderr)\nfile.write('text')"
    shell = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    assert run(body, before=shell, cwd=tmp_path)[0] == 0
    assert (tmp_path / "kept").read_text() == "text"


@pytest.mark.parametrize(
    "environment", [{"LC_ALL": "C"}, {"LANG": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_letters_that_a_terminal_lacks_do_no_harm(environment):
    status, output, _ = run("print('3.0 \\xb1 0.1', '\\udcff')", environment=environment)
    assert status == 0
    assert output.startswith("3.0 ")


def test_a_full_tmp_does_no_harm():
    body = "with app._quiet_stderr():\n    print('noise', file=sys.stderr)\nprint('said', file=sys.stderr)"
    assert run(body, environment={"TMPDIR": "/missing"}) == (0, "", "said\n")
    body = "import tempfile\ntempfile.tempdir = '/missing'\n" + body
    assert run(body) == (0, "", "said\n")


def test_noise_is_held_back_and_shown_on_failure():
    body = "import os\nwith app._quiet_stderr():\n    os.write(2, b'noise')\n    {}"
    assert run(body.format("pass"))[2] == ""
    assert "noise" in run(body.format("raise KeyError"))[2]


def test_ctrl_c_before_there_is_anything_to_save():
    body = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(9)"
    assert run(body) == (128 + signal.SIGINT, "", "")


def test_the_command_to_type_again_is_quoted_and_not_fresh():
    body = "print(app.resume_command(without=['fresh']))"
    output = run(body, "--", "--run_dir=my run;rm", "--fresh", "-fresh=true", "--freshness")[1]
    assert output.endswith(" -- '--run_dir=my run;rm' --freshness\n")
    assert output.startswith(sys.executable)
