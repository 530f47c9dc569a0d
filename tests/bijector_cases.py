"""One constructor for every bijector of the package, for the contract that all of them meet. A new one adds a line."""

import numpy as np
import tensorflow as tf
from helpers import SMALL, randomize

from glow_tf.bijectors import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    ChannelPermutation,
    FlowStep,
    Gaussian,
    InvertibleConv1x1,
    Split,
    Squeeze,
)
from glow_tf.config import GlowConfig
from glow_tf.nn.openai import OpenAINetwork
from glow_tf.nn.steps import FlowSteps

HEIGHT, WIDTH, CHANNELS = 2, 4, 4
IMAGE_EVENT = (HEIGHT, WIDTH, CHANNELS)


class Network(tf.Module):
    """A conditioner, smooth and not small: x1 [..., C/2] -> two halves, or one."""

    def __init__(self, rng, dtype, outputs=2, context=0):
        super().__init__()
        half = CHANNELS // 2
        self.first = tf.Variable(rng.standard_normal((half + context, 5)), dtype=dtype)
        self.second = tf.Variable(0.5 * rng.standard_normal((outputs, 5, half)), dtype=dtype)

    def __call__(self, x1):
        hidden = tf.tanh(tf.tensordot(x1, self.first, 1))
        results = [tf.tensordot(hidden, matrix, 1) for matrix in tf.unstack(self.second)]
        return results[0] if len(results) == 1 else results


class Learned(tf.Module):
    """The parameters of a Gaussian."""

    def __init__(self, rng, dtype):
        super().__init__()
        self.mean = tf.Variable(rng.standard_normal(IMAGE_EVENT), dtype=dtype)
        self.log_scale = tf.Variable(0.5 * rng.standard_normal(IMAGE_EVENT), dtype=dtype)

    def __call__(self):
        return self.mean, self.log_scale


def actnorm(rng, dtype):
    return ActNorm(
        tf.Variable(rng.standard_normal(CHANNELS), dtype=dtype),
        tf.Variable(0.5 * rng.standard_normal(CHANNELS), dtype=dtype),
    )


def conv1x1(rng, dtype):
    weight = np.eye(CHANNELS) + 0.3 * rng.standard_normal((CHANNELS, CHANNELS))
    return InvertibleConv1x1(
        tf.Variable(weight, dtype=dtype),
        tf.Variable(np.linalg.inv(weight), dtype=dtype),
        tf.Variable(np.linalg.slogdet(weight)[1], dtype=dtype),
    )


def affine(rng, dtype):
    return AffineCoupling(Network(rng, dtype), dtype=dtype)


def conditional(kind, outputs):
    def make(rng, dtype):
        context = tf.Variable(rng.standard_normal((HEIGHT, WIDTH, 3)), dtype=dtype)
        return kind(Network(rng, dtype, outputs, context=3), dtype, context=context)

    return make


def split(rng, dtype):
    deeper = ActNorm(tf.Variable([0.5, -1.0], dtype=dtype), tf.Variable([0.3, 0.7], dtype=dtype))
    return Split(Network(rng, dtype), deeper)


def scan(backprop, **kind):
    def make(rng, dtype):
        config = GlowConfig(**SMALL | kind | {"num_steps": 3, "dtype": dtype})
        steps = FlowSteps(config, CHANNELS, OpenAINetwork(6), rng, "level0")
        randomize(steps, rng)
        return steps.bijector(backprop)

    return make


MAKE = {
    "squeeze": lambda rng, dtype: Squeeze(dtype=dtype),
    "actnorm": actnorm,
    "conv1x1": conv1x1,
    "reverse": lambda rng, dtype: ChannelPermutation(tf.range(CHANNELS)[::-1], dtype=dtype),
    "shuffle": lambda rng, dtype: ChannelPermutation(tf.constant([2, 0, 3, 1]), dtype=dtype),
    "affine": affine,
    "additive": lambda rng, dtype: AdditiveCoupling(Network(rng, dtype, outputs=1), dtype=dtype),
    "conditional_affine": conditional(AffineCoupling, outputs=2),
    "conditional_additive": conditional(AdditiveCoupling, outputs=1),
    "split": split,
    "gaussian": lambda rng, dtype: Gaussian(Learned(rng, dtype), dtype=dtype),
    "flow_step": lambda rng, dtype: FlowStep(actnorm(rng, dtype), conv1x1(rng, dtype), affine(rng, dtype)),
    "stored": scan("stored"),
    "recompute": scan("recompute", permutation="shuffle"),
    "reversible": scan("reversible"),
    "reversible_additive": scan("reversible", coupling="additive", permutation="reverse"),
}


def make(name, dtype="float64", seed=3):
    return MAKE[name](np.random.default_rng(seed), dtype)


def draw(rng, bijector, side, batch=()):
    """Values on the latent side (what `forward` takes) or the image side (what `inverse` takes)."""
    event = IMAGE_EVENT if side == "inverse" else bijector.inverse_event_shape(IMAGE_EVENT)
    return tf.constant(rng.standard_normal((*batch, *event)), bijector.dtype)


def log_det(bijector, direction, values):
    return getattr(bijector, f"{direction}_log_det_jacobian")(values, event_ndims=3)
