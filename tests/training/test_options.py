"""Mixed precision, XLA and the number of images to initialise from."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import make_glow, random_images
from small_training import BATCH, images, make_trainer

from glow_tf._compiled import images_per_chunk
from glow_tf.bijectors.coupling import AffineCoupling
from glow_tf.config import GlowConfig
from glow_tf.glow import Glow
from glow_tf.nn.base import slice_of
from glow_tf.training.loop import initial_images
from glow_tf.training.trainer import Trainer


def bits_of_steps(trainer, count=4):
    trainer.initialize(images()[0].images)
    batches = [images()[0].images[i : i + BATCH] for i in range(count)]
    return [float(trainer.train_step(batch)["bits_per_dim"]) for batch in batches]


@pytest.fixture(scope="module")
def plain_bits():
    return bits_of_steps(make_trainer(num_levels=1))


def test_xla_computes_the_same():
    plain, compiled = (
        Trainer(
            Glow(GlowConfig((8, 8, 1), num_levels=1, num_steps=2, width=4)), batch_size=BATCH, jit_compile=jit_compile
        )
        for jit_compile in (False, True)
    )
    np.testing.assert_allclose(bits_of_steps(compiled), bits_of_steps(plain), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backprop", ["stored", "recompute", "reversible"])
def test_xla_on_two_replicas(plain_bits, two_replicas, backprop):
    trainer = make_trainer(two_replicas, num_levels=1, jit_compile=True, backprop=backprop)
    np.testing.assert_allclose(bits_of_steps(trainer), plain_bits, atol=1e-4)
    for variable in trainer.variables():
        first, second = two_replicas.experimental_local_results(variable)
        np.testing.assert_array_equal(first.numpy(), second.numpy())


@pytest.mark.parametrize("backprop", ["stored", "reversible"])
def test_mixed_precision_rounds_the_networks_only(plain_bits, backprop):
    trainer = make_trainer(num_levels=1, mixed_precision=True, backprop=backprop)
    found = bits_of_steps(trainer)
    np.testing.assert_allclose(found, plain_bits, atol=0.02)
    assert found != plain_bits
    assert {variable.dtype for variable in trainer.glow.trainable_variables} == {tf.float32}
    assert {variable.dtype for variable in trainer.optimizer.ema} == {tf.float32}


@pytest.mark.parametrize("coupling", ["affine", "additive"])
def test_networks_compute_in_bfloat16(coupling, rng, monkeypatch):
    """Every convolution of the couplings, and no other; what comes out of a network is float32 again."""
    glow = make_glow(coupling=coupling, dtype="float32")
    values = random_images(rng, glow, 3)
    seen = []
    conv2d = tf.nn.conv2d

    def noting(inputs, kernel, **options):
        seen.append((inputs.dtype.name, kernel.shape[-2:]))
        return conv2d(inputs, kernel, **options)

    monkeypatch.setattr(tf.nn, "conv2d", noting)
    z = glow.bijector(network_dtype=tf.bfloat16).inverse(values)
    assert z.dtype == tf.float32
    low = {tuple(shape) for dtype, shape in seen if dtype == "bfloat16"}
    width = glow.config.width
    assert low and all(width in shape for shape in low)
    wide = {tuple(shape) for dtype, shape in seen if dtype == "float32"}
    assert not {shape for shape in wide if shape == (width, width)}
    difference = np.abs(z - glow.bijector().inverse(tf.identity(values)))
    assert 0 < difference.max() < 0.1


def test_mixed_precision_inverts_itself(rng):
    """Both directions round the network in the same way, so additive couplings still undo each other nearly."""
    glow = make_glow(coupling="additive", dtype="float32")
    values = random_images(rng, glow, 3)
    low = glow.bijector(network_dtype=tf.bfloat16)
    again = low.forward(tf.identity(low.inverse(values)))
    np.testing.assert_allclose(again, values, atol=1e-2)


def test_log_scales_are_float32_in_mixed_precision():
    steps = make_glow(dtype="float32").flow.steps[0]
    layer = steps.step(slice_of(steps.prepared(), 0), network_dtype=tf.bfloat16).layers[-1]
    assert isinstance(layer, AffineCoupling)
    channels = steps.parameters["actnorm"]["shift"].shape[-1]
    shift, log_scale = layer.conditioner(tf.zeros([1, 2, 4, channels // 2]))
    assert shift.dtype == log_scale.dtype == tf.float32


@pytest.mark.parametrize(("size", "count"), [(8, 256), (32, 256), (64, 64), (128, 32), (256, 32)])
def test_large_images_are_initialised_from_fewer(size, count):
    assert initial_images(GlowConfig((size, size, 3), num_levels=3)) == count


def test_large_images_are_looked_at_in_smaller_chunks():
    sizes = {8: 64, 32: 64, 64: 16, 256: 1}
    for size, chunk in sizes.items():
        assert images_per_chunk((size, size, 3)) == chunk
