import numpy as np
import tensorflow as tf

from glow_tf.bijectors.actnorm import ActNorm
from glow_tf.bijectors.coupling import AffineCoupling
from glow_tf.bijectors.flow_step import FlowStep
from glow_tf.bijectors.permutation import ChannelPermutation


def test_order_of_the_layers():
    step = FlowStep(
        ActNorm(tf.constant([1.0, 2.0]), tf.math.log([2.0, 3.0])),
        ChannelPermutation(tf.constant([1, 0])),
        AffineCoupling(lambda x1: (x1, tf.math.log(x1))),
    )
    image = tf.constant([[[4.0, 0.0]]])
    # actnorm: 10, 6; reversed: 6, 10; coupling: 6, (10 + 6) * 6
    np.testing.assert_allclose(step.inverse(image), [[[6.0, 96.0]]], rtol=1e-6)
    np.testing.assert_allclose(step.inverse_log_det_jacobian(image, 3), np.log(2 * 3 * 6), rtol=1e-6)
