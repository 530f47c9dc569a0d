"""Whose networks and Gaussians a Glow is made of, by the name that a GlowConfig holds."""

from collections.abc import Callable
from typing import NamedTuple

from glow_tf.nn import glow_tf2, openai, steps


class Architecture(NamedTuple):
    """The parts of a Glow that implementations differ in.

    Args:
        coupling_network: config -> the couplings' network (an object like `networks.OpenAINetwork`).
        split_prior: (config, channels, name) -> a `levels.Part` that maps the kept half to (mean, log_scale).
        top_prior: (config, shape, name) -> a `levels.Part` with the method `bijector(labels)`.
    """

    coupling_network: Callable
    split_prior: Callable
    top_prior: Callable


ARCHITECTURES = {
    "openai": Architecture(lambda config: openai.OpenAINetwork(config.width), steps.SplitPrior, steps.TopPrior),
    "glow_tf2": Architecture(glow_tf2.CouplingNetwork, glow_tf2.SplitPrior, glow_tf2.TopPrior),
}
