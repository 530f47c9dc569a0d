"""Measures how well a model's scores detect out-of-distribution images: AUROC of the raw and the corrected score.

    python3 benchmarks/foreign.py --weights cifar10 --own cifar10 --foreign fashion_mnist,blurred,constant
    python3 benchmarks/foreign.py --weights digits --own digits --foreign t10k-images-idx3-ubyte.gz

Each source is a data set or a folder (its test images), or a file in MNIST's format (*-idx3-ubyte.gz); --foreign can
also be `blurred`, the images of --own under a Gaussian blur, `constant`, images of one grey each, or
`house_numbers:FILE`, the digits of a file in MNIST's format in one colour on another and blurred, as in SVHN. An AUROC
of 1 means that every foreign image scores above every own one, 0.5 that the score is uninformative, 0 that the order
is reversed.
"""

import argparse
import gzip
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a weights file, or the name of bundled weights")
    parser.add_argument("--own", required=True, help="in-distribution images")
    parser.add_argument("--foreign", required=True, help="out-of-distribution images; comma-separated")
    parser.add_argument("--data_dir", help="the folder of prepared TFDS data sets")
    parser.add_argument("--n", type=int, default=500, help="largest number of images per source")
    parser.add_argument("--seed", type=int, default=0, help="seed for the dequantisation noise")
    options = parser.parse_args()

    import numpy as np

    from glow_tf.evaluation import metrics, ood
    from glow_tf.glow import Glow

    glow = Glow.load(options.weights)
    images = read(options, options.own, glow.config)
    own = ood.score(glow, images, range(len(images)), seed=options.seed).columns
    summary = ood.training_summary(glow)
    for name in options.foreign.split(","):
        others = CHANGED[name](images) if name in CHANGED else read(options, name, glow.config)
        foreign = ood.score(glow, others, range(len(others)), seed=options.seed).columns
        print(f"{len(images)} images of {options.own}, {len(others)} of {name}")
        for title in ("bits_per_dim", "lossless_bits_per_dim", "corrected_bits_per_dim"):
            means = f"{np.mean(own[title]):7.3f} own, {np.mean(foreign[title]):7.3f} foreign"
            print(f"{title:>24}: {means}, AUROC {auroc(own[title], foreign[title]):.3f}")
        if summary is not None:
            p = [-metrics.typicality(columns["bits_per_dim"], summary) for columns in (own, foreign)]
            print(f"{'1 - typicality_p':>24}: AUROC {auroc(*p):.3f}", flush=True)


def auroc(own, foreign):
    """The probability that a foreign image scores above an own one; ties count half."""
    above = (foreign[:, None] > own).mean()
    return above + 0.5 * (foreign[:, None] == own).mean()


def read(options, name, config):
    """Reads uint8 images [N, H, W, C], resized for the model."""
    import numpy as np
    from PIL import Image

    from glow_tf.data import image_data, resize

    size, channels = config.image_shape[:2], config.image_shape[2]
    if not name.endswith(".gz"):
        data = image_data.load(name, data_dir=options.data_dir, image_size=size, channels=channels)
        return data.test.random_subset(options.n, seed=0)[0]
    digits = read_idx(name.removeprefix(HOUSE_NUMBERS))[: options.n]
    fitted = np.stack([resize.crop_and_resize(Image.fromarray(digit), size) for digit in digits])
    images = np.repeat(fitted[..., np.newaxis], channels, axis=-1)
    return house_numbers(images) if name.startswith(HOUSE_NUMBERS) else images


def read_idx(path):
    """Reads a file in MNIST's format as uint8 [N, H, W]."""
    import numpy as np

    if not os.path.isfile(path):
        sys.exit(f"error: {path} does not exist")
    with gzip.open(path) as file:
        header, pixels = file.read(16), file.read()
    return np.frombuffer(pixels, np.uint8).reshape(-1, *np.frombuffer(header, ">u4")[2:])


def blurred(images, sigma=1.5):
    """The images under a Gaussian blur of `sigma` pixels."""
    import numpy as np
    from PIL import Image, ImageFilter

    blur = ImageFilter.GaussianBlur(sigma)
    grey = images.shape[-1] == 1
    pictures = (Image.fromarray(image[..., 0] if grey else image) for image in images)
    return np.stack([np.asarray(picture.filter(blur)) for picture in pictures]).reshape(images.shape)


def house_numbers(digits):
    """Digits [N, H, W, C], white on black, in one random colour on another, blurred."""
    import numpy as np

    background, ink = np.random.default_rng(0).uniform(0, 255, [2, len(digits), 1, 1, digits.shape[-1]])
    coverage = digits / 255
    return blurred((background * (1 - coverage) + ink * coverage).round().astype(np.uint8), sigma=0.7)


def constant(images, count=50):
    """`count` images of a single grey each, evenly spaced from black to white."""
    import numpy as np

    levels = np.linspace(0, 255, count).round().astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, *images.shape[1:])).copy()


HOUSE_NUMBERS = "house_numbers:"
CHANGED = {"blurred": blurred, "constant": constant}


if __name__ == "__main__":
    main()
