"""Measures rounding errors (gradients in float32, training in bfloat16) and XLA's compile time.

    python3 benchmarks/precision.py gradients                 float32 against float64, level by level, at K=32
    python3 benchmarks/precision.py bfloat16                  bits/dim after equal steps, and the round trip, on digits
    python3 benchmarks/precision.py bfloat16 DATA_DIR 500     the same after 500 steps of CIFAR-10, K=8, width 128
    python3 benchmarks/precision.py xla                       seconds of the first step with and without XLA

DATA_DIR is the folder of prepared TFDS data sets.
"""

import itertools
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf
from scaling import photographs

from glow_tf.config import GlowConfig
from glow_tf.data import image_data
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.training.schedule import Schedule
from glow_tf.training.trainer import Trainer

WIDTH = 32


def gradients(steps=40):
    """Trains briefly, so that the couplings are not constant, and compares gradients on another batch."""
    shape = {"image_shape": (32, 32, 3), "num_levels": 3, "num_steps": 32, "width": WIDTH}
    images = photographs(16 * (steps + 1), 32)
    glow = Glow(GlowConfig(**shape))
    trainer = Trainer(glow, batch_size=16, schedule=Schedule(warmup_steps=steps))
    trainer.initialize(images[:128])
    for i in range(steps):
        bits = float(trainer.train_step(images[16 * i : 16 * i + 16])["bits_per_dim"])
    exact = Glow(GlowConfig(**shape, dtype="float64"))
    for name, variable in exact.named_variables().items():
        variable.assign(tf.cast(glow.named_variables()[name], variable.dtype))
    batch = images[-16:]
    wanted = _gradient(exact, batch, "stored")
    plain = _gradient(glow, batch, "stored")
    print(f"K=32, L=3, width {WIDTH}, 32x32, {steps} steps, {bits:.3f} bits/dim")
    print("| compared | level 0 | level 1 | level 2 | Gaussians |\n|---|---|---|---|---|")
    cases = {
        "stored, float32, with float64": (plain, wanted),
        "reversible, float32, with float64": (reversible := _gradient(glow, batch, "reversible"), wanted),
        "reversible with stored, both float32": (reversible, plain),
    }
    for name, (found, wanted) in cases.items():
        cells = []
        for part in ("level0", "level1", "level2", ("split", "top")):
            keys = [key for key in wanted if key.startswith(part)]
            difference = sum(np.sum((found[key] - wanted[key]) ** 2) for key in keys)
            cells.append(f"{np.sqrt(difference / sum(np.sum(wanted[key] ** 2) for key in keys)):.1e}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _gradient(glow, images, mode):
    named = {name: v for name, v in glow.named_variables().items() if v.trainable}
    # Dequantise in float32 for both, so that they see the same pixels; otherwise that rounding would dominate.
    noise = tf.random.stateless_uniform(images.shape, [0, 1])
    values = tf.cast(glow.dequantizer.dequantize(images, noise, tf.float32), glow.config.dtype)

    @tf.function(autograph=False)
    def gradient():
        with tf.GradientTape() as tape:
            log_prob = glow.transformed_distribution(backprop=mode).log_prob(values)
            loss = tf.reduce_mean(glow.dequantizer.bits_per_dim(log_prob, glow.config.num_dims))
        return tape.gradient(loss, list(named.values()))

    return {name: g.numpy().astype(np.float64) for name, g in zip(named, gradient(), strict=True)}


def bfloat16(data_dir=None, steps=300, seeds=2):
    """Trains in both precisions, on digits or on the CIFAR-10 in `data_dir`, and evaluates in float32."""
    steps, options = int(steps), {}
    if data_dir is None:
        data, shape, batch = image_data.load("digits"), {"num_levels": 2, "width": 64, "num_bits": 4}, 64
    else:
        data, shape, batch = image_data.load("cifar10", data_dir=data_dir), {"width": 128, "architecture": "plus"}, 32
        options = {"optimizer": "muon", "learning_rate": 2e-3, "beta_2": 0.99}
    schedule = Schedule(warmup_steps=steps // 6, cooldown_steps=steps // 2, total_steps=steps)
    images = data.test.random_subset(128, seed=0)[0]
    print(f"{data.name}, {steps} steps of {batch}")
    print("| networks in training | seed | last 20 steps | test | round trip, bins | with bfloat16 networks | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for seed, mixed in itertools.product(range(int(seeds)), (False, True)):
        glow = Glow(GlowConfig(data.image_shape, num_steps=8, **shape), seed=seed)
        trainer = Trainer(
            glow, batch_size=batch, schedule=schedule, mixed_precision=mixed, ema_decay=0.0, seed=seed, **options
        )
        trainer.initialize(data.train.random_subset(256, seed=seed)[0])
        bits, cpu = [], time.process_time()
        while len(bits) < steps:
            epoch = data.train.training_batches(batch, seed, len(bits) // data.train.steps_per_epoch(batch))
            for training, _ in epoch.take(steps - len(bits)):
                bits.append(float(trainer.train_step(training)["bits_per_dim"]))
        cpu = time.process_time() - cpu
        found, error, _ = metrics.bits_per_dim(glow, data.test, limit=1000)
        values = glow.dequantizer.dequantize(images, 0.5)
        low = glow.bijector(network_dtype=tf.bfloat16)
        again = low.forward(tf.identity(low.inverse(values)))
        rounded = float(tf.reduce_max(tf.abs(again - values))) / glow.dequantizer.bin_width
        print(
            f"| {'bfloat16' if mixed else 'float32'} | {seed} | {np.mean(bits[-20:]):.4f} "
            f"| {found:.4f} ± {error:.4f} | {metrics.round_trip(glow, images)[0]:.1e} | {rounded:.1e} | {cpu:.0f} |",
            flush=True,
        )


def xla():
    print("| K | first step, s | with XLA, s | next step, s | with XLA, s |\n|---|---|---|---|---|")
    images = image_data.load("digits").train.images[:16]
    for num_steps in (4, 16):
        seconds = []
        for jit_compile in (False, True):
            glow = Glow(GlowConfig((8, 8, 1), num_levels=2, num_steps=num_steps, width=32, num_bits=4))
            trainer = Trainer(glow, batch_size=16, jit_compile=jit_compile)
            trainer.initialize(images)
            for _ in range(2):
                start = time.perf_counter()
                trainer.train_step(images)["bits_per_dim"].numpy()
                seconds.append(time.perf_counter() - start)
        first, then, first_xla, then_xla = seconds
        print(f"| {num_steps} | {first:.1f} | {first_xla:.1f} | {then:.3f} | {then_xla:.3f} |", flush=True)


if __name__ == "__main__":
    parts = {"gradients": gradients, "bfloat16": bfloat16, "xla": xla}
    if sys.argv[1:2] and sys.argv[1] in parts:
        parts[sys.argv[1]](*sys.argv[2:])
    else:
        print(__doc__)
