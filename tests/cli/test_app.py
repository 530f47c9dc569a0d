"""What the commands share, each tried in a process of its own; none of these needs TensorFlow."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glow_tf import __main__

ROOT = Path(__file__).parents[2]
HEAD = """
import dataclasses, sys
from glow_tf._option import option
from glow_tf.cli import app, command_line
from glow_tf.errors import InputError, TrainingFailure
@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(command_line.Options):
    {flags}
def main(options):
"""


def run(body, *arguments, before=(), flags="pass", **options):
    """(exit status, output, error output) of a command with these flags, whose `main` has this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    code = HEAD.format(flags=flags) + lines + "app.run(main, Options, 'usage')\n"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | options.pop("environment", {})
    command = [*before, sys.executable, "-c", code, *arguments]
    defaults = {"capture_output": True, "text": True, "timeout": 20, "env": environment}
    done = subprocess.run(command, check=False, **defaults | options)
    return done.returncode, done.stdout, done.stderr


def inside_package(code):
    """The body of a `main` that runs code as if it stood in a file of the package."""
    return f"import glow_tf\nfrom absl import logging\nexec(compile({code!r}, glow_tf.__file__, 'exec'))"


OUT_OF_MEMORY = "error: out of memory; a smaller --batch_size or fewer and smaller images need less\n"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("raise InputError('two\\nlines')", 2, "error: two lines\n"),
        ("raise TrainingFailure('no gradient')", 1, "error: no gradient\n"),
        ("from glow_tf.errors import WorkerLost\nraise WorkerLost('gone')", 75, "error: gone\n"),
        ("raise MemoryError", 2, OUT_OF_MEMORY),
        ("raise type('ResourceExhaustedError', (Exception,), {})('OOM when allocating')", 2, OUT_OF_MEMORY),
        ("open('/missing/file', 'w')", 2, "error: /missing/file: No such file or directory\n"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_invalid_input_is_one_line(body, status, message):
    assert run(body) == (status, "", message)
    assert "Traceback" in run(body, "--debug")[2] or status == 130


def test_a_fault_of_the_program_is_a_traceback():
    status, _, error = run("raise KeyError('mine')")
    assert status == 1
    assert "Traceback" in error


def test_the_status_is_what_main_returns():
    assert run("return 143")[0] == 143
    assert run("print(options.arguments)", "a", "b") == (0, "('a', 'b')\n", "")


def test_an_output_that_cannot_be_written_is_an_error_unless_its_reader_left():
    with open("/dev/full", "w") as full:
        status, _, error = run("print('result')", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (status, error) == (1, "error: the output could not be written: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    assert run("print('result')", capture_output=False, stdout=writer, stderr=subprocess.PIPE)[::2] == (0, "")
    os.close(writer)


def test_an_empty_value_does_not_mean_the_default():
    flags = "x: str | None = option(None, 'X.'); y: tuple[str, ...] = option((), 'Y.')"
    for name in "xy":
        status, _, error = run("raise KeyError", f"--{name}=", flags=flags)
        assert (status, error) == (2, f"error: --{name} is empty; leave it out for its default\n")


def test_terminal_escapes_in_names_are_printed_escaped():
    assert run("print('a\\x1b[2J\\u202e', 'b', sep='\\n')") == (0, "a\\x1b[2J\\u202e\nb\n", "")


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "long"])
def test_outputs_that_cannot_be_written_are_refused_at_the_start(tmp_path, kind):
    path = {"device": Path("/dev/null"), "long": tmp_path / ("x" * 300)}.get(kind, tmp_path / "out")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    flags = "out: str | None = option(None, 'The output.')"
    status, _, error = run("app.check_output('--out', options.out, [])", f"--out={path}", flags=flags)
    assert status == 2 and error.startswith(f"error: --out is {str(path)[:300]}") and error.count("\n") == 1
    assert ", which " in error


def test_help_and_wrong_flags_answer_at_once():
    flags = "temp: float = option(0.7, 'Temperature.'); x: str | None = option(None, 'X.')"
    start = time.monotonic()
    status, output, _ = run("raise KeyError", "--help", flags=flags)
    assert (status, output.splitlines()[0]) == (0, "usage")
    assert "  --temp\n      Temperature. Default: 0.7.\n  --x\n      X.\n" in output
    status, _, error = run("raise KeyError", "--tmp=3", flags=flags)
    assert (status, error) == (
        2, "error: --tmp is not a flag of this command; did you mean --temp? --help lists its flags\n"
    )  # fmt: skip
    status, _, error = run("raise KeyError", "--no_such_flag")
    assert (status, error) == (2, "error: --no_such_flag is not a flag of this command; --help lists its flags\n")
    assert run("raise KeyError", "--temp=x", flags=flags)[2].startswith("error: flag --temp=x: ")
    assert time.monotonic() - start < 10


def test_messages_use_the_names_of_flags():
    flags = "l_glow: int = option(3, 'Levels.')"
    body = "raise InputError('num_levels is 9, num_steps 3')"
    assert run(body, flags=flags)[2] == "error: --l_glow is 9, num_steps 3\n"
    assert run(body)[2] == "error: num_levels is 9, num_steps 3\n"


def test_names_from_outside_cannot_control_a_terminal():
    assert run("raise InputError('a\\x1b[31m\\udcff\\u0e01')")[2] == "error: a\\x1b[31m\\udcff\u0e01\n"
    error = run("raise InputError('long' * 10000 + ' and its end')")[2]
    assert len(error) < 1100 and error.endswith("long and its end\n")
    warning = inside_package("logging.warning('a\\nb \\x1b[31m')")
    assert run(warning)[2] == "warning: a b \\x1b[31m\n"


def test_a_warning_is_one_line_and_appears_once():
    body = inside_package("logging.warning('two %s', 'words')\nlogging.info('hidden')")
    assert run(body) == (0, "", "warning: two words\n")


def test_warnings_that_differ_only_in_numbers_appear_once():
    body = inside_package("for n in (3, 6): logging.warning('%d of %d', n, 6); logging.warning('%s', f'{n}.png')")
    assert run(body) == (0, "", "warning: 3 of 6\nwarning: 3.png\nwarning: 6.png\n")


def test_warnings_of_libraries_are_hidden():
    body = "import logging, warnings\nlogging.getLogger('library').warning('old')\nwarnings.warn('older')"
    assert run(body) == (0, "", "")
    assert [name in run(body, "--debug")[2] for name in ("warning: old\n", "UserWarning: older")] == [True, True]


def test_a_deleted_working_directory_is_one_line(tmp_path):
    (tmp_path / "gone").mkdir()
    shell = ("sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh")
    status, _, error = run("print(1)", before=shell, cwd=tmp_path / "gone")
    assert (status, error) == (2, "error: the working directory no longer exists; change to another one\n")


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    body = "for i in range(20000): print(i)\nopen('done', 'w').close()"
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "w") as closed:
        assert run(body, cwd=tmp_path, capture_output=False, stdout=closed, stderr=closed)[0] == 0
    assert (tmp_path / "done").exists()


def test_the_list_of_commands_goes_to_a_closed_pipe_in_silence():
    command = [sys.executable, "-u", "-m", "glow_tf", "--help"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout
    assert re.findall(r"^    (\w+)", answer, re.MULTILINE) == [*__main__.COMMANDS]
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "w") as closed:
        done = subprocess.run(command, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


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


def test_what_libraries_print_while_they_load_is_hidden():
    body = (
        "import os\nwith app._quiet_stderr(options.debug):\n    os.write(2, b'noise')\nprint('shown', file=sys.stderr)"
    )
    assert run(body)[2] == "shown\n"
    assert run(body, "--debug")[2] == "noiseshown\n"


def test_ctrl_c_before_there_is_anything_to_save():
    body = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(9)"
    assert run(body) == (128 + signal.SIGINT, "", "")


def test_the_command_to_type_again_is_quoted_and_not_fresh():
    body = "print(app.resume_command())"
    output = run(body, "--", "--run_dir=my run;rm", "--fresh", "-fresh=true", "--freshness")[1]
    assert output.endswith(" -- '--run_dir=my run;rm' --freshness\n")
    assert output.startswith(sys.executable)
    assert run(body, "--", "--run_dir=a\x1bb\udcff")[1].endswith(" -- $'--run_dir=a\\x1bb\\xff'\n")
