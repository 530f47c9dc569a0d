"""Learning on CIFAR-10: bits/dim against CPU seconds, for variants of the flow and for other programs.

    python3 benchmarks/learning.py --models paper,plus,normflows --cpu_seconds 300 --csv learning.csv
    python3 benchmarks/learning.py --ablation --steps 700 --batch_size 16
    python3 benchmarks/learning.py --plot learning.csv --run runs/cifar10-small --out docs/learning.png

All models have affine couplings and 1x1 convolutions, see the same batches, and follow the same schedule: warm-up
over 4% of the training and linear cool-down over its second half. A training lasts --steps, or as many steps as
--cpu_seconds allow. Only training steps count, except for the first one, which includes tracing. The models of this
package are initialised from 256 images, as by main.py; the others initialise on their first batch. Every model is
scored on the same test images with its last weights. Each runs in a process of its own, one after the other;
TF_NUM_INTRAOP_THREADS=1 and OMP_NUM_THREADS=1 confine it to one core, where CPU seconds are steadiest. The other
programs need `pip install torch normflows nflows`.

--plot draws the last row of each training in the CSV files that --csv wrote, and the evaluations of a run (--run).
"""

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import compare

INITIAL_IMAGES = 256
WARMUP, COOLDOWN = 0.04, 0.5  # parts of a training

PLUS = {"architecture": "plus", "optimizer": "muon"}

# {field of `Architecture`: the variant that replaces it in "plus"}; see `replace_parts`.
NO_WHITENING = {"flow_steps": "openai"}
NO_SPLIT_BOUND = {"split_prior": "openai"}

# {model: (implementation, its options, replaced parts of "plus")}.
MODELS = {
    "paper": ("glow_tf", {"architecture": "openai"}, {}),
    "paper with Muon": ("glow_tf", {"architecture": "openai", "optimizer": "muon"}, {}),
    "bounded scale": ("glow_tf", {"architecture": "plus"}, NO_WHITENING | NO_SPLIT_BOUND),
    "+ whitening": ("glow_tf", {"architecture": "plus"}, {"flow_steps": "whitened_only"} | NO_SPLIT_BOUND),
    "+ turning back": ("glow_tf", {"architecture": "plus"}, NO_SPLIT_BOUND),
    "+ bounded splits": ("glow_tf", {"architecture": "plus"}, {}),
    "plus": ("glow_tf", PLUS, {}),
    "plus with the scale of paper": ("glow_tf", PLUS, {"coupling_network": "openai"}),
    "plus without whitening": ("glow_tf", PLUS, NO_WHITENING),
    "plus without bounded splits": ("glow_tf", PLUS, NO_SPLIT_BOUND),
    "plus in bfloat16": ("glow_tf", PLUS | {"mixed_precision": True}, {}),
    "plus with learned noise": ("glow_tf", PLUS | {"dequantization": "variational"}, {}),
    "plus with learned noise in bfloat16": (
        "glow_tf",
        PLUS | {"dequantization": "variational", "mixed_precision": True},
        {},
    ),
    "normflows": ("normflows", {}, {}),
    "nflows": ("nflows", {}, {}),
    "tfb.Glow": ("tfb.Glow", {}, {}),
}
ABLATION = [name for name, (implementation, *_) in MODELS.items() if implementation == "glow_tf"]
COLUMNS = (
    "model",
    "seed",
    "l_glow",
    "k_glow",
    "width",
    "batch_size",
    "step",
    "bits_per_dim",
    "standard_error",
    "seconds",
    "cpu_seconds",
)


def save_images(data_dir, num_test, path):
    """Writes {train, test: uint8 [N, 32, 32, 3]}: all training images of CIFAR-10 and a sample of the test images."""
    from glow_tf.data import image_data

    data = image_data.load("cifar10", data_dir=data_dir)
    np.savez(path, train=data.train.images, test=data.test.random_subset(num_test, seed=0)[0])


def batches(images, batch_size, rng):
    """Yields shuffled batches without end."""
    while True:
        order = rng.permutation(len(images))[: len(images) // batch_size * batch_size]
        for rows in order.reshape(-1, batch_size):
            yield images[rows]


def rate_factor(progress):
    """The learning rate relative to its peak after the fraction `progress`, 0 to 1, of a training."""
    return min(1.0, progress / WARMUP, (1 - progress) / COOLDOWN)


def replace_parts(parts):
    """Replaces parts of the architecture "plus" in this process: {field of `Architecture`: name of its source}."""
    from glow_tf.nn.architectures import ARCHITECTURES
    from glow_tf.nn.plus import WhitenedSteps

    class WhitenedOnly(WhitenedSteps):
        """Whitens with the first 1x1 convolution; the last one stays a random rotation."""

        def initial_weights(self, batches):
            rotation = self.prepared()["conv1x1"]["weight"][-1].numpy()
            weights = super().initial_weights(batches)
            weights[-1] = rotation
            return weights

    sources = {
        "openai": ARCHITECTURES["openai"],
        "whitened_only": ARCHITECTURES["plus"]._replace(flow_steps=WhitenedOnly),
    }
    replaced = {field: getattr(sources[source], field) for field, source in parts.items()}
    ARCHITECTURES["plus"] = ARCHITECTURES["plus"]._replace(**replaced)


def learn(name, path, seed, options):
    """The child process: trains one model and prints a JSON row at each point of --points."""
    with np.load(path) as arrays:
        train, test = arrays["train"], arrays["test"]
    stream = batches(train, options.batch_size, np.random.default_rng(seed))
    first = next(stream)
    implementation, extra, parts = MODELS[name]
    if implementation == "glow_tf":
        extra = extra | {"initial": train[:INITIAL_IMAGES]}
        replace_parts(parts)
    model = compare.IMPLEMENTATIONS[implementation](
        options.l_glow, options.k_glow, options.width, first, beta_2=options.beta_2, seed=seed, **extra
    )
    seconds, step, progress = np.zeros(2), 0, 0.0
    points = [point / options.points for point in range(1, options.points + 1)]
    while progress < 1:
        # The first step is not at progress 0, where the rate is 0.
        model.set_rate(options.learning_rate * rate_factor(progress or 1 / max(2, options.steps)))
        start = np.array([time.perf_counter(), time.process_time()])
        model.step(first if step == 0 else next(stream))
        if step:
            seconds += np.array([time.perf_counter(), time.process_time()]) - start
        step += 1
        progress = seconds[1] / options.cpu_seconds if options.cpu_seconds else step / options.steps
        if progress >= points[0]:
            points.pop(0)
            bits = np.concatenate([model.score(batch) for batch in np.split(test, range(100, len(test), 100))])
            numbers = bits.mean(), bits.std() / len(bits) ** 0.5, *seconds
            print(json.dumps([step, *(round(float(number), 4) for number in numbers)]), flush=True)


def compare_models(options):
    """Trains each model once per seed, in a process of its own, and prints the rows as a table."""
    names = ABLATION if options.ablation else options.models.split(",")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "cifar10.npz")
        save_images(options.data_dir, options.test_images, path)
        print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
        for seed in options.seeds.split(","):
            for name in names:
                command = [sys.executable, "-W", "ignore", os.path.abspath(__file__), *sys.argv[1:]]
                command += ["--work", name, path, seed]
                with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                    for line in process.stdout:
                        settings = [name, seed, options.l_glow, options.k_glow, options.width, options.batch_size]
                        rows.append([*settings, *json.loads(line)])
                        print("| " + " | ".join(map(str, rows[-1])) + " |", flush=True)
                        write_csv(options.csv, rows)
                if process.returncode:
                    sys.exit(f"{name} failed")


def write_csv(path, rows):
    """Replaces the CSV file, if one is named."""
    if path:
        with open(path, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def plot(options):
    """Draws the end of each training against its CPU seconds, and the evaluations of a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    ends = {}
    for path in options.plot:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                # The last row of a training replaces those before it.
                ends[row["model"], row["width"], row["seed"], path] = (
                    float(row["cpu_seconds"]),
                    float(row["bits_per_dim"]),
                )
    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    for model, width in dict.fromkeys((key[0], key[1]) for key in ends):
        points = sorted(point for key, point in ends.items() if key[:2] == (model, width))
        axes.plot(*zip(*points, strict=True), "o", label=f"{model}, width {width}")
    for run, style in zip(options.run or [], itertools.cycle(("-", "--", ":")), strict=False):
        with open(Path(run) / "metrics.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["test_bits_per_dim"]]
        seconds = [float(row.get("cpu_seconds") or row["seconds"]) for row in rows]
        bits = [float(row["test_bits_per_dim"]) for row in rows]
        axes.plot(seconds, bits, style, color="black", label=f"{Path(run).name}, during one training")
    axes.set(xscale="log", xlabel="CPU seconds of training", ylabel="bits/dim on CIFAR-10's test images")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_title("Each marker is the end of a training with a schedule of its own", fontsize="medium")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(options.out, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="folder of prepared TFDS data sets; default: TFDS's own")
    parser.add_argument("--models", default="paper,plus,normflows", help=f"comma-separated, of: {'; '.join(MODELS)}")
    parser.add_argument("--ablation", action="store_true", help="all models of this package")
    parser.add_argument("--seeds", default="0,1", help="comma-separated")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--cpu_seconds", type=float, help="length of a training; replaces --steps")
    parser.add_argument("--points", type=int, default=3, help="evaluations per training")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="the schedule's peak")
    parser.add_argument("--beta_2", type=float, default=0.99, help="decay of Adam's second moments")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--k_glow", type=int, default=8)
    parser.add_argument("--l_glow", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--test_images", type=int, default=1_000)
    parser.add_argument("--csv", help="file for the rows")
    parser.add_argument("--plot", nargs="*", help="CSV files to plot instead of training")
    parser.add_argument("--run", nargs="*", help="folders of training runs to plot as well")
    parser.add_argument("--out", default="learning.png", help="file of the plot")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, path, seed = options.work
        learn(name, path, int(seed), options)
    elif options.plot is not None:
        plot(options)
    else:
        compare_models(options)


if __name__ == "__main__":
    main()
