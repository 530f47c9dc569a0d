"""Draws the pictures of docs/pictures.md and of the README from the bundled weights.

    python3 benchmarks/draw_all.py                              all of them, into docs/
    python3 benchmarks/draw_all.py --only cifar10 levels        some of them
    python3 benchmarks/draw_all.py --data_dir FOLDER --out pictures

The real images come from the prepared TFDS data sets fashion_mnist and cifar10. `python3 sample.py --weights cifar10
--mode reconstruct --dataset cifar10 --download` downloads one of them.
"""

import argparse
import dataclasses
import logging
import os
import shlex
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from glow_tf.cli import sample

DOCS = os.path.join(sys.path[0], "docs")

# {picture, relative to docs/: the flags of sample.py that draw it}.
PICTURES = {
    "fashion_mnist": "--weights fashion_mnist --seed 1 --n 80",
    "cifar10": "--weights cifar10 --seed 1 --temp 0.9 --n 40",
    "pictures/label": "--weights fashion_mnist --label Sneaker --n 16 --seed 1",
    "pictures/temperature": "--weights cifar10 --mode temperature --seed 1",
    "pictures/reconstruct": "--weights cifar10 --mode reconstruct",
    "pictures/interpolate": "--weights cifar10 --mode interpolate --spherical --images test:2,3,18,9,40,21",
    "pictures/attribute": "--weights fashion_mnist --mode attribute --positive 'class:Ankle boot' "
    "--negative class:Sneaker --images test:9,17,21,22",
    "pictures/levels": "--weights cifar10 --mode levels --seed 1 --temp 0.9",
    "pictures/pca": "--weights fashion_mnist --mode pca",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="names of pictures, such as levels")
    parser.add_argument("--data_dir", help="the folder of prepared TFDS sets")
    parser.add_argument("--out", default=DOCS, help="the folder to write")
    arguments = parser.parse_args()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each picture's model is traced again
    for name, flags in PICTURES.items():
        if arguments.only and os.path.basename(name) not in arguments.only:
            continue
        words = [*shlex.split(flags), "--out", os.path.join(arguments.out, f"{name}.png")]
        options = sample.Options.parse(words)
        sample.main(dataclasses.replace(options, data_dir=arguments.data_dir))


if __name__ == "__main__":
    main()
