"""Helpers that all importers share: check arrays by name and shape, and build a Glow from them."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf._files import format_names, printable
from glow_tf.bijectors import plu_decompose
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.glow import Glow

Arrays = dict[str, np.ndarray]


def check_shapes(
    source: str | os.PathLike, found: Mapping[str, Iterable[int]], expected: Mapping[str, Iterable[int]]
) -> None:
    """Refuses a file whose variables are not exactly the expected ones.

    Args:
        source: the file's name in messages.
        found: {name: shape} of the file.
        expected: {name: shape} of the model.

    Raises:
        InputError: variables are missing, unknown or of another shape; the message names them.
    """
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    problems = [f"lacks {format_names(missing)}"] if missing else []
    problems += [f"has {format_names(unknown)}, which the model does not have"] if unknown else []
    if problems:
        raise InputError(f"{printable(source)} {' and '.join(problems)}")
    for name, shape in expected.items():
        if tuple(found[name]) != tuple(shape):
            raise InputError(
                f"{printable(source)} has {printable(name)} of shape {printable(tuple(found[name]))}; "
                f"the model needs {tuple(shape)}"
            )


def inferred_config(
    source: str | os.PathLike, name: str, channels: int, steps: Sequence[re.Match], image_size: int, **others: Any
) -> GlowConfig:
    """The configuration of a model, from the channels of its first level and matches of (level, flow step) in names.

    `name` is that of a variable with these channels; `others` are further arguments of GlowConfig.
    """
    if channels % 4:
        raise InputError(f"{printable(source)} has {name} of {channels} channels; squeezed images have a multiple of 4")
    return GlowConfig(
        image_shape=(image_size, image_size, channels // 4),
        num_levels=1 + max(int(match[1]) for match in steps),
        num_steps=1 + max(int(match[2]) for match in steps),
        **others,
    )


def check_finite(source: str | os.PathLike, arrays: Arrays) -> None:
    """Raises InputError, naming the array, for NaN or infinite values."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"{printable(source)} has NaN or infinite values in {printable(name)}")


def conv1x1_values(source: str | os.PathLike, names: Sequence[str], weights: Sequence[np.ndarray]) -> Arrays:
    """The variables of a level's K 1x1 convolutions, from dense matrices.

    Args:
        source: the file's name in messages.
        names: the names of the K matrices in messages.
        weights: K arrays [C, C]; the layer multiplies a row vector with the matrix.

    Raises:
        InputError: a matrix cannot be inverted; the message names it.
    """
    steps = []
    for name, weight in zip(names, weights, strict=True):
        try:
            step = {f"conv1x1/{key}": factor.numpy() for key, factor in plu_decompose(weight).items()}
        except tf.errors.InvalidArgumentError as error:
            raise InputError(
                f"{printable(source)} has a matrix that cannot be inverted in {printable(name)}"
            ) from error
        if not np.isfinite(step["conv1x1/log_abs_s"]).all():
            raise InputError(f"{printable(source)} has a matrix that cannot be inverted in {printable(name)}")
        steps.append(step)
    return stacked(steps)


def sign_and_log_abs(source: str | os.PathLike, name: str, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sign, log|scale|) of an actnorm's scale [C]; raises InputError if an entry is zero."""
    if not scale.all():
        raise InputError(f"{printable(source)} has a scale of zero in {printable(name)}: its flow cannot be inverted")
    return np.sign(scale), np.log(np.abs(scale))


def stacked(steps: Sequence[Arrays]) -> Arrays:
    """[{name: array}, ...] of K steps -> {name: array [K, ...]}."""
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


def prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """{name: value} -> {prefix + name: value}."""
    return {prefix + name: value for name, value in values.items()}


def without_prefix(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """{prefix + name: value} -> {name: value}; other names are left out."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def glow_from(config: GlowConfig, values: Arrays, program: str) -> Glow:
    """Builds a Glow from its configuration and the values of all its variables.

    Args:
        config: the configuration.
        values: {name as in `Glow.named_variables`: array}.
        program: the program that wrote the values, for the metadata.
    """
    glow = Glow(config)
    variables = glow.named_variables()
    if set(values) != set(variables):
        raise ValueError(f"values and variables differ: {sorted(set(values) ^ set(variables))}")
    for name, variable in variables.items():
        variable.assign(np.asarray(values[name], variable.dtype.as_numpy_dtype))
    glow.metadata = {"converted_from": program}
    glow.is_initialized = True
    return glow
