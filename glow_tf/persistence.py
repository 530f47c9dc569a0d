"""The weights of a Glow in files and pickles; `weights` defines the file itself."""

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
    """Writes every variable, the configuration and metadata; for the arguments see `Glow.save_weights`.

    Raises:
        InputError: if the metadata is not JSON, or a value is not finite.
        OSError: if the file cannot be written.
    """
    weights.write(path, values_of(glow), glow.config.to_dict(), metadata, stored_dtype)


def load(make_glow: type["Glow"], name: str | os.PathLike) -> "Glow":
    """A new Glow from a weights file, a run's folder, or the name of bundled weights.

    Raises:
        InputError: if there is no such file, or it is damaged or not of this package.
    """
    with weights.open_weights(pretrained.locate(name)) as file:
        config = GlowConfig.from_dict(file.config)
        file.check_size(config.min_num_weights)
        glow = make_glow(config, seed=None)
        _read(glow, file)
    return glow


def load_into(glow: "Glow", name: str | os.PathLike) -> None:
    """Replaces the values of a Glow by those of weights of the same configuration.

    Raises:
        InputError: as `load`, and naming the keys in which the configurations differ.
    """
    with weights.open_weights(pretrained.locate(name)) as file:
        differences = GlowConfig.from_dict(file.config).differences(glow.config)
        if differences:
            raise InputError(f"{name} holds another model: {differences}")
        _read(glow, file)


def values_of(glow: "Glow") -> dict[str, np.ndarray]:
    """{name in weights files: value}."""
    return {name: variable.numpy() for name, variable in glow.named_variables().items()}


def assign(glow: "Glow", values: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Sets every variable; the actnorms are then initialised, since their values are among these."""
    for name, variable in glow.named_variables().items():
        variable.assign(values[name])
    glow.metadata = dict(metadata)
    glow.is_initialized = True


def reduce(glow: "Glow") -> tuple:
    """What `pickle` and `copy.deepcopy` rebuild a Glow from: its values rather than its compiled functions."""
    state = (values_of(glow), glow.metadata, glow.is_initialized)
    return _rebuild, (type(glow), glow.config, glow.network, *state)


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
