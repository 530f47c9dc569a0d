"""Reads GLOW-tf2's weights.h5 (Keras 2, `save_weights`; release 0.0.1 and later) into a Glow.

The numbers in Keras' layer names depend on the layers that the process built before, so arrays are identified by
their order and checked by their shape: 15 per flow step, level by level; 2 per split; and 1 at the end.

The import swaps the halves of a level's channels (see `nn.glow_tf2`): the columns of every 1x1 matrix, and the rows
and the actnorm of every step except a level's first. Log-densities follow GLOW-tf2's formulas except for one term:
GLOW-tf2 adds 1e-7 to |det W| before taking the logarithm.

References: https://github.com/samuelmat19/GLOW-tf2, `model.py`.
"""

import os
from collections.abc import Mapping

import numpy as np

from glow_tf import weights
from glow_tf._files import printable
from glow_tf.config import MAX_LEVELS, GlowConfig
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.importers.common import Arrays, conv1x1_values, glow_from, prefixed, sign_and_log_abs, stacked
from glow_tf.nn.glow_tf2 import KERNEL_SIDE, exchanged_halves
from glow_tf.nn.layers import LOG_SCALE_FACTOR

# GLOW-tf2 maps a byte v to 0.05 + 0.95 v / 255, which is the middle of its bin in this range.
_STEP = 0.95 / 255
PIXEL_RANGE = (0.05 - _STEP / 2, 0.05 - _STEP / 2 + 256 * _STEP)

# The image sizes of its data sets, MNIST, CIFAR-10 and CIFAR-100.
_KNOWN_SIDES = (28, 32)

_STEP_ARRAYS = 15  # see `_step_shapes`

Pairs = list[tuple[str, np.ndarray]]

_LAYOUTS = {
    "glow_tf": "a weights file of glow_tf, ready to use",
    "keras-2": "a Keras 2 file of another model (GLOW-tf2's layers are flow_step... and z__norm__...)",
    "keras-3": "a Keras 3 file",
    "unknown h5": "an HDF5 file that Keras did not write",
}


def read(path: str | os.PathLike, image_size: int | None = None) -> Glow:
    """Reads a GLOW-tf2 weights file; infers levels, steps, width, channels and image size.

    Args:
        image_size: height and width. Default: inferred from the deepest latents.

    Raises:
        InputError: the file is missing, damaged or another program's, or its model cropped the borders of its images
            because a side was odd at some level: such a model has no density of the whole image.
    """
    layout = weights.layout(path)
    if layout != "glow-tf2":
        raise InputError(f"{printable(path)} is not a weights file of GLOW-tf2: it is {_LAYOUTS[layout]}")
    name = printable(path)
    steps, splits, top = _divided(name, weights.read_foreign(path))
    config = _config(name, steps, splits, top, image_size)
    values: Arrays = {}
    for level, (_, _, channels) in enumerate(config.squeezed_shapes()):
        mine = steps[level * config.num_steps : (level + 1) * config.num_steps]
        values |= prefixed(f"level{level}/", _level_values(name, mine, channels, config.width))
        if level < len(splits):
            shapes = {"kernel": (1, 1, channels // 2, channels), "bias": (channels,)}
            values |= prefixed(f"split{level}/", _named(name, splits[level], shapes))
    mean, log_scale = np.split(top[0][1][0], 2, axis=-1)
    values |= {"top/mean": mean, "top/log_scale": log_scale}
    return glow_from(config, values, "glow-tf2")


def _divided(path: str, arrays: Arrays) -> tuple[list[Pairs], list[Pairs], Pairs]:
    """([the 15 (name, array) pairs of each flow step], [the 2 of each split], [the last pair])."""
    left = [(printable(name), array) for name, array in arrays.items()]
    steps = []
    while left and left[0][1].ndim == 4 and left[0][1].shape[:3] == (1, 1, 1):
        if len(left) < _STEP_ARRAYS:
            raise InputError(f"{path} ends inside a flow step, at {left[-1][0]}")
        steps.append(left[:_STEP_ARRAYS])
        left = left[_STEP_ARRAYS:]
    if not steps:
        raise InputError(f"{path} does not begin with the 15 arrays of a flow step")
    if not len(left) % 2:
        raise InputError(f"{path} has {len(left)} arrays after its flow steps; an odd number is needed")
    return steps, [left[i : i + 2] for i in range(0, len(left) - 1, 2)], left[-1:]


def _config(path: str, steps: list[Pairs], splits: list[Pairs], top: Pairs, image_size: int | None) -> GlowConfig:
    num_levels = len(splits) + 1
    if num_levels > MAX_LEVELS or len(steps) % num_levels:
        raise InputError(f"{path} has {len(steps)} flow steps for {num_levels} levels; they must share them evenly")
    channels = steps[0][0][1].shape[-1]
    deepest = channels * 2 ** (num_levels - 1)
    name, array = top[0]
    if channels % 4 or array.ndim != 4 or array.shape[0] != 1 or array.shape[-1] != 2 * deepest:
        raise InputError(
            f"{path} has {channels} channels at its first level and {name} of shape {array.shape}; "
            f"{num_levels} levels need a multiple of 4 and (1, h, w, {2 * deepest})"
        )
    kernel_name, kernel = steps[0][3]
    if kernel.ndim != 4:
        raise InputError(f"{path} has {kernel_name} of shape {kernel.shape}; a convolution's kernel has 4 axes")
    height, width = array.shape[1:3]
    _check_uncropped(path, height, width, num_levels, image_size)
    return GlowConfig(
        image_shape=(height << num_levels, width << num_levels, channels // 4),
        num_levels=num_levels,
        num_steps=len(steps) // num_levels,
        width=kernel.shape[-1],
        pixel_range=PIXEL_RANGE,
        architecture="glow_tf2",
    )


def _check_uncropped(path: str, height: int, width: int, num_levels: int, image_size: int | None) -> None:
    """Refuses a model that dropped a row or column wherever a side was odd.

    The file stores only the size of the deepest latents, and with cropped borders several image sizes lead to it.
    Without `image_size` the file is refused if an image size of GLOW-tf2's data sets is among them.
    """
    whole = (height << num_levels, width << num_levels)
    seen = f"the deepest latents of {path} are {height}x{width}: {whole[0]}x{whole[1]} images after {num_levels} levels"
    reason = "cropped borders are not scored, so such weights give no likelihood of an image and are not converted"
    if image_size is not None:
        if whole != (image_size, image_size):
            cropped = (image_size >> num_levels, image_size >> num_levels) == (height, width)
            explained = f" unless borders are cropped; {reason}" if cropped else ""
            raise InputError(f"{seen}, not {image_size}x{image_size}{explained}")
        return
    for side in _KNOWN_SIDES:
        if whole[0] < side and (side >> num_levels, side >> num_levels) == (height, width):
            raise InputError(
                f"{seen}, or {side}x{side} ones with their borders cropped; {reason}. "
                f"If they really were {whole[0]}x{whole[1]}, use --img_size {whole[0]}"
            )


def _step_shapes(channels: int, width: int) -> Mapping[str, tuple[int, ...]]:
    """{name: shape} of the arrays of a flow step in their order; those of the coupling network have our names."""
    side, half = KERNEL_SIDE, channels // 2
    return {
        "scale": (1, 1, 1, channels),  # of the actnorm, y = scale * x + bias
        "bias": (1, 1, 1, channels),
        "weight": (channels, channels),  # y_j = sum_i x_i weight[i, j]
        "conv1_kernel": (side, side, half, width),
        "conv1_bias": (width,),
        "actnorm1_scale": (1, 1, 1, width),
        "actnorm1_bias": (1, 1, 1, width),
        "conv2_kernel": (1, 1, width, width),
        "conv2_bias": (width,),
        "actnorm2_scale": (1, 1, 1, width),
        "actnorm2_bias": (1, 1, 1, width),
        "scale_kernel": (side, side, width, half),  # of two last convolutions, which are one here
        "scale_bias": (half,),
        "shift_kernel": (side, side, width, half),
        "shift_bias": (half,),
    }


def _named(path: str, pairs: Pairs, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """{name: array in float64} for the names of `shapes`, if the arrays have these shapes."""
    for (name, array), shape in zip(pairs, shapes.values(), strict=True):
        if array.shape != shape:
            raise InputError(f"{path} has {name} of shape {array.shape} where GLOW-tf2 has {shape}")
    return {name: array.astype(np.float64) for name, (_, array) in zip(shapes, pairs, strict=True)}


def _level_values(path: str, steps: list[Pairs], channels: int, width: int) -> Arrays:
    """{our name: array} of the K steps of a level."""
    named = [_named(path, step, _step_shapes(channels, width)) for step in steps]
    ours, weights_1x1 = [], []
    halves = exchanged_halves(channels)
    for k, (pairs, arrays) in enumerate(zip(steps, named, strict=True)):
        rows = halves if k > 0 else np.arange(channels)  # the halves of all inputs but the first are swapped
        scale, bias, weight = (arrays.pop(name) for name in ("scale", "bias", "weight"))
        sign, log_abs = sign_and_log_abs(path, pairs[0][0], scale.reshape(-1))
        for part in ("kernel", "bias"):
            last = [arrays.pop(f"{head}_{part}") for head in ("scale", "shift")]
            arrays[f"conv3_{part}"] = np.concatenate(last, axis=-1)
        coupling = {key: value.reshape(-1) if "actnorm" in key else value for key, value in arrays.items()}
        actnorm = {"shift": (bias / scale).reshape(-1)[rows], "log_scale": log_abs[rows] / LOG_SCALE_FACTOR}
        ours.append(prefixed("actnorm/", actnorm) | prefixed("coupling/", coupling))
        weights_1x1.append((sign[:, np.newaxis] * weight)[rows][:, halves])
    return stacked(ours) | conv1x1_values(path, [pairs[2][0] for pairs in steps], weights_1x1)
