"""Measures the cost of a training step against K, L, width, image size and batch: seconds, arithmetic, memory.

    python3 benchmarks/scaling.py                          the grid of docs/scaling.md, about ten minutes
    python3 benchmarks/scaling.py --one size=256 num_levels=6 coupling=additive num_bits=5 batch=1 \\
        backprop=reversible steps=1 round_trip=1           one measurement
    python3 benchmarks/scaling.py --graph                  tracing, graph and variables against K
    python3 benchmarks/scaling.py --plot scaling.png       the grid, and a plot of it

Each measurement runs in its own process, so that peak memory is not shared. The images are crops of two photographs.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# The default settings of a measurement, which `--one` overrides: the small model of the grid.
DEFAULTS = {
    "size": 32,
    "channels": 3,
    "num_levels": 3,
    "num_steps": 8,
    "width": 128,
    "coupling": "affine",
    "num_bits": 8,
    "batch": 16,
    "backprop": "stored",
    "steps": 5,  # timed after the first step; the median is reported
    "initial": 1,  # images for the initialisation
    "mixed_precision": 0,
    "round_trip": 0,  # whether to also measure decode(encode(images))
}

GRID = [
    {},
    *({"num_steps": k} for k in (4, 16)),
    *({"num_levels": level} for level in (1, 2)),
    *({"width": width} for width in (64, 256)),
    *({"batch": batch} for batch in (4, 32)),
    *({"size": size, "batch": 4} for size in (64, 128)),
    *({"backprop": mode} for mode in ("recompute", "reversible")),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--one", nargs="*", metavar="KEY=VALUE", help=f"run one measurement; keys: {', '.join(DEFAULTS)}"
    )
    parser.add_argument("--graph", action="store_true", help="measure tracing time, nodes and variables against K")
    parser.add_argument("--plot", metavar="FILE", help="also draw CPU seconds against K, batch and image size")
    parser.add_argument("--input", action="store_true", help="measure how many images per second are read from memory")
    options = parser.parse_args()
    if options.input:
        read_batches()
        return
    if options.graph:
        trace_graphs()
        return
    if options.one is not None:
        print(json.dumps(measure(**DEFAULTS | dict(map(_setting, options.one)))))
        return
    columns = ("s/step", "CPU s/step", "GFLOP/image", "GFLOP/CPU s", "peak MB", "parameters", "first step s")
    print("| " + " | ".join(("change", *columns)) + " |\n|" + "---|" * (len(columns) + 1))
    measured = []
    for changes in GRID:
        words = [f"{key}={value}" for key, value in changes.items()]
        answer = subprocess.run(
            [sys.executable, __file__, "--one", *words], check=True, text=True, stdout=subprocess.PIPE
        )
        found = json.loads(answer.stdout.splitlines()[-1])
        print("| " + " | ".join([" ".join(words) or "none", *(str(found[c]) for c in columns)]) + " |", flush=True)
        measured.append((changes, found))
    if options.plot:
        plot(options.plot, measured)


def plot(path, measured):
    """Plots CPU seconds per step against K, batch and image size in three panels, with axes from zero."""
    from matplotlib import pyplot as plt

    panels = (
        ("num_steps", "K, flow steps per level", {}),
        ("batch", "images per batch", {}),
        ("size", "side of the images, 4 per batch", {"batch": 4}),
    )
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.3), layout="constrained")
    text = "{size}x{size}x{channels}, K={num_steps}, L={num_levels}, width {width}, batch {batch}".format_map(DEFAULTS)
    figure.suptitle(f"Cost of a training step: {text}, unless the axis says otherwise", fontsize="medium")
    for axis, (key, title, fixed) in zip(axes, panels, strict=True):
        points = sorted(
            ((DEFAULTS | changes)[key], found["CPU s/step"])
            for changes, found in measured
            if {name: value for name, value in changes.items() if name != key} == fixed
        )
        axis.plot(*zip(*points, strict=True), "o-", clip_on=False)
        axis.set(xlabel=title, ylabel="CPU s per step", xlim=(0, None), ylim=(0, None))
    figure.savefig(path, dpi=100)
    print(path)


def trace_graphs():
    """Traces one training step of the paper's model at growing K; prints seconds, nodes and variables."""
    import numpy as np
    import tensorflow as tf

    from glow_tf.config import GlowConfig
    from glow_tf.glow import Glow
    from glow_tf.training.trainer import Trainer

    images = tf.constant(np.zeros([8, 32, 32, 3], np.uint8))
    print("| K | tracing s | CPU s | nodes | variables | parameters |\n|" + "---|" * 6)
    for num_steps in (4, 4, 8, 16, 32, 48):  # the first warms up
        glow = Glow(GlowConfig((32, 32, 3), num_levels=3, num_steps=num_steps, width=512))
        trainer = Trainer(glow, batch_size=8)
        wall, cpu = time.perf_counter(), time.process_time()
        graph = trainer._step.get_concrete_function(tf.constant(0), images).graph.as_graph_def()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        nodes = len(graph.node) + sum(len(function.node_def) for function in graph.library.function)
        print(f"| {num_steps} | {wall:.1f} | {cpu:.1f} | {nodes:,} | {len(glow.trainable_variables)} | "
              f"{glow.num_parameters:,} |", flush=True)  # fmt: skip


def measure(round_trip, initial, batch, size, channels, steps, backprop, mixed_precision, **model):
    """Runs one measurement; returns {column: number}."""
    import numpy as np

    from glow_tf.config import GlowConfig
    from glow_tf.glow import Glow
    from glow_tf.training.schedule import Schedule
    from glow_tf.training.trainer import Trainer

    config = GlowConfig(image_shape=(size, size, channels), **model)
    glow = Glow(config)
    options = {"mixed_precision": True} if mixed_precision else {}
    trainer = Trainer(glow, batch_size=batch, backprop=backprop, schedule=Schedule(warmup_steps=1000), **options)
    images = photographs(max(batch, initial), size)[..., :channels]
    built = _peak()
    start = time.perf_counter()
    trainer.initialize(images[:initial])
    initialized, initialized_peak = time.perf_counter() - start, _peak()
    seconds, cpu_seconds = [], []
    for _ in range(1 + steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        metrics = trainer.train_step(images[:batch])
        bits, norm = float(metrics["bits_per_dim"]), float(metrics["gradient_norm"])
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    typical = float(np.median(seconds[1:] or seconds))
    cpu = float(np.median(cpu_seconds[1:] or cpu_seconds))
    # The backward pass costs twice the forward pass; recomputing runs the forward pass once more.
    flop = 2 * multiplications(config) * (3 if backprop == "stored" else 4)
    found = {
        "s/step": round(typical, 3),
        "CPU s/step": round(cpu, 3),
        "GFLOP/image": round(flop / 1e9, 2),
        "GFLOP/CPU s": round(flop * batch / cpu / 1e9),
        "peak MB": _peak(),
        "parameters": glow.num_parameters,
        "first step s": round(seconds[0], 1),
        "MB before the initialisation": built,
        "MB after the initialisation": initialized_peak,
        "initialisation s": round(initialized, 1),
        "bits/dim": bits,
        "gradient norm": norm,
    }
    if round_trip:
        values = glow.dequantizer.dequantize(images[:batch], 0.5)
        again = glow.decode(glow.encode(values))
        found["bytes that differ after the round trip"] = int(
            np.sum(glow.dequantizer.quantize(again).numpy() != glow.dequantizer.quantize(values).numpy())
        )
        found["largest error, bins"] = float(np.max(np.abs(again - values)) / glow.dequantizer.bin_width)
    return found


def read_batches():
    """Measures how fast the input pipeline shuffles, gathers, mirrors and delivers images from memory."""
    from glow_tf.data import image_data

    for size, count, batch in ((32, 8192, 512), (256, 512, 32)):
        crops = photographs(64, size)
        split = image_data.ArrayDataset(crops.repeat(count // 64, axis=0))
        list(split.training_batches(batch, 0, 0, flip=True).take(1))
        start = time.perf_counter()
        steps = sum(1 for _ in split.training_batches(batch, 0, 1, flip=True))
        print(f"{size}x{size}, batch {batch}: {steps * batch / (time.perf_counter() - start):,.0f} images/s")


def photographs(count, size):
    """uint8 [count, size, size, 3]: random crops of scikit-learn's two sample photographs."""
    import numpy as np
    from sklearn import datasets

    rng = np.random.default_rng(0)
    crops = []
    for i in range(count):
        photograph = datasets.load_sample_images().images[i % 2]
        top, left = (rng.integers(side - size + 1) for side in photograph.shape[:2])
        crops.append(photograph[top : top + size, left : left + size])
    return np.stack(crops)


def multiplications(config):
    """Multiplications in the convolutions of one image's forward pass, which are nearly all of them."""
    total = 0
    for height, width, channels in config.squeezed_shapes():
        out = channels if config.coupling == "affine" else channels // 2
        network = 9 * channels // 2 * config.width + config.width**2 + 9 * config.width * out
        total += height * width * config.num_steps * (network + channels**2)
    return total


def _setting(word):
    key, _, value = word.partition("=")
    return key, type(DEFAULTS[key])(value)


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
