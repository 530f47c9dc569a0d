"""A trainer so small that tests can afford it, traced once for all of them, and ways to break it."""

import functools

import numpy as np
import tensorflow as tf

from glow_tf.config import GlowConfig
from glow_tf.data import image_data
from glow_tf.glow import Glow
from glow_tf.training.schedule import Schedule
from glow_tf.training.trainer import Trainer

CONFIG = {"image_shape": (8, 8, 1), "num_levels": 2, "num_steps": 2, "width": 8, "num_bits": 4}
BATCH = 8
STEPS_PER_EPOCH = 3


class BreakableTrainer(Trainer):
    """The noise of the first image is NaN in the batches from `nan_from` on, up to but without `nan_to`."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.nan_from, self.nan_to = (tf.Variable(0, trainable=False) for _ in range(2))

    def _noise(self, step, images, replica):
        noise = super()._noise(step, images, replica)
        is_hit = (step >= self.nan_from) & (step < self.nan_to) & tf.equal(replica, 0)
        return tf.concat([tf.where(is_hit, np.nan, noise[:1]), noise[1:]], axis=0)

    def variables(self):
        """Everything that a step changes."""
        return [*self.glow.named_variables().values(), *self.optimizer.variables]

    def values(self):
        return [variable.numpy() for variable in self.variables()]


def make_trainer(strategy=None, num_levels=2, **options):
    with (strategy or tf.distribute.get_strategy()).scope():
        glow = Glow(GlowConfig(**CONFIG | {"num_levels": num_levels}))
    return BreakableTrainer(glow, batch_size=BATCH, schedule=Schedule(warmup_steps=4), **options)


@functools.cache
def _traced(strategy, num_levels):
    trainer = make_trainer(strategy, num_levels)
    return trainer, trainer.values()


def trainer_at_start(strategy=None, num_levels=2):
    """The shared trainer as a new process would make it; one for each strategy and number of levels."""
    trainer, values = _traced(strategy, num_levels)
    for variable, value in zip(trainer.variables(), values, strict=True):
        variable.assign(value)
    trainer.state.step_count = 0
    trainer.glow.is_initialized = False
    trainer.nan_from.assign(0)
    trainer.nan_to.assign(0)
    vars(trainer).pop("train_step", None)
    return trainer


@functools.cache
def images():
    """(train, test): dark and bright blots, 26 and 12."""
    rng = np.random.default_rng(1)
    blots = rng.integers(0, 256, [38, 2, 2, 1]).repeat(4, axis=1).repeat(4, axis=2)
    noisy = np.clip(blots + rng.integers(-20, 21, [38, 8, 8, 1]), 0, 255).astype(np.uint8)
    return image_data.ArrayDataset(noisy[:26]), image_data.ArrayDataset(noisy[26:])


def after_step(trainer, number, act):
    """Makes the trainer call `act` after its step `number`, 1 being the first."""
    train_step = type(trainer).train_step

    def step(*arguments):
        metrics = train_step(trainer, *arguments)
        if trainer.step_count == number:
            act()
        return metrics

    trainer.train_step = step


def fit(trainer, path, epochs=3, **options):
    return trainer.fit(*images(), epochs=epochs, run_directory=path, **options)
