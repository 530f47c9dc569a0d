"""The variables of OpenAI's checkpoints: their names and shapes, and ours.

i is the level, k the step. OpenAI's names begin with `model/`; those of a flow step begin with `model/i/k/`, and ours
with `level<i>/`, stacked over k. `expected_shapes` defines the shapes; our variables drop their axes of length one.
Both programs multiply stored log-scales by three.

| OpenAI's name                     | our name                                                             |
|-----------------------------------|----------------------------------------------------------------------|
| actnorm_center/b                  | actnorm/shift                                                        |
| actnorm_scale/logs                | actnorm/log_scale                                                    |
| invconv/W                         | conv1x1/*: its factors P, L, U, s                                    |
| or invconv/P                      | conv1x1/permutation: the column of the one in each row               |
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

In OpenAI's output channels, the shift and raw scale of an affine coupling (l_last) alternate, and so do the mean and
log-scale of a split (pool<i>). In ours they are halves, so the last axis of those arrays is reordered.

`Variable`, `Variable_1`, ... belong to the optimizer; `<name>/ExponentialMovingAverage` is the moving average of a
trained variable. A checkpoint stores neither the image size nor the bits per channel.

References: https://github.com/openai/glow, `model.py`, `tfops.py`, `optim.py`.
"""

from typing import Any

import numpy as np

from glow_tf.config import GlowConfig
from glow_tf.importers.common import Shapes, prefixed

AVERAGED = "/ExponentialMovingAverage"

# OpenAI's name -> ours; a pair splits the last input channel, the edge, from the rest of the kernel.
STEP = {
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
SPLIT: dict[str, Any] = {"conv/W": ("kernel", "edge"), "conv/b": "bias", "conv/logs": "log_scale"}
TOP: dict[str, Any] = {"W": (None, "edge"), "b": "bias", "logs": "log_scale"}
CLASS = {"W": "class_kernel", "b": "class_bias", "logs": "class_log_scale"}
CLASSIFIER = {"W": "kernel", "b": "bias", "logs": "log_scale"}


def parts(config: GlowConfig) -> list[tuple[str, dict[str, Any], str]]:
    """(the beginning of OpenAI's names, the table, the beginning of ours) of everything except the flow steps."""
    found: list[tuple[str, dict[str, Any], str]] = []
    found += [(f"model/pool{level}/", SPLIT, f"split{level}/") for level in range(config.num_levels - 1)]
    found += [("model/prior/p/", TOP, "top/")] if config.learned_top else []
    found += [("model/prior/y_emb/", CLASS, "top/")] if config.num_classes else []
    return found + ([("model/classifier/", CLASSIFIER, "classifier/")] if config.classifier else [])


# Variables that are not trained and have no average.
NON_TRAINABLE = ("invconv/P", "invconv/sign_S", "shuffle/indices", "shuffle/indices_inverse")


def expected_shapes(config: GlowConfig, lu: bool = False) -> Shapes:
    """{OpenAI's name: shape} of the model variables of a configuration, in the order of their creation."""
    shapes: Shapes = {}
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


def _step_shapes(config: GlowConfig, channels: int, lu: bool) -> Shapes:
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


def _permutation_shapes(permutation: str, channels: int, lu: bool) -> Shapes:
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


def _zero_conv_shapes(in_channels: int, out_channels: int) -> Shapes:
    return {"W": (3, 3, in_channels + 1, out_channels), "b": (1, 1, 1, out_channels), "logs": (1, out_channels)}


def _zero_linear_shapes(in_channels: int, out_channels: int) -> Shapes:
    return {"W": (in_channels, out_channels), "b": (1, out_channels), "logs": (1, out_channels)}


def is_interleaved(name: str, config: GlowConfig) -> bool:
    """Whether two quantities alternate along the last axis of OpenAI's counterpart of a variable."""
    return name.startswith("split") or ("/coupling/conv3_" in name and config.coupling == "affine")


def deinterleave(values: np.ndarray) -> np.ndarray:
    """[..., 2n]: the even channels, then the odd ones."""
    return np.concatenate([values[..., 0::2], values[..., 1::2]], axis=-1)


def interleave(values: np.ndarray) -> np.ndarray:
    """[..., 2n]: the inverse of `deinterleave`."""
    return np.stack(np.split(values, 2, axis=-1), axis=-1).reshape(values.shape)
