"""Helpers that all importers share: check arrays by name and shape, and build a Glow from them."""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf import persistence
from glow_tf._files import printable
from glow_tf.bijectors import plu_decompose
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.weights import difference

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


def check_shapes(
    source: str | os.PathLike, found: Mapping[str, Iterable[int]], expected: Mapping[str, Iterable[int]]
) -> None:
    """Raises InputError unless the variables of a file, {name: shape}, are exactly the expected ones."""
    problem = difference(found, expected, "the model")
    if problem:
        raise InputError(f"{printable(source)} {problem}")
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
    """The variables of a level's K 1x1 convolutions, from K dense matrices [C, C] for row vectors.

    Raises InputError if a matrix cannot be inverted, with its name of `names`.
    """
    steps = []
    for name, weight in zip(names, weights, strict=True):
        with contextlib.suppress(tf.errors.InvalidArgumentError):  # a singular matrix, or one that nearly is
            step = {f"conv1x1/{key}": factor.numpy() for key, factor in plu_decompose(weight).items()}
            if np.isfinite(step["conv1x1/log_abs_s"]).all():
                steps.append(step)
                continue
        raise InputError(f"{printable(source)} has a matrix that cannot be inverted in {printable(name)}")
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
    """Builds a Glow from its configuration and the values of all its variables, which `program` wrote."""
    glow = Glow(config, seed=None)
    persistence.assign(glow, values, {"converted_from": program})
    return glow
