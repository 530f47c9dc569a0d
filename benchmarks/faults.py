"""Tests a training run, its files and the commands against kills, damage, hostile input and NaN; prints a table.

    python3 benchmarks/faults.py --kills 500 --mutants 10000 --hostile --images 5000 --nans 100
    python3 benchmarks/faults.py --states 200 --settings 200 --tfds 200 --indices 200 --flags 500

The exit status is 1 if any row fails. The same --seed draws the same kills, damage and steps, but the exact moment at
which a process dies depends on the machine.

Every part runs in children that are forked after TensorFlow is imported and before it is initialised, which saves the
import; no part may use TensorFlow in this process.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fault_injection import commands, files, kills, training
from fault_injection.children import in_child

BOMB = 200_000  # groups, levels or bytes in the hostile files

# {flag: (its help, the attack)}; an attack takes an empty folder, a count and a seed.
ATTACKS = {
    "mutants": ("damaged weights files", files.mutate_weights),
    "indices": ("damaged indices of OpenAI's checkpoints", files.mutate_indices),
    "states": ("damaged states of a run", files.mutate_states),
    "settings": ("damaged settings.json of a run", files.mutate_settings),
    "tfds": ("damaged features.json and dataset_info.json of a TFDS data set", files.mutate_tfds),
    "flags": ("command lines of random flags", commands.draw_flags),
    "images": ("damaged image files", training.fuzz_images),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="kills of a trainer, two in five inside a save")
    for name, (text, _) in ATTACKS.items():
        parser.add_argument(f"--{name}", type=int, default=0, help=text)
    parser.add_argument("--hostile", action="store_true", help="weights files that were made to harm")
    parser.add_argument("--nans", type=int, default=0, help="training steps that are made NaN")
    parser.add_argument("--small", action="store_true", help="small models and bombs, for the test suite")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if options.kills:
            rows += kills.kill(folder, options.kills, options.seed, 4 if options.small else kills.KILLED_EPOCHS)
        for name, (_, attack) in ATTACKS.items():
            if count := getattr(options, name):
                (folder / name).mkdir()
                rows += in_child(attack, folder / name, count, options.seed)
        if options.hostile:
            rows += in_child(files.read_hostile, folder, 20_000 if options.small else BOMB)
        if options.nans:
            rows += training.inject_nans(options.nans, options.seed, options.small)
    print_table(rows)
    sys.exit(0 if all(row.is_right for row in rows) else 1)


def print_table(rows):
    print("| attack | count | result | ok |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.count:,} | {row.found} | {'yes' if row.is_right else 'NO'} |")


if __name__ == "__main__":
    main()
