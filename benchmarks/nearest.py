"""Samples beside the training images that are nearest to them, to see whether a model repeats its data.

    python3 benchmarks/nearest.py --weights fashion_mnist --data_dir DIR --out nearest.png

Nearest is the smallest Euclidean distance of pixels. It prints how far the samples are from their nearest training
image, and how far held-out test images are from theirs: a model that repeats its data has samples much nearer.
"""

import argparse
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a weights file, a run's folder or a bundled name")
    parser.add_argument("--data_dir", help="folder of prepared TFDS data sets")
    parser.add_argument("--n", type=int, default=10, help="number of samples to draw")
    parser.add_argument("--temp", type=float, default=0.7, help="temperature of the samples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples")
    parser.add_argument("--out", required=True, help="the picture")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import glow_tf
    from glow_tf.data import image_data
    from glow_tf.evaluation import visualization

    glow = glow_tf.Glow.load(options.weights)
    data = image_data.of_model(glow, data_dir=options.data_dir)
    train = data.train.images
    samples = glow.sample(options.n, options.temp, options.seed).numpy()
    rows, distances = nearest(train, samples)
    held_out, _ = data.test.random_subset(options.n, seed=0)
    _, held_out_distances = nearest(train, held_out)
    print(f"distance to the nearest of {len(train)} training images, mean of the pixels' root mean square in bytes:")
    print(f"{options.n} samples at temperature {options.temp:g}: {distances.mean():.1f}")
    print(f"{options.n} test images: {held_out_distances.mean():.1f}")
    picture = visualization.labelled_grid(
        np.concatenate([samples, train[rows]]),
        caption=f"Samples at temperature {options.temp:g} and the nearest training images",
        row_labels=["sample", "nearest"],
        columns=options.n,
    )
    visualization.save_image(options.out, picture)


def nearest(train: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows of `train`, root mean square distances) of the training image nearest to each image."""
    flat = train.reshape(len(train), -1)
    rows, distances = [], []
    for image in images.reshape(len(images), -1).astype(np.float32):
        squares = np.concatenate(
            [np.square(flat[i : i + 4096] - image).mean(axis=1) for i in range(0, len(flat), 4096)]
        )
        rows.append(squares.argmin())
        distances.append(np.sqrt(squares.min()))
    return np.array(rows), np.array(distances)


if __name__ == "__main__":
    main()
