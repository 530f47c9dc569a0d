"""MODEL_CARD.md: describes a run's weights to readers who do not have the run.

The card combines the metadata of the weights file with the hardware and the training time, which the weights file does
not hold: equal runs write equal weights on any machine.
"""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from glow_tf._files import counted, printable, write_atomically
from glow_tf.config import GlowConfig
from glow_tf.glow import Glow
from glow_tf.metadata import caveat
from glow_tf.training import curves

# Licences of well-known data sets, as their authors state them.
_LICENCES = {
    "digits": "CC BY 4.0 (UCI Optical Recognition of Handwritten Digits)",
    "mnist": "CC BY-SA 3.0",
    "fashion_mnist": "MIT",
    "cifar10": "none stated by its authors (Krizhevsky 2009)",
    "cifar100": "none stated by its authors (Krizhevsky 2009)",
    "celeb_a": "non-commercial research only",
}

_LOADING = """\
## How to load

```python
import glow_tf

glow = glow_tf.Glow.load("weights.h5")
images = glow.sample(16, temperature=0.7)
print(glow.bits_per_dim(images))
```

`python3 -m glow_tf inspect weights.h5` checks the file and prints its contents.
"""

_LIMITS = """\
## Limits

- The model describes images like those of its data set. Other subjects, sizes and contrasts are out of distribution.
- A high likelihood is poor evidence that an image is like the training images: smooth images have a high likelihood
  under any such model.
- The model reproduces the biases of its data set. Samples that look like people show nobody, but may resemble someone.
- The bits/dim is a mean over test images, with one sample of the dequantisation noise per image.
"""


def text(
    config: GlowConfig,
    num_parameters: int,
    metadata: Mapping[str, Any],
    hardware: str,
    seconds: float = 0.0,
    cpu_seconds: float = 0.0,
) -> str:
    """Returns the card in Markdown; what `metadata` lacks is left out or reported as unknown.

    Args:
        seconds: training time by the clock, evaluations included; 0 if unknown.
        cpu_seconds: training time summed over all CPU cores; 0 if unknown.
    """
    size = "x".join(map(str, config.image_shape))
    classes = f", {config.num_classes} classes" if config.num_classes else ""
    dataset = str(metadata.get("dataset", "unknown"))
    before = metadata.get("previous_steps")
    rows = {
        "data": f"{_inline(dataset)}, {size}, {config.num_bits} bits per channel{classes}",
        "licence of the data": _LICENCES.get(dataset, "not recorded"),
        "model": f"Glow ({config.architecture}), L={config.num_levels}, K={config.num_steps}, width {config.width}, "
        f"{config.coupling} coupling, {config.permutation}, pixels {config.pixels}, "
        f"{config.dequantization} dequantisation, {num_parameters:,} parameters",
        "command": f"`{_code(metadata.get('command', 'none: trained from Python'))}`",
        "precision": config.dtype + ", coupling networks in bfloat16" * bool(metadata.get("mixed_precision")),
        "steps": f"{metadata.get('step', 'unknown')}, epoch {metadata.get('epoch', 'unknown')}, "
        f"seed {metadata.get('seed', 'unknown')}"
        + (f", after {before} steps of the weights that it started from" if before else ""),
        "test bits/dim": _result(metadata) + ", given the class" * bool(classes),
        "hardware": _inline(hardware),
        "training time": curves.training_time(seconds, cpu_seconds) or "unknown",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    heading = f"# Glow trained on {_inline(metadata.get('dataset', 'images'))}"
    return f"{heading}\n\n| | |\n|---|---|\n{table}\n\n{_LIMITS}\n{_LOADING}"


def write(
    path: str | os.PathLike,
    glow: Glow,
    devices: Sequence[str],
    metadata: Mapping[str, Any],
    seconds: float = 0.0,
    cpu_seconds: float = 0.0,
) -> None:
    """Replaces the card at `path`; a failure is logged as a warning and not raised. For the arguments see `text`."""
    try:
        card = text(glow.config, glow.num_parameters, metadata, hardware_of(devices), seconds, cpu_seconds)
        write_atomically(path, card.encode(errors="backslashreplace"))
    except Exception as error:  # days of training must not end because of their description
        logging.warning("the model card could not be written: %s", error)


def hardware_of(devices: Sequence[str]) -> str:
    """Describes the hardware: the accelerators by name, or else the number of CPU cores that this process may use."""
    names = ", ".join(f"{devices.count(name)} x {name}" for name in dict.fromkeys(devices))
    return names or f"{len(os.sched_getaffinity(0))} CPU cores ({platform.machine()})"


def _result(metadata: Mapping[str, Any]) -> str:
    bits, error, count = (metadata.get(f"test_{name}") for name in ("bits_per_dim", "standard_error", "images"))
    if bits is None:
        return "not finite"
    spread = "" if error is None else f" ± {error:.4f}"
    images = "" if count is None else f" on {counted(count, 'test image')}"
    return f"{bits:.4f}{spread}{caveat(bits, error)}{images}"


def _code(value: object) -> str:
    """Text from outside between backticks in a table cell, where only these two end it."""
    return printable(" ".join(str(value).split())).replace("|", "\\|").replace("`", "'")


def _inline(value: object) -> str:
    """Text from outside as part of a table cell."""
    line = printable(" ".join(str(value).split()))
    line = re.sub(r"([\\\[\]|])", r"\\\1", line)  # no link, no image, no other cell
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("`", "'")
