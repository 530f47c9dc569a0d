"""Exports a training step as XLA's HLO, for a machine that has an accelerator and JAX but no TensorFlow.

    python3 benchmarks/accelerator.py export --out step.npz                      the paper's model, batch 64
    python3 benchmarks/accelerator.py export --out step.npz --mixed_precision    with bfloat16 coupling networks
    python3 benchmarks/accelerator.py images --dataset cifar10 --out images      training images, as lossless WebP
    python3 benchmarks/accelerator.py export --out step.npz --architecture plus --optimizer muon --k_glow 16 \\
        --width 80 --dataset cifar10                                             with initialised weights
    python3 benchmarks/accelerator.py import trained/end --weights weights.h5 --dataset cifar10

`on_accelerator.py` times the step, profiles it, and trains with it. The step is the whole `Trainer`'s: it dequantises
uint8 images, computes the loss and its gradients, and updates the weights, the optimizer's slots and the moving
averages. Its inputs are the step's number, the images, and the values of all variables; the learning rate is one of
them. Without --dataset the file holds the shapes of the large kernels only, which is enough for timing. `import` with
--dataset scores the test images, records the result in the weights and writes a model card beside them.
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

INITIAL_IMAGES = 256
TYPICAL_IMAGES = 512  # training images whose scores are recorded
MAX_BYTES = 100_000  # without --dataset, only the shape of a larger array is stored, unless it is all zeros
MOSAIC = (20, 25)  # rows and columns of the images in one WebP file


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    export = commands.add_parser("export")
    export.set_defaults(run=export_step)
    export.add_argument("--out", required=True)
    export.add_argument("--k_glow", type=int, default=32)
    export.add_argument("--l_glow", type=int, default=3)
    export.add_argument("--width", type=int, default=512)
    export.add_argument("--architecture", default="openai")
    export.add_argument("--dequantization", default="uniform")
    export.add_argument("--img_size", type=int, default=32)
    export.add_argument("--batch_size", type=int, default=64)
    export.add_argument("--backprop", default="stored")
    export.add_argument("--optimizer", default="adam")
    export.add_argument("--beta_2", type=float, default=0.99)
    export.add_argument("--ema_decay", type=float, default=0.999)
    export.add_argument("--mixed_precision", action="store_true")
    export.add_argument(
        "--products",
        choices=("always", "never"),
        help="whether 1x1 convolutions are matrix products; default: as on this machine",
    )
    export.add_argument("--dataset", help="training images, from which the weights are initialised")
    export.add_argument("--data_dir")
    images = commands.add_parser("images")
    images.set_defaults(run=export_images)
    images.add_argument("--dataset", required=True)
    images.add_argument("--data_dir")
    images.add_argument("--img_size", type=int, default=32)
    images.add_argument("--out", required=True, help="folder")
    importing = commands.add_parser("import")
    importing.set_defaults(run=import_weights)
    importing.add_argument("folder")
    importing.add_argument("--weights", required=True)
    importing.add_argument("--dataset")
    importing.add_argument("--data_dir")
    options = parser.parse_args()
    options.run(options)


def load_images(options):
    from glow_tf.data import image_data

    return image_data.load(options.dataset, data_dir=options.data_dir, image_size=options.img_size).train.images


def export_step(options):
    import glow_tf
    from glow_tf.nn import layers

    if options.products:
        layers.are_products_faster = lambda dtype: options.products == "always"
    images = load_images(options) if options.dataset else None
    config = glow_tf.GlowConfig(
        (options.img_size, options.img_size, 3) if images is None else images.shape[1:],
        num_levels=options.l_glow,
        num_steps=options.k_glow,
        width=options.width,
        architecture=options.architecture,
        dequantization=options.dequantization,
    )
    trainer = glow_tf.Trainer(
        glow_tf.Glow(config),
        batch_size=options.batch_size,
        backprop=options.backprop,
        optimizer=options.optimizer,
        beta_2=options.beta_2,
        ema_decay=options.ema_decay,
        mixed_precision=options.mixed_precision,
    )
    if images is not None:
        trainer.initialize(images[np.random.default_rng(1).permutation(len(images))[:INITIAL_IMAGES]])
    save_step(trainer, options.out, with_values=images is not None)


def save_step(trainer, path, with_values):
    """Writes the step's HLO, the names of its inputs and their values; without values only the shapes of kernels."""
    step, stored = CompiledStep(trainer), {}
    for i, value in enumerate(map(np.asarray, step.inputs)):
        if not with_values and value.nbytes > MAX_BYTES and value.any():
            stored[f"input{i:05d}.shape"] = np.array(value.shape)
        else:
            stored[f"input{i:05d}"] = value
    config, command = json.dumps(trainer.glow.config.to_dict()), shlex.join(["python3", *sys.argv])
    stored |= step.names() | {"config": config, "command": command, "hlo": np.frombuffer(step.hlo, np.uint8)}
    np.savez_compressed(path, **stored)
    size = Path(path).stat().st_size
    print(f"{path}: {trainer.glow.num_parameters:,} parameters, {len(step.hlo):,} bytes of HLO; {size:,} in all")


class CompiledStep:
    """A trainer's step, compiled by XLA for a batch of images without labels.

    Attributes:
        hlo: the serialised HLO.
        inputs: the step's number, images, and the variables and constants that it captures; in this order they are the
            inputs of the HLO. Its outputs are the metrics, then the new values of the changed variables.
    """

    def __init__(self, trainer):
        import tensorflow as tf

        images = tf.zeros([trainer.config.batch_size, *trainer.glow.config.image_shape], tf.uint8)
        arguments = (tf.constant(0), images)
        step = tf.function(
            lambda number, images: trainer._run_on_replicas(number, images), autograph=False, jit_compile=True
        )
        concrete = step.get_concrete_function(*arguments)
        variables = [*trainer.glow.named_variables().values(), *trainer.optimizer.variables]
        by_handle = {id(variable.handle): variable for variable in variables}
        captured = [by_handle.get(id(tensor), tensor) for tensor in concrete.captured_inputs]
        self.inputs = [*arguments, *captured]
        self.hlo = step.experimental_get_compiler_ir(*arguments)(stage="hlo_serialized")
        self._trainer = trainer
        self._metrics = sorted(concrete.structured_outputs)

    def names(self):
        """The meaning of the inputs and outputs.

        Returns:
            {"metrics": names of the first outputs, "rate": input index of the learning rate, "updated": input indices
            of the variables whose new values follow the metrics, "weights": "index name" of each moving average, and
            of each weight that is not trained}.
        """
        glow, optimizer = self._trainer.glow, self._trainer.optimizer
        index = {id(value.handle): i for i, value in enumerate(self.inputs) if hasattr(value, "handle")}
        averages = dict(zip(map(id, glow.trainable_variables), optimizer.ema, strict=True))
        weights = {name: averages.get(id(v), v) for name, v in glow.named_variables().items()}
        changing = [v for v in [*glow.trainable_variables, *optimizer.variables] if v is not optimizer.learning_rate]
        return {
            "metrics": self._metrics,
            "rate": index[id(optimizer.learning_rate.handle)],
            "updated": sorted({index[id(v.handle)] for v in changing if id(v.handle) in index}),
            "weights": [f"{index[id(v.handle)]} {name}" for name, v in weights.items()],
        }


def export_images(options):
    save_mosaics(load_images(options), Path(options.out))


def save_mosaics(images, folder):
    """Writes the images as mosaics in lossless WebP files; the last, incomplete mosaic is left out."""
    from PIL import Image

    rows, columns = MOSAIC
    side, count = images.shape[1], len(images) // (rows * columns)
    folder.mkdir(parents=True, exist_ok=True)
    tiles = images[: count * rows * columns].reshape(count, rows, columns, side, side, 3)
    for number, mosaic in enumerate(tiles.transpose(0, 1, 3, 2, 4, 5).reshape(count, rows * side, columns * side, 3)):
        Image.fromarray(mosaic).save(folder / f"{number:05d}-{side}.webp", lossless=True, method=4, quality=100)
    print(f"{folder}: {count * rows * columns:,} images")


def import_weights(options):
    import glow_tf
    from glow_tf.training import model_card

    values = {}
    for file in sorted(Path(options.folder).glob("*.npz")):
        with np.load(file) as piece:
            values |= {name: piece[name] for name in piece.files}
    glow = glow_tf.Glow(glow_tf.GlowConfig.from_dict(json.loads(str(values.pop("config")))))
    about = {name: values.pop(name).item() for name in ("command", "step", "epoch", "seconds", "device")}
    for name, variable in glow.named_variables().items():
        variable.assign(values.pop(name))
    if values:
        raise ValueError(f"the model has no variables {', '.join(values)}")
    metadata = {name: about[name] for name in ("command", "step", "epoch")} | {"seed": 0}
    if options.dataset:
        metadata |= measured(glow, options)
        card = Path(options.weights).with_suffix(".md")
        model_card.write(card, glow, [about["device"]], metadata, about["seconds"])
    glow.save_weights(options.weights, **metadata)
    print(options.weights)


def measured(glow, options):
    """The metadata of the data set and of the scores, as a run of main.py records them."""
    from glow_tf.data import image_data
    from glow_tf.evaluation import metrics

    data = image_data.load(options.dataset, data_dir=options.data_dir, image_size=glow.config.image_shape[0])
    bits, error, count = metrics.bits_per_dim(glow, data.test)
    typical = metrics.bits_per_dim_per_image(glow, data.train.random_subset(TYPICAL_IMAGES, seed=1)[0])
    return {
        "dataset": options.dataset,
        "class_names": list(data.class_names),
        "test_bits_per_dim": bits,
        "test_standard_error": error,
        "test_images": count,
        "train_bits_per_dim": metrics.distribution_summary(typical),
    }


if __name__ == "__main__":
    main()
