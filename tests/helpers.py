"""What several test files need: models away from their initial values, Jacobians, graphs to count in."""

import pathlib

import numpy as np
import tensorflow as tf

from glow_tf.config import GlowConfig
from glow_tf.glow import Glow
from glow_tf.nn.openai import OpenAINetwork

# Values computed with other programs; not part of the repository.
REFERENCE = pathlib.Path(__file__).parents[2] / "shared" / "reference"

SMALL = {"image_shape": (4, 8, 2), "num_levels": 2, "num_steps": 2, "width": 8, "dtype": "float64"}


def randomize(module, rng, scale=0.1):
    """Moves every trainable variable of a tf.Module: at Glow's start the couplings are constant.

    Larger scales make the flow ill-conditioned, and float32 round trips then fail for an honest reason.
    """
    for variable in module.trainable_variables:
        variable.assign_add(tf.constant(scale * rng.standard_normal(variable.shape), variable.dtype))


def make_glow(seed=0, scale=0.1, network=None, **config):
    """A small Glow with all variables random; `config` over `SMALL`."""
    glow = Glow(GlowConfig(**SMALL | config), seed=seed, network=network)
    randomize(glow, np.random.default_rng(seed + 1), scale)
    return glow


def random_images(rng, glow, count):
    """Continuous pixels [count, H, W, C] of the glow's type, all over its range."""
    low, high = glow.config.pixel_range
    return tf.constant(rng.uniform(low, high, (count, *glow.config.image_shape)), glow.config.dtype)


def values_of(glow):
    return {name: variable.numpy() for name, variable in glow.named_variables().items()}


def log_abs_det_jacobian(function, point):
    """log|det| of the Jacobian of function: [B, H, W, C] -> [B, h, w, c] at one event, by autodiff.

    The event is repeated once for each output; the gradient of output n in copy n is row n.
    """
    size = int(tf.size(point))
    copies = tf.tile(point[tf.newaxis], [size] + [1] * point.shape.rank)
    with tf.GradientTape() as tape:
        tape.watch(copies)
        own_output = tf.linalg.diag_part(tf.reshape(function(copies), [size, size]))
    return np.linalg.slogdet(tf.reshape(tape.gradient(own_output, copies), [size, size]))[1]


class CountingNetwork(OpenAINetwork):
    """Counts how often it is evaluated; inside a tf.function, how often it is put into a graph."""

    evaluations = 0

    def output(self, parameters, x1, residuals=None):
        self.evaluations += 1
        return super().output(parameters, x1, residuals)


def graph_size(concrete):
    """Nodes that a concrete function's outputs need, and those of its function library.

    Not counted are the zeros that `tf.custom_gradient` leaves behind for gradients that nobody asks for:
    one node each up to 1,000 elements, three beyond.
    """
    needed, waiting = set(), [output.op for output in concrete.outputs]
    while waiting:
        operation = waiting.pop()
        if operation not in needed:
            needed.add(operation)
            waiting += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    library = concrete.graph.as_graph_def().library
    return len(needed) + sum(len(function.node_def) for function in library.function)


def count_operations(concrete, operation):
    """How often `operation` occurs in what a concrete function runs: what no result needs does not count.

    A loop's body counts once.
    """
    graph = concrete.graph.as_graph_def()
    library = {function.signature.name: function for function in graph.library.function}

    def count(nodes, roots):
        by_name = {node.name: node for node in nodes}
        total, seen, waiting = 0, set(), list(roots)
        while waiting:
            name = waiting.pop().removeprefix("^").split(":")[0]
            if name in seen or name not in by_name:
                continue
            seen.add(name)
            node = by_name[name]
            waiting += node.input
            total += node.op == operation
            for called in (node.op, *(attribute.func.name for attribute in node.attr.values())):
                if called in library:
                    function = library[called]
                    total += count(function.node_def, [*function.ret.values(), *function.control_ret.values()])
        return total

    return count(graph.node, [op.name for op in (*(t.op for t in concrete.outputs), *concrete.graph.control_outputs)])
