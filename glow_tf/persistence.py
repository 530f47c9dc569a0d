"""Saves the weights of a Glow to files and pickles, and loads them; `weights` defines the file format."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from glow_tf import pretrained, weights
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError

if TYPE_CHECKING:
    from glow_tf.glow import Glow


def save(glow: "Glow", path: str | os.PathLike, metadata: Mapping[str, Any], stored_dtype: str | None = None) -> None:
    """Writes all variables, the configuration and metadata; see `Glow.save_weights`, and `weights.write` for errors."""
    weights.write(path, values_of(glow), glow.config.to_dict(), metadata, stored_dtype)


def load(make_glow: type["Glow"], name: str | os.PathLike) -> "Glow":
    """Creates a Glow from a weights file, a run's folder, or the name of bundled weights; errors as `open_weights`."""
    with weights.open_weights(pretrained.locate(name)) as file:
        config = GlowConfig.from_dict(file.config)
        file.check_size(config.min_num_weights)
        glow = make_glow(config, seed=None)
        _read(glow, file)
    return glow


def load_into(glow: "Glow", name: str | os.PathLike) -> None:
    """Replaces the values of a Glow; as `load`, but raises InputError for a file of another configuration, too."""
    with weights.open_weights(pretrained.locate(name)) as file:
        differences = GlowConfig.from_dict(file.config).differences(glow.config)
        if differences:
            raise InputError(f"{name} holds another model: {differences}")
        _read(glow, file)


def values_of(glow: "Glow") -> dict[str, np.ndarray]:
    """{name in weights files: value} of all variables."""
    return {name: variable.numpy() for name, variable in glow.named_variables().items()}


def assign(glow: "Glow", values: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Assigns all variables and marks the model as initialised, since these include the actnorms."""
    for name, variable in glow.named_variables().items():
        variable.assign(values[name])
    glow.metadata = dict(metadata)
    glow.is_initialized = True


def reduce(glow: "Glow") -> tuple:
    """Implements `Glow.__reduce__`: `pickle` and `copy.deepcopy` copy values rather than compiled functions."""
    return _rebuild, (type(glow), glow.config, glow.network, values_of(glow), glow.metadata, glow.is_initialized)


def _rebuild(
    make_glow: type["Glow"],
    config: GlowConfig,
    network: Any,
    values: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    is_initialized: bool,
) -> "Glow":
    glow = make_glow(config, seed=None, network=network)
    assign(glow, values, metadata)
    glow.is_initialized = is_initialized
    return glow


def _read(glow: "Glow", file: weights.WeightsFile) -> None:
    variables = glow.named_variables()
    expected = {name: (tuple(v.shape), v.dtype.as_numpy_dtype) for name, v in variables.items()}
    assign(glow, file.read(expected), file.metadata)
