"""The backward pass of OpenAI's coupling network, as matrix products where `are_gradients_faster`.

oneDNN's bfloat16 products are faster, and round less, than its gradients of convolutions, most of all at the deep
levels; only for the last layer's input is the convolution faster. `docs/scaling.md` has the measurements.
"""

from collections.abc import Sequence

import tensorflow as tf

from glow_tf.bijectors.residuals import vjp
from glow_tf.bijectors.shapes import image_shape
from glow_tf.nn.layers import conv2d


def are_gradients_faster(dtype: tf.DType) -> bool:
    """Whether `layers_backward` replaces the gradients of the convolutions."""
    return dtype == tf.bfloat16


def layers_backward(
    inputs: Sequence[tf.Tensor], hidden: Sequence[tf.Tensor], dresult: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """One gradient per input of `openai._layers`, from its hidden layers and the gradient of its result.

    Args:
        inputs: (padded [..., H+2, W+2, in], kernel1, bias1, kernel2, bias2, kernel3).
        hidden: the two hidden layers, [..., H, W, width].
        dresult: [..., H, W, out].
    """
    _, kernel1, _, kernel2, _, kernel3 = inputs
    padded, hidden1, hidden2, dresult = (
        tf.reshape(images, [-1, *image_shape(images)]) for images in (inputs[0], *hidden, dresult)
    )
    (dhidden2,) = vjp(lambda values: conv2d(values, kernel3, "SAME"), [hidden2], dresult)
    # Exchanging the roles of image and result flips the kernel.
    dkernel3 = _kernel_gradient(tf.pad(dresult, [[0, 0], [1, 1], [1, 1], [0, 0]]), hidden2)
    dkernel3 = tf.transpose(tf.reverse(dkernel3, [0, 1]), [0, 1, 3, 2])
    dhidden2 = tf.raw_ops.ReluGrad(gradients=dhidden2, features=hidden2)
    dkernel2 = tf.matmul(_rows(hidden1), _rows(dhidden2), transpose_a=True)
    dhidden1 = tf.matmul(_rows(dhidden2), _rows(kernel2), transpose_b=True)
    dhidden1 = tf.raw_ops.ReluGrad(gradients=tf.reshape(dhidden1, tf.shape(hidden1)), features=hidden1)
    dpadded = tf.reshape(_image_gradient(kernel1, dhidden1), tf.shape(inputs[0]))
    dkernel1 = _kernel_gradient(padded, dhidden1)
    return dpadded, dkernel1, _sum(dhidden1), tf.reshape(dkernel2, kernel2.shape), _sum(dhidden2), dkernel3


def _kernel_gradient(images: tf.Tensor, dresult: tf.Tensor) -> tf.Tensor:
    """The gradient of a 3x3 "VALID" convolution with few inputs with respect to its kernel, [3, 3, in, out]."""
    height, width, out = image_shape(dresult)
    patches = [images[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    gradient = tf.matmul(_rows(tf.concat(patches, axis=-1)), _rows(dresult), transpose_a=True)
    return tf.reshape(gradient, [3, 3, images.shape[-1], out])


def _image_gradient(kernel: tf.Tensor, dresult: tf.Tensor) -> tf.Tensor:
    """The gradient of the same convolution with respect to its images, [B, H+2, W+2, in]; sums in float32."""
    product = tf.matmul(_rows(dresult), tf.reshape(kernel, [-1, kernel.shape[-1]]), transpose_b=True)
    patches = tf.cast(tf.reshape(product, [-1, *image_shape(dresult)[:2], product.shape[-1]]), tf.float32)
    for axis in (1, 2):
        # Channels are in the order of the kernel's axes: each third belongs one place further along this axis.
        moved = []
        for i, third in enumerate(tf.split(patches, 3, axis=-1)):
            paddings = [[0, 0]] * 4
            paddings[axis] = [i, 2 - i]
            moved.append(tf.pad(third, paddings))
        patches = tf.add_n(moved)
    return tf.cast(patches, dresult.dtype)


def _rows(images: tf.Tensor) -> tf.Tensor:
    return tf.reshape(images, [-1, images.shape[-1]])


def _sum(images: tf.Tensor) -> tf.Tensor:
    """[..., C] -> [C]; in bfloat16 TensorFlow's own gradient of a bias takes twice as long."""
    rows = _rows(images)
    return tf.matmul(tf.ones([1, tf.shape(rows)[0]], rows.dtype), rows)[0]
