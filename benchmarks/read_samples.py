"""Measures whether class-conditional samples are legible: how often a classifier of real digits reads them right.

    python3 benchmarks/read_samples.py --weights runs/classes/checkpoints/weights.h5
    python3 benchmarks/read_samples.py --weights runs/classes/checkpoints/weights.h5 --blind blind.png
    python3 benchmarks/read_samples.py --weights runs/classes/checkpoints/weights.h5 --blind blind.png --read 6869...

The classifier is scikit-learn's support vector machine, trained on the real training digits only. With --blind a person
reads instead: the picture contains 50 samples at temperature 0.7 and 50 real test digits, shuffled, and --read takes
the digits read from it, row by row. Digits of 8x8 pixels are not all legible, so the real ones set the upper bound.
"""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from sklearn.svm import SVC

import glow_tf
from glow_tf.data import image_data
from glow_tf.evaluation import visualization

TEMPERATURE = 0.7
EACH = 5  # samples, and real digits, per class in the blind picture


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--each", type=int, default=100, help="samples per class and temperature")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--blind", metavar="PNG", help="draw samples and real digits, shuffled, for a person to read")
    parser.add_argument("--read", metavar="DIGITS", help="the digits read from that picture, row by row")
    options = parser.parse_args()
    if options.read and not options.blind:
        parser.error("--read needs --blind")
    glow, digits = glow_tf.Glow.load(options.weights), image_data.load("digits")
    if options.blind:
        blind(glow, digits, options)
        return
    reader = SVC(gamma="scale", C=10).fit(flat(digits.train.images), digits.train.labels)
    print(f"real test digits: {reader.score(flat(digits.test.images), digits.test.labels):.1%} read right")
    labels = np.repeat(np.arange(len(digits.class_names)), options.each)
    for temperature in (0.5, 0.7, 0.9, 1.0):
        samples = glow.sample(len(labels), temperature, seed=options.seed, labels=labels).numpy()
        right = reader.predict(flat(samples)) == labels
        of_class = ", ".join(f"{name}: {right[labels == i].mean():.0%}" for i, name in enumerate(digits.class_names))
        print(f"temperature {temperature}: {right.mean():.1%} read as the requested class ({of_class})")


def blind(glow, digits, options):
    """Draws the picture, or prints how many of its digits were read correctly."""
    rng = np.random.default_rng(options.seed)
    classes = range(len(digits.class_names))
    labels = np.repeat(classes, EACH)
    samples = glow.sample(len(labels), TEMPERATURE, seed=options.seed, labels=labels).numpy()
    rows = np.concatenate([rng.permutation(np.flatnonzero(digits.test.labels == label))[:EACH] for label in classes])
    order = rng.permutation(2 * len(labels))
    images = np.concatenate([samples, digits.test.images[rows]])[order]
    answers = np.concatenate([labels, labels])[order]
    if options.read is None:
        visualization.save_image(options.blind, visualization.labelled_grid(images, columns=2 * EACH))
        return
    read = np.array([int(letter) for letter in options.read if letter.isdigit()])
    if len(read) != len(answers):
        raise SystemExit(f"error: --read has {len(read)} digits; the picture has {len(answers)}")
    for name, chosen in (("samples", order < len(labels)), ("real digits", order >= len(labels))):
        print(f"{name}: {np.sum(read[chosen] == answers[chosen])} of {np.sum(chosen)} read right")


def flat(images):
    return images.reshape(len(images), -1)


if __name__ == "__main__":
    main()
