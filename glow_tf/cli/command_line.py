"""The flags of a command, declared as the fields of a dataclass, and their values on a command line."""

import dataclasses
import difflib
import importlib
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Self

from absl import flags as absl_flags

from glow_tf._option import by_flag, check, option
from glow_tf.cli import COMMANDS
from glow_tf.config import AUTO
from glow_tf.errors import InputError

HELP_WIDTH = 110

# {pattern in absl's message about a flag's value: its replacement}.
_PLAIN = {
    "^ERROR:: ": "",
    "(invalid literal for int|Exceeds the limit).*": "it is not an integer",
    "could not convert string to float.*": "it is not a number",
    r"\('Non-boolean argument.*": "it must be true or false",
    r"(?s)(?<==)(.{60}).+(?=: )": r"\1...",  # a long value would hide the reason behind it
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The values of a command's flags. Each command has a subclass with a field per flag.

    Args:
        help: Whether to show the help.
        debug: Whether to show tracebacks and messages of libraries.
        arguments: The words of the command line that do not belong to a flag.
        given: {flag: value} of the flags on the command line.

    Raises:
        InputError: for a value that is not allowed; the message names the field and the valid values.
    """

    help: bool = option(False, "Show this help.")
    debug: bool = option(False, "Show tracebacks and the messages of TensorFlow and other libraries.")
    arguments: tuple[str, ...] = ()
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def flags(cls) -> dict[str, dataclasses.Field]:
        """{flag: field} of the command."""
        return by_flag(cls)

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        """The options in a command line without the command's name.

        Raises:
            InputError: for an unknown flag, or a value that is not allowed; the message names the flag.
        """
        values = absl_flags.FlagValues()
        for name, field in cls.flags().items():
            _define(name, field, values)
        try:
            arguments = values(["", *words])[1:]
        except absl_flags.UnrecognizedFlagError as error:
            raise InputError(_unknown(cls, error.flagname)) from None
        except absl_flags.Error as error:
            text = str(error)
            for pattern, replacement in _PLAIN.items():
                text = re.sub(pattern, replacement, text)
            raise InputError(text) from None
        given = {name: values[name].value for name in cls.flags() if values[name].present}
        for name, value in given.items():  # such as --run_dir "$UNSET", which would mean the default
            if value == "" or value == [] or (isinstance(value, list) and "" in value):
                raise InputError(f"--{name} is empty; leave it out for its default")
        own = {field.name: flag for flag, field in by_flag(cls).items()}
        fields: dict[str, Any] = {name: given[flag] for name, flag in own.items() if flag in given}
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        try:
            return cls(arguments=tuple(arguments), given=given, **fields)
        except InputError as error:
            raise InputError(re.sub(r"^\w+", lambda name: f"--{own.get(name[0], name[0])}", str(error))) from None


def serialize(name: str, value: Any) -> str:
    """The words of a command line that give a flag its value.

    >>> serialize("flip", False), serialize("width", 64)
    ('--noflip', '--width=64')
    """
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={value}"


def kind_of(field: dataclasses.Field) -> type:
    """The type of a flag's value: bool, int, float, str, or tuple for a flag that may be repeated.

    A union's is its first one: an integer that may be missing, or a boolean that can be "auto".
    """
    kinds = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
    return typing.get_origin(kinds[0]) or kinds[0]


def help_of(options: type[Options]) -> str:
    """The flags of a command with their help, in the order of their names."""
    entries = []
    common = by_flag(Options)
    for name, field in sorted(options.flags().items(), key=lambda item: (item[0] in common, item[0])):
        text = field.metadata["doc"]
        if field.metadata["choices"] and kind_of(field) is str:
            text = f"<{'|'.join(field.metadata['choices'])}>: {text}"
        if field.default not in (None, ()) and field.default is not False:
            text += f" Default: {str(field.default).lower()}."
        entries.append(f"  --[no]{name}" if kind_of(field) is bool else f"  --{name}")
        entries.append(textwrap.fill(text, HELP_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(entries)


def command_with(flag: str) -> str | None:
    """The command that has a flag, or None."""
    for module, (command, _) in COMMANDS.items():
        if flag in importlib.import_module(f"glow_tf.cli.{module}").Options.flags():
            return command
    return None


class _AutoParser(absl_flags.BooleanParser):
    def parse(self, argument: str | bool | int) -> Any:
        if argument == AUTO:
            return AUTO
        try:
            return super().parse(argument)
        except ValueError:
            raise ValueError("it must be true, false or auto") from None


def _define(name: str, field: dataclasses.Field, values: absl_flags.FlagValues) -> None:
    """Defines a flag for absl, which parses it; its default and its valid values are those of the field."""
    kind, short = kind_of(field), "h" if name == "help" else None
    if kind is bool:
        parser = _AutoParser() if AUTO in field.metadata["choices"] else absl_flags.BooleanParser()
        flag = absl_flags.Flag(parser, None, name, None, field.metadata["doc"], short_name=short, boolean=True)
        absl_flags.DEFINE_flag(flag, values)
    else:
        define: Any = {
            int: absl_flags.DEFINE_integer,
            float: absl_flags.DEFINE_float,
            str: absl_flags.DEFINE_string,
            tuple: absl_flags.DEFINE_multi_string,
        }[kind]
        define(name, None, field.metadata["doc"], flag_values=values)


def _unknown(options: type[Options], name: str) -> str:
    other = command_with(name)
    if other:
        return f"--{name} is a flag of {other}, not of this command; --help lists its flags"
    known = sorted(options.flags().items())
    names = [flag for flag, _ in known] + [f"no{flag}" for flag, field in known if kind_of(field) is bool]
    initials = {"".join(part[:1] for part in each.split("_")): each for each in names}
    near = difflib.get_close_matches(name, names, n=1) or [each for each in names if len(each) > 3 and each in name]
    near += [initials[name]] if name in initials else []  # lr for learning_rate
    hint = f"did you mean --{near[0]}? " if near else ""
    return f"--{name} is not a flag of this command; {hint}--help lists its flags"
