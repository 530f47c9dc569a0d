"""The layers of Glow, each a `tfb.Bijector`. Directions: `forward` maps latents z to images x, `inverse` x to z.

ActNorm             z = (x + shift) * exp(log_scale)
InvertibleConv1x1   z = x W, a row vector times a matrix; W = P L (U + diag(s)) by `plu_weight`
ChannelPermutation  z[..., j] = x[..., indices[j]]
AffineCoupling      z = [x1, (x2 + shift) * exp(log_scale)], where shift, log_scale = conditioner(x1)
AdditiveCoupling    z = [x1, x2 + conditioner(x1)]
FlowStep            z = coupling(permutation(actnorm(x)))
Scan                z = step_{K-1}(... step_1(step_0(x))), in one loop over stacked parameters
Squeeze             z[h, w, 4c + 2i + j] = x[2h + i, 2w + j, c]
Split               z = [deeper(x1), (x2 - mean) * exp(-log_scale)], where mean, log_scale = prior(x1)
Gaussian            z = (x - mean) * exp(-log_scale)

Reading order: `base` and `shapes` (what the layers share), `actnorm`, `invertible_conv`, `permutation`, `coupling`,
`flow_step`, `squeeze`, `gaussian`, `split`; last `residuals` and `scan`, which are about memory and not about the
model, and with them the methods `inverse_vjp`, which only `Scan(backprop="reversible")` calls.
"""

from glow_tf.bijectors.actnorm import ActNorm, actnorm_init
from glow_tf.bijectors.base import ImageBijector
from glow_tf.bijectors.coupling import AdditiveCoupling, AffineCoupling
from glow_tf.bijectors.flow_step import FlowStep
from glow_tf.bijectors.gaussian import Gaussian
from glow_tf.bijectors.invertible_conv import InvertibleConv1x1, plu_decompose, plu_inverse, plu_weight
from glow_tf.bijectors.permutation import ChannelPermutation
from glow_tf.bijectors.scan import BACKPROP_MODES, Scan
from glow_tf.bijectors.split import Split
from glow_tf.bijectors.squeeze import Squeeze

__all__ = [
    "BACKPROP_MODES",
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "ChannelPermutation",
    "FlowStep",
    "Gaussian",
    "ImageBijector",
    "InvertibleConv1x1",
    "Scan",
    "Split",
    "Squeeze",
    "actnorm_init",
    "plu_decompose",
    "plu_inverse",
    "plu_weight",
]
