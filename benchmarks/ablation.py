"""Repeats the paper's ablation: reverse, shuffle and 1x1 permutations with additive and affine couplings.

Every model trains for the same number of steps. A seventh model, affine with 1x1 convolutions, replaces the paper's
scaling of the pixels by RealNVP's logit.

    python3 benchmarks/ablation.py --steps 250 --out ablation.png

Prints a table and plots the bits/dim of CIFAR-10's test images against the steps. In the paper's figure 3, 1x1
convolutions end lowest and reverse permutations highest, and affine couplings end below additive ones.
"""

import argparse
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

PERMUTATIONS = ("reverse", "shuffle", "conv1x1")
COUPLINGS = ("additive", "affine")

# (coupling, permutation, pixels) of each model.
MODELS = [(coupling, permutation, "scale") for coupling in COUPLINGS for permutation in PERMUTATIONS]
MODELS.append(("affine", "conv1x1", "logit"))

# Evaluations per run.
POINTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="the folder of prepared TFDS data sets")
    parser.add_argument("--k_glow", type=int, default=4, help="flow steps per level")
    parser.add_argument("--l_glow", type=int, default=3, help="levels")
    parser.add_argument("--width", type=int, default=32, help="hidden channels")
    parser.add_argument("--batch_size", type=int, default=32, help="images per training step")
    parser.add_argument("--steps", type=int, default=250, help="training steps per model")
    parser.add_argument("--seeds", type=int, default=1, help="runs per model; their results are averaged")
    parser.add_argument("--test_images", type=int, default=500, help="test images")
    parser.add_argument("--out", default="ablation.png", help="file of the plot")
    options = parser.parse_args()

    import numpy as np

    from glow_tf.data import image_data

    images = image_data.load("cifar10", data_dir=options.data_dir)
    curves = {}
    for model in MODELS:
        wall, cpu = time.monotonic(), time.process_time()
        runs = np.array([curve(options, images, *model, seed) for seed in range(options.seeds)])
        coupling, permutation, pixels = model
        curves[f"{permutation}, {coupling}" + (", logit" if pixels == "logit" else "")] = runs.mean(axis=0)
        spread = f" +- {runs[:, -1, 1].std(ddof=1):.4f}" if options.seeds > 1 else ""
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        print(
            f"{coupling:>8}  {permutation:>8}  {pixels}  {runs[:, -1, 1].mean():.4f}{spread} bits/dim after "
            f"{options.steps} steps  ({wall:.0f} s, {cpu:.0f} s of CPU)",
            flush=True,
        )
    plot(options, curves)
    print(options.out)


def curve(options, images, coupling, permutation, pixels, seed):
    """Trains one model; returns [(step, bits/dim of the test images with averaged weights), ...]."""
    from glow_tf.config import GlowConfig
    from glow_tf.evaluation import metrics
    from glow_tf.glow import Glow
    from glow_tf.training.loop import INITIAL_IMAGES
    from glow_tf.training.schedule import Schedule
    from glow_tf.training.trainer import Trainer

    config = GlowConfig(
        images.image_shape,
        options.l_glow,
        options.k_glow,
        options.width,
        coupling=coupling,
        permutation=permutation,
        pixels=pixels,
    )
    trainer = Trainer(
        Glow(config, seed=seed),
        schedule=Schedule(warmup_steps=options.steps // 20),
        batch_size=options.batch_size,
        ema_decay=0.98,
        seed=seed,
    )
    trainer.initialize(images.train.random_subset(INITIAL_IMAGES, seed=seed)[0])
    found, every = [], max(1, options.steps // POINTS)
    epoch = 0
    while trainer.step_count < options.steps:
        for batch, _ in images.train.training_batches(options.batch_size, seed, epoch):
            trainer.train_step(batch)
            if trainer.step_count % every == 0 or trainer.step_count == options.steps:
                with trainer.ema_weights() as glow:
                    bits = metrics.bits_per_dim(glow, images.test, limit=options.test_images)[0]
                found.append((trainer.step_count, bits))
            if trainer.step_count == options.steps:
                break
        epoch += 1
    return found


def plot(options, curves):
    """Plots bits/dim against steps, one line per model, the best one last in the legend."""
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for name, points in sorted(curves.items(), key=lambda item: -item[1][-1, 1]):
        axes.plot(points[:, 0], points[:, 1], label=f"{name}: {points[-1, 1]:.3f}")
    late = np.concatenate([points[len(points) // 4 :, 1] for points in curves.values()])
    axes.set(xlabel="step", ylabel="bits/dim on CIFAR-10's test images", ylim=(late.min() - 0.02, late.max() + 0.02))
    axes.set_title(f"Couplings and permutations, K={options.k_glow}, width {options.width}", loc="left")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", title="Permutation, coupling: final bits/dim")
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()
