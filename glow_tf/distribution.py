"""The flow as TFP's bijector and distribution, with batch shapes, slices and checks that fit images and labels."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

# The classes behind tfb.Chain and tfd.TransformedDistribution for bijectors that are not composite tensors.
from tensorflow_probability.python.bijectors.chain import _Chain
from tensorflow_probability.python.distributions.transformed_distribution import _TransformedDistribution

from glow_tf import inputs
from glow_tf.bijectors.base import EVENT_NDIMS

tfd = tfp.distributions


class FlowBijector(_Chain):
    """A `tfb.Chain` from z (the input of `forward`) to images, whose batch shape and slices are those of its labels.

    Args:
        make_bijectors: labels -> the bijectors of the chain, that of the image first.
        labels: integers [...] of a class-conditional model, else None.
        name: of the bijector.
    """

    def __init__(
        self, make_bijectors: Callable[[Any], list[Any]], labels: tf.Tensor | None = None, name: str = "glow"
    ) -> None:
        parameters = dict(locals())
        super().__init__(make_bijectors(labels), parameters=parameters, name=name)
        self.labels = labels

    def __getitem__(self, slices: Any) -> "FlowBijector":
        if self.labels is not None:
            return self.copy(labels=self.labels[slices])
        if _slice_shape((), slices) != ():
            raise ValueError("this bijector has the batch shape (), to which no axis can be added by a slice")
        return self.copy()

    def _batch_shape(self, x_event_ndims: int) -> tf.TensorShape:
        return tf.TensorShape([]) if self.labels is None else self.labels.shape

    def _batch_shape_tensor(self, x_event_ndims: int) -> tf.Tensor:
        return tf.zeros([0], tf.int32) if self.labels is None else tf.shape(self.labels)

    def _get_parameterization(self) -> Any:
        # TFP's default would let two bijectors of one model share cached results, even after an assignment.
        return id(self)


class ImageDistribution(_TransformedDistribution):
    """A `tfd.TransformedDistribution` of images: standard Normal latents through a flow.

    Densities are checked for the type and the event shape of their argument. As TFP's algorithms need, any finite
    float has a density, however far from the pixel range; images that are evidently scaled to [0, 1] or 0 .. 255 are
    refused in eager code.

    Args:
        bijector: a `FlowBijector`.
        image_shape: (H, W, C).
        pixel_range: (low, high) of the pixels.
        dtype: float32 or float64.
        temperature: standard deviation of z.
        batch_shape: batch shape of a model without labels.
        name: of the distribution.
    """

    def __init__(
        self,
        bijector: FlowBijector,
        image_shape: Sequence[int],
        pixel_range: tuple[float, float],
        dtype: tf.DType,
        temperature: float | tf.Tensor = 1.0,
        batch_shape: Sequence[int] = (),
        name: str = "glow",
    ) -> None:
        parameters = dict(locals())
        self._pixel_range = pixel_range
        batch = batch_shape if bijector.labels is None else tf.unstack(tf.shape(bijector.labels))
        loc = tf.zeros([*batch, *image_shape], dtype)
        # `tf.cast` would round a Python number to float32 first.
        scale = tf.cast(tf.convert_to_tensor(temperature, dtype_hint=dtype), dtype)
        base = tfd.Independent(tfd.Normal(loc, scale), EVENT_NDIMS)
        super().__init__(base, bijector, parameters=parameters, name=name)

    def __getitem__(self, slices: Any) -> "ImageDistribution":
        if self.bijector.labels is not None:
            return self.copy(bijector=self.bijector[slices])
        return self.copy(batch_shape=_slice_shape(self.batch_shape.as_list(), slices))

    def _batch_shape(self) -> tf.TensorShape:
        return self.distribution.batch_shape

    def _batch_shape_tensor(self) -> tf.Tensor:
        return self.distribution.batch_shape_tensor()

    def _call_log_prob(self, value: Any, name: str, **kwargs: Any) -> tf.Tensor:
        return super()._call_log_prob(self._checked(value), name, **kwargs)

    def _call_prob(self, value: Any, name: str, **kwargs: Any) -> tf.Tensor:
        return super()._call_prob(self._checked(value), name, **kwargs)

    def _call_unnormalized_log_prob(self, value: Any, name: str, **kwargs: Any) -> tf.Tensor:
        return super()._call_unnormalized_log_prob(self._checked(value), name, **kwargs)

    def _checked(self, value: Any) -> tf.Tensor:
        return inputs.image_events(value, self.event_shape, self._pixel_range)


def _slice_shape(shape: Sequence[int], slices: Any) -> tuple[int, ...]:
    """The batch shape that remains of `shape` after slicing."""
    return np.empty(shape, np.bool_)[slices].shape
