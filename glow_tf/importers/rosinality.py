"""Reads the state_dict of rosinality/glow-pytorch into a Glow. Only this importer needs torch.

The model differs from OpenAI's only in ways that the values of our variables can express.

coupling.net.4 and prior pad every channel of their input with ones. This equals zero padding with an edge channel
whose kernel is the sum over the input channels. The output of an affine coupling holds the raw scale first and the
shift second in glow-pytorch, and the shift first here.

References: https://github.com/rosinality/glow-pytorch, `model.py`.
"""

import io
import os
import pickletools
import re
import zipfile
from typing import Any, BinaryIO

import numpy as np

from glow_tf._files import open_regular, printable
from glow_tf.config import GlowConfig
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.importers.common import (
    Arrays,
    Shapes,
    check_finite,
    check_shapes,
    conv1x1_values,
    glow_from,
    inferred_config,
    prefixed,
    sign_and_log_abs,
    stacked,
    without_prefix,
)
from glow_tf.nn.layers import LOG_SCALE_FACTOR

MAX_PICKLE_BYTES = 4_000_000  # 1,000 flow steps take 3 MB

# Pickles at the start of a file of torch before version 1.6: magic number, version, system, state_dict, storages.
_LEGACY_PICKLES = 5


def read(path: str | os.PathLike, image_size: int, num_bits: int) -> Glow:
    """Reads a state_dict saved by glow-pytorch; infers everything except `image_size` and `num_bits`.

    The file (model_*.pt) is loaded with `weights_only=True`, which runs no code.

    Args:
        image_size: height and width.
        num_bits: bits per channel; glow-pytorch's default is 5.

    Raises:
        InputError: torch is not installed, the file is missing, damaged or another program's, variables are
            missing, unknown or of the wrong shape, or the image size does not fit.
    """
    arrays = _load(path)
    found = {name: array.shape for name, array in arrays.items()}
    config, dense = _infer(path, found, image_size, num_bits)
    check_shapes(path, found, _expected_shapes(config, dense))
    check_finite(path, arrays)
    values: Arrays = {}
    for level in range(config.num_levels):
        block = without_prefix(arrays, f"blocks.{level}.")
        flows = [without_prefix(block, f"flows.{k}.") for k in range(config.num_steps)]
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


def _load(path: str | os.PathLike) -> Arrays:
    """{name: array} of a state_dict, without the prefix `module.` that DataParallel adds."""
    with open_regular(path, "state_dict saved by torch") as file:
        size = os.fstat(file.fileno()).st_size
        _check_archive(path, file, size)
        try:
            import torch
        except ImportError as error:
            raise InputError("reading a .pt file needs torch: pip install torch") from error
        try:
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load has no exception class of its own and raises nearly anything
            problem = f"is damaged or not a state_dict saved by torch: {type(error).__name__}"
            raise InputError(f"{printable(path)} {problem}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{printable(path)} does not hold a state_dict, which maps names to tensors")
    for name, value in state.items():
        problems = {
            "a meta tensor without values": value.is_meta,
            "sparse": value.layout != torch.strided,
            "quantized": value.is_quantized,
            "complex": value.is_complex(),
        }
        for problem in (problem for problem, is_found in problems.items() if is_found):
            raise InputError(f"{printable(path)} has {printable(name)}, which is {problem}: plain tensors are read")
    needed = sum(value.numel() * value.element_size() for value in state.values())
    if needed > size:  # tensors that repeat a small storage
        raise InputError(f"{printable(path)} has tensors of {needed:,} bytes in a file of {size:,}")
    return {str(name).removeprefix("module."): value.detach().float().numpy() for name, value in state.items()}


def _check_archive(path: str | os.PathLike, file: BinaryIO, size: int) -> None:
    """Refuses a zip archive that unpacks to more than its file's size, and pickles that call more than torch.

    torch itself never compresses. With `weights_only=True` it also calls functions that fill the memory from a few
    bytes, such as `bytearray` of a number.
    """
    try:
        if zipfile.is_zipfile(file):
            archive = zipfile.ZipFile(file)
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > size:
                raise InputError(
                    f"{printable(path)} unpacks to {unpacked:,} bytes from {size:,}; torch does not compress"
                )
            for entry in archive.infolist():
                if entry.filename.endswith(".pkl"):
                    with archive.open(entry) as pickle:
                        _check_pickle(path, pickle)
        else:
            file.seek(0)
            content = io.BytesIO(file.read(_LEGACY_PICKLES * MAX_PICKLE_BYTES))
            for _ in range(_LEGACY_PICKLES):
                _check_pickle(path, content)
    except InputError:
        raise
    except Exception as error:  # zipfile and pickletools raise nearly anything on damaged bytes
        raise InputError(f"{printable(path)} is damaged or not a state_dict saved by torch") from error


def _check_pickle(path: str | os.PathLike, pickle: Any) -> None:
    start = pickle.tell()
    for operation, argument, _ in pickletools.genops(pickle):
        if pickle.tell() - start > MAX_PICKLE_BYTES:
            raise InputError(f"{printable(path)} has a pickle of more than {MAX_PICKLE_BYTES:,} bytes")
        if operation.name == "GLOBAL" and not re.match("torch[. ]|collections OrderedDict$", str(argument)):
            raise InputError(
                f"{printable(path)} is damaged or not a state_dict saved by torch: it needs {printable(argument, 60)}"
            )


def _infer(path: str | os.PathLike, found: Shapes, image_size: int, num_bits: int) -> tuple[GlowConfig, set[int]]:
    """(GlowConfig, indices of the blocks whose 1x1 convolutions are dense matrices)."""
    flows = [match for match in (re.match(r"blocks\.(\d{1,6})\.flows\.(\d{1,6})\.", name) for name in found) if match]
    if not flows:
        raise InputError(f"{printable(path)} is a state_dict of another program: no name begins with blocks.0.flows.0.")
    parts = ("actnorm.loc", "coupling.net.0.weight", "coupling.net.4.conv.weight")
    first = [f"blocks.0.flows.0.{name}" for name in parts]
    check_shapes(path, {}, {name: () for name in first if len(found.get(name, ())) != 4})
    channels, width, out = found[first[0]][1], found[first[1]][0], found[first[2]][0]
    config = inferred_config(
        path,
        first[0],
        channels,
        flows,
        image_size,
        width=width,
        coupling="affine" if out == channels else "additive",
        num_bits=num_bits,
    )
    dense = {int(name.split(".")[1]) for name in found if re.match(r"blocks\.\d+\.flows\.\d+\.invconv\.weight$", name)}
    return config, dense


def _expected_shapes(config: GlowConfig, dense: set[int]) -> Shapes:
    shapes: Shapes = {}
    for level, (_, _, channels) in enumerate(config.squeezed_shapes()):
        out = channels if config.coupling == "affine" else channels // 2
        square, vector = (channels, channels), (channels,)
        factors: Shapes = {f"w_{part}": square for part in "plu"} | {"w_s": vector, "s_sign": vector}
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
        inputs, outputs = (channels // 2, channels) if level < config.num_levels - 1 else (channels, 2 * channels)
        shapes |= prefixed(f"blocks.{level}.", _zero_conv_shapes("prior", inputs, outputs))
    return shapes


def _zero_conv_shapes(name: str, in_channels: int, out_channels: int) -> Shapes:
    return {
        f"{name}.conv.weight": (out_channels, in_channels, 3, 3),
        f"{name}.conv.bias": (out_channels,),
        f"{name}.scale": (1, out_channels, 1, 1),
    }


def _step_values(flow: Arrays, coupling: str) -> Arrays:
    """{our name: array} of one step, except its 1x1 convolution and the scale of its actnorm."""
    last = _ones_padded(flow, "coupling.net.4")
    if coupling == "affine":
        # glow-pytorch puts the raw scale first; we put the shift first.
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


def _matrix(flow: Arrays) -> np.ndarray:
    """The matrix [C, C] of the 1x1 convolution, for row vectors."""
    if "invconv.weight" in flow:
        weight = flow["invconv.weight"][:, :, 0, 0].astype(np.float64)
    else:
        w_p, w_l, w_u, w_s, s_sign = (
            flow[f"invconv.{name}"].astype(np.float64) for name in ("w_p", "w_l", "w_u", "w_s", "s_sign")
        )
        lower = np.tril(w_l, -1) + np.eye(len(w_l))
        weight = w_p @ lower @ (np.triu(w_u, 1) + np.diag(s_sign * np.exp(w_s)))
    return weight.T


def _ones_padded(arrays: Arrays, name: str) -> Arrays:
    """The four variables of a convolution that pads with ones; the order of output channels does not change."""
    kernel = _kernel(arrays[f"{name}.conv.weight"])
    return {
        "kernel": kernel,
        "edge": kernel.sum(axis=2, dtype=np.float64),
        "bias": arrays[f"{name}.conv.bias"],
        "log_scale": arrays[f"{name}.scale"].reshape(-1),
    }


def _kernel(weight: np.ndarray) -> np.ndarray:
    """[out, in, height, width] -> [height, width, in, out]."""
    return weight.transpose(2, 3, 1, 0)
