"""Exports a training step as XLA's HLO, to time it and train with it on a machine that has JAX and a GPU only.

    python3 benchmarks/accelerator.py export --out step.npz                      the paper's model, batch 64
    python3 benchmarks/accelerator.py export --out step.npz --mixed_precision    bfloat16 coupling networks
    python3 benchmarks/accelerator.py time step.npz                              seconds per step
    python3 benchmarks/accelerator.py export --out step.npz --k_glow 8 --width 128 --values --dataset cifar10
    python3 benchmarks/accelerator.py train step.npz --seconds 600 --out trained
    python3 benchmarks/accelerator.py import trained --weights weights.h5

`export` and `import` need TensorFlow; `time` and `train` need JAX and numpy only. The exported step dequantises uint8
images, computes the loss and its gradients and updates the weights, Adam's slots and the moving average. Its inputs are
the images, a seed, the learning rate, the step number and the values of all variables; it returns the updated values.
Without `--values` only shapes are stored, which is enough for timing. `train` writes the averaged weights in pieces of
at most 15 MB. Both commands also run on CPUs.
"""

import argparse
import glob
import os
import sys
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

PIECE_BYTES = 15_000_000
BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-8


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    export = commands.add_parser("export")
    export.set_defaults(run=export_step)
    export.add_argument("--out", required=True)
    export.add_argument("--k_glow", type=int, default=32)
    export.add_argument("--l_glow", type=int, default=3)
    export.add_argument("--width", type=int, default=512)
    export.add_argument("--architecture", default="openai")
    export.add_argument("--img_size", type=int, default=32)
    export.add_argument("--batch_size", type=int, default=64)
    export.add_argument("--backprop", default="stored")
    export.add_argument("--ema_decay", type=float, default=0.999)
    export.add_argument("--mixed_precision", action="store_true")
    export.add_argument("--dataset", help="Training images to store with the step; they also initialise the actnorms.")
    export.add_argument("--data_dir")
    export.add_argument("--values", action="store_true", help="Store the initial values, not just their shapes.")
    timing = commands.add_parser("time")
    timing.set_defaults(run=time_step)
    timing.add_argument("step")
    timing.add_argument("--repeat", type=int, default=20)
    train = commands.add_parser("train")
    train.set_defaults(run=train_for)
    train.add_argument("step")
    train.add_argument("--seconds", type=float, required=True)
    train.add_argument("--learning_rate", type=float, default=2e-3)
    train.add_argument("--warmup_seconds", type=float, default=10.0)
    train.add_argument("--out", required=True, help="A folder for the weights.")
    importing = commands.add_parser("import")
    importing.set_defaults(run=import_weights)
    importing.add_argument("folder")
    importing.add_argument("--weights", required=True)
    options = parser.parse_args()
    options.run(options)


# ------------------------------------------------------------------------------------------ with TensorFlow


def export_step(options):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import glow_tf
    from glow_tf.data import image_data

    side = options.img_size
    images = np.random.default_rng(0).integers(0, 256, [options.batch_size, side, side, 3]).astype(np.uint8)
    if options.dataset:
        images = image_data.load(options.dataset, data_dir=options.data_dir, image_size=side).train.images
    config = glow_tf.GlowConfig(
        images.shape[1:],
        num_levels=options.l_glow,
        num_steps=options.k_glow,
        width=options.width,
        architecture=options.architecture,
    )
    glow = glow_tf.Glow(config)
    if options.values:
        chosen = images[np.random.default_rng(1).permutation(len(images))[:256]]
        glow.initialize(glow.dequantizer.dequantize(chosen, noise=0.5))
    step, variables = make_step(glow, options)
    hlo, arguments, inputs_of = lower(step, images[: options.batch_size])
    stored = {f"input{i:05d}": value for i, value in enumerate(arguments)}
    if not options.values:
        stored = {f"shape{name[5:]}": np.array([v.dtype.str, *map(str, v.shape)]) for name, v in stored.items()}
    if options.dataset:
        stored["images"] = images
    updated = sorted(inputs_of[id(variable.handle)] for variable in variables)
    names = [name for name, variable in glow.named_variables().items() if variable.trainable]
    averages = [f"{inputs_of[id(variable.handle)]} {name}" for name, variable in zip(names, variables, strict=False)]
    stored |= {"updated": updated, "averages": averages, "config": str(config.to_dict())}
    np.savez(options.out, hlo=np.frombuffer(hlo, np.uint8), **stored)
    print(f"{options.out}: {glow.num_parameters:,} parameters, {len(arguments)} inputs, {len(hlo):,} bytes of HLO")


def make_step(glow, options):
    """(compiled function of images, seed, rate and step number; the variables that it updates, averages first)."""
    import tensorflow as tf

    named = {name: variable for name, variable in glow.named_variables().items() if variable.trainable}
    weights = list(named.values())
    average, first, second = ([tf.Variable(v if own else tf.zeros_like(v)) for v in weights] for own in (1, 0, 0))

    @tf.function(jit_compile=True, autograph=False)
    def step(images, seed, rate, number):
        noise = tf.random.stateless_uniform(images.shape, seed)
        x = glow.dequantizer.dequantize(images, noise)
        with tf.GradientTape() as tape:
            dtype = tf.bfloat16 if options.mixed_precision else None
            flow = glow.transformed_distribution(backprop=options.backprop, network_dtype=dtype)
            loss = tf.reduce_mean(glow.dequantizer.bits_per_dim(flow.log_prob(x), glow.config.num_dims))
        gradients = tape.gradient(loss, weights)
        correction = tf.sqrt(1 - BETA_2**number) / (1 - BETA_1**number)
        decay = tf.minimum(options.ema_decay, (1 + number) / (10 + number))
        for v, a, m, s, g in zip(weights, average, first, second, gradients, strict=True):
            m.assign(BETA_1 * m + (1 - BETA_1) * g)
            s.assign(BETA_2 * s + (1 - BETA_2) * tf.square(g))
            v.assign_sub(rate * correction * m / (tf.sqrt(s) + EPSILON))
            a.assign(decay * a + (1 - decay) * v)
        return loss

    return step, [*average, *weights, *first, *second]


def lower(step, images):
    """(serialised HLO; input values: images, seed, rate, number, variables; {id(handle): input index})."""
    import tensorflow as tf

    arguments = (tf.constant(images), tf.constant([0, 0]), tf.constant(1e-3), tf.constant(1.0))
    concrete = step.get_concrete_function(*arguments)
    hlo = step.experimental_get_compiler_ir(*arguments)(stage="hlo_serialized")
    by_handle = {id(v.handle): v for v in concrete.graph.variables}
    captured = [by_handle[id(c)].numpy() if id(c) in by_handle else c.numpy() for c in concrete.captured_inputs]
    indices = {id(c): len(arguments) + i for i, c in enumerate(concrete.captured_inputs)}
    return hlo, [*(argument.numpy() for argument in arguments), *captured], indices


def import_weights(options):
    import ast

    import glow_tf

    values = {}
    for file in sorted(glob.glob(os.path.join(options.folder, "*.npz"))):
        with np.load(file) as piece:
            values |= {name: piece[name] for name in piece.files}
    glow = glow_tf.Glow(glow_tf.GlowConfig.from_dict(ast.literal_eval(str(values.pop("config")))))
    for name, variable in glow.named_variables().items():
        if name in values:
            variable.assign(values.pop(name))
    if values:
        raise ValueError(f"the model has no variables {', '.join(values)}")
    glow.save_weights(options.weights)
    print(options.weights)


# ------------------------------------------------------------------------------------------------ with JAX


def load_step(path):
    """(run, input values, {name: array} of the rest): `run` executes the HLO on JAX's first device."""
    import jax
    from jax._src.lib import xla_client

    with np.load(path) as stored:
        rest = {name: stored[name] for name in stored.files if not name.startswith(("input", "shape"))}
        inputs = [stored[name] for name in sorted(stored.files) if name.startswith("input")]
        shapes = [stored[name] for name in sorted(stored.files) if name.startswith("shape")]
    rng = np.random.default_rng(0)
    for dtype, *shape in shapes:
        shape = [int(size) for size in shape]
        is_float = np.dtype(dtype).kind == "f"
        inputs.append((0.01 * rng.standard_normal(shape) if is_float else np.zeros(shape)).astype(dtype))
    device = jax.devices()[0]
    executable = device.client.compile_and_load(
        xla_client._xla.mlir.hlo_to_stablehlo(rest.pop("hlo").tobytes()),
        xla_client.DeviceList((device,)),
        xla_client.CompileOptions(),
    )

    def run(arrays):
        output = executable.execute_sharded([jax.device_put(array, device) for array in arrays])
        return [shards[0] for shards in output.disassemble_into_single_device_arrays()]

    return run, inputs, rest


def time_step(options):
    import jax

    start = time.perf_counter()
    run, inputs, _ = load_step(options.step)
    print(f"{jax.devices()[0].device_kind}: compiled in {time.perf_counter() - start:.1f} s")
    seconds = []
    for _ in range(options.repeat + 2):
        fresh = [jax.device_put(value.copy()) for value in inputs]
        jax.block_until_ready(fresh)
        start = time.perf_counter()
        jax.block_until_ready(run(fresh))
        seconds.append(time.perf_counter() - start)
    print(f"median of {options.repeat} steps: {1e3 * np.median(seconds[2:]):.2f} ms, best {1e3 * min(seconds):.2f} ms")


def train_for(options):
    """Trains for a fixed time; the rate warms up at the beginning and decays to zero over the second half."""
    run, inputs, rest = load_step(options.step)
    images, batch = rest["images"], len(inputs[0])
    updated = rest["updated"]
    rng, values = np.random.default_rng(0), list(inputs)
    start, number, losses, order = time.monotonic(), 0, [], []
    while (elapsed := time.monotonic() - start) < options.seconds:
        if len(order) < batch:
            order = rng.permutation(len(images))
        rows, order = order[:batch], order[batch:]
        fall = 2 * (1 - elapsed / options.seconds)
        rate = options.learning_rate * min(1.0, (elapsed + 0.1) / options.warmup_seconds, fall)
        number += 1
        values[:4] = images[rows], np.array([0, number], np.int32), np.float32(rate), np.float32(number)
        loss, *new_values = run(values)
        for index, value in zip(updated, new_values, strict=True):
            values[index] = value
        losses.append(loss)
        if number % 100 == 0:
            recent = float(np.mean([np.asarray(value) for value in losses[-100:]]))
            print(f"step {number}, {elapsed:.0f} s: {recent:.4f} bits/dim", flush=True)
            losses.clear()
    averages = dict(reversed(str(text).split(" ")) for text in rest["averages"])
    write_pieces(options.out, {name: np.asarray(values[int(i)]) for name, i in averages.items()}, rest["config"])


def write_pieces(folder, arrays, config):
    os.makedirs(folder, exist_ok=True)
    pieces, size = [{"config": config}], 0
    for name, value in arrays.items():
        if size + value.nbytes > PIECE_BYTES:
            pieces.append({})
            size = 0
        pieces[-1][name] = value
        size += value.nbytes
    for number, piece in enumerate(pieces):
        np.savez(os.path.join(folder, f"weights{number:03d}.npz"), **piece)
    print(f"{folder}: {len(pieces)} pieces")


if __name__ == "__main__":
    main()
