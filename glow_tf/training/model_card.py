"""MODEL_CARD.md: what a run's weights are, for whoever finds them without the run.

It is made of what the weights file says and of the machine, which the weights file does not know: equal runs give
equal weights on any machine.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging

from glow_tf._files import write_atomically
from glow_tf.config import GlowConfig

if TYPE_CHECKING:  # training imports this module
    from glow_tf.training.trainer import Trainer

_LOADING = """\
## How to load

```python
import glow_tf

glow = glow_tf.Glow.load("weights.h5")
images = glow.sample(16, temperature=0.7)
print(glow.bits_per_dim(images))
```

`python3 -m glow_tf inspect weights.h5` says what the file holds, and checks it.
"""

_LIMITS = """\
## Limits

- It knows the data set above and nothing else: images of other kinds, sizes or contrasts are outside of it.
- A high likelihood is no sign that an image is like the training images; smooth images have one under every such
  model.
- It can repeat what is wrong in the data set, and samples of people are of nobody, yet may resemble somebody.
- The bits/dim is a mean over test images with one draw of the dequantisation noise each.
"""


def text(config: GlowConfig, num_parameters: int, metadata: Mapping[str, Any], hardware: str) -> str:
    """The card, Markdown.

    Args:
        config: the GlowConfig.
        num_parameters: how many numbers are trained.
        metadata: of the weights file; what it lacks is left out or called unknown.
        hardware: in words.
    """
    size = "x".join(map(str, config.image_shape))
    classes = f", {config.num_classes} classes" if config.num_classes else ""
    rows = {
        "data": f"{_inline(metadata.get('dataset', 'unknown'))}, {size}, {config.num_bits} bits a channel{classes}",
        "model": f"Glow, L={config.num_levels}, K={config.num_steps}, width {config.width}, "
        f"{config.coupling} coupling, {config.permutation}, {num_parameters:,} parameters",
        "command": f"`{_inline(metadata.get('command', 'none: trained from Python'))}`",
        "steps": f"{metadata.get('step', 'unknown')}, epoch {metadata.get('epoch', 'unknown')}, "
        f"seed {metadata.get('seed', 'unknown')}",
        "test bits/dim": _result(metadata),
        "hardware": _inline(hardware),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    heading = f"# Glow of {_inline(metadata.get('dataset', 'images'))}"
    return f"{heading}\n\n| | |\n|---|---|\n{table}\n\n{_LIMITS}\n{_LOADING}"


def write(path: str | os.PathLike, trainer: "Trainer", metadata: Mapping[str, Any]) -> None:
    """Replaces the card at `path` as a whole; a card that cannot be written is told, and nothing else happens.

    Args:
        trainer: a Trainer.
        metadata: of the weights file.
    """
    try:
        glow = trainer.glow
        card = text(glow.config, glow.num_parameters, metadata, hardware_of(trainer.devices))
        write_atomically(path, card.encode(errors="backslashreplace"))
    except Exception as error:  # whatever it is: days of training must not end by a description of them
        logging.warning("the model card could not be written: %s", error)


def hardware_of(devices: Sequence[str]) -> str:
    """In words: the GPUs, or how many CPU cores this process may use.

    Args:
        devices: names of the accelerators, may be empty.
    """
    names = ", ".join(f"{devices.count(name)} x {name}" for name in dict.fromkeys(devices))
    return names or f"{len(os.sched_getaffinity(0))} CPU cores ({platform.machine()})"


def _result(metadata: Mapping[str, Any]) -> str:
    bits, error, count = (metadata.get(f"test_{name}") for name in ("bits_per_dim", "standard_error", "images"))
    if bits is None:
        return "not finite"
    spread = "" if error is None else f", standard error {error:.4f}"
    return f"{bits:.4f}{spread}" + ("" if count is None else f", on {count} test images")


def _inline(value: object) -> str:
    """Text from outside as a part of one table cell."""
    line = " ".join(str(value).split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")
