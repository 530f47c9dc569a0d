"""The architectures by their names in `GlowConfig.architecture`: the networks and Gaussians that make up a Glow."""

from collections.abc import Callable
from typing import Any, NamedTuple

from glow_tf.config import GlowConfig
from glow_tf.nn import glow_tf2, openai, plus, priors
from glow_tf.nn.base import CouplingNetwork
from glow_tf.nn.steps import FlowSteps


class Architecture(NamedTuple):
    """The parts of a Glow that differ between implementations.

    Args:
        coupling_network: config -> the `CouplingNetwork` of all couplings.
        split_prior: (config, channels before the split, name) -> a `ParameterModule` that maps x1, which stays, to the
            (mean, log_scale) of x2, which leaves.
        top_prior: (config, (H, W, C), name) -> a `ParameterModule` whose method `bijector(labels)` standardises the
            deepest latents.
        flow_steps: `FlowSteps`, or a subclass of it.
    """

    coupling_network: Callable[[GlowConfig], CouplingNetwork]
    split_prior: Callable[[GlowConfig, int, str], Any]
    top_prior: Callable[[GlowConfig, tuple[int, int, int], str], Any]
    flow_steps: type[FlowSteps] = FlowSteps


ARCHITECTURES = {
    "openai": Architecture(lambda config: openai.OpenAINetwork(config.width), priors.SplitPrior, priors.TopPrior),
    "plus": Architecture(
        lambda config: plus.PlusNetwork(config.width),
        plus.BoundedSplitPrior,
        plus.PositionwiseTopPrior,
        plus.WhitenedSteps,
    ),
    "glow_tf2": Architecture(glow_tf2.CouplingNetwork, glow_tf2.SplitPrior, glow_tf2.TopPrior),
}
