"""The interface of coupling networks, and the base class of the modules that own a Glow's variables."""

import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.residuals import Residuals

# A nested dictionary of arrays, variables or tensors: {"actnorm": {"shift": ..., "log_scale": ...}, ...}.
Parameters: TypeAlias = Mapping[str, Any]

# Variables that are not trained: P and the signs of s of the 1x1 convolutions, and the fixed channel permutations.
NON_TRAINABLE = ("conv1x1/permutation", "conv1x1/sign_s", "permutation/indices")

# In the names of weights files the layers of a step are folders: "level0/coupling/conv1_kernel" is
# parameters["coupling"]["conv1"]["kernel"] of "level0". Deeper keys are joined by underscores.
_STEP_LAYERS = ("actnorm", "conv1x1", "permutation", "coupling")


class CouplingNetwork(abc.ABC):
    """The interface of coupling networks, which are functions of their parameters.

    One object serves every step of every level. It owns no variables: `initial_values` defines which ones a level has,
    stacked for its K steps, and the other methods receive one step's slice of them as tensors.

    A subclass must define `initial_values`, `output` and `shift_and_log_scale`; `initialize` is optional.
    """

    @abc.abstractmethod
    def initial_values(self, rng: np.random.Generator, num_steps: int, channels: int, out_channels: int) -> Parameters:
        """The initial parameters of `num_steps` networks, a nested dictionary of arrays [num_steps, ...].

        The names of variables in weights files are the keys joined by underscores.

        Args:
            num_steps: K, the size of the leading axis of every array.
            channels: number of channels of x1 (C/2), the half that passes through.
            out_channels: number of channels of `output`: `channels`, or twice as many for an affine coupling.
        """

    @abc.abstractmethod
    def output(self, parameters: Parameters, x1: tf.Tensor, residuals: Residuals = None) -> tf.Tensor:
        """x1 [..., H, W, C/2] -> [..., H, W, out_channels] in the dtype of the parameters.

        This is the shift of an additive coupling; an affine one uses `shift_and_log_scale`.

        Args:
            parameters: one step's tensors.
            x1: in the model's dtype, or under mixed precision in a lower one, in which the network then computes.
            residuals: see `bijectors.residuals`. A network may ignore this argument; with `backprop="stored"` it is
                then evaluated a second time for its gradient.
        """

    @abc.abstractmethod
    def shift_and_log_scale(
        self, parameters: Parameters, x1: tf.Tensor, residuals: Residuals = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(shift, log_scale), each [..., H, W, C/2], of an affine coupling, from `output`."""

    def initialize(
        self, parameters: Parameters, batches: Sequence[tf.Tensor]
    ) -> tuple[dict[str, Any], Sequence[Residuals]]:
        """Data-dependent initial values for some of the parameters (see `actnorm_init`); by default for none.

        Args:
            parameters: one step's tensors.
            batches: x1 [B, H, W, C/2] of all images that the model is initialised from.

        Returns:
            (the entries of `parameters` to replace; for each batch, the `residuals` with which `output` reuses what was
            computed here, or None).
        """
        return {}, [None] * len(batches)


class ParameterModule(tf.Module):
    """Owns variables, the nested dictionary `parameters`, under one name.

    Args:
        values: nested dictionary of initial numpy values; those named in `NON_TRAINABLE` are not trained.
        dtype: dtype of the floating-point variables.
        name: the first part of the variables' names.
    """

    def __init__(self, values: Parameters, dtype: str, name: str) -> None:
        super().__init__(name=name)

        def variable(key: str, value: np.ndarray) -> tf.Variable:
            value = value if np.issubdtype(value.dtype, np.integer) else value.astype(dtype, copy=False)
            return tf.Variable(value, trainable=key not in NON_TRAINABLE, name=f"{name}/{key}")

        variables = [variable(key, value) for key, value in flatten(values)]
        self.parameters = _pack(values, iter(variables))

    def named_variables(self) -> dict[str, tf.Variable]:
        """{name in weights files: variable}, in a fixed order."""
        return {f"{self.name}/{key}": variable for key, variable in flatten(self.parameters)}

    def assign_stacked(self, steps: Sequence[Parameters]) -> None:
        """Assigns new values, one nested dictionary per step, to the variables [K, ...] of the same names."""
        variables = dict(flatten(self.parameters))
        flat = [dict(flatten(step)) for step in steps]
        for name in flat[0]:
            variables[name].assign(tf.stack([values[name] for values in flat]))


def flatten(parameters: Parameters) -> Iterator[tuple[str, Any]]:
    """(name in weights files, value) of each leaf, in the order of the dictionaries."""
    for key, value in parameters.items():
        if not isinstance(value, Mapping):
            yield key, value
            continue
        separator = "/" if key in _STEP_LAYERS else "_"
        for name, leaf in flatten(value):
            yield f"{key}{separator}{name}", leaf


def _pack(structure: Parameters, leaves: Iterator[Any]) -> dict[str, Any]:
    return {key: _pack(v, leaves) if isinstance(v, Mapping) else next(leaves) for key, v in structure.items()}


def zeros(shapes: Parameters) -> dict[str, Any]:
    """Arrays of zeros in a nested dictionary, from their shapes."""
    return {key: zeros(v) if isinstance(v, Mapping) else np.zeros(v, np.float32) for key, v in shapes.items()}


def slice_of(parameters: Parameters, k: int) -> Any:
    """Step k of stacked parameters [K, ...]."""
    return tf.nest.map_structure(lambda value: value[k], parameters)
