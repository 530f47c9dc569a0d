"""The devices of this machine: a strategy for all of them, their names, and whether they are faster in bfloat16."""

import os
import pathlib

import tensorflow as tf

CPU_INFO = pathlib.Path("/proc/cpuinfo")

# Flags of processors with bfloat16 products: AVX-512 BF16 and AMX on x86, the bf16 extension on ARM.
CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}

# NVIDIA's Ampere is the first generation with bfloat16 tensor cores.
FIRST_GPU = (8, 0)

# The narrowest network that was found to gain: a fifth of a step's time, see docs/scaling.md.
MIN_WIDTH = 64


def default_strategy() -> tf.distribute.Strategy:
    """MirroredStrategy over all local accelerators, or over the logical CPUs if there is none."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def gpu_names() -> list[str]:
    """Names of the GPUs, such as "NVIDIA H100"; empty on a CPU."""
    return [details.get("device_name", "GPU") for details in _gpus()]


def prefers_bfloat16(width: int) -> bool:
    """What `mixed_precision="auto"` chooses here for coupling networks of `width` channels."""
    return width >= MIN_WIDTH and has_fast_bfloat16()


def has_fast_bfloat16(cpu_info: str | os.PathLike = CPU_INFO) -> bool:
    """Whether `--mixed_precision` is likely to be faster here: on every GPU in use, else on the processor.

    Args:
        cpu_info: file with a line `flags : ...` (x86) or `Features : ...` (ARM).
    """
    gpus = _gpus()
    if gpus:
        return all(details.get("compute_capability", (0, 0)) >= FIRST_GPU for details in gpus)
    try:
        lines = pathlib.Path(cpu_info).read_text().splitlines()
    except OSError:
        return False
    flags = [line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))]
    return any(CPU_FLAGS & set(words) for words in flags)


def _gpus() -> list[dict]:
    """TensorFlow's details of each GPU."""
    return [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
