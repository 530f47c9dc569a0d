"""Trains on damaged images, and through steps that are NaN."""

import io
import random
import time

import damage
import numpy as np
import tensorflow as tf
from PIL import Image

from fault_injection.children import Row, in_child, silence
from glow_tf.config import GlowConfig
from glow_tf.data import image_data
from glow_tf.evaluation import metrics
from glow_tf.glow import Glow
from glow_tf.training.schedule import Schedule
from glow_tf.training.trainer import Trainer

MOST_DIFFERENCE = 0.01  # bits/dim


def fuzz_images(folder, count, seed):
    """Reads a folder of damaged pictures, one in twenty of them intact, and trains on it."""
    silence(folder / "images.log")
    pictures = folder / "pictures"
    pictures.mkdir()
    originals = _originals(seed)
    for number in range(count):
        extension, original = originals[number % len(originals)]
        is_sound = number % 20 == 0
        content = original if is_sound else damage.mutant(original, seed * count + number)
        (pictures / f"{number:06d}{extension}").write_bytes(content)
    start = time.monotonic()
    images = image_data.load(str(pictures), image_size=8, channels=3, max_bad=1.0)
    seconds = time.monotonic() - start
    trainer = Trainer(Glow(GlowConfig(image_shape=(8, 8, 3), num_levels=1, num_steps=2, width=8)), batch_size=16)
    outcome = trainer.fit(images.train, images.test, epochs=1, run_directory=folder / "fuzzed")
    usable = images.train.num_images + images.test.num_images
    found = f"{usable:,} usable, read in {seconds:.0f} s, {outcome.steps} steps to {outcome.bits_per_dim:.2f} bits/dim"
    return [Row("fuzzed images, then trained on", count, found, outcome.bits_per_dim is not None)]


def _originals(seed):
    """[(extension, bytes), ...] of small pictures in every format and several modes."""
    rng = np.random.default_rng(seed)
    found = []
    for extension in (".png", ".jpg", ".webp", ".bmp", ".tiff", ".gif"):
        for mode in ("RGB", "L", "P", "RGBA"):
            picture = Image.fromarray(rng.integers(0, 256, [24, 20, 3]).astype(np.uint8)).convert(mode)
            if extension == ".jpg" and mode in ("P", "RGBA"):
                picture = picture.convert("CMYK")
            stream = io.BytesIO()
            picture.save(stream, Image.registered_extensions()[extension])
            found.append((extension, stream.getvalue()))
    return found


def inject_nans(count, seed, is_small):
    """Runs the same training with and without NaN at random steps."""
    clean, _, steps = in_child(train_with_nans, 0, count, seed, is_small)
    hurt, skipped, _ = in_child(train_with_nans, count, count, seed, is_small)
    difference = abs(hurt - clean)
    return [
        Row("steps made NaN, and skipped", count, f"{skipped} of {steps:,} steps", skipped == count),
        Row(
            "final bits/dim with and without NaN",
            count,
            f"{hurt:.4f} and {clean:.4f}, difference {difference:.4f}",
            difference < MOST_DIFFERENCE,
        ),
    ]


class SabotagedTrainer(Trainer):
    """A trainer whose dequantisation noise, and so its loss and gradients, is NaN in some batches."""

    nan_batches = ()

    def _noise(self, batch_number, images, replica):
        noise = super()._noise(batch_number, images, replica)
        is_hit = tf.reduce_any(tf.constant(self.nan_batches, tf.int32) == batch_number)
        return tf.where(is_hit, tf.constant(np.nan, noise.dtype), noise)


def train_with_nans(num_nans, most_nans, seed, is_small):
    """(bits/dim of the digits' test images, skipped steps, steps)."""
    images = image_data.load("digits")
    size = (
        {"num_levels": 1, "num_steps": 2, "width": 16} if is_small else {"num_levels": 2, "num_steps": 8, "width": 64}
    )
    glow = Glow(GlowConfig(image_shape=(8, 8, 1), num_bits=4, **size))
    trainer = SabotagedTrainer(glow, batch_size=64, schedule=Schedule(warmup_steps=48))
    steps = 15 * most_nans
    trainer.nan_batches = random.Random(seed).sample(range(steps), num_nans)
    trainer.initialize(images.train.random_subset(256, seed=0)[0])
    skipped = 0
    while trainer.step_count < steps:
        epoch, done = divmod(trainer.step_count, images.train.steps_per_epoch(64))
        for batch, _ in images.train.training_batches(64, 0, epoch, skip=done):
            skipped += not bool(trainer.train_step(batch)["is_finite"])
            if trainer.step_count == steps:
                break
    with trainer.ema_weights():
        bits = np.mean([metrics.bits_per_dim(glow, images.test, seed=noise)[0] for noise in range(0, 100, 10)])
    return float(bits), skipped, steps
