"""Measures the float32 error of the inverse and the log-determinant of a deep model after a long training.

    python3 benchmarks/long_training.py --steps 2000
    python3 benchmarks/long_training.py --steps 2000 --coupling additive

Trains K=32, L=3 on CIFAR-10, then prints bits/dim, the diagnostics, the round trip of test images, of test images with
noise of one byte, and of pure noise (far from the data), and the difference between log_prob in float32 and in float64
for the same weights.
"""

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf

from glow_tf import dequantization
from glow_tf.config import GlowConfig
from glow_tf.data import image_data
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.training import diagnostics
from glow_tf.training.schedule import Schedule
from glow_tf.training.trainer import Trainer

BATCH = 32
TEST_IMAGES = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="folder of prepared TFDS data sets; default: TFDS's own")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--k_glow", type=int, default=32)
    parser.add_argument("--l_glow", type=int, default=3)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--coupling", choices=("affine", "additive"), default="affine")
    options = parser.parse_args()
    data = image_data.load("cifar10", data_dir=options.data_dir)
    config = GlowConfig(
        image_shape=data.image_shape,
        num_levels=options.l_glow,
        num_steps=options.k_glow,
        width=options.width,
        coupling=options.coupling,
    )
    glow = Glow(config)
    seconds = train(glow, data.train, options.steps)
    print(f"{options.steps} steps in {seconds:.0f} s of the processor")
    bits, error, count = metrics.bits_per_dim(glow, data.test, limit=TEST_IMAGES)
    print(f"test: {bits:.4f} bits/dim, standard error {error:.4f}, {count} images")
    images, _ = data.test.random_subset(TEST_IMAGES, seed=0)
    for tag, value in diagnostics.examine(glow, images).items():
        print(f"{tag}: {value:.4g}")
    try_the_round_trip(glow, images)
    compare_with_float64(glow, images[:256])


def train(glow, train_split, steps):
    """Trains, leaving the weights of the last step in place (not averaged); returns the CPU seconds."""
    trainer = Trainer(glow, batch_size=BATCH, schedule=Schedule(warmup_steps=48))
    trainer.initialize(train_split.random_subset(256, seed=0)[0])
    start = time.process_time()
    while trainer.step_count < steps:
        epoch, done = divmod(trainer.step_count, train_split.steps_per_epoch(BATCH))
        for images, _ in train_split.training_batches(BATCH, 0, epoch, skip=done).take(steps - trainer.step_count):
            trainer.train_step(images)
    return time.process_time() - start


def try_the_round_trip(glow, images):
    """Prints the errors of the round trip: uint8 -> the middle of its bin -> z -> uint8."""
    rng = np.random.default_rng(0)
    noisy = np.clip(images.astype(int) + rng.integers(-1, 2, images.shape), 0, 255).astype(np.uint8)
    noise = rng.integers(0, 256, images.shape, dtype=np.uint8)
    for name, originals in {"test images": images, "noisy test images": noisy, "noise": noise}.items():
        wrong, errors = 0, []
        for batch in np.array_split(originals, max(1, len(originals) // 250)):
            values = glow.dequantizer.dequantize(batch, 0.5, glow.config.dtype)
            again = glow.decode(tf.identity(glow.encode(values)))
            wrong += int(np.sum(glow.dequantizer.quantize(again).numpy() != batch))
            errors.append(float(tf.reduce_max(tf.abs(again - values))) / glow.dequantizer.bin_width)
        share = f"{wrong} of {originals.size} bytes wrong"
        print(f"round trip of {len(originals)} {name}: {share}, largest error {np.max(errors):.2e} bins")


def compare_with_float64(glow, images):
    """Compares log_prob in float32 and float64 for the same weights and continuous values."""
    exact = Glow(dataclasses.replace(glow.config, dtype="float64"))
    for name, variable in exact.named_variables().items():
        variable.assign(tf.cast(glow.named_variables()[name], variable.dtype))
    noise = dequantization.uniform_noise(images.shape, [0, 0])
    values = glow.dequantizer.dequantize(images, noise)
    single = glow.log_prob(values).numpy().astype(np.float64)
    double = exact.log_prob(tf.cast(values, tf.float64)).numpy()
    error = np.abs(single - double)
    nats_to_bits = 1 / (np.log(2) * glow.config.num_dims)
    print(
        f"log_prob in float32 against float64: largest difference {error.max():.2e} nats, relative "
        f"{np.max(error / np.abs(double)):.1e}, {error.max() * nats_to_bits:.1e} bits/dim; images between "
        f"{double.min():.1f} and {double.max():.1f} nats"
    )


if __name__ == "__main__":
    main()
