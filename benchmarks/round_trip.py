"""Checks that decode(encode(x)) equals x, byte for byte, on MNIST's 10,000 test digits.

    python3 benchmarks/round_trip.py --mnist t10k-images-idx3-ubyte.gz

The digits are padded to 32x32x1, with 8 bits; the model has L=3, K=8, width 32. Its actnorms are initialised from the
first 256 images and every trained variable is perturbed at random, so that no layer is the identity. Pixels are placed
in the middle of each bin, and at random within it.
"""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from foreign import read_idx

import glow_tf

MOVED_BY = 0.02


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", required=True, help="t10k-images-idx3-ubyte.gz")
    options = parser.parse_args()
    images = np.pad(read_idx(options.mnist), [[0, 0], [2, 2], [2, 2]])[..., np.newaxis]
    glow = glow_tf.Glow(glow_tf.GlowConfig((32, 32, 1), num_levels=3, num_steps=8, width=32))
    glow.initialize(glow.dequantizer.dequantize(images[:256], 0.5))
    rng = np.random.default_rng(0)
    for variable in glow.trainable_variables:
        variable.assign_add(MOVED_BY * rng.standard_normal(variable.shape).astype(np.float32))
    for title, noise in (("middle", 0.5), ("random place", rng.random(images.shape, np.float32))):
        values = glow.dequantizer.dequantize(images, noise)
        again = glow.decode(glow.encode(values).numpy())
        wrong = int(np.sum(glow.dequantizer.quantize(again).numpy() != images))
        error = float(np.max(np.abs(again - values))) / glow.dequantizer.bin_width
        print(f"{title} of the bin: {wrong:,} of {images.size:,} bytes differ, largest error {error:.4f} bins")


if __name__ == "__main__":
    main()
