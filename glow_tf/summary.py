"""Descriptions of a Glow: one line for its `repr`, a table of its levels for `summary`."""

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from glow_tf.glow import Glow


def line(glow: "Glow") -> str:
    """The configuration's main numbers and the number of parameters."""
    config = glow.config
    classes = f", num_classes={config.num_classes}" if config.num_classes else ""
    state = "" if glow.is_initialized else ", actnorms not initialised"
    return (
        f"<Glow image_shape={config.image_shape}, num_levels={config.num_levels}, num_steps={config.num_steps}, "
        f"width={config.width}{classes}: {glow.num_parameters:,} parameters{state}>"
    )


def table(glow: "Glow") -> str:
    """A table with one row per level and per part with its own weights."""
    rows: list[tuple[str, ...]] = [("part", "image [H, W, C]", "latents", "parameters")]
    shapes = glow.config.squeezed_shapes()
    for level, (size, steps) in enumerate(zip(shapes, glow.flow.steps, strict=True)):
        leaves = np.prod(size) // (2 if level < len(shapes) - 1 else 1)
        rows.append((f"level {level}: {glow.config.num_steps} steps", str(size), f"{leaves:,}", _count(steps)))
    rows += [(f"prior of level {i}", "", "", _count(split)) for i, split in enumerate(glow.flow.splits)]
    rows.append((f"prior of level {len(shapes) - 1}", "", "", _count(glow.flow.top)))
    parts = {"classifier": glow.flow.classifier, "dequantisation noise": glow.flow.noise}
    rows += [(name, "", "", _count(part)) for name, part in parts.items() if part is not None]
    rows.append(("total", str(glow.config.image_shape), f"{glow.config.num_dims:,}", f"{glow.num_parameters:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for part, shape, *numbers in rows:
        aligned = [part.ljust(widths[0]), shape.ljust(widths[1]), *map(str.rjust, numbers, widths[2:])]
        lines.append("  ".join(aligned))
    return "\n".join([repr(glow), *lines])


def _count(module: tf.Module) -> str:
    return f"{sum(int(np.prod(v.shape)) for v in module.trainable_variables):,}"
