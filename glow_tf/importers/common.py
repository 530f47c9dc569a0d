"""What every importer ends with: arrays checked by name and shape, and a Glow made of them."""

import numpy as np
import tensorflow as tf

from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.nn.steps import plu_values


def check_shapes(source, found, expected):
    """Refuses a file whose model variables are not exactly the expected ones.

    Args:
        source: what messages call the file.
        found, expected: {name: shape}.
    Raises:
        InputError: names the variables that are missing, unknown, or of another shape.
    """
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    problems = [f"lacks {_listed(missing)}"] if missing else []
    problems += [f"has {_listed(unknown)}, which the model does not know"] if unknown else []
    if problems:
        raise InputError(f"{source} {' and '.join(problems)}")
    for name, shape in expected.items():
        if tuple(found[name]) != tuple(shape):
            raise InputError(f"{source} has {name} of shape {tuple(found[name])}; the model needs {tuple(shape)}")


def check_finite(source, arrays):
    """InputError that names an array with NaN or infinite values."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"{source} has NaN or infinite values in {name}")


def conv1x1_values(source, names, weights):
    """The variables of the K 1x1 convolutions of a level, from dense matrices.

    Args:
        source: what messages call the file.
        names: of the K matrices there.
        weights: K arrays [C, C]; a row vector times the matrix is what the layer computes.
    Raises:
        InputError: names a matrix that cannot be inverted.
    """
    steps = []
    for name, weight in zip(names, weights, strict=True):
        try:
            step = plu_values(weight)
        except tf.errors.InvalidArgumentError as error:
            raise InputError(f"{source} has a matrix that cannot be inverted in {name}") from error
        if not np.isfinite(step["conv1x1/log_abs_s"]).all():
            raise InputError(f"{source} has a matrix that cannot be inverted in {name}")
        steps.append(step)
    return stacked(steps)


def sign_and_log_abs(source, name, scale):
    """(sign, log|scale|) of an actnorm's scale [C]; InputError where one is zero, which nothing can undo."""
    if not scale.all():
        raise InputError(f"{source} has a scale of zero in {name}: its flow cannot be inverted")
    return np.sign(scale), np.log(np.abs(scale))


def stacked(steps):
    """[{name: array}, ...] of K steps -> {name: array [K, ...]}."""
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


def prefixed(prefix, values):
    """{name: value} -> {prefix + name: value}."""
    return {prefix + name: value for name, value in values.items()}


def glow_from(config, values, program):
    """The Glow of a configuration with the given values of all its variables.

    Args:
        values: {name as in `Glow.named_variables`: array}.
        program: whose weights these are; kept in the metadata.
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


def _listed(names):
    """Up to 5 names and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
