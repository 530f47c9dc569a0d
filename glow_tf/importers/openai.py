"""Reads OpenAI's checkpoints (TF1, V2 format) into a Glow, and writes them from one.

`openai_layout` maps the names and shapes of their variables to ours.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf._files import printable
from glow_tf.bijectors.invertible_conv import PLU_NAMES, plu_weight
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.importers import openai_layout as layout
from glow_tf.importers.common import (
    Arrays,
    Shapes,
    check_finite,
    check_shapes,
    conv1x1_values,
    glow_from,
    inferred_config,
    prefixed,
    without_prefix,
)
from glow_tf.importers.openai_layout import AVERAGED, expected_shapes
from glow_tf.importers.tf_checkpoint import Checkpoint
from glow_tf.persistence import values_of


def read(prefix: str | os.PathLike, image_size: int, num_bits: int, averaged: bool = False) -> Glow:
    """Reads an OpenAI checkpoint; infers everything except `image_size` and `num_bits`.

    Args:
        prefix: see `Checkpoint`.
        image_size: height and width.
        num_bits: bits per channel, 8 or 5 in the published runs.
        averaged: whether to read the moving averages of the trained variables instead of their last values.

    Raises:
        InputError: the files are missing, damaged or another program's, model variables are missing, unknown or of
            the wrong shape (the message names them), or the image size does not fit.
    """
    checkpoint = Checkpoint(prefix)
    found = {name: v.shape for name, v in checkpoint.variables.items() if name.startswith("model/")}
    shapes = {name: shape for name, shape in found.items() if not name.endswith(AVERAGED)}
    config, lu = _infer(checkpoint.prefix, shapes, image_size, num_bits)
    check_shapes(checkpoint.prefix, shapes, expected_shapes(config, lu))
    sources = {name: name for name in shapes}
    if averaged:
        sources |= _averaged_names(checkpoint.prefix, found, shapes)
    arrays = _read_arrays(checkpoint, sources)
    glow = glow_from(config, _values(checkpoint.prefix, config, lu, arrays), "openai")
    glow.metadata["averaged"] = bool(averaged)
    return glow


def write(glow: Glow, prefix: str | os.PathLike, lu: bool = False) -> None:
    """Writes PREFIX.index and PREFIX.data-00000-of-00001 with OpenAI's names; for `lu` see `export`.

    Raises:
        InputError: as `export`, or the folder does not exist.
        OSError: the files cannot be written.
    """
    prefix = os.path.abspath(prefix)
    arrays = export(glow, lu)
    if not os.path.isdir(os.path.dirname(prefix)):
        raise InputError(f"the folder {printable(os.path.dirname(prefix))} does not exist")
    try:
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=list(arrays),
            shape_and_slices=[""] * len(arrays),
            tensors=list(arrays.values()),
        )
    except tf.errors.OpError as error:
        raise OSError(f"{prefix} cannot be written: {error.message}") from error
    except ValueError as error:  # TensorFlow's names are UTF-8
        raise InputError(f"{printable(prefix)} is not UTF-8; name another prefix") from error


def export(glow: Glow, lu: bool = False) -> Arrays:
    """{OpenAI's name: array} of all model variables.

    Args:
        lu: whether to write 1x1 convolutions as P, L, U, sign_S and log_S, bit for bit, instead of as one matrix W.
            OpenAI's published code reads W; the other form is a switch in its source.

    Raises:
        InputError: OpenAI's code cannot represent the model.
    """
    config = glow.config
    _check_exportable(config, lu)
    values = values_of(glow)
    values |= {name: layout.interleave(v) for name, v in values.items() if layout.is_interleaved(name, config)}
    arrays: Arrays = {}
    for level in range(config.num_levels):
        for k, permutation in enumerate(_exported_permutations(config, without_prefix(values, f"level{level}/"), lu)):
            arrays |= prefixed(f"model/{level}/{k}/", permutation)
    for name, ours, shape, step in layout.variables(config, lu):
        if ours:
            parts = [None if each is None else values[each] if step is None else values[each][step] for each in ours]
            arrays[name] = _exported(*parts)
        stored = arrays.pop(name)  # in the order of OpenAI's code
        is_index = np.issubdtype(stored.dtype, np.integer)
        arrays[name] = (stored if is_index else stored.astype(np.float32)).reshape(shape)
    return arrays


# ------------------------------------------------------------------------------------------- reading


def _infer(prefix: str, shapes: Shapes, image_size: int, num_bits: int) -> tuple[GlowConfig, bool]:
    """(GlowConfig, whether the 1x1 convolutions are in LU form), from names and shapes."""
    if not shapes:
        raise InputError(
            f"{printable(prefix)} is a checkpoint of another program: no variable's name begins with model/"
        )
    steps = [match for match in (re.match(r"model/(\d{1,6})/(\d{1,6})/", name) for name in shapes) if match]
    first = [f"model/0/0/{name}" for name in ("actnorm_center/b", "f1/l_1/W", "f1/l_last/W")]
    check_shapes(prefix, {}, {name: () for name in first if not shapes.get(name)})
    channels, width, out = (shapes[name][-1] for name in first)
    kinds = {name.split("/", 3)[3] for name in shapes if re.match(r"model/\d+/\d+/(invconv|shuffle)/", name)}
    permutation = "reverse" if not kinds else "shuffle" if "shuffle/indices" in kinds else "conv1x1"
    classes = shapes.get("model/prior/y_emb/W")
    config = inferred_config(
        prefix,
        first[0],
        channels,
        steps,
        image_size,
        width=width,
        coupling="affine" if out == channels else "additive",
        permutation=permutation,
        num_bits=num_bits,
        learned_top=any(name.startswith("model/prior/p/") for name in shapes),
        num_classes=classes[0] if classes else 0,
        classifier=bool(classes) and any(name.startswith("model/classifier/") for name in shapes),
    )
    return config, "invconv/P" in kinds


def _averaged_names(prefix: str, found: Shapes, shapes: Shapes) -> dict[str, str]:
    """{name: name of its moving average} of the trained variables."""
    names = {name: name + AVERAGED for name in shapes if not name.endswith(layout.NON_TRAINABLE)}
    if not any(name in found for name in names.values()):
        raise InputError(f"{printable(prefix)} holds no averaged values (no name ends in {AVERAGED})")
    check_shapes(
        prefix,
        {name: shape for name, shape in found.items() if name in set(names.values())},
        {names[name]: shape for name, shape in shapes.items() if name in names},
    )
    return names


def _read_arrays(checkpoint: Checkpoint, sources: Mapping[str, str]) -> Arrays:
    """{name: the array of the variable that `sources` names for it}."""
    for name, source in sources.items():
        is_index = name.endswith(("shuffle/indices", "shuffle/indices_inverse"))
        dtype = checkpoint.variables[source].dtype
        if not (dtype.is_integer if is_index else dtype.is_floating):
            raise InputError(f"{printable(checkpoint.prefix)} has {source} of type {dtype.name}")
    read = checkpoint.read(list(sources.values()))
    arrays = {name: read[source] for name, source in sources.items()}
    check_finite(checkpoint.prefix, arrays)
    return arrays


def _values(prefix: str, config: GlowConfig, lu: bool, arrays: Arrays) -> Arrays:
    """{our name: array} from OpenAI's arrays."""
    found: dict[str, list[np.ndarray]] = {}
    for variable in layout.variables(config, lu):
        for name, part in zip(variable.ours, _imported(variable, arrays[variable.name]), strict=True):
            if name is not None:
                found.setdefault(name, []).append(part)
    values = {name: np.stack(steps) if name.startswith("level") else steps[0] for name, steps in found.items()}
    for level in range(config.num_levels):
        steps = [without_prefix(arrays, f"model/{level}/{k}/") for k in range(config.num_steps)]
        values |= prefixed(f"level{level}/", _permutation_values(prefix, config, steps, level))
    return values | {name: layout.deinterleave(v) for name, v in values.items() if layout.is_interleaved(name, config)}


def _imported(variable: layout.Variable, array: np.ndarray) -> list[np.ndarray]:
    """The arrays of the variables `variable.ours`."""
    if len(variable.ours) == 2:
        return [array[:, :, :-1], array[:, :, -1]]
    # Axes of length one are for broadcasting, or belong to a 1x1 kernel.
    axes = 2 if variable.name.endswith(("W", "L", "U")) else 1
    return [array.reshape(array.shape[-axes:])] if variable.ours else []


def _permutation_values(prefix: str, config: GlowConfig, steps: list[Arrays], level: int) -> Arrays:
    """Those variables of a level's permutations that correspond to none of OpenAI's alone."""
    names = [f"model/{level}/{k}/" for k in range(config.num_steps)]
    if config.permutation == "reverse":
        channels = steps[0]["actnorm_center/b"].shape[-1]
        return {"permutation/indices": np.tile(np.arange(channels)[::-1], [len(steps), 1])}
    if config.permutation == "shuffle":
        for name, step in zip(names, steps, strict=True):
            order, inverse = step["shuffle/indices"], step["shuffle/indices_inverse"]
            if not _is_order(order) or not np.array_equal(order[inverse % len(order)], np.arange(len(order))):
                problem = "shuffle/indices that is not a permutation, or whose inverse differs"
                raise InputError(f"{printable(prefix)} has {name}{problem}")
        return {}
    if "invconv/W" in steps[0]:
        return conv1x1_values(prefix, [name + "invconv/W" for name in names], [step["invconv/W"] for step in steps])
    orders = [_checked_order(prefix, name, step) for name, step in zip(names, steps, strict=True)]
    return {"conv1x1/permutation": np.stack(orders)}


def _checked_order(prefix: str, name: str, step: Arrays) -> np.ndarray:
    """The column of the one in each row of P, the permutation matrix of one 1x1 convolution."""
    matrix = step["invconv/P"]
    ones = np.argmax(matrix, axis=1)
    if not _is_order(ones) or not np.array_equal(matrix, np.eye(len(ones))[ones]):
        raise InputError(f"{printable(prefix)} has {name}invconv/P, which is not a permutation matrix")
    if not (np.abs(step["invconv/sign_S"]) == 1).all():
        raise InputError(f"{printable(prefix)} has {name}invconv/sign_S with values other than 1 and -1")
    return ones


def _is_order(indices: np.ndarray) -> bool:
    return np.array_equal(np.sort(indices), np.arange(len(indices)))


# ------------------------------------------------------------------------------------------- writing


def _check_exportable(config: GlowConfig, lu: bool) -> None:
    if config.architecture != "openai":
        raise InputError(f"a model of the architecture {config.architecture} cannot be exported to OpenAI's format")
    if config.dequantization != "uniform":
        raise InputError("a model with variational dequantisation cannot be exported to OpenAI's format")
    if config.pixels != "scale":
        raise InputError("a model of the logit of the pixels cannot be exported to OpenAI's format")
    if tuple(config.pixel_range) != (-0.5, 0.5):
        raise InputError(f"OpenAI's pixels lie between -0.5 and 0.5; this model's pixel_range is {config.pixel_range}")
    if lu and config.permutation != "conv1x1":
        raise InputError(f"the LU form needs 1x1 convolutions; this model's permutation is {config.permutation}")


def _exported(kernel: Any, edge: np.ndarray | None = None) -> np.ndarray:
    """The inverse of `_imported`, not yet in OpenAI's shape."""
    if edge is None:
        return kernel
    edge = edge[:, :, np.newaxis]
    if kernel is None:  # the top prior's other input channels, as many as its output channels, see zeros only
        kernel = np.zeros([3, 3, edge.shape[-1], edge.shape[-1]])
    return np.concatenate([kernel, edge], axis=2)


def _exported_permutations(config: GlowConfig, steps: Arrays, lu: bool) -> list[Arrays]:
    """[{name: array}, ...], one per step of a level, of the variables that correspond to none of ours alone."""
    if config.permutation == "reverse":
        return [{}] * config.num_steps
    if config.permutation == "shuffle":
        orders = steps["permutation/indices"]
        return [{"shuffle/indices_inverse": np.argsort(order).astype(np.int32)} for order in orders]
    if lu:
        return [{"invconv/P": np.eye(len(order))[order]} for order in steps["conv1x1/permutation"]]
    weights = plu_weight(*(tf.constant(steps[f"conv1x1/{name}"]) for name in PLU_NAMES))
    return [{"invconv/W": weight} for weight in weights.numpy()]
