"""Measures the float32 error of the inverse and the log-determinant of a deep model after a long training.

    python3 benchmarks/long_training.py --steps 2000

Trains K=32 on the digits, then prints bits/dim, the diagnostics, the round trip of 10,000 digits with noise of one
4-bit level and of 10,000 images of pure noise (far from the data), and the difference between log_prob in float32 and
in float64 for the same weights.
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

BATCH = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--k_glow", type=int, default=32)
    parser.add_argument("--l_glow", type=int, default=2)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--images", type=int, default=10_000, help="images of the round trip")
    options = parser.parse_args()
    digits = image_data.load("digits")
    config = GlowConfig(
        image_shape=(8, 8, 1), num_levels=options.l_glow, num_steps=options.k_glow, width=options.width, num_bits=4
    )
    glow = Glow(config)
    seconds = train(glow, digits.train, options.steps)
    print(f"{options.steps} steps in {seconds:.0f} s")
    bits, error, count = metrics.bits_per_dim(glow, digits.test)
    print(f"test: {bits:.4f} bits/dim, standard error {error:.4f}, {count} images")
    for tag, value in diagnostics.examine(glow, digits.test.images).items():
        print(f"{tag}: {value:.4g}")
    try_the_round_trip(glow, np.concatenate([digits.train.images, digits.test.images]), options.images)
    compare_with_float64(glow, digits.test.images)


def train(glow, train_split, steps):
    """Trains, leaving the weights of the last step in place (not averaged); returns the seconds."""
    trainer = Trainer(glow, batch_size=BATCH, schedule=Schedule(warmup_steps=48))
    trainer.initialize(train_split.random_subset(256, seed=0)[0])
    start = time.monotonic()
    while trainer.step_count < steps:
        epoch, done = divmod(trainer.step_count, train_split.steps_per_epoch(BATCH))
        for images, _ in train_split.training_batches(BATCH, 0, epoch, skip=done).take(steps - trainer.step_count):
            trainer.train_step(images)
    return time.monotonic() - start


def try_the_round_trip(glow, digits, count):
    """Prints the errors of the round trip: uint8 -> the middle of its bin -> z -> uint8."""
    rng = np.random.default_rng(0)
    shape = [count, *glow.config.image_shape]
    noisy = np.clip(digits[np.arange(count) % len(digits)] + 16 * rng.integers(-1, 2, shape), 0, 255)
    for name, images in {"noisy digits": noisy, "noise": rng.integers(0, 256, shape)}.items():
        images = images.astype(np.uint8) // 16 * 16  # 4 bits
        values = glow.dequantizer.dequantize(images, 0.5, glow.config.dtype)
        again = glow.decode(tf.identity(glow.encode(values)))
        wrong = int(np.sum(glow.dequantizer.quantize(again).numpy() != images))
        error = float(tf.reduce_max(tf.abs(again - values))) / glow.dequantizer.bin_width
        print(f"round trip of {len(images)} images ({name}): {wrong} bytes wrong, largest error {error:.2e} bins")


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
