"""The learning rate from warm-up to cool-down; what the updates compute is in test_trainer.py."""

import numpy as np
import pytest
import tensorflow as tf

from glow_tf.config import TrainConfig
from glow_tf.errors import InputError
from glow_tf.training import muon
from glow_tf.training.optimizer import Optimizer
from glow_tf.training.schedule import Schedule


def make_optimizer(*variables, learning_rate=0.8, **schedule):
    config = TrainConfig(learning_rate=learning_rate, optimizer="adam", ema_decay=0.0)
    return Optimizer(variables or [tf.Variable([1.0])], config, Schedule(**schedule))


def rates(count, **schedule):
    """Learning rates of the first steps."""
    optimizer = make_optimizer(**schedule)
    found = []
    for step in range(count):
        found.append(float(optimizer.next_learning_rate(tf.constant(step))))
        optimizer.apply([tf.constant([1.0])], tf.constant(True), tf.constant(step))
    return found


def test_rate_rises_stays_and_falls():
    found = rates(10, warmup_steps=2, cooldown_steps=4, total_steps=8)
    assert found == pytest.approx([0.4, 0.8, 0.8, 0.8, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_skipped_steps_count_for_the_cool_down():
    optimizer = make_optimizer(cooldown_steps=4, total_steps=8)
    found = [float(optimizer.next_learning_rate(tf.constant(step))) for step in (3, 5, 7)]
    assert int(optimizer.updates) == 0
    assert found == pytest.approx([0.8, 0.6, 0.2])


def test_without_a_cool_down_it_stays():
    assert rates(4, total_steps=2) == pytest.approx([0.8] * 4)


def test_rate_moves_the_variables():
    """Adam's first steps along a constant gradient are as long as the rate."""
    variable = tf.Variable([1.0])
    optimizer = make_optimizer(variable, learning_rate=0.1, cooldown_steps=2, total_steps=2)
    for step, expected in enumerate((0.9, 0.85)):
        optimizer.apply([tf.constant([3.0])], tf.constant(True), tf.constant(step))
        assert variable.numpy()[0] == pytest.approx(expected, abs=1e-6)


def test_averages_follow_the_variables():
    """Update t keeps min(ema_decay, (1 + t) / (10 + t)) of an average, so that the first values are soon forgotten."""
    variable = tf.Variable([1.0])
    optimizer = Optimizer([variable], TrainConfig(optimizer="adam", learning_rate=0.1, ema_decay=0.28))
    average = 1.0
    for step, decay in enumerate((2 / 11, 3 / 12, 0.28, 0.28)):
        optimizer.apply([tf.constant([3.0])], tf.constant(True), tf.constant(step))
        average = decay * average + (1 - decay) * variable.numpy()[0]
        assert optimizer.ema[0].numpy()[0] == pytest.approx(average, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "adamax"])
def test_updates_are_those_of_the_paper(optimizer):
    """Kingma & Ba 2015, algorithms 1 and 2, with the options' learning rate and beta_2."""
    variable, gradients = tf.Variable([1.0, -1.0], dtype=tf.float64), np.array([[3.0, 0.1], [-1.0, 0.2], [0.5, 0.0]])
    applied = Optimizer([variable], TrainConfig(optimizer=optimizer, learning_rate=0.1, beta_2=0.9))
    expected, first, second = variable.numpy(), 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        applied.apply([tf.constant(gradient)], tf.constant(True), tf.constant(t - 1))
        first = 0.9 * first + 0.1 * gradient
        if optimizer == "adam":
            second = 0.9 * second + 0.1 * gradient**2
            length = np.sqrt(second / (1 - 0.9**t)) + 1e-8
        else:
            second = length = np.maximum(0.9 * second, np.abs(gradient))
        expected = expected - 0.1 * first / (1 - 0.9**t) / length
        np.testing.assert_allclose(variable, expected, rtol=1e-6)


def test_a_cool_down_longer_than_the_run_is_refused():
    with pytest.raises(InputError, match="cooldown_steps is 9; it must be from 0 to the total_steps, 8"):
        Schedule(cooldown_steps=9, total_steps=8)


@pytest.mark.parametrize("name", ["warmup_steps", "cooldown_steps", "total_steps"])
@pytest.mark.parametrize("value", [-1, 0.5, "4", None])
def test_lengths_are_integers(name, value):
    with pytest.raises(InputError, match=f"{name} is {value!r}; it must be an integer, 0 or more"):
        Schedule(**{name: value})


def test_cool_down_is_at_most_half_of_the_run():
    config = TrainConfig(epochs=10, steps=100, warmup_epochs=0.5, cooldown_epochs=3.0)
    assert Schedule.from_config(config, 24) == Schedule(warmup_steps=12, cooldown_steps=50, total_steps=100)


def test_muon_steps_the_kernels_of_the_couplings_and_adam_the_rest(rng):
    kernel = tf.Variable(rng.standard_normal((2, 3, 4)), name="level0/coupling/conv2_kernel")
    shift = tf.Variable([1.0], name="level0/actnorm/shift", dtype=tf.float64)
    optimizer = Optimizer([kernel, shift], TrainConfig(optimizer="muon", learning_rate=0.1, ema_decay=0.0))
    expected, momentum = kernel.numpy(), 0.0
    for step, gradient in enumerate(rng.standard_normal((2, 2, 3, 4))):
        optimizer.apply([tf.constant(gradient), tf.constant([3.0], tf.float64)], tf.constant(True), tf.constant(step))
        momentum = 0.95 * momentum + 0.05 * gradient
        ahead = 0.95 * momentum + 0.05 * gradient  # Nesterov's momentum
        expected = expected - 0.1 * muon.orthogonalized(tf.constant(ahead)).numpy()
        np.testing.assert_allclose(kernel, expected, rtol=1e-5)
        assert shift.numpy()[0] == pytest.approx(0.9 - 0.1 * step, abs=1e-6)
    np.testing.assert_array_equal(optimizer.ema[0], kernel)


def test_muon_shortens_unusual_gradients():
    shift = tf.Variable([1.0, 1.0])
    optimizer = Optimizer([shift], TrainConfig(optimizer="muon"))
    optimizer.apply([tf.constant([3.0, 4.0])], tf.constant(True), tf.constant(0))
    assert float(optimizer.usual_norm) == pytest.approx(5.0)
    first = optimizer.first_moments[0].numpy()
    optimizer.apply([tf.constant([300.0, 400.0])], tf.constant(True), tf.constant(1))
    assert float(optimizer.usual_norm) == pytest.approx(5.0 + 0.02 * 5.0)
    np.testing.assert_allclose(optimizer.first_moments[0], 0.9 * first + 0.1 * np.array([6.0, 8.0]), rtol=1e-5)
    assert Optimizer([shift], TrainConfig(optimizer="adam")).usual_norm is None
