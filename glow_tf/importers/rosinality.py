"""rosinality/glow-pytorch's state_dict, read into a Glow; torch is needed for that and for nothing else.

The model is OpenAI's in other words: what differs can be absorbed.

Names of a block's flow stand below `blocks.i.flows.k.` there and below `level<i>/` here, stacked over k.

| there                             | name here                                                             |
|-----------------------------------|-----------------------------------------------------------------------|
| actnorm.loc, scale: scale (x+loc) | actnorm/shift, log_scale = log|scale| / 3                             |
| invconv.w_p, w_l, w_u, w_s, s_sign| conv1x1/*: their matrix transposed, with the signs of scale           |
| or invconv.weight                 | the same                                                              |
| coupling.net.0.weight, bias       | coupling/conv1_kernel, actnorm1_shift; conv1_edge, actnorm1_log_scale = 0 |
| coupling.net.2.weight, bias       | coupling/conv2_kernel, actnorm2_shift; actnorm2_log_scale = 0         |
| coupling.net.4.conv.weight        | coupling/conv3_kernel, conv3_edge                                     |
| coupling.net.4.conv.bias, scale   | coupling/conv3_bias, conv3_log_scale                                  |
| blocks.i.prior.conv.weight        | split<i>/kernel, edge; of the last block top/edge                     |
| blocks.i.prior.conv.bias, scale   | split<i>/bias, log_scale; of the last block top/bias, log_scale       |

coupling.net.4 and prior pad their input with ones, in every channel: zero padding and an edge channel whose
kernel is the sum over the input channels. Halves of an affine coupling's output (raw scale first) and of a
split's become OpenAI's alternating channels.

References: https://github.com/rosinality/glow-pytorch, `model.py`.
"""

import os
import re

import numpy as np

from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.importers.common import (
    check_finite,
    check_shapes,
    conv1x1_values,
    glow_from,
    prefixed,
    sign_and_log_abs,
    stacked,
)
from glow_tf.nn.openai import LOG_SCALE_FACTOR


def read(path, image_size, num_bits):
    """The Glow of a state_dict saved by glow-pytorch; everything but the two numbers is inferred.

    Args:
        path: of the file (model_*.pt); it is loaded with `weights_only=True`, which runs no code.
        image_size: height and width.
        num_bits: bits a channel; glow-pytorch's default is 5.
    Raises:
        InputError: torch is not installed, the file is missing, damaged or another program's, variables are
            missing, unknown or of the wrong shape, or the image size does not fit.
    """
    arrays = _load(path)
    found = {name: array.shape for name, array in arrays.items()}
    config, dense = _infer(path, found, image_size, num_bits)
    check_shapes(path, found, _expected_shapes(config, dense))
    check_finite(path, arrays)
    values: dict[str, np.ndarray] = {}
    for level in range(config.num_levels):
        block = _without_prefix(arrays, f"blocks.{level}.")
        flows = [_without_prefix(block, f"flows.{k}.") for k in range(config.num_steps)]
        names = [f"blocks.{level}.flows.{k}." for k in range(config.num_steps)]
        scales = [
            sign_and_log_abs(path, f"{name}actnorm.scale", flow["actnorm.scale"].reshape(-1))
            for name, flow in zip(names, flows, strict=True)
        ]
        signs, log_scales = zip(*scales, strict=True)
        ours = stacked([_step_values(flow, config.coupling) for flow in flows])
        ours["actnorm/log_scale"] = np.stack(log_scales) / LOG_SCALE_FACTOR
        matrices = [sign[:, np.newaxis] * _matrix(flow) for sign, flow in zip(signs, flows, strict=True)]
        ours |= conv1x1_values(path, [f"{name}invconv" for name in names], matrices)
        values |= prefixed(f"level{level}/", ours)
        prior = _ones_padded(block, "prior")
        if level < config.num_levels - 1:
            values |= prefixed(f"split{level}/", prior)
        else:
            values |= prefixed("top/", {key: prior[key] for key in ("edge", "bias", "log_scale")})
    return glow_from(config, values, "rosinality")


def _load(path):
    """{name: array} of a state_dict, without the `module.` that DataParallel puts before names."""
    if not os.path.isfile(path):
        raise InputError(f"{path} does not exist or is no file; a state_dict saved by torch is wanted")
    try:
        import torch
    except ImportError as error:
        raise InputError("reading a .pt file needs torch: pip install torch") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises anything: torch.load has no class of errors of its own
        raise InputError(f"{path} is damaged or no state_dict saved by torch: {type(error).__name__}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state_dict: names and tensors are wanted")
    return {str(name).removeprefix("module."): value.float().numpy() for name, value in state.items()}


def _infer(path, found, image_size, num_bits):
    """(GlowConfig, the blocks whose 1x1 convolutions are one matrix)."""
    flows = [match for match in (re.match(r"blocks\.(\d{1,6})\.flows\.(\d{1,6})\.", name) for name in found) if match]
    if not flows:
        raise InputError(f"{path} is a state_dict of another program: no name begins with blocks.0.flows.0.")
    parts = ("actnorm.loc", "coupling.net.0.weight", "coupling.net.4.conv.weight")
    first = [f"blocks.0.flows.0.{name}" for name in parts]
    check_shapes(path, {}, {name: None for name in first if len(found.get(name, ())) != 4})
    channels, width, out = found[first[0]][1], found[first[1]][0], found[first[2]][0]
    if channels % 4:
        raise InputError(f"{path} has {first[0]} of {channels} channels; squeezed images have a multiple of 4")
    config = GlowConfig(
        image_shape=(image_size, image_size, channels // 4),
        num_levels=1 + max(int(match[1]) for match in flows),
        num_steps=1 + max(int(match[2]) for match in flows),
        width=width,
        coupling="affine" if out == channels else "additive",
        num_bits=num_bits,
    )
    dense = {int(name.split(".")[1]) for name in found if re.match(r"blocks\.\d+\.flows\.\d+\.invconv\.weight$", name)}
    return config, dense


def _expected_shapes(config, dense):
    shapes: dict[str, tuple] = {}
    for level, (_, _, channels) in enumerate(config.squeezed_shapes()):
        out = channels if config.coupling == "affine" else channels // 2
        square, vector = (channels, channels), (channels,)
        factors = {f"w_{part}": square for part in "plu"} | {"w_s": vector, "s_sign": vector}
        factors |= {"u_mask": square, "l_mask": square, "l_eye": square}
        flow = {
            "actnorm.loc": (1, channels, 1, 1),
            "actnorm.scale": (1, channels, 1, 1),
            "actnorm.initialized": (),
            **prefixed("invconv.", {"weight": (*square, 1, 1)} if level in dense else factors),
            "coupling.net.0.weight": (config.width, channels // 2, 3, 3),
            "coupling.net.0.bias": (config.width,),
            "coupling.net.2.weight": (config.width, config.width, 1, 1),
            "coupling.net.2.bias": (config.width,),
            **_zero_conv_shapes("coupling.net.4", config.width, out),
        }
        for k in range(config.num_steps):
            shapes |= prefixed(f"blocks.{level}.flows.{k}.", flow)
        kept, outputs = (channels // 2, channels) if level < config.num_levels - 1 else (channels, 2 * channels)
        shapes |= prefixed(f"blocks.{level}.", _zero_conv_shapes("prior", kept, outputs))
    return shapes


def _zero_conv_shapes(name, in_channels, out_channels):
    return {
        f"{name}.conv.weight": (out_channels, in_channels, 3, 3),
        f"{name}.conv.bias": (out_channels,),
        f"{name}.scale": (1, out_channels, 1, 1),
    }


def _step_values(flow, coupling):
    """{our name: array} of one step but for its 1x1 convolution and its actnorm's scale."""
    last = _ones_padded(flow, "coupling.net.4")
    if coupling == "affine":
        # The raw scale comes first there, the shift here.
        last = {key: np.roll(value, value.shape[-1] // 2, axis=-1) for key, value in last.items()}
    kernel1, kernel2 = (_kernel(flow[f"coupling.net.{i}.weight"]) for i in (0, 2))
    bias1, bias2 = (flow[f"coupling.net.{i}.bias"] for i in (0, 2))
    return {
        "actnorm/shift": flow["actnorm.loc"].reshape(-1),
        "coupling/conv1_kernel": kernel1,
        "coupling/conv1_edge": np.zeros_like(kernel1[:, :, 0]),
        "coupling/actnorm1_shift": bias1,
        "coupling/actnorm1_log_scale": np.zeros_like(bias1),
        "coupling/conv2_kernel": kernel2[0, 0],
        "coupling/actnorm2_shift": bias2,
        "coupling/actnorm2_log_scale": np.zeros_like(bias2),
        **prefixed("coupling/conv3_", last),
    }


def _matrix(flow):
    """[C, C]: the matrix that a row vector is multiplied with."""
    if "invconv.weight" in flow:
        weight = flow["invconv.weight"][:, :, 0, 0].astype(np.float64)
    else:
        w_p, w_l, w_u, w_s, s_sign = (
            flow[f"invconv.{name}"].astype(np.float64) for name in ("w_p", "w_l", "w_u", "w_s", "s_sign")
        )
        lower = np.tril(w_l, -1) + np.eye(len(w_l))
        weight = w_p @ lower @ (np.triu(w_u, 1) + np.diag(s_sign * np.exp(w_s)))
    return weight.T


def _ones_padded(arrays, name):
    """Our four of a convolution that pads with ones, its output channels in its own order."""
    kernel = _kernel(arrays[f"{name}.conv.weight"])
    return {
        "kernel": kernel,
        "edge": kernel.sum(axis=2, dtype=np.float64),
        "bias": arrays[f"{name}.conv.bias"],
        "log_scale": arrays[f"{name}.scale"].reshape(-1),
    }


def _kernel(weight):
    """[out, in, height, width] -> [height, width, in, out]."""
    return weight.transpose(2, 3, 1, 0)


def _without_prefix(arrays, prefix):
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
