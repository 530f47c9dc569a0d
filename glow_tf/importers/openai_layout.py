"""The variables of OpenAI's checkpoints: their names and shapes, and ours.

Ours are stacked over the steps of a level and have no axes of length one. Both programs multiply stored log-scales by
three. In OpenAI's output channels, the shift and raw scale of an affine coupling (f1/l_last) alternate, and so do the
mean and log-scale of a split (pool<i>); in ours they are halves.

`Variable`, `Variable_1`, ... belong to the optimizer; `<name>/ExponentialMovingAverage` is the moving average of a
trained variable. A checkpoint stores neither the image size nor the bits per channel.

References: https://github.com/openai/glow, `model.py`, `tfops.py`, `optim.py`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from glow_tf.config import GlowConfig
from glow_tf.importers.common import Shapes

AVERAGED = "/ExponentialMovingAverage"

# Variables that are not trained and have no average.
NON_TRAINABLE = ("invconv/P", "invconv/sign_S", "shuffle/indices", "shuffle/indices_inverse")


class Variable(NamedTuple):
    """A variable of OpenAI's model.

    Attributes:
        ours: the names of our counterparts: one; or two, of which the second holds the last input channel, the edge,
            and the first the rest of the kernel (None if that sees zeros only); or none: `openai` computes the matrices
            W and P of 1x1 convolutions, and the inverse of a shuffle, from several of ours or the other way round.
        step: the index of the flow step in its level; None outside of flow steps.
    """

    name: str
    ours: tuple[str | None, ...]
    shape: tuple[int, ...]
    step: int | None = None


def variables(config: GlowConfig, lu: bool = False) -> Iterator[Variable]:
    """All variables of a model in the order of their creation; `lu`: whether 1x1 convolutions are stored as factors."""
    for level, (_, _, channels) in enumerate(config.squeezed_shapes()):
        for k in range(config.num_steps):
            for name, ours, shape, _ in _step(config, channels, lu):
                yield Variable(f"model/{level}/{k}/{name}", tuple(f"level{level}/{each}" for each in ours), shape, k)
        if level < config.num_levels - 1:
            yield from _zero_conv(f"model/pool{level}/conv/", f"split{level}/", channels // 2, channels)
    if config.learned_top:
        edge, *others = _zero_conv("model/prior/p/", "top/", 2 * channels, 2 * channels)
        yield from (edge._replace(ours=(None, "top/edge")), *others)
    if config.num_classes:
        yield from _zero_linear("model/prior/y_emb/", "top/class_", config.num_classes, 2 * channels)
    if config.classifier:
        yield from _zero_linear("model/classifier/", "classifier/", channels, config.num_classes)


def expected_shapes(config: GlowConfig, lu: bool = False) -> Shapes:
    """{OpenAI's name: shape} of `variables`."""
    return {variable.name: variable.shape for variable in variables(config, lu)}


def _step(config: GlowConfig, channels: int, lu: bool) -> Iterator[Variable]:
    width = config.width
    outputs = channels if config.coupling == "affine" else channels // 2
    yield from _actnorm("", "actnorm/", channels)
    square, vector = (channels, channels), (channels,)
    if config.permutation == "shuffle":
        yield Variable("shuffle/indices", ("permutation/indices",), vector)
        yield Variable("shuffle/indices_inverse", (), vector)
    elif config.permutation == "conv1x1" and not lu:
        yield Variable("invconv/W", (), square)
    elif config.permutation == "conv1x1":
        yield Variable("invconv/P", (), square)
        yield Variable("invconv/L", ("conv1x1/lower",), square)
        yield Variable("invconv/sign_S", ("conv1x1/sign_s",), vector)
        yield Variable("invconv/log_S", ("conv1x1/log_abs_s",), vector)
        yield Variable("invconv/U", ("conv1x1/upper",), square)
    yield Variable("f1/l_1/W", ("coupling/conv1_kernel", "coupling/conv1_edge"), (3, 3, channels // 2 + 1, width))
    yield from _actnorm("f1/l_1/", "coupling/actnorm1_", width)
    yield Variable("f1/l_2/W", ("coupling/conv2_kernel",), (1, 1, width, width))
    yield from _actnorm("f1/l_2/", "coupling/actnorm2_", width)
    yield from _zero_conv("f1/l_last/", "coupling/conv3_", width, outputs)


def _actnorm(theirs: str, ours: str, channels: int) -> Iterator[Variable]:
    yield Variable(f"{theirs}actnorm_center/b", (f"{ours}shift",), (1, 1, 1, channels))
    yield Variable(f"{theirs}actnorm_scale/logs", (f"{ours}log_scale",), (1, 1, 1, channels))


def _zero_conv(theirs: str, ours: str, inputs: int, outputs: int) -> Iterator[Variable]:
    yield Variable(f"{theirs}W", (f"{ours}kernel", f"{ours}edge"), (3, 3, inputs + 1, outputs))
    yield Variable(f"{theirs}b", (f"{ours}bias",), (1, 1, 1, outputs))
    yield Variable(f"{theirs}logs", (f"{ours}log_scale",), (1, outputs))


def _zero_linear(theirs: str, ours: str, inputs: int, outputs: int) -> Iterator[Variable]:
    yield Variable(f"{theirs}W", (f"{ours}kernel",), (inputs, outputs))
    yield Variable(f"{theirs}b", (f"{ours}bias",), (1, outputs))
    yield Variable(f"{theirs}logs", (f"{ours}log_scale",), (1, outputs))


def is_interleaved(name: str, config: GlowConfig) -> bool:
    """Whether two quantities alternate along the last axis of OpenAI's counterpart of a variable."""
    return name.startswith("split") or ("/coupling/conv3_" in name and config.coupling == "affine")


def deinterleave(values: np.ndarray) -> np.ndarray:
    """[..., 2n]: the even channels, then the odd ones."""
    return np.concatenate([values[..., 0::2], values[..., 1::2]], axis=-1)


def interleave(values: np.ndarray) -> np.ndarray:
    """[..., 2n]: the inverse of `deinterleave`."""
    return np.stack(np.split(values, 2, axis=-1), axis=-1).reshape(values.shape)
