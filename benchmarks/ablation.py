"""Repeats the paper's ablation: reverse, shuffle and 1x1 permutations with additive and affine couplings.

Every model trains for the same number of steps. A seventh model, affine with 1x1 convolutions, replaces the paper's
scaling of the pixels by RealNVP's logit.

    python3 benchmarks/ablation.py --photographs ../shared/data/cifar10_jpeg.tar.xz --steps 200 --out ablation.png

Prints a table and plots the bits/dim of the test images against the steps. In the paper's figure 3, 1x1 convolutions
end lowest and reverse permutations highest, and affine couplings end below additive ones.
"""

import os
import sys
import tarfile
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from absl import flags

from glow_tf.cli import app
from glow_tf.errors import InputError

FLAGS = flags.FLAGS

flags.DEFINE_string("photographs", None, "A folder of images, or a tar archive of one.", required=True)
flags.DEFINE_integer("img_size", 16, "Height and width of the images.", lower_bound=2)
flags.DEFINE_integer("k_glow", 4, "Flow steps per level.", lower_bound=1)
flags.DEFINE_integer("l_glow", 2, "Levels.", lower_bound=1)
flags.DEFINE_integer("width", 32, "Hidden channels.", lower_bound=1)
flags.DEFINE_integer("batch_size", 32, "Images per training step.", lower_bound=1)
flags.DEFINE_integer("steps", 200, "Training steps per model.", lower_bound=2)
flags.DEFINE_integer("seeds", 1, "Runs per model; their results are averaged.", lower_bound=1)
flags.DEFINE_integer("test_images", 500, "Test images.", lower_bound=2)
flags.DEFINE_string("out", "ablation.png", "File of the plot.")

PERMUTATIONS = ("reverse", "shuffle", "conv1x1")
COUPLINGS = ("additive", "affine")

# (coupling, permutation, pixels) of each model.
MODELS = [(coupling, permutation, "scale") for coupling in COUPLINGS for permutation in PERMUTATIONS]
MODELS.append(("affine", "conv1x1", "logit"))

# Evaluations per run.
POINTS = 8


def main(_):
    app.import_tensorflow()
    import numpy as np

    from glow_tf.data import image_data

    with tempfile.TemporaryDirectory() as folder:
        images = image_data.load(unpacked(FLAGS.photographs, folder), image_size=FLAGS.img_size)
    curves = {}
    for model in MODELS:
        wall, cpu = time.monotonic(), time.process_time()
        runs = np.array([curve(images, *model, seed) for seed in range(FLAGS.seeds)])
        coupling, permutation, pixels = model
        curves[f"{permutation}, {coupling}" + (", logit" if pixels == "logit" else "")] = runs.mean(axis=0)
        spread = f" +- {runs[:, -1, 1].std(ddof=1):.4f}" if FLAGS.seeds > 1 else ""
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        print(
            f"{coupling:>8}  {permutation:>8}  {pixels}  {runs[:, -1, 1].mean():.4f}{spread} bits/dim after "
            f"{FLAGS.steps} steps  ({wall:.0f} s, {cpu:.0f} s of CPU)",
            flush=True,
        )
    plot(curves)
    print(FLAGS.out)


def unpacked(path, folder):
    if os.path.isdir(path):
        return path
    if not os.path.isfile(path):
        raise InputError(f"{path} does not exist")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    inside = [entry.path for entry in os.scandir(folder) if entry.is_dir()]
    return inside[0] if len(inside) == 1 else folder


def curve(images, coupling, permutation, pixels, seed):
    """Trains one model; returns [(step, bits/dim of the test images with averaged weights), ...]."""
    from glow_tf.config import GlowConfig
    from glow_tf.evaluation import metrics
    from glow_tf.glow import Glow
    from glow_tf.training.loop import INITIAL_IMAGES
    from glow_tf.training.schedule import Schedule
    from glow_tf.training.trainer import Trainer

    config = GlowConfig(
        images.image_shape,
        FLAGS.l_glow,
        FLAGS.k_glow,
        FLAGS.width,
        coupling=coupling,
        permutation=permutation,
        pixels=pixels,
    )
    trainer = Trainer(
        Glow(config, seed=seed),
        schedule=Schedule(warmup_steps=FLAGS.steps // 20),
        batch_size=FLAGS.batch_size,
        ema_decay=0.98,
        seed=seed,
    )
    trainer.initialize(images.train.random_subset(INITIAL_IMAGES, seed=seed)[0])
    found, every = [], max(1, FLAGS.steps // POINTS)
    epoch = 0
    while trainer.step_count < FLAGS.steps:
        for batch, _ in images.train.training_batches(FLAGS.batch_size, seed, epoch):
            trainer.train_step(batch)
            if trainer.step_count % every == 0 or trainer.step_count == FLAGS.steps:
                with trainer.ema_weights() as glow:
                    bits = metrics.bits_per_dim(glow, images.test, limit=FLAGS.test_images)[0]
                found.append((trainer.step_count, bits))
            if trainer.step_count == FLAGS.steps:
                break
        epoch += 1
    return found


def plot(curves):
    """Plots bits/dim against steps, one line per model."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from glow_tf.evaluation import visualization

    width, height, margin, legend = 640, 420, 60, 190
    picture = Image.new("RGB", (width + legend, height), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    late = np.concatenate([points[len(points) // 4 :, 1] for points in curves.values()])
    low, high = late.min() - 0.02, late.max() + 0.02

    def place(step, bits):
        across = margin + (width - 2 * margin) * step / FLAGS.steps
        return across, height - margin - (height - 2 * margin) * min(1, (bits - low) / (high - low))

    draw.rectangle((*place(0, high), *place(FLAGS.steps, low)), outline="#808080")
    for part in np.linspace(0, 1, 5):
        bits = low + part * (high - low)
        draw.text((margin - 6, place(0, bits)[1]), f"{bits:.2f}", "black", font, anchor="rm")
        step = round(part * FLAGS.steps)
        draw.text((place(step, low)[0], height - margin + 6), str(step), "black", font, anchor="ma")
    draw.text((width / 2, height - 12), "steps", "black", font, anchor="md")
    draw.text((8, 24), "bits/dim of the test images", "black", font)
    for index, (name, points) in enumerate(sorted(curves.items(), key=lambda item: -item[1][-1, 1])):
        colour = visualization.COLOURS[index]
        draw.line([place(*point) for point in points], colour, 3)
        draw.text((width - 20, margin + 22 * index), f"{name} {points[-1, 1]:.3f}", colour, font)
    visualization.save_image(FLAGS.out, np.asarray(picture))


if __name__ == "__main__":
    app.run(main, __doc__)
