"""Class-conditional models: the density under every class in one pass, the mixture of classes, the classifier.

Only the prior of the deepest latents depends on the class; the rest of the flow is shared by all classes and runs once.
"""

import math
from typing import TYPE_CHECKING

import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf import latents
from glow_tf.bijectors.gaussian import standardize
from glow_tf.bijectors.shapes import EVENT_NDIMS
from glow_tf.errors import InputError
from glow_tf.flow import Flow, standard_normal_log_prob
from glow_tf.inputs import Array, continuous_images
from glow_tf.nn.priors import Classifier

if TYPE_CHECKING:
    from glow_tf.glow import Glow

tfb = tfp.bijectors


def class_log_probs(flow: Flow, images: tf.Tensor) -> tf.Tensor:
    """[B, num_classes], nats: log p(image | class) of continuous images [B, H, W, C]."""
    num_classes = flow.config.num_classes
    if not num_classes:
        raise InputError("this model is not class-conditional: it has no classes")
    without_top = tfb.Chain(flow.bijectors(tfb.Identity()))
    *leaving, deepest = latents.split(without_top.inverse(images), len(flow.steps))
    log_prob = without_top.inverse_log_det_jacobian(images, event_ndims=EVENT_NDIMS)
    log_prob += sum(standard_normal_log_prob(level) for level in leaving)
    per_class = tf.repeat(deepest[:, tf.newaxis], num_classes, axis=1)
    z, log_det = standardize(per_class, *flow.top.mean_and_log_scale(tf.range(num_classes)))
    return log_prob[:, tf.newaxis] + standard_normal_log_prob(z) + log_det


def mixture_log_prob(log_probs: tf.Tensor) -> tf.Tensor:
    """[B], nats: the log density of the mixture of all classes in equal parts, from [B, num_classes]."""
    return tf.reduce_logsumexp(log_probs, axis=-1) - math.log(log_probs.shape[-1])


def classify(glow: "Glow", images: Array) -> tf.Tensor:
    """Implements `Glow.classify`."""
    classifier_of(glow.flow)
    images = continuous_images(images, glow.config)
    labels = tf.zeros(tf.shape(images)[:1], tf.int32)  # arbitrary: the classifier's input does not depend on it
    return class_logits(glow.flow, glow.encode(images, labels), labels)


def class_logits(flow: Flow, z: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """[B, num_classes]: the classifier's logits of latents z [B, H, W, C] that were encoded under `labels`."""
    deepest = flow.top.bijector(labels).forward(latents.split(z, len(flow.steps))[-1])
    return classifier_of(flow)(deepest)


def classifier_of(flow: Flow) -> Classifier:
    """The classifier; InputError for a model without one."""
    if flow.classifier is None:
        raise InputError("this model has no classifier: its configuration has classifier=False")
    return flow.classifier
