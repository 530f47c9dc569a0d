"""Whether class-conditional samples can be read: how often a classifier of real digits names the class asked for.

    python3 benchmarks/read_samples.py --weights runs/classes/checkpoints/weights.h5

The reader is scikit-learn's support vector machine, trained on the real training digits; it has never seen a sample.
"""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from sklearn.svm import SVC

import glow_tf
from glow_tf import data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--each", type=int, default=100, help="samples of each class and temperature")
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    glow, digits = glow_tf.Glow.load(options.weights), data.load("digits")
    reader = SVC(gamma="scale", C=10).fit(flat(digits.train.images), digits.train.labels)
    print(f"real test digits: {reader.score(flat(digits.test.images), digits.test.labels):.1%} read right")
    labels = np.repeat(np.arange(len(digits.class_names)), options.each)
    for temperature in (0.5, 0.7, 0.9, 1.0):
        samples = glow.sample(len(labels), temperature, seed=options.seed, labels=labels).numpy()
        right = reader.predict(flat(samples)) == labels
        of_class = ", ".join(f"{name}: {right[labels == i].mean():.0%}" for i, name in enumerate(digits.class_names))
        print(f"temperature {temperature}: {right.mean():.1%} read as the class asked for ({of_class})")


def flat(images):
    return images.reshape(len(images), -1)


if __name__ == "__main__":
    main()
