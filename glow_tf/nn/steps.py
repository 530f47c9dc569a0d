"""The variables of each part of a Glow, and the bijectors made from them.

A bijector is thin and takes tensors; what lives here owns the variables, knows how they start, and names
them: `named_variables()` gives {readable name: variable}, the names of `weights.h5`.
"""

import functools

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.actnorm import ActNorm
from glow_tf.bijectors.coupling import AdditiveCoupling, AffineCoupling
from glow_tf.bijectors.flow_step import FlowStep
from glow_tf.bijectors.gaussian import Gaussian
from glow_tf.bijectors.invertible_conv import InvertibleConv1x1, plu_decompose, plu_inverse, plu_weight
from glow_tf.bijectors.permutation import ChannelPermutation
from glow_tf.bijectors.residuals import SaveResiduals, UseResiduals
from glow_tf.bijectors.scan import Scan
from glow_tf.initialization import actnorm_init
from glow_tf.nn import openai
from glow_tf.nn.openai import LOG_SCALE_FACTOR

PLU_NAMES = ("permutation", "lower", "log_abs_s", "sign_s", "upper")

# What is fixed from the start; everything else is trained.
NON_TRAINABLE = ("conv1x1/permutation", "conv1x1/sign_s", "permutation/indices")


class Part(tf.Module):
    """Variables under one name prefix.

    Args:
        values: {name: initial numpy value}; integer and `NON_TRAINABLE` ones are not trained.
        dtype: of the float variables.
        name: the prefix.
    """

    def __init__(self, values, dtype, name):
        super().__init__(name=name)
        self._by_name = {
            key: tf.Variable(
                value if np.issubdtype(value.dtype, np.integer) else value.astype(dtype, copy=False),
                trainable=key not in NON_TRAINABLE,
                name=f"{name}/{key}",
            )
            for key, value in values.items()
        }

    def named_variables(self):
        """{"<prefix>/<name>": variable}, in a fixed order."""
        return {f"{self.name}/{key}": variable for key, variable in self._by_name.items()}

    def __getitem__(self, key):
        return self._by_name[key]


class FlowSteps(Part):
    """The K flow steps of one level, their parameters stacked: every variable is [K, ...].

    Args:
        config: the GlowConfig.
        channels: C of the squeezed images at this level.
        network: the coupling network (see `networks.OpenAINetwork`).
        rng: a numpy Generator for the initial values.
        name: the prefix of the variables' names.
    """

    def __init__(self, config, channels, network, rng, name):
        self._num_steps = config.num_steps
        self._channels = channels
        self._network = network
        self._affine = config.coupling == "affine"
        k = config.num_steps
        out_channels = channels if self._affine else channels // 2
        coupling = network.initial_values(rng, k, channels // 2, out_channels)
        values = {
            "actnorm/shift": np.zeros([k, channels], np.float32),
            "actnorm/log_scale": np.zeros([k, channels], np.float32),
            **_initial_permutation(config.permutation, rng, k, channels),
            **{f"coupling/{key}": value for key, value in coupling.items()},
        }
        super().__init__(values, config.dtype, name)

    def bijector(self, backprop="recompute", network_dtype=None):
        """The `Scan` bijector of all K steps; for the arguments see `Glow.transformed_distribution`."""
        return Scan(
            functools.partial(self.step, network_dtype=network_dtype),
            self._by_name,
            self._num_steps,
            prepare=self.prepare,
            backprop=backprop,
            dtype=self["actnorm/shift"].dtype,
            name=f"{self.name}_steps",
        )

    def prepare(self, stacked, directions):
        """From what is stored to what a step's bijector takes, all K at once.

        The stored log-scales count threefold, and factors of the 1x1 convolutions become the matrices that
        the directions need.
        """
        stacked = stacked | {"actnorm/log_scale": LOG_SCALE_FACTOR * stacked["actnorm/log_scale"]}
        if "conv1x1/lower" not in stacked:
            return stacked
        factors = [stacked[f"conv1x1/{name}"] for name in PLU_NAMES]
        prepared = {key: value for key, value in stacked.items() if not key.startswith("conv1x1/")}
        prepared["conv1x1/log_abs_det"] = tf.reduce_sum(stacked["conv1x1/log_abs_s"], axis=-1)
        if "inverse" in directions:
            prepared["conv1x1/weight"] = plu_weight(*factors)
        if "forward" in directions:
            prepared["conv1x1/inverse_weight"] = plu_inverse(*factors)
        return prepared

    def prepared(self, directions):
        """What `prepare` makes of the variables as they are now: {name: [K, ...]}."""
        return self.prepare({key: tf.convert_to_tensor(v) for key, v in self._by_name.items()}, directions)

    def each_step(self):
        """The bijectors of the K steps one by one, from the image on, for their inverse direction."""
        prepared = self.prepared(("inverse",))
        for k in range(self._num_steps):
            yield self.step({key: value[k] for key, value in prepared.items()})

    def step(self, tensors, memory=None, network_dtype=None):
        """The bijector of one step from its slice of what `prepare` returned; `memory` goes to its network."""
        actnorm = ActNorm(tensors["actnorm/shift"], tensors["actnorm/log_scale"])
        return FlowStep(actnorm, self._permutation(tensors), self._coupling(tensors, memory, network_dtype))

    def initialize(self, batches):
        """Sets every actnorm so that it standardises its input over all of `batches`, step after step.

        Runs eagerly, outside of any replica: assigning to a mirrored variable here sets all its copies.

        Args:
            batches: a list of tensors [B, H, W, C], squeezed; together they are the data.
        Returns:
            the same batches after the K steps.
        """
        prepared = {key: tf.unstack(value) for key, value in self.prepared(("inverse",)).items()}
        found = []
        for k in range(self._num_steps):
            new, batches = self._initialize_step({key: values[k] for key, values in prepared.items()}, batches)
            found.append(new)
        for key in found[0]:
            factor = LOG_SCALE_FACTOR if key == "actnorm/log_scale" else 1.0
            self[key].assign(tf.stack([new[key] for new in found]) / factor)
        return batches

    def _initialize_step(self, tensors, batches):
        """({name: value} of one step's data-dependent parameters, as `step` takes them; the batches after the step)."""
        shift, log_scale = actnorm_init(batches)
        for layer in (ActNorm(shift, log_scale), self._permutation(tensors)):
            batches = [layer.inverse_and_log_det(batch)[0] for batch in batches]
        kept = [tf.split(batch, 2, axis=-1)[0] for batch in batches]
        memories = [SaveResiduals() for _ in batches]
        found = self._network.initialize(_without_prefix(tensors, "coupling/"), kept, memories)
        new = {f"coupling/{key}": value for key, value in found.items()}
        for i, memory in enumerate(memories):
            coupling = self._coupling(tensors | new, UseResiduals(memory.kept) if memory.kept else None)
            batches[i] = coupling.inverse_and_log_det(batches[i])[0]
        return {"actnorm/shift": shift, "actnorm/log_scale": log_scale} | new, batches

    def _permutation(self, tensors):
        if "permutation/indices" in tensors:
            return ChannelPermutation(tensors["permutation/indices"], dtype=tensors["actnorm/shift"].dtype)
        return InvertibleConv1x1(
            tensors.get("conv1x1/weight"), tensors.get("conv1x1/inverse_weight"), tensors["conv1x1/log_abs_det"]
        )

    def _coupling(self, tensors, memory, network_dtype=None):
        parameters = _without_prefix(tensors, "coupling/")
        dtype = tensors["actnorm/shift"].dtype
        kind, function = (
            (AffineCoupling, self._network.shift_and_log_scale)
            if self._affine
            else (AdditiveCoupling, self._network.output)
        )
        return kind(lambda kept: function(parameters, tf.cast(kept, network_dtype or dtype), memory), dtype=dtype)


class SplitPrior(Part):
    """The Gaussian of the half that leaves, predicted from the half that stays by a zero-initialised convolution.

    mean and log-scale are halves of the convolution's output (in OpenAI's code they take turns).

    Args:
        config: the GlowConfig.
        channels: C before the split.
        name: the prefix of the variables' names.
    """

    def __init__(self, config, channels, name):
        super().__init__(_zeros(openai.conv2d_zeros_shapes(channels // 2, channels)), config.dtype, name)

    def __call__(self, kept):
        """kept [..., H, W, C/2] -> (mean, log_scale), each [..., H, W, C/2]."""
        return tf.split(openai.conv2d_zeros(self._by_name, kept), 2, axis=-1)


class TopPrior(Part):
    """The learned Gaussian of the deepest latents: what a zero-initialised convolution makes of an empty image.

    Its input is zero, so only the edge channel, the bias and the log-scale matter: the mean and scale of a
    channel depend on how near the border a position is, and on the class where there are classes.

    Args:
        config: the GlowConfig.
        shape: (H, W, C) of the deepest latents.
        name: the prefix of the variables' names.
    """

    def __init__(self, config, shape, name):
        self._shape = tuple(shape)
        outputs = 2 * shape[-1]
        shapes = openai.conv2d_zeros_shapes(0, outputs)
        del shapes["kernel"]
        if not config.learned_top:
            shapes = {}
        if config.num_classes:
            of_classes = openai.linear_zeros_shapes(config.num_classes, outputs)
            shapes |= {f"class_{key}": shape for key, shape in of_classes.items()}
        super().__init__(_zeros(shapes), config.dtype, name)
        self._dtype = tf.as_dtype(config.dtype)

    def bijector(self, labels=None):
        """The Gaussian bijector, of each label's class where there are classes.

        Args:
            labels: [B] integers for a class-conditional model, else None.
        """
        return Gaussian(_TopPriorOf(self, labels), dtype=self._dtype, name="top_prior")

    def mean_and_log_scale(self, labels=None):
        """Each [H, W, C], or [B, H, W, C] with labels."""
        h, w, c = self._shape
        outputs = tf.zeros([h, w, 2 * c], self._dtype)
        if "edge" in self._by_name:
            outputs += openai.conv2d_zeros_constant(self._by_name, h, w)
        if labels is not None:
            parameters = _without_prefix(self._by_name, "class_")
            outputs += openai.linear_zeros(parameters, labels)[:, tf.newaxis, tf.newaxis, :]
        return tf.split(outputs, 2, axis=-1)


class _TopPriorOf(tf.Module):
    """The top Gaussian's parameters for some labels, as a module: so TFP finds the variables."""

    def __init__(self, top, labels):
        super().__init__(name="top_prior")
        self._top = top
        self._labels = labels

    def __call__(self):
        return self._top.mean_and_log_scale(self._labels)


class Classifier(Part):
    """Class logits from the deepest latents, averaged over positions (OpenAI's `weight_y` term)."""

    def __init__(self, config, channels, name):
        super().__init__(_zeros(openai.linear_zeros_shapes(channels, config.num_classes)), config.dtype, name)


def _initial_permutation(kind, rng, num_steps, channels):
    """The permutation's variables: a random rotation, a random order, or the reversed order, for each step."""
    if kind == "conv1x1":
        rotations = np.linalg.qr(rng.standard_normal([num_steps, channels, channels]))[0]
        return plu_values(rotations)
    reverse = np.arange(channels, dtype=np.int32)[::-1]
    orders = [rng.permutation(channels) if kind == "shuffle" else reverse for _ in range(num_steps)]
    return {"permutation/indices": np.stack(orders).astype(np.int32)}


def plu_values(weights):
    """The variables of 1x1 convolutions [K, C, C] as numpy arrays, {name: [K, ...]}."""
    parts = plu_decompose(tf.constant(weights))
    return {f"conv1x1/{name}": part.numpy() for name, part in zip(PLU_NAMES, parts, strict=True)}


def _zeros(shapes):
    return {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}


def _without_prefix(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
