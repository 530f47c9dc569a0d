"""The K flow steps of one level: their variables, and the bijectors made from them."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.bijectors import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    ChannelPermutation,
    FlowStep,
    ImageBijector,
    InvertibleConv1x1,
    Scan,
    actnorm_init,
    plu_inverse,
    plu_weight,
)
from glow_tf.bijectors.invertible_conv import random_rotations
from glow_tf.bijectors.permutation import fixed_orders
from glow_tf.bijectors.residuals import Residuals
from glow_tf.bijectors.shapes import halves
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.nn.base import CouplingNetwork, ParameterModule, Parameters, slice_of, zeros
from glow_tf.nn.layers import LOG_SCALE_FACTOR


class FlowSteps(ParameterModule):
    """The K flow steps of one level, their parameters stacked: every variable is [K, ...].

    The parameters of a step are {"actnorm": {...}, "conv1x1" or "permutation": {...}, "coupling": {...}}.
    `channels` is C of the squeezed images that this level works on.
    """

    def __init__(
        self, config: GlowConfig, channels: int, network: CouplingNetwork, rng: np.random.Generator, name: str
    ) -> None:
        self._network = network
        self._affine = config.coupling == "affine"
        self._num_steps = k = config.num_steps
        coupling = network.initial_values(rng, k, channels // 2, channels if self._affine else channels // 2)
        if config.permutation == "conv1x1":
            permutation = {"conv1x1": random_rotations(rng, k, channels)}
        else:
            permutation = {"permutation": fixed_orders(config.permutation, rng, k, channels)}
        actnorm = zeros({"shift": (k, channels), "log_scale": (k, channels)})
        super().__init__({"actnorm": actnorm, **permutation, "coupling": coupling}, config.dtype, name)
        self._dtype = tf.as_dtype(config.dtype)

    def bijector(self, backprop: str = "recompute", network_dtype: tf.DType | None = None) -> Scan:
        """The `Scan` bijector of all K steps; for the arguments see `Glow.transformed_distribution`."""
        if network_dtype is not None and not tf.as_dtype(network_dtype).is_floating:
            raise InputError(f"network_dtype is {tf.as_dtype(network_dtype).name}; it must be a floating-point type")
        return Scan(
            functools.partial(self.step, network_dtype=network_dtype),
            self.parameters,
            self._num_steps,
            prepare=self.prepare,
            backprop=backprop,
            dtype=self._dtype,
            name=f"{self.name}_steps",
        )

    def prepare(self, stacked: Parameters, directions: tuple[str, ...] = ("inverse",)) -> dict[str, Any]:
        """Computes the arguments of the steps' bijectors from the stored parameters, for all K steps at once.

        The stored log-scales of the actnorms are multiplied by three, and the PLU factors of the 1x1 convolutions
        become the matrices that the directions need. The couplings' parameters stay as they are.
        """
        actnorm = stacked["actnorm"]
        prepared = {**stacked, "actnorm": {**actnorm, "log_scale": LOG_SCALE_FACTOR * actnorm["log_scale"]}}
        if "conv1x1" in stacked:
            factors = stacked["conv1x1"]
            prepared["conv1x1"] = {"log_abs_det": tf.reduce_sum(factors["log_abs_s"], axis=-1)}
            if "inverse" in directions:
                prepared["conv1x1"]["weight"] = plu_weight(**factors)
            if "forward" in directions:
                prepared["conv1x1"]["inverse_weight"] = plu_inverse(**factors)
        return prepared

    def step(
        self, parameters: Parameters, residuals: Residuals = None, network_dtype: tf.DType | None = None
    ) -> FlowStep:
        """The bijector of one step, from its slice of the parameters that `prepare` returns."""
        return FlowStep(
            ActNorm(**parameters["actnorm"]),
            self._permutation(parameters),
            self._coupling(parameters["coupling"], residuals, network_dtype),
        )

    def each_step(self) -> Iterator[FlowStep]:
        """The bijectors of the K steps, the one nearest to the image first, for the inverse direction only."""
        prepared = self.prepared()
        for k in range(self._num_steps):
            yield self.step(slice_of(prepared, k))

    def prepared(self) -> dict[str, Any]:
        """`prepare` of the variables' current values, for the inverse direction."""
        return self.prepare(tf.nest.map_structure(tf.convert_to_tensor, self.parameters))

    def initialize(self, batches: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Sets every actnorm so that it standardises its input over all of `batches`, step after step.

        Runs eagerly, outside of any replica: assigning to a mirrored variable here sets all its copies. The batches are
        squeezed images [B, H, W, C]; returns the results of the K steps for them.
        """
        batches = list(batches)
        prepared = self.prepared()
        self.assign_stacked([self._initialize_step(slice_of(prepared, k), batches) for k in range(self._num_steps)])
        return batches

    def _initialize_step(self, parameters: Parameters, batches: list[tf.Tensor]) -> dict[str, Any]:
        """The data-dependent parameters of one step, as stored; overwrites `batches` by the results of the step."""
        shift, log_scale = actnorm_init(batches)
        for layer in (ActNorm(shift, log_scale), self._permutation(parameters)):
            batches[:] = [layer.inverse_and_log_det(batch)[0] for batch in batches]
        x1_batches = [halves(batch)[0] for batch in batches]
        coupling, residuals = self._network.initialize(parameters["coupling"], x1_batches)
        for i, residuals_of_batch in enumerate(residuals):
            layer = self._coupling({**parameters["coupling"], **coupling}, residuals_of_batch)
            batches[i] = layer.inverse_and_log_det(batches[i])[0]
        return {"actnorm": {"shift": shift, "log_scale": log_scale / LOG_SCALE_FACTOR}, "coupling": coupling}

    def _permutation(self, parameters: Parameters) -> ImageBijector:
        if "permutation" in parameters:
            return ChannelPermutation(**parameters["permutation"], dtype=self._dtype)
        return InvertibleConv1x1(**parameters["conv1x1"])

    def _coupling(
        self, parameters: Parameters, residuals: Residuals, network_dtype: tf.DType | None = None
    ) -> ImageBijector:
        network = self._network.shift_and_log_scale if self._affine else self._network.output
        return (AffineCoupling if self._affine else AdditiveCoupling)(
            lambda x1: network(parameters, tf.cast(x1, network_dtype or self._dtype), residuals), dtype=self._dtype
        )
