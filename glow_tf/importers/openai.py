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
    stacked,
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
    glow = glow_from(config, _values(checkpoint.prefix, config, arrays), "openai")
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
    variables = values_of(glow)
    variables |= {name: layout.interleave(v) for name, v in variables.items() if layout.is_interleaved(name, config)}
    arrays: Arrays = {}
    for level in range(config.num_levels):
        steps = without_prefix(variables, f"level{level}/")
        permutations = _exported_permutations(config, steps, lu)
        for k in range(config.num_steps):
            one = {name: value[k] for name, value in steps.items()}
            arrays |= prefixed(f"model/{level}/{k}/", _exported(layout.STEP, one) | permutations[k])
    for theirs, table, ours in layout.parts(config):
        arrays |= prefixed(theirs, _exported(table, without_prefix(variables, ours)))
    return {name: _as_stored(arrays[name]).reshape(shape) for name, shape in expected_shapes(config, lu).items()}


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


def _values(prefix: str, config: GlowConfig, arrays: Arrays) -> Arrays:
    """{our name: array} from OpenAI's arrays."""
    values: Arrays = {}
    for level in range(config.num_levels):
        steps = [without_prefix(arrays, f"model/{level}/{k}/") for k in range(config.num_steps)]
        ours = stacked([_imported(layout.STEP, step) for step in steps])
        ours |= _permutation_values(prefix, config, steps, level)
        values |= prefixed(f"level{level}/", ours)
    for theirs, table, name in layout.parts(config):
        values |= prefixed(name, _imported(table, without_prefix(arrays, theirs)))
    return values | {name: layout.deinterleave(v) for name, v in values.items() if layout.is_interleaved(name, config)}


def _imported(table: Mapping[str, Any], arrays: Arrays) -> Arrays:
    """One part's arrays under our names."""
    values: dict[str | None, np.ndarray] = {}
    for theirs, ours in table.items():
        array = arrays[theirs]
        if isinstance(ours, tuple):
            values |= {ours[0]: array[:, :, :-1], ours[1]: array[:, :, -1]}
        else:
            # Axes of length one are for broadcasting, or belong to a 1x1 kernel.
            values[ours] = array.reshape(array.shape[-2:] if theirs.endswith("W") else array.shape[-1:])
    return {name: value for name, value in values.items() if name is not None}


def _permutation_values(prefix: str, config: GlowConfig, steps: list[Arrays], level: int) -> Arrays:
    names = [f"model/{level}/{k}/" for k in range(config.num_steps)]
    if config.permutation == "reverse":
        channels = steps[0]["actnorm_center/b"].shape[-1]
        return {"permutation/indices": np.tile(np.arange(channels)[::-1], [len(steps), 1])}
    if config.permutation == "shuffle":
        for name, step in zip(names, steps, strict=True):
            _check_order(prefix, name, step["shuffle/indices"], step["shuffle/indices_inverse"])
        return {"permutation/indices": np.stack([step["shuffle/indices"] for step in steps])}
    if "invconv/W" in steps[0]:
        return conv1x1_values(prefix, [name + "invconv/W" for name in names], [step["invconv/W"] for step in steps])
    return stacked([_lu_values(prefix, name, step) for name, step in zip(names, steps, strict=True)])


def _lu_values(prefix: str, name: str, step: Arrays) -> Arrays:
    """The factors of one 1x1 convolution, unchanged."""
    matrix = step["invconv/P"]
    ones = np.argmax(matrix, axis=1)
    if not np.array_equal(np.sort(ones), np.arange(len(ones))) or not np.array_equal(matrix, np.eye(len(ones))[ones]):
        raise InputError(f"{printable(prefix)} has {name}invconv/P, which is not a permutation matrix")
    if not (np.abs(step["invconv/sign_S"]) == 1).all():
        raise InputError(f"{printable(prefix)} has {name}invconv/sign_S with values other than 1 and -1")
    parts = [ones, *(step[f"invconv/{part}"] for part in ("L", "log_S", "sign_S", "U"))]
    return {f"conv1x1/{key}": part for key, part in zip(PLU_NAMES, parts, strict=True)}


def _check_order(prefix: str, name: str, indices: np.ndarray, inverse: np.ndarray) -> None:
    whole = np.arange(len(indices))
    if not np.array_equal(np.sort(indices), whole) or not np.array_equal(indices[inverse % len(whole)], whole):
        raise InputError(
            f"{printable(prefix)} has {name}shuffle/indices that is not a permutation, or whose inverse differs"
        )


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


def _exported(table: Mapping[str, Any], values: Arrays) -> Arrays:
    """One part's values under OpenAI's names, not yet in their shapes."""
    arrays: Arrays = {}
    for theirs, ours in table.items():
        if isinstance(ours, tuple):
            edge = values[ours[1]][:, :, np.newaxis]
            # The top prior's other input channels, as many as its output channels, see zeros only.
            kernel = np.zeros([3, 3, edge.shape[-1], edge.shape[-1]]) if ours[0] is None else values[ours[0]]
            arrays[theirs] = np.concatenate([kernel, edge], axis=2)
        else:
            arrays[theirs] = values[ours]
    return arrays


def _exported_permutations(config: GlowConfig, steps: Arrays, lu: bool) -> list[Arrays]:
    """[{name: array}, ...], one per step of a level."""
    if config.permutation == "reverse":
        return [{}] * config.num_steps
    if config.permutation == "shuffle":
        return [
            {"shuffle/indices": order, "shuffle/indices_inverse": np.argsort(order).astype(np.int32)}
            for order in steps["permutation/indices"]
        ]
    factors = [steps[f"conv1x1/{name}"] for name in PLU_NAMES]
    if not lu:
        return [{"invconv/W": weight} for weight in plu_weight(*map(tf.constant, factors)).numpy()]
    names = ("invconv/P", "invconv/L", "invconv/log_S", "invconv/sign_S", "invconv/U")
    factors[0] = np.stack([np.eye(len(order))[order] for order in factors[0]])
    return [dict(zip(names, one, strict=True)) for one in zip(*factors, strict=True)]


def _as_stored(array: np.ndarray) -> np.ndarray:
    return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32)
