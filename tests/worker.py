"""One process of the tests of several workers: trains a small model and tells what it saw."""

import os

import numpy as np
import tensorflow as tf

from glow_tf.config import GlowConfig
from glow_tf.data import image_data
from glow_tf.glow import Glow
from glow_tf.training import distributed
from glow_tf.training.hardware import default_strategy
from glow_tf.training.schedule import Schedule
from glow_tf.training.trainer import Trainer

BATCH = 16
STEPS = 20


def train_on(devices):
    """With TF_CONFIG in the environment this is one of several workers, else it has logical CPUs of its own."""
    if "TF_CONFIG" in os.environ:
        strategy = distributed.multi_worker_strategy("ring")
    else:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(devices))
        strategy = default_strategy()
    return train(strategy)


def train(strategy):
    """{"bits", "weights", "replicas", "shard"} of a small model after some steps."""
    split = image_data.load("digits").train
    with strategy.scope():
        glow = Glow(GlowConfig((8, 8, 1), num_levels=1, num_steps=3, width=16, num_bits=4))
    trainer = Trainer(glow, batch_size=BATCH, schedule=Schedule(warmup_steps=10))
    if trainer.workers.is_chief:
        trainer.initialize(split.random_subset(64, seed=0)[0])
    trainer.broadcast_variables()
    bits = []
    for images, _ in split.training_batches(BATCH, 0, 0, shard=trainer.shard).take(STEPS):
        bits.append(float(trainer.train_step(images)["bits_per_dim"]))
    copies = [strategy.experimental_local_results(v) for v in [*glow.variables, *trainer.optimizer.ema]]
    assert all(np.array_equal(copy.numpy(), first.numpy()) for first, *rest in copies for copy in rest)
    weights = np.concatenate([np.ravel(first.numpy()) for first, *_ in copies]).astype(np.float64)
    return {"bits": bits, "weights": weights, "replicas": trainer.num_replicas, "shard": trainer.shard}
