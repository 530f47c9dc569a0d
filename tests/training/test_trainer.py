"""A training step: one replica or two, and what a step without a finite gradient leaves untouched."""

import numpy as np
import pytest
import tensorflow as tf
from small_training import BATCH, CONFIG, images, make_trainer, trainer_at_start

from glow_tf.config import GlowConfig
from glow_tf.dequantization import NoiseStream
from glow_tf.errors import InputError
from glow_tf.glow import Glow
from glow_tf.training import diagnostics, loop
from glow_tf.training.recovery import locate
from glow_tf.training.trainer import Trainer


@pytest.fixture(params=[1, 2])
def trainer(request, two_replicas):
    return initialized(two_replicas if request.param == 2 else None)


def initialized(strategy=None):
    trainer = trainer_at_start(strategy)
    trainer.initialize(images()[0].images)
    return trainer


def batch(number=0):
    return images()[0].images[number : number + BATCH]


def bits_of_steps(trainer, count):
    return [float(trainer.train_step(batch(i % 3))["bits_per_dim"]) for i in range(count)]


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_training_lowers_bits_per_dim(trainer):
    bits = bits_of_steps(trainer, 30)
    assert np.mean(bits[-3:]) < np.mean(bits[:3]) - 0.2


def test_two_replicas_compute_what_one_does(two_replicas):
    one, two = bits_of_steps(initialized(), 6), bits_of_steps(initialized(two_replicas), 6)
    assert one == pytest.approx(two, rel=1e-4)


def test_muon_on_two_replicas(two_replicas):
    """The same as on one; a step without a finite gradient changes nothing, the usual norm included."""
    found = []
    for strategy in (None, two_replicas):
        trainer = make_trainer(strategy, num_levels=1, optimizer="muon")
        trainer.initialize(images()[0].images)
        found.append(bits_of_steps(trainer, 5))
        before = trainer.values()
        trainer.nan_from.assign(5)
        trainer.nan_to.assign(6)
        assert not trainer.train_step(batch())["is_finite"]
        assert same(trainer.values(), before)
        assert strategy is None or copies_are_equal(trainer)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_loss_and_gradients_of_two_replicas_are_those_of_one(two_replicas):
    one, two = initialized(), initialized(two_replicas)
    assert copies_are_equal(two)
    for trainer in (one, two):
        trainer.first_bits = bits_of_steps(trainer, 1)[0]
    assert one.first_bits == pytest.approx(two.first_bits, abs=1e-5)
    # After one step the first moment is a tenth of the gradient.
    for a, b in zip(first_moments(one), first_moments(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1e-3, np.abs(a).max()))
    assert max(np.abs(a).max() for a in first_moments(one)) > 1e-3
    bits_of_steps(two, 2)
    assert copies_are_equal(two)


def first_moments(trainer):
    return [v.numpy() for v in trainer.optimizer.variables if "first_moment" in v.name]


def copies_are_equal(trainer):
    """Whether both replicas hold the same weights, bit by bit."""
    return all(same([v.values[0].numpy()], [v.values[1].numpy()]) for v in trainer.glow.trainable_variables)


def test_the_same_seed_gives_the_same_bytes(trainer):
    start = trainer.values()
    runs = []
    for _ in range(2):
        for variable, value in zip(trainer.variables(), start, strict=True):
            variable.assign(value)
        trainer.state.step_count = 0
        bits = bits_of_steps(trainer, 8)
        runs.append((bits, trainer.values()))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])


def test_a_step_without_a_finite_gradient_changes_nothing(trainer):
    """Only one of two replicas meets the NaN; both must skip the step."""
    bits_of_steps(trainer, 2)
    before = trainer.values()
    trainer.nan_from.assign(2)
    trainer.nan_to.assign(3)
    metrics = trainer.train_step(batch())
    assert not metrics["is_finite"]
    assert same(trainer.values(), before)
    replicas = [local for v in trainer.variables() for local in trainer.strategy.experimental_local_results(v)]
    assert all(np.isfinite(local.numpy()).all() for local in replicas)
    metrics = trainer.train_step(batch())
    assert metrics["is_finite"]
    assert not same(trainer.values(), before)


@pytest.mark.parametrize("backprop", ["recompute", "reversible"])
def test_every_backprop_leaves_a_nan_step_out(backprop):
    trainer = make_trainer(num_levels=1, backprop=backprop)
    trainer.initialize(images()[0].images)
    before = trainer.values()
    trainer.nan_to.assign(1)
    assert not trainer.train_step(batch())["is_finite"]
    assert same(trainer.values(), before)


def test_locate_names_the_place(monkeypatch):
    trainer = initialized()
    trainer.nan_to.assign(1)
    trainer.train_step(batch())
    assert locate(trainer, batch()) == "the pixels"
    with monkeypatch.context() as patch:
        patch.setattr(diagnostics, "first_not_finite", lambda *_: None)
        assert locate(trainer, batch()) == "the gradient of top/log_scale"
    trainer.nan_to.assign(0)
    assert locate(trainer, batch()) == "no layer: the batch is finite when it is run again"
    trainer.glow.named_variables()["level1/actnorm/shift"].assign(tf.fill([2, 8], np.inf))
    assert locate(trainer, batch()) == "level 1, step 0, actnorm"


def test_locate_sees_the_classifiers_loss():
    glow = Glow(GlowConfig(**CONFIG | {"num_levels": 1}, num_classes=2, classifier=True))
    trainer, labels = Trainer(glow, batch_size=BATCH, weight_y=0.5), [0, 1] * (BATCH // 2)
    trainer.initialize(batch())
    bias = glow.named_variables()["classifier/bias"]
    bias.assign(tf.fill(bias.shape, np.nan))
    trainer.state.step_count += 1
    assert locate(trainer, batch(), labels).startswith("the gradient of classifier/")


def test_the_noise_of_the_initialisation_goes_by_the_seed():
    trainer, glow = make_trainer(num_levels=1, seed=5), Glow(GlowConfig(**CONFIG | {"num_levels": 1}))
    trainer.initialize(batch())
    glow.initialize(glow.dequantize(batch(), seed=5, stream=NoiseStream.INITIALIZE))
    assert same(trainer.glow.trainable_variables, glow.trainable_variables)


def test_ema_weights_are_undone_at_the_end_of_the_block(trainer):
    bits_of_steps(trainer, 3)
    before = trainer.values()
    with pytest.raises(KeyError), trainer.ema_weights() as glow:
        with trainer.ema_weights():
            pass  # its end must not allow steps in the outer block
        assert not same([v.numpy() for v in glow.trainable_variables], before[: len(glow.trainable_variables)])
        with pytest.raises(InputError, match=r"train_step inside ema_weights\(\) would be undone"):
            trainer.train_step(batch())
        raise KeyError
    assert same(trainer.values(), before)
    trainer.train_step(batch())


def test_averages_start_from_weights_that_were_loaded_later():
    trainer = trainer_at_start()
    shift = trainer.glow.named_variables()["level1/actnorm/shift"]
    shift.assign_add(tf.ones_like(shift))
    loaded = shift.numpy()
    with trainer.ema_weights():
        np.testing.assert_array_equal(shift, loaded)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_batch_that_cannot_be_shared_is_refused(batch_size, two_replicas):
    with two_replicas.scope():
        glow = Glow(GlowConfig(**CONFIG))
    with pytest.raises(InputError, match=f"batch_size {batch_size} .* 2 devices; it must be a multiple of 2"):
        Trainer(glow, batch_size=batch_size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"learning_rate": float("nan")},
            "learning_rate is nan; it must be a number from 1e-30 to 1e30, 0.001 is usual",
        ),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be a number from 0"),
        ({"beta_2": 1.0}, "beta_2 is 1.0; it must be a number from 0 to 0.9999999"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; it can be adamax, adam"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_trainer(**options)


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(InputError, match="a batch has 3 images; this trainer's batch_size is 8"):
        initialized().train_step(batch()[:3])


def test_a_wrong_order_of_calls_is_refused():
    trainer = trainer_at_start()
    with pytest.raises(InputError, match=r"call initialize.* or set glow.is_initialized = True if"):
        trainer.train_step(batch())
    trainer = initialized()
    with pytest.raises(InputError, match="call it outside of tf.function"):
        tf.function(lambda: trainer.train_step(batch())["bits_per_dim"], autograph=False)()
    trainer.train_step(batch())
    with pytest.raises(InputError, match="actnorms are already initialised, by an earlier call or by loaded weights"):
        trainer.initialize(batch())
    with pytest.raises(InputError, match="Trainer takes a Glow, not str"):
        Trainer("digits")
    for wrong, message in (
        ({"config": {"batch_size": 8}}, "Trainer takes a TrainConfig, not dict"),
        ({"schedule": 0.001}, "Trainer takes a Schedule, not float"),
    ):
        with pytest.raises(InputError, match=message):
            Trainer(trainer.glow, **wrong)
    with pytest.raises(InputError, match="fit takes a Trainer first, not Glow"):
        loop.fit(trainer.glow, *images())
    with pytest.raises(InputError, match=r"fit takes splits, such as ArrayDataset\(images\), not ndarray"):
        trainer.fit(batch(), batch())
