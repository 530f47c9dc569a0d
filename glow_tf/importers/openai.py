"""OpenAI's checkpoints (TF1, V2 format): read into a Glow, and written from one.

i is the level, k the step. Names there stand below `model/`; those of a flow step below `model/i/k/`, and
here below `level<i>/`, stacked over k. Shapes are in `expected_shapes`; ones in them are dropped here. Both
sides store log-scales that count threefold.

| OpenAI's name                     | name here                                                            |
|-----------------------------------|----------------------------------------------------------------------|
| actnorm_center/b                  | actnorm/shift                                                        |
| actnorm_scale/logs                | actnorm/log_scale                                                    |
| invconv/W                         | conv1x1/*: its factors P, L, s, U                                    |
| or invconv/P                      | conv1x1/permutation: the columns of the ones                         |
|    invconv/L, U                   | conv1x1/lower, upper                                                 |
|    invconv/log_S, sign_S          | conv1x1/log_abs_s, sign_s                                            |
| or shuffle/indices (int32)        | permutation/indices; shuffle/indices_inverse is its inverse          |
| or nothing                        | permutation/indices: reversed                                        |
| f1/l_1/W                          | coupling/conv1_kernel; its last input channel: coupling/conv1_edge   |
| f1/l_1/actnorm_center/b           | coupling/actnorm1_shift                                              |
| f1/l_1/actnorm_scale/logs         | coupling/actnorm1_log_scale                                          |
| f1/l_2/W                          | coupling/conv2_kernel                                                |
| f1/l_2/actnorm_center/b           | coupling/actnorm2_shift                                              |
| f1/l_2/actnorm_scale/logs         | coupling/actnorm2_log_scale                                          |
| f1/l_last/W                       | coupling/conv3_kernel; its last input channel: coupling/conv3_edge   |
| f1/l_last/b, logs                 | coupling/conv3_bias, conv3_log_scale                                 |
| pool<i>/conv/W                    | split<i>/kernel; its last input channel: split<i>/edge               |
| pool<i>/conv/b, logs              | split<i>/bias, log_scale                                             |
| prior/p/W                         | top/edge: the last input channel; the others see zeros only          |
| prior/p/b, logs                   | top/bias, log_scale                                                  |
| prior/y_emb/W, b, logs            | top/class_kernel, class_bias, class_log_scale                        |
| classifier/W, b, logs             | classifier/kernel, bias, log_scale                                   |

Shift and raw scale of an affine coupling (l_last), and mean and log-scale of a split (pool<i>), take turns in
the output channels there and are halves here: the last axis of those arrays is reordered.

`Variable`, `Variable_1`, ... are the optimizer's, `<name>/ExponentialMovingAverage` the averaged values of
what is trained. A checkpoint holds neither the image size nor the bits a channel.

References: https://github.com/openai/glow, `model.py`, `tfops.py`, `optim.py`.
"""

import os
import re

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.invertible_conv import plu_weight
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.importers.common import (
    check_finite,
    check_shapes,
    conv1x1_values,
    glow_from,
    prefixed,
    stacked,
)
from glow_tf.nn.steps import PLU_NAMES

AVERAGED = "/ExponentialMovingAverage"

# OpenAI's name -> ours; a pair is a kernel and the slice of its last input channel, the edge.
_STEP = {
    "actnorm_center/b": "actnorm/shift",
    "actnorm_scale/logs": "actnorm/log_scale",
    "f1/l_1/W": ("coupling/conv1_kernel", "coupling/conv1_edge"),
    "f1/l_1/actnorm_center/b": "coupling/actnorm1_shift",
    "f1/l_1/actnorm_scale/logs": "coupling/actnorm1_log_scale",
    "f1/l_2/W": "coupling/conv2_kernel",
    "f1/l_2/actnorm_center/b": "coupling/actnorm2_shift",
    "f1/l_2/actnorm_scale/logs": "coupling/actnorm2_log_scale",
    "f1/l_last/W": ("coupling/conv3_kernel", "coupling/conv3_edge"),
    "f1/l_last/b": "coupling/conv3_bias",
    "f1/l_last/logs": "coupling/conv3_log_scale",
}
_SPLIT = {"conv/W": ("kernel", "edge"), "conv/b": "bias", "conv/logs": "log_scale"}
_TOP = {"W": (None, "edge"), "b": "bias", "logs": "log_scale"}
_CLASS = {"W": "class_kernel", "b": "class_bias", "logs": "class_log_scale"}
_CLASSIFIER = {"W": "kernel", "b": "bias", "logs": "log_scale"}

# What is not trained, and therefore has no averaged value.
_NON_TRAINABLE = ("invconv/P", "invconv/sign_S", "shuffle/indices", "shuffle/indices_inverse")


def read(prefix, image_size, num_bits, averaged=False):
    """The Glow of an OpenAI checkpoint; everything but `image_size` and `num_bits` is inferred.

    Args:
        prefix: PREFIX of the files PREFIX.index and PREFIX.data-00000-of-00001; either file's name will do.
        image_size: height and width.
        num_bits: bits a channel, 8 or 5 in the published runs.
        averaged: take the averaged values of what was trained instead of the last ones.
    Raises:
        InputError: the files are missing, damaged or another program's, model variables are missing,
            unknown or of the wrong shape (the message names them), or the image size does not fit.
    """
    prefix = re.sub(r"\.(index|data-\d+-of-\d+)$", "", os.fspath(prefix))
    reader, variables = _open(prefix)
    found = {name: shape for name, shape in variables.items() if name.startswith("model/")}
    shapes = {name: shape for name, shape in found.items() if not name.endswith(AVERAGED)}
    config, lu = _infer(prefix, shapes, image_size, num_bits)
    check_shapes(prefix, shapes, expected_shapes(config, lu))
    arrays = _read_arrays(prefix, reader, shapes, _averaged_names(prefix, found, shapes) if averaged else {})
    glow = glow_from(config, _values(prefix, config, arrays), "openai")
    glow.metadata["averaged"] = bool(averaged)
    return glow


def write(glow, prefix, lu=False):
    """Writes PREFIX.index and PREFIX.data-00000-of-00001 with OpenAI's names, the model's variables only.

    Args:
        glow: see `export`.
        lu: see `export`.
    Raises:
        InputError: as `export`, or the folder does not exist.
        OSError: the files cannot be written.
    """
    prefix = os.path.abspath(prefix)
    arrays = export(glow, lu)
    if not os.path.isdir(os.path.dirname(prefix)):
        raise InputError(f"the folder {os.path.dirname(prefix)} does not exist")
    try:
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=list(arrays),
            shape_and_slices=[""] * len(arrays),
            tensors=list(arrays.values()),
        )
    except tf.errors.OpError as error:
        raise OSError(f"{prefix} cannot be written: {error.message}") from error


def export(glow, lu=False):
    """{OpenAI's name: array} of all model variables.

    Args:
        glow: of the "openai" architecture; its variables have the names of this module's table.
        lu: 1x1 convolutions as P, L, U, sign_S and log_S, bit by bit, instead of as one matrix W. OpenAI's
            code wants W as it stands; the other form is a switch in its source.
    Raises:
        InputError: OpenAI's code has no such model.
    """
    config = glow.config
    _check_exportable(config, lu)
    variables = {name: variable.numpy() for name, variable in glow.named_variables().items()}
    variables = {name: _in_turns(v) if _takes_turns(name, config) else v for name, v in variables.items()}
    arrays: dict[str, np.ndarray] = {}
    for level in range(config.num_levels):
        steps = _without_prefix(variables, f"level{level}/")
        permutations = _exported_permutations(config, steps, lu)
        for k in range(config.num_steps):
            one = {name: value[k] for name, value in steps.items()}
            arrays |= prefixed(f"model/{level}/{k}/", _exported(_STEP, one) | permutations[k])
    for name, values in _parts(variables).items():
        arrays |= prefixed(name, values)
    shapes = expected_shapes(config, lu)
    if config.learned_top:
        edge = arrays["model/prior/p/W"]
        arrays["model/prior/p/W"] = np.zeros(shapes["model/prior/p/W"], np.float32)
        arrays["model/prior/p/W"][:, :, -1] = edge
    return {name: _as_stored(arrays[name]).reshape(shape) for name, shape in shapes.items()}


def expected_shapes(config, lu=False):
    """{OpenAI's name: shape} of the model variables of a configuration, in the order of their creation."""
    shapes: dict[str, tuple] = {}
    for level, (_, _, channels) in enumerate(config.squeezed_shapes()):
        step = _step_shapes(config, channels, lu)
        for k in range(config.num_steps):
            shapes |= prefixed(f"model/{level}/{k}/", step)
        if level < config.num_levels - 1:
            shapes |= prefixed(f"model/pool{level}/conv/", _zero_conv_shapes(channels // 2, channels))
    if config.learned_top:
        shapes |= prefixed("model/prior/p/", _zero_conv_shapes(2 * channels, 2 * channels))
    if config.num_classes:
        shapes |= prefixed("model/prior/y_emb/", _zero_linear_shapes(config.num_classes, 2 * channels))
    if config.classifier:
        shapes |= prefixed("model/classifier/", _zero_linear_shapes(channels, config.num_classes))
    return shapes


# ------------------------------------------------------------------------------------------- shapes


def _step_shapes(config, channels, lu):
    width = config.width
    out = channels if config.coupling == "affine" else channels // 2
    return {
        "actnorm_center/b": (1, 1, 1, channels),
        "actnorm_scale/logs": (1, 1, 1, channels),
        **_permutation_shapes(config.permutation, channels, lu),
        "f1/l_1/W": (3, 3, channels // 2 + 1, width),
        "f1/l_1/actnorm_center/b": (1, 1, 1, width),
        "f1/l_1/actnorm_scale/logs": (1, 1, 1, width),
        "f1/l_2/W": (1, 1, width, width),
        "f1/l_2/actnorm_center/b": (1, 1, 1, width),
        "f1/l_2/actnorm_scale/logs": (1, 1, 1, width),
        **prefixed("f1/l_last/", _zero_conv_shapes(width, out)),
    }


def _permutation_shapes(permutation, channels, lu):
    square, vector = (channels, channels), (channels,)
    if permutation == "shuffle":
        return {"shuffle/indices": vector, "shuffle/indices_inverse": vector}
    if permutation == "reverse":
        return {}
    if not lu:
        return {"invconv/W": square}
    return {
        "invconv/P": square,
        "invconv/L": square,
        "invconv/sign_S": vector,
        "invconv/log_S": vector,
        "invconv/U": square,
    }


def _zero_conv_shapes(in_channels, out_channels):
    return {"W": (3, 3, in_channels + 1, out_channels), "b": (1, 1, 1, out_channels), "logs": (1, out_channels)}


def _zero_linear_shapes(in_channels, out_channels):
    return {"W": (in_channels, out_channels), "b": (1, out_channels), "logs": (1, out_channels)}


# ------------------------------------------------------------------------------------------- reading


def _open(prefix):
    """(reader, {name: shape}) of a checkpoint."""
    if os.path.isdir(prefix):
        raise InputError(
            f"{prefix} is a folder; give the prefix of the files in it, such as {prefix}/model_best_loss.ckpt"
        )
    if not os.path.isfile(prefix + ".index"):
        raise InputError(f"there is no checkpoint {prefix}: the file {prefix}.index does not exist")
    try:
        reader = tf.train.load_checkpoint(prefix)
        return reader, {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
    except _CHECKPOINT_ERRORS as error:
        raise InputError(f"{prefix}.index is damaged or no TensorFlow checkpoint: {_one_line(error)}") from error


def _infer(prefix, shapes, image_size, num_bits):
    """(GlowConfig, whether the 1x1 convolutions are in LU form), from names and shapes."""
    if not shapes:
        raise InputError(f"{prefix} is a checkpoint of another program: no variable's name begins with model/")
    steps = [match for match in (re.match(r"model/(\d{1,6})/(\d{1,6})/", name) for name in shapes) if match]
    first = [f"model/0/0/{name}" for name in ("actnorm_center/b", "f1/l_1/W", "f1/l_last/W")]
    check_shapes(prefix, {}, {name: None for name in first if not shapes.get(name)})
    channels, width, out = (shapes[name][-1] for name in first)
    if channels % 4:
        raise InputError(f"{prefix} has {first[0]} of {channels} channels; squeezed images have a multiple of 4")
    kinds = {name.split("/", 3)[3] for name in shapes if re.match(r"model/\d+/\d+/(invconv|shuffle)/", name)}
    permutation = "reverse" if not kinds else "shuffle" if "shuffle/indices" in kinds else "conv1x1"
    classes = shapes.get("model/prior/y_emb/W")
    config = GlowConfig(
        image_shape=(image_size, image_size, channels // 4),
        num_levels=1 + max(int(match[1]) for match in steps),
        num_steps=1 + max(int(match[2]) for match in steps),
        width=width,
        coupling="affine" if out == channels else "additive",
        permutation=permutation,
        num_bits=num_bits,
        learned_top=any(name.startswith("model/prior/p/") for name in shapes),
        num_classes=classes[0] if classes else 0,
        classifier=bool(classes) and any(name.startswith("model/classifier/") for name in shapes),
    )
    return config, "invconv/P" in kinds


def _averaged_names(prefix, found, shapes):
    """{name: name of its averaged value} of everything that is trained."""
    names = {name: name + AVERAGED for name in shapes if not name.endswith(_NON_TRAINABLE)}
    if not any(name in found for name in names.values()):
        raise InputError(f"{prefix} holds no averaged values (no name ends in {AVERAGED})")
    check_shapes(
        prefix,
        {name: shape for name, shape in found.items() if name in set(names.values())},
        {names[name]: shape for name, shape in shapes.items() if name in names},
    )
    return names


def _read_arrays(prefix, reader, shapes, other_names):
    types = reader.get_variable_to_dtype_map()
    arrays: dict[str, np.ndarray] = {}
    for name in shapes:
        source = other_names.get(name, name)
        whole = name.endswith(("shuffle/indices", "shuffle/indices_inverse"))
        if not (types[source].is_integer if whole else types[source].is_floating):
            raise InputError(f"{prefix} has {source} of type {types[source].name}")
        try:
            arrays[name] = reader.get_tensor(source)
        except _CHECKPOINT_ERRORS as error:
            raise InputError(f"{prefix} cannot be read at {source}: {_one_line(error)}") from error
    check_finite(prefix, arrays)
    return arrays


def _values(prefix, config, arrays):
    """{our name: array} from OpenAI's arrays."""
    values: dict[str, np.ndarray] = {}
    for level in range(config.num_levels):
        steps = [_without_prefix(arrays, f"model/{level}/{k}/") for k in range(config.num_steps)]
        ours = stacked([_imported(_STEP, step) for step in steps])
        ours |= _permutation_values(prefix, config, steps, level)
        values |= prefixed(f"level{level}/", ours)
        if level < config.num_levels - 1:
            pool = _without_prefix(arrays, f"model/pool{level}/")
            values |= prefixed(f"split{level}/", _imported(_SPLIT, pool))
    for name, table, target, wanted in (
        ("model/prior/p/", _TOP, "top/", config.learned_top),
        ("model/prior/y_emb/", _CLASS, "top/", config.num_classes),
        ("model/classifier/", _CLASSIFIER, "classifier/", config.classifier),
    ):
        if wanted:
            values |= prefixed(target, _imported(table, _without_prefix(arrays, name)))
    return {name: _in_halves(value) if _takes_turns(name, config) else value for name, value in values.items()}


def _imported(table, arrays):
    """One part's arrays under our names."""
    values: dict[str | None, np.ndarray] = {}
    for theirs, ours in table.items():
        array = arrays[theirs]
        if isinstance(ours, tuple):
            values |= {ours[0]: array[:, :, :-1], ours[1]: array[:, :, -1]}
        else:
            # Ones are axes for broadcasting, of a vector, or of a 1x1 kernel.
            values[ours] = array.reshape(array.shape[-2:] if theirs.endswith("W") else array.shape[-1:])
    values.pop(None, None)
    return values


def _permutation_values(prefix, config, steps, level):
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


def _lu_values(prefix, name, step):
    """The parts of one 1x1 convolution, as they are."""
    matrix = step["invconv/P"]
    ones = np.argmax(matrix, axis=1)
    if not np.array_equal(np.sort(ones), np.arange(len(ones))) or not np.array_equal(matrix, np.eye(len(ones))[ones]):
        raise InputError(f"{prefix} has {name}invconv/P, which is no permutation matrix")
    if not (np.abs(step["invconv/sign_S"]) == 1).all():
        raise InputError(f"{prefix} has {name}invconv/sign_S with values other than 1 and -1")
    parts = [ones, *(step[f"invconv/{part}"] for part in ("L", "log_S", "sign_S", "U"))]
    return {f"conv1x1/{key}": part for key, part in zip(PLU_NAMES, parts, strict=True)}


def _check_order(prefix, name, indices, inverse):
    whole = np.arange(len(indices))
    if not np.array_equal(np.sort(indices), whole) or not np.array_equal(indices[inverse % len(whole)], whole):
        raise InputError(f"{prefix} has {name}shuffle/indices that is no permutation, or whose inverse differs")


# ------------------------------------------------------------------------------------------- writing


def _check_exportable(config, lu):
    if config.architecture != "openai":
        raise InputError(f"a model of the architecture {config.architecture} cannot be exported to openai's names")
    if tuple(config.pixel_range) != (-0.5, 0.5):
        raise InputError(f"OpenAI's pixels lie between -0.5 and 0.5; this model's pixel_range is {config.pixel_range}")
    if lu and config.permutation != "conv1x1":
        raise InputError(f"the LU form is one of 1x1 convolutions; this model's permutation is {config.permutation}")


def _parts(variables):
    """{prefix of OpenAI's names: {name: array}} of everything but the flow steps."""
    parts = {}
    for split in sorted({name.split("/")[0] for name in variables if name.startswith("split")}):
        level = split.removeprefix("split")
        parts[f"model/pool{level}/"] = _exported(_SPLIT, _without_prefix(variables, f"{split}/"))
    top = _without_prefix(variables, "top/")
    if "edge" in top:
        parts["model/prior/p/"] = {theirs: top[ours[1] if theirs == "W" else ours] for theirs, ours in _TOP.items()}
    if "class_kernel" in top:
        parts["model/prior/y_emb/"] = _exported(_CLASS, top)
    if "classifier/kernel" in variables:
        parts["model/classifier/"] = _exported(_CLASSIFIER, _without_prefix(variables, "classifier/"))
    return parts


def _exported(table, values):
    """One part's values under OpenAI's names, not yet in their shapes."""
    arrays: dict[str, np.ndarray] = {}
    for theirs, ours in table.items():
        if isinstance(ours, tuple):
            arrays[theirs] = np.concatenate([values[ours[0]], values[ours[1]][:, :, np.newaxis]], axis=2)
        else:
            arrays[theirs] = values[ours]
    return arrays


def _exported_permutations(config, steps, lu):
    """[{name: array}, ...], one for each step of a level."""
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
    factors[0] = [np.eye(len(order))[order] for order in factors[0]]
    return [dict(zip(names, one, strict=True)) for one in zip(*factors, strict=True)]


def _takes_turns(name, config):
    """Whether two quantities take turns in the last axis of OpenAI's form of this variable."""
    return name.startswith("split") or ("/coupling/conv3_" in name and config.coupling == "affine")


def _in_halves(values):
    """[..., 2n]: the even channels, then the odd ones."""
    return np.concatenate([values[..., 0::2], values[..., 1::2]], axis=-1)


def _in_turns(values):
    """[..., 2n]: the inverse of `_in_halves`."""
    return np.stack(np.split(values, 2, axis=-1), axis=-1).reshape(values.shape)


def _as_stored(array):
    return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32)


# What the reader raises on damaged files; it gives some of TensorFlow's errors as Python's own.
_CHECKPOINT_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, OSError, IndexError)


def _one_line(error):
    text = getattr(error, "message", None) or str(error)
    return " ".join(text.split())[:300]


def _without_prefix(arrays, prefix):
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
