"""Measures the effect of attribute directions: ink from thin to bold digits, P(a) from class b to class a.

    python3 benchmarks/attribute.py --classes runs/classes/checkpoints/weights.h5 --save_direction bold.npy
    python3 sample.py --mode attribute --direction bold.npy --strength 2 --out bold.png

Bold digits are the training digits in the upper third by ink (the mean pixel) within their class, thin digits those in
the lower third. All test digits move along the mean z of bold digits minus that of thin ones. For each pair of classes,
the test digits of the second class move towards the first. The class-conditional model of --classes classifies the
results. A star marks values that never fall.
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from glow_tf import pretrained

PAIRS = ((3, 8), (1, 7), (9, 4))
STRENGTHS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default=str(pretrained.DIGITS), help="the model of digits that edits them")
    parser.add_argument("--classes", required=True, help="a class-conditional model of digits")
    parser.add_argument("--save_direction", help="file for the direction from thin to bold, for sample.py")
    options = parser.parse_args()

    from glow_tf.data import image_data
    from glow_tf.evaluation import editing
    from glow_tf.glow import Glow

    mover, judge = Glow.load(options.weights), Glow.load(options.classes)
    if judge.config.num_classes != 10:
        parser.error(f"--classes is a model of {judge.config.num_classes} classes; digits need 10")
    height, width, channels = mover.config.image_shape
    digits = image_data.load("digits", image_size=(height, width), channels=channels)
    train, test = digits.train, digits.test

    bold, thin = thirds_by_ink(train)
    direction = direction_of(mover, train.images[bold], train.images[thin])
    if options.save_direction:
        editing.save_direction(options.save_direction, direction)
    print("strength".ljust(24), *(f"{strength:6.1f}" for strength in STRENGTHS))
    moved = move(mover, test.images, direction)
    ink = moved.mean(axis=(2, 3, 4)) / 255
    show("ink, thin to bold", ink.mean(axis=1))
    rising = (ink[1:] > ink[:-1]).all(axis=0)
    print(f"  it rises at every step in {rising.sum()} of {len(rising)} digits")
    show("P(the digit's class)", [probability(judge, images, test.labels) for images in moved])
    for a, b in PAIRS:
        direction = direction_of(mover, *(train.images[train.labels == digit] for digit in (a, b)))
        moved = move(mover, test.images[test.labels == b], direction)
        show(f"P({a}), {b} to {a}", [probability(judge, images, [a] * len(images)) for images in moved])


def thirds_by_ink(split):
    """(indices of the third of each class with the most ink, indices of the third with the least)."""
    import numpy as np

    ink, bold, thin = split.images.mean(axis=(1, 2, 3)), [], []
    for label in np.unique(split.labels):
        rows = np.flatnonzero(split.labels == label)
        rows = rows[np.argsort(ink[rows], kind="stable")]
        thin.append(rows[: len(rows) // 3])
        bold.append(rows[-(len(rows) // 3) :])
    return np.concatenate(bold), np.concatenate(thin)


def direction_of(glow, positive, negative):
    from glow_tf.evaluation import editing

    return editing.attribute_direction(glow, positive, negative, one_label(glow, positive), one_label(glow, negative))


def move(glow, images, direction):
    """The images moved along a direction: [strengths, N, H, W, C]."""
    from glow_tf.evaluation import editing

    return editing.apply_direction(glow, images, direction, STRENGTHS, one_label(glow, images)).swapaxes(0, 1)


def one_label(glow, images):
    return [0] * len(images) if glow.config.num_classes else None


def probability(judge, images, labels):
    """The mean posterior of the labels, for equally likely classes and pixels in the middle of their bins."""
    import numpy as np
    from scipy import special

    values = judge.dequantizer.dequantize(images, 0.5, judge.config.dtype)
    posterior = special.softmax(np.asarray(judge.class_log_probs(values), np.float64), axis=1)
    return posterior[np.arange(len(images)), labels].mean()


def show(title, values):
    """Prints a row of values, with a star if the printed values never fall."""
    rounded = [round(value, 3) for value in values]
    print(title.ljust(24), *(f"{value:6.3f}" for value in values), "*" * (rounded == sorted(rounded)), flush=True)


if __name__ == "__main__":
    main()
