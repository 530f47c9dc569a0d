"""Brings images of any size to the size and channels of a model."""

import numpy as np
from PIL import Image


def resize_image(image: np.ndarray, image_size: tuple[int, int], channels: int) -> np.ndarray:
    """Brings one uint8 image [h, w, c] to [H, W, channels]; returns an image that fits unchanged.

    Images that only have to be padded can be a batch, [..., h, w, c].

    An image with both sides at most the target's is padded around its centre (an odd rest goes to the bottom and the
    right) by numpy.pad(mode="minimum"), the rows first. openai/glow pads MNIST's 28x28 to 32x32 in the same way.
    A larger image is cropped and resized by `crop_and_resize`. Grey is repeated in each of 3 channels, RGB becomes
    grey by ITU-R 601; other changes of channels are not supported.
    """
    if image.shape[-1] != channels:
        if channels == 3:
            image = np.repeat(image, 3, axis=-1)
        else:
            image = np.asarray(Image.fromarray(image).convert("L"))[..., np.newaxis]
    down, right = image_size[0] - image.shape[-3], image_size[1] - image.shape[-2]
    if down >= 0 and right >= 0:
        sides = [(0, 0)] * (image.ndim - 3) + [(side // 2, side - side // 2) for side in (down, right)] + [(0, 0)]
        return np.pad(image, sides, mode="minimum") if down or right else image
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(crop_and_resize(picture, image_size)).reshape(*image_size, channels)


def crop_and_resize(image: Image.Image, image_size: tuple[int, int]) -> Image.Image:
    """Brings an image to (height, width) without distorting it.

    The largest centred region with the target's aspect ratio is resized by Pillow's bicubic filter, which is
    antialiased when it shrinks. If that region already has the target's size, to the nearest pixel, it is only cut
    out; an odd rest is removed from the bottom and the right. A 1 x N image becomes flat.
    """
    height, width = image_size
    scale = min(image.width / width, image.height / height)
    crop_width, crop_height = scale * width, scale * height
    left, top = (image.width - crop_width) / 2, (image.height - crop_height) / 2
    if round(crop_width) == width and round(crop_height) == height:
        left, top = int(left), int(top)
        return image.crop((left, top, left + width, top + height))
    box = (left, top, min(left + crop_width, image.width), min(top + crop_height, image.height))
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)
