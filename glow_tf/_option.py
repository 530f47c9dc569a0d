"""Options as fields of dataclasses: one declaration has the default, the valid values, the flag and its help."""

import dataclasses
from collections.abc import Callable
from typing import Any

from glow_tf._files import shown
from glow_tf.errors import InputError


def option(
    default: Any,
    doc: str,
    valid: str = "",
    is_valid: Callable[[Any], bool] = lambda value: True,
    *,
    choices: tuple[str, ...] = (),
    flag: str | bool = True,
    is_fixed: bool = False,
) -> Any:
    """A field of a configuration, or of the options of a command.

    Args:
        default: its default; None stands for "not set", and `dataclasses.MISSING` for a value that must be given.
        doc: one sentence, which is also the help of the flag.
        valid: the values that are allowed, in words; empty if the configuration checks the value itself.
        is_valid: tells whether a value of the right type is allowed.
        choices: the texts that are allowed.
        flag: the name of its flag, True for the name of the field, or False for no flag. The flags of configurations
            are those of the training command.
        is_fixed: whether the value must stay the same when a run is resumed.
    """
    metadata = {"doc": doc, "is_valid": is_valid, "valid": valid, "choices": choices, "is_fixed": is_fixed}
    return dataclasses.field(default=default, metadata=metadata | {"flag": flag})


def integer(low: int, high: int) -> tuple[str, Callable[[int], bool]]:
    """(`valid`, `is_valid`) of an option that is an integer from `low` to `high`."""
    return f"an integer from {low} to {high}", lambda value: low <= value <= high


def by_flag(cls: type) -> dict[str, dataclasses.Field]:
    """{flag: field} of the fields that have a flag."""
    fields = ((field.metadata.get("flag", False), field) for field in dataclasses.fields(cls))
    return {field.name if flag is True else flag: field for flag, field in fields if flag}


def documented(cls: type) -> type:
    """A decorator that lists the fields of a configuration in its docstring."""
    lines = []
    for field in dataclasses.fields(cls):
        choices = ", ".join(map(str, field.metadata["choices"]))
        lines.append(f"{field.name}: {field.metadata['doc']}" + (f" Choices: {choices}." if choices else ""))
    cls.__doc__ = "\n        ".join([f"{cls.__doc__}\n    Args:", *lines])
    return cls


def check(config: Any) -> None:
    """Checks every option of a dataclass, and replaces numpy's numbers by Python's, which JSON can hold.

    Raises:
        InputError: for a value that is not allowed; the message names the option and the valid values.
    """
    for field in dataclasses.fields(config):
        if not field.metadata:
            continue
        value = plain(getattr(config, field.name))
        _check_option(field, value)
        object.__setattr__(config, field.name, float(value) if field.type is float else value)


def plain(value: Any) -> Any:
    """The value, as Python's numbers and lists if it is one of numpy's."""
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, type) else value


def _check_option(field: dataclasses.Field, value: Any) -> None:
    metadata, name = field.metadata, field.name
    if value is None and field.default is None:
        return
    if isinstance(field.default, bool):
        if not isinstance(value, bool) and value not in metadata["choices"]:
            valid = " or ".join(["True", "False", *metadata["choices"]])
            raise InputError(f"{name} is {shown(value)}; it must be {valid}")
    elif metadata["choices"]:
        if not isinstance(value, str) or value not in metadata["choices"]:
            raise InputError(f"{name} is {shown(value)}; it can be {', '.join(metadata['choices'])}")
    elif metadata["valid"]:
        numbers = (int, float) if field.type is float else int
        if isinstance(value, bool) or not isinstance(value, numbers) or not metadata["is_valid"](value):
            raise InputError(f"{name} is {shown(value)}; it must be {metadata['valid']}")
