"""Whose networks and Gaussians a Glow is made of, by the name that a GlowConfig holds."""

from collections.abc import Callable
from typing import NamedTuple

from glow_tf import glow_tf2_parts, levels, networks


class Architecture(NamedTuple):
    """The parts of a Glow that implementations differ in.

    Args:
        coupling_network: config -> the couplings' network (an object like `networks.OpenAINetwork`).
        split_gaussian: (config, channels, name) -> a `levels.Part` that maps the kept half to (mean, log_scale).
        top_gaussian: (config, shape, name) -> a `levels.Part` with the method `bijector(labels)`.
    """

    coupling_network: Callable
    split_gaussian: Callable
    top_gaussian: Callable


ARCHITECTURES = {
    "openai": Architecture(
        lambda config: networks.OpenAINetwork(config.width), levels.SplitGaussian, levels.TopGaussian
    ),
    "glow_tf2": Architecture(
        glow_tf2_parts.CouplingNetwork, glow_tf2_parts.SplitGaussian, glow_tf2_parts.TopGaussian
    ),
}
