"""Draws one of every picture of sample.py, for docs/pictures.md.

python3 benchmarks/draw_all.py                          from the bundled digits, into docs/pictures/
python3 benchmarks/draw_all.py --classes runs/classes   also the pictures of a class-conditional run
python3 benchmarks/draw_all.py --weights runs/mine --out pictures
"""

import argparse
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# {picture: the flags that draw it}.
PICTURES = {
    "samples": "--temp 0.7 --seed 3",
    "temperature": "--mode temperature --seed 3",
    "reconstruct": "--mode reconstruct",
    "interpolate": "--mode interpolate --n 3 --spherical",
    "attribute": "--mode attribute --positive class:1 --negative class:8 --n 4",
    "levels": "--mode levels --seed 1",
    "pca": "--mode pca",
}
OF_CLASSES = {"classes": "--seed 1", "label": "--label 7 --n 16 --seed 1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="digits", help="a weights file, a run's folder or a bundled name")
    parser.add_argument("--classes", help="the same for a class-conditional model")
    parser.add_argument("--out", default=os.path.join(ROOT, "docs", "pictures"), help="the folder to write")
    options = parser.parse_args()
    for weights, pictures in ((options.weights, PICTURES), (options.classes, OF_CLASSES)):
        for name, flags in pictures.items() if weights else ():
            out = os.path.join(options.out, f"{name}.png")
            command = [sys.executable, os.path.join(ROOT, "sample.py"), "--weights", weights, *flags.split()]
            subprocess.run([*command, "--out", out], check=True)


if __name__ == "__main__":
    main()
