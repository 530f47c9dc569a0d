"""Flags as the fields of a dataclass: what is parsed, what is refused, and the help."""

import dataclasses
import importlib
from pathlib import Path

import pytest

from glow_tf._option import integer, option
from glow_tf.cli import COMMANDS, command_line
from glow_tf.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(command_line.Options):
    count: int = option(3, "How many.", *integer(1, 9))
    size: int | None = option(None, "How large.")
    rate: float = option(0.5, "How fast.", "a number from 0 to 1", lambda v: 0 <= v <= 1)
    mode: str = option("plain", "Which.", choices=("plain", "fancy"))
    source: str | None = option(None, "Where from.", flag="from")
    loud: bool = option(True, "How loud.")
    fast: bool | str = option(False, "Whether fast.", choices=("auto",))
    file: tuple[str, ...] = option((), "Which files.")


def test_values_have_the_types_of_their_fields_and_defaults_are_kept():
    words = [
        "a",
        "--count",
        "4",
        "--size=5",
        "--rate",
        "1",
        "--from",
        "x",
        "--noloud",
        "--fast=auto",
        "--file",
        "p",
        "--file",
        "q",
        "b",
    ]
    parsed = Options.parse(words)
    given = {"count": 4, "size": 5, "rate": 1.0, "from": "x", "loud": False, "fast": "auto", "file": ["p", "q"]}
    assert parsed == Options(
        count=4, size=5, rate=1.0, source="x", loud=False, fast="auto", file=("p", "q"), arguments=("a", "b"),
        given=given,
    )  # fmt: skip
    assert isinstance(parsed.rate, float)
    assert Options.parse([]) == Options()
    assert Options.parse(["--", "--count"]).arguments == ("--count",)
    assert [Options.parse([word]).fast for word in ("--fast", "--nofast", "--fast=true")] == [True, False, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--count=0", "--count is 0; it must be an integer from 1 to 9"),
        ("--count=1.5", "flag --count=1.5: it is not an integer"),
        ("--count=", "flag --count=: it is not an integer"),
        ("--count=" + "7" * 5000, f"flag --count={'7' * 60}...: it is not an integer"),
        ("--rate=nan", "--rate is nan; it must be a number from 0 to 1"),
        ("--rate=high", "flag --rate=high: it is not a number"),
        ("--mode=odd", "--mode is 'odd'; it can be plain, fancy"),
        ("--loud=maybe", "flag --loud=maybe: it must be true or false"),
        ("--fast=maybe", "flag --fast=maybe: it must be true, false or auto"),
        ("--from=", "--from is empty; leave it out for its default"),
        ("--file=a --file=", "--file is empty; leave it out for its default"),
        ("--size", "Missing value for flag --size"),
        ("--flagfile=missing", "Unable to open flagfile: [Errno 2] No such file or directory: 'missing'"),
        ("--cuont=3", "--cuont is not a flag of this command; did you mean --count? --help lists its flags"),
        ("--volume=3", "--volume is not a flag of this command; --help lists its flags"),
        ("--draws=3", "--draws is a flag of evaluate.py, not of this command; --help lists its flags"),
    ],
)
def test_wrong_flags_are_refused_by_their_names(words, message):
    with pytest.raises(InputError) as refused:
        Options.parse(words.split(" "))
    assert str(refused.value) == message


def test_values_are_checked_from_python_too():
    with pytest.raises(InputError, match="count is 10; it must be an integer from 1 to 9"):
        Options(count=10)


def test_flags_are_read_from_files_and_the_last_value_counts(tmp_path):
    (tmp_path / "flags").write_text("--count=4\n# a comment\n--noloud\n")
    parsed = Options.parse([f"--flagfile={tmp_path / 'flags'}", "--count=5"])
    assert (parsed.count, parsed.loud) == (5, False)


def test_a_recorded_command_is_parsed_to_the_same_values():
    given = Options.parse(["--count", "4", "--noloud", "--rate", "1e-3", "--fast=auto"]).given
    assert Options.parse([command_line.serialize(name, value) for name, value in given.items()]).given == given


def test_the_help_names_values_and_defaults():
    entries = command_line.help_of(Options).split("\n  --")
    assert [entry.split("\n")[0] for entry in entries] == [
        "  --count", "[no]fast", "file", "from", "[no]loud", "mode", "rate", "size", "[no]debug", "[no]help"
    ]  # fmt: skip
    texts = [" ".join(entry.split()[1:]) for entry in entries]
    assert texts[0] == "How many. Default: 3."
    assert texts[4:8] == ["How loud. Default: true.", "<plain|fancy>: Which. Default: plain.",
                          "How fast. Default: 0.5.", "How large."]  # fmt: skip


def test_every_command_is_found_by_its_flags():
    for flag, command in (("epochs", "main.py"), ("mode", "sample.py"), ("draws", "evaluate.py"), ("x", None)):
        assert command_line.command_with(flag) == command


def test_the_page_of_the_commands_names_every_flag():
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    modules = [importlib.import_module(f"glow_tf.cli.{module}") for module in COMMANDS]
    names = [name for module in modules for name in module.Options.flags()]
    assert len(names) > 80
    assert [name for name in names if f"--{name}" not in page] == []
