"""The flow as TFP's bijector and distribution, with batch shapes, slices and checks that fit images and labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

# The classes behind tfb.Chain and tfd.TransformedDistribution for bijectors that are not composite tensors.
from tensorflow_probability.python.bijectors.chain import _Chain
from tensorflow_probability.python.distributions.transformed_distribution import _TransformedDistribution

from glow_tf import inputs
from glow_tf.bijectors.shapes import EVENT_NDIMS
from glow_tf.errors import InputError
from glow_tf.flow import Flow

tfd = tfp.distributions


class FlowBijector(_Chain):
    """A `tfb.Chain` from z (the input of `forward`) to images, whose batch shape and slices are those of its labels.

    Arguments are checked for type and shape, and images in eager code for their scale; see `inputs.image_events`.

    Args:
        flow: the `Flow` whose variables the bijector reads.
        labels: integers [...] for a class-conditional model, else None.
        backprop, network_dtype: see `Glow.transformed_distribution`.
    """

    def __init__(
        self,
        flow: Flow,
        labels: tf.Tensor | None = None,
        backprop: str = "recompute",
        network_dtype: tf.DType | None = None,
        name: str = "glow",
    ) -> None:
        parameters = dict(locals())
        layers = flow.bijectors(flow.top.bijector(labels), backprop, network_dtype)
        super().__init__(layers, parameters=parameters, name=name)
        self.config = flow.config
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

    def _call_forward(self, x: Any, name: str) -> tf.Tensor:
        return super()._call_forward(self.checked(x, "z"), name)

    def _call_forward_log_det_jacobian(self, x: Any, event_ndims: Any, name: str) -> tf.Tensor:
        return super()._call_forward_log_det_jacobian(self.checked(x, "z"), event_ndims, name)

    def _call_inverse(self, y: Any, name: str) -> tf.Tensor:
        return super()._call_inverse(self.checked(y), name)

    def _call_inverse_log_det_jacobian(self, y: Any, event_ndims: Any, name: str) -> tf.Tensor:
        return super()._call_inverse_log_det_jacobian(self.checked(y), event_ndims, name)

    def checked(self, values: Any, name: str = "images") -> tf.Tensor:
        """The images, or latents if `name` is "z", [..., H, W, C] as a tensor; InputError if they are not valid."""
        values = inputs.image_events(values, self.config, name)
        if self.labels is not None:
            try:
                tf.broadcast_static_shape(values.shape[:-3], self.labels.shape)
            except ValueError as error:
                given, needed = tuple(values.shape[:-3]), tuple(self.labels.shape)
                raise InputError(
                    f"{name} of batch shape {given} do not broadcast with {needed} of the labels"
                ) from error
        return values


class ImageDistribution(_TransformedDistribution):
    """A `tfd.TransformedDistribution` of images: standard Normal latents through a flow.

    The arguments of densities are checked like those of the bijector. TFP's algorithms need a density for any finite
    float, however far from the pixel range.

    Args:
        bijector: the flow; a distribution of labels has their batch shape.
        temperature: standard deviation of z; a variable is read at every call.
        batch_shape: batch shape of a model without labels.
    """

    def __init__(
        self,
        bijector: FlowBijector,
        temperature: float | tf.Tensor = 1.0,
        batch_shape: Sequence[int] = (),
        name: str = "glow",
    ) -> None:
        parameters = dict(locals())
        dtype = tf.as_dtype(bijector.config.dtype)
        batch = batch_shape if bijector.labels is None else tf.unstack(tf.shape(bijector.labels))
        loc = tf.zeros([*batch, *bijector.config.image_shape], dtype)
        if isinstance(temperature, tf.Variable):
            scale = tfp.util.DeferredTensor(temperature, lambda t: inputs.temperature_of(t, dtype), dtype, shape=[])
        else:
            scale = inputs.temperature_of(temperature, dtype)
        base = tfd.Independent(tfd.Normal(loc, scale), EVENT_NDIMS)
        super().__init__(base, bijector, kwargs_split_fn=_no_options, parameters=parameters, name=name)

    def __getitem__(self, slices: Any) -> "ImageDistribution":
        if self.bijector.labels is not None:
            return self.copy(bijector=self.bijector[slices])
        return self.copy(batch_shape=_slice_shape(self.batch_shape.as_list(), slices))

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType, num_classes: int | None = None) -> dict[str, Any]:
        # The methods below and the slices above do what TFP would derive from properties of the parameters.
        return {}

    def _batch_shape(self) -> tf.TensorShape:
        return self.distribution.batch_shape

    def _batch_shape_tensor(self) -> tf.Tensor:
        return self.distribution.batch_shape_tensor()

    def _maybe_broadcast_distribution_batch_shape(self) -> tfp.distributions.Distribution:
        # The base has the batch shape of the labels. TFP would broadcast it again, and divide by zero for no labels.
        return self.distribution

    def _call_log_prob(self, value: Any, name: str, **kwargs: Any) -> tf.Tensor:
        return super()._call_log_prob(self._checked(value), name, **kwargs)

    def _call_prob(self, value: Any, name: str, **kwargs: Any) -> tf.Tensor:
        return super()._call_prob(self._checked(value), name, **kwargs)

    def _call_unnormalized_log_prob(self, value: Any, name: str, **kwargs: Any) -> tf.Tensor:
        return super()._call_unnormalized_log_prob(self._checked(value), name, **kwargs)

    def _checked(self, value: Any) -> tf.Tensor:
        """The images; InputError if they are not valid or the temperature is 0, at which there is no density."""
        if tf.get_static_value(tf.convert_to_tensor(self.distribution.distribution.scale)) == 0:
            raise InputError("temperature is 0: such a distribution has samples but no density")
        value = self.bijector.checked(value)
        # TFP's cache goes by a tensor's identity: it would score a sample by the weights that it was drawn with.
        return tf.identity(value) if tf.executing_eagerly() else value


def _no_options(options: dict[str, Any]) -> tuple[dict, dict]:
    """The options of the base and of the bijector: none. TFP's default would ignore any, such as a temperature."""
    if options:
        raise InputError(
            f"{next(iter(options))} is no argument here; labels and temperature belong to the distribution: "
            "Glow.transformed_distribution(labels, temperature)"
        )
    return {}, {}


def _slice_shape(shape: Sequence[int], slices: Any) -> tuple[int, ...]:
    """The batch shape `shape` after slicing."""
    return np.empty(shape, np.bool_)[slices].shape
