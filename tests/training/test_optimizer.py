"""The learning rate from warm-up to cool-down; what the updates compute is in test_trainer.py."""

import pytest
import tensorflow as tf

from glow_tf.training.optimizer import Optimizer


def rates(steps, **options):
    """Of the first so many steps."""
    optimizer = Optimizer([tf.Variable([1.0])], learning_rate=0.8, **options)
    found = []
    for _ in range(steps):
        found.append(float(optimizer.learning_rate_of_next_step()))
        optimizer.apply([tf.constant([1.0])], tf.constant(True))
    return found


def test_the_rate_rises_stays_and_falls():
    found = rates(10, warmup_steps=2, cooldown_steps=4, total_steps=8)
    assert found == pytest.approx([0.4, 0.8, 0.8, 0.8, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_steps_that_were_left_out_count_for_the_fall():
    optimizer = Optimizer([tf.Variable([1.0])], learning_rate=0.8, cooldown_steps=4, total_steps=8)
    found = [float(optimizer.learning_rate_of_next_step(tf.constant(batches))) for batches in (3, 5, 7)]
    assert int(optimizer.steps) == 0
    assert found == pytest.approx([0.8, 0.6, 0.2])


def test_without_a_cool_down_it_stays():
    assert rates(4, total_steps=2) == pytest.approx([0.8] * 4)


def test_the_rate_moves_the_variables():
    """Adam's first steps along a constant gradient are as long as the rate."""
    variable = tf.Variable([1.0])
    optimizer = Optimizer([variable], "adam", learning_rate=0.1, cooldown_steps=2, total_steps=2)
    for expected in (0.9, 0.85):
        optimizer.apply([tf.constant([3.0])], tf.constant(True))
        assert variable.numpy()[0] == pytest.approx(expected, abs=1e-6)
