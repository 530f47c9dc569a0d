"""Learning at equal work: bits/dim of photographs after so many steps, beside other Glows.

    python3 benchmarks/learning.py --photographs ../shared/data/cifar10_jpeg.tar.xz --only glow_tf,normflows,tfb.Glow
    python3 benchmarks/learning.py --data_dir ../shared/data/tfds --only glow_tf --architecture plus --optimizer muon

L=3, K=8, width 64, affine couplings, 1x1 convolutions, batch 64, Adam; its rate is constant unless --warmup_steps and
--cooldown_steps say otherwise, and that is so for all. --data_dir reads the real CIFAR-10 as TFDS prepares it.
--architecture, --without (a part of `plus`), --optimizer and --mixed_precision are for glow_tf, which is initialised
from 256 images, as by main.py; the others take their first batch. All see the same batches. Scored on the same test
photographs with the weights as they are, and where an implementation keeps one with their moving average. One after the
other, each in a process of its own; seconds, on the clock and of the processor, are those of the training steps after
the first, so that what is compared at equal time is learning and not start-up. Needs what `compare.py` needs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import compare

LEVELS, STEPS_A_LEVEL = 3, 8

# What glow_tf is initialised from, as by main.py; the others take their first batch.
INITIAL_IMAGES = 256

# What --without can take from the architecture "plus", as (field of `Architecture`, whose value comes from "openai").
PARTS = {"scale": "coupling_network", "whitening": "flow_steps", "bounded_splits": "split_prior"}


def photographs(path, data_dir, train, test, file):
    """Writes {train, test: uint8 [N, 32, 32, 3]}, drawn with a fixed seed, as an .npz file."""
    from ablation import unpacked

    from glow_tf.data import image_data

    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            images = image_data.load("cifar10", data_dir=data_dir)
        else:
            images = image_data.load(unpacked(path, folder), image_size=32)
        np.savez(
            file, train=images.train.random_subset(train, seed=0)[0], test=images.test.random_subset(test, seed=0)[0]
        )


def rate_of(step, options):
    """The learning rate of a step (from 1): linear warm-up and cool-down, as in `glow_tf.training.schedule`."""
    up, down = step / max(1, options.warmup_steps), (options.steps + 1 - step) / max(1, options.cooldown_steps)
    return options.learning_rate * min(1.0, up, down)


def take_out(part):
    """Replaces a part of the architecture "plus" by that of "openai"."""
    from glow_tf.nn.architectures import ARCHITECTURES

    taken = {PARTS[part]: getattr(ARCHITECTURES["openai"], PARTS[part])}
    ARCHITECTURES["plus"] = ARCHITECTURES["plus"]._replace(**taken)


def learn(name, file, seed, options):
    """The child: prints a JSON list, a row of the table but for its first two columns, at each point."""
    steps, points, batch_size = options.steps, options.points, options.batch_size
    with np.load(file) as arrays:
        train, test = arrays["train"], arrays["test"]
    order = np.random.default_rng(seed)

    def batches():
        while True:
            for rows in order.permutation(len(train))[: len(train) // batch_size * batch_size].reshape(-1, batch_size):
                yield train[rows]

    following = batches()
    first = next(following)
    ours = {}
    if name.startswith("glow_tf"):
        ours = {key: getattr(options, key) for key in ("architecture", "optimizer", "mixed_precision")}
        ours["initial"] = train[:INITIAL_IMAGES]
        if options.without:
            take_out(options.without)
    kind = compare.IMPLEMENTATIONS[name]
    model = kind(LEVELS, STEPS_A_LEVEL, options.width, first, beta_2=options.beta_2, seed=seed, **ours)

    def bits():
        found = np.concatenate([model.score(test[i : i + batch_size]) for i in range(0, len(test), batch_size)])
        return [f"{found.mean():.4f}", f"{found.std() / len(found) ** 0.5:.4f}"]

    seconds = np.zeros(2)
    for step in range(1, steps + 1):
        model.set_rate(rate_of(step, options))
        start = np.array([time.perf_counter(), time.process_time()])
        model.step(first if step == 1 else next(following))
        if step > 1:
            seconds += np.array([time.perf_counter(), time.process_time()]) - start
        if step % (steps // points) == 0:
            averaged = ""
            if hasattr(model, "trainer"):
                with model.trainer.ema_weights():
                    averaged = bits()[0]
            print(json.dumps([step, *bits(), averaged, *(f"{s:.0f}" for s in seconds)]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", help="a folder of images, or a tar of one")
    parser.add_argument("--data_dir", help="where TFDS keeps the real CIFAR-10; instead of --photographs")
    parser.add_argument("--only", default="glow_tf,normflows,tfb.Glow", help="comma-separated")
    parser.add_argument("--seeds", default="0,1", help="comma-separated")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--points", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--warmup_steps", type=int, default=0)
    parser.add_argument("--cooldown_steps", type=int, default=0)
    parser.add_argument("--beta_2", type=float, default=0.999, help="of Adam's second moments")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--architecture", default="openai", help="openai or plus")
    parser.add_argument("--without", choices=[*PARTS], help="of plus")
    parser.add_argument("--optimizer", default="adam", help="adamax, adam or muon")
    parser.add_argument("--mixed_precision", action="store_true")
    parser.add_argument("--train_images", type=int, default=10_000)
    parser.add_argument("--test_images", type=int, default=1_000)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, file, seed = options.work
        learn(name, file, int(seed), options)
        return
    if not (options.photographs or options.data_dir):
        parser.error("name the images with --photographs or --data_dir")
    # The children read the same flags.
    given = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "photographs.npz")
        photographs(options.photographs, options.data_dir, options.train_images, options.test_images, file)
        print("| | seed | step | bits/dim | standard error | averaged weights | s | CPU s |")
        print("|" + "---|" * 8, flush=True)
        for seed in options.seeds.split(","):
            for name in options.only.split(","):
                command = [sys.executable, "-W", "ignore", os.path.abspath(__file__), "--work", name, file, seed]
                command += given
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                for line in process.stdout:
                    print("| " + " | ".join(map(str, [name, seed, *json.loads(line)])) + " |", flush=True)
                if process.wait():
                    raise RuntimeError(f"{name} failed; run it alone to see why: {' '.join(command)}")


if __name__ == "__main__":
    main()
