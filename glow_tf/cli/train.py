"""Trains a Glow.

    python3 main.py                                                 digits, no download
    python3 main.py --dataset cifar10 --k_glow 32 --l_glow 3        the paper's model
    python3 main.py --dataset path/to/images --img_size 64          a folder of images
    python3 main.py --conditional --weight_y 0.01                   a class-conditional model
    python3 main.py --preset celeba256                              one of openai/glow's published runs
    python3 main.py --strategy multi_worker                         several machines: docs/cluster.md

The same command goes on with a run that was stopped, from its last state. Ctrl-C, SIGTERM and SIGHUP: the step
is finished and the state saved. Exit status: 0 trained to the end; 130, 143 or 129 stopped by that signal; 1 the
last save failed, or no finite gradient was found although the learning rate was halved; 2 wrong input; 75 another
worker is gone and all must be started again.
"""

import math
import os
import re
import shlex
import sys

from absl import flags, logging

from glow_tf import pretrained
from glow_tf.cli import app, defaults
from glow_tf.data import registry
from glow_tf.errors import InputError
from glow_tf.training.run_directory import RunDirectory

FLAGS = flags.FLAGS

# None: the data set's own default, from defaults.py.
flags.DEFINE_string("dataset", defaults.DATASET, "digits, a TFDS name such as cifar10, or a folder of images.")
flags.DEFINE_string("data_dir", None, "Where prepared TFDS data sets lie.")
flags.DEFINE_bool("download", True, "Download a TFDS data set that is not prepared yet.")
flags.DEFINE_integer("img_size", None, "Height and width of the images; None: the data set's own.")
flags.DEFINE_integer("channel_size", None, "Channels of the images, 1 to 4; None: the data set's own.")
flags.DEFINE_integer("k_glow", None, "K, flow steps a level.")
flags.DEFINE_integer("l_glow", None, "L, levels.")
flags.DEFINE_integer("width", None, "Hidden channels of a coupling's network.")
flags.DEFINE_string("coupling", None, "affine or additive.")
flags.DEFINE_string("permutation", None, "conv1x1, shuffle or reverse.")
flags.DEFINE_integer("n_bits", None, "Bits a channel, 1 to 8.")
flags.DEFINE_string("pixels", None, "scale (the paper's) or logit (RealNVP's transform of the pixels).")
flags.DEFINE_bool("conditional", None, "Learn each class's own Gaussian; the images need labels or class folders.")
flags.DEFINE_float("weight_y", None, "Of the classifier's loss beside the bits/dim, with --conditional; 0: none.")
flags.DEFINE_string("weights", None, "Start from this weights file or run's folder, whose model is kept, not anew.")
flags.DEFINE_integer("batch_size", None, "Images a step, over all devices.", lower_bound=1)
flags.DEFINE_integer("epochs", None, "Passes over the training images.", lower_bound=1)
flags.DEFINE_integer("steps", None, "Stop after so many steps.", lower_bound=1)
flags.DEFINE_float("learning_rate", None, "Between warm-up and cool-down.")
flags.DEFINE_float("warmup_epochs", None, "Epochs until the learning rate is reached.", lower_bound=0, upper_bound=1e6)
flags.DEFINE_float(
    "cooldown_epochs", None, "The last epochs, over which the rate falls to 0; at most half of the run.", 0, 1e6
)
flags.DEFINE_string("optimizer", None, "adamax or adam.")
flags.DEFINE_float("beta_2", None, "Of the optimizer's second moments: 0.99 learns faster in runs of few steps.")
flags.DEFINE_float("ema_decay", None, "Of the weights' moving average, a step.")
flags.DEFINE_string("backprop", None, "stored, recompute (less memory) or reversible (least).")
flags.DEFINE_bool("flip", None, "Mirror training images at random; for natural images only.")
flags.DEFINE_enum("preset", None, [*defaults.PRESETS], "The settings of one of openai/glow's published runs.")
flags.DEFINE_enum("strategy", "mirrored", ["mirrored", "multi_worker"], "This machine's devices, or several processes.")
flags.DEFINE_enum("communication", "auto", ["auto", "ring", "nccl"], "Between the workers of multi_worker.")
flags.DEFINE_bool("mixed_precision", False, "Compute the couplings' networks in bfloat16 while training.")
flags.DEFINE_bool("jit_compile", False, "Compile the training step with XLA; for GPUs.")
flags.DEFINE_integer("seed", defaults.SEED, "Of weights, noise and order.", lower_bound=0, upper_bound=2**31 - 1)
flags.DEFINE_string("run_dir", None, "Where the run is written; None: runs/<dataset>.")
flags.DEFINE_integer("evaluate_every", 1, "Epochs between evaluations, each with pictures and weights.", lower_bound=1)
flags.DEFINE_integer("keep", 0, "Epoch snapshots of the weights to keep.", lower_bound=0)
flags.DEFINE_bool("fresh", False, "Start anew; what the run directory holds is moved aside.")

# Given again they may differ when a run goes on: when and how it ends, and what changes no result.
MAY_CHANGE = ("epochs", "cooldown_epochs", "backprop")

# Where a run lies and what it keeps: equal runs in two places write equal weights files.
NOT_RECORDED = ("data_dir", "download", "evaluate_every", "fresh", "keep", "run_dir")

# Fewer test images than this and a standard error says little.
FEW_TEST_IMAGES = 20

# What a weights file says of the model, so that with --weights no flag may.
OF_THE_MODEL = ("k_glow", "l_glow", "width", "coupling", "permutation", "n_bits", "pixels", "conditional")


def apply_preset():
    """Makes a preset's data set and image size the defaults of their flags."""
    for name in ("dataset", "img_size"):
        if FLAGS.preset and not FLAGS[name].present:
            FLAGS[name].value = defaults.PRESETS[FLAGS.preset][name]


def settings_of(dataset):
    """{flag: value}: the preset's or the data set's defaults, overridden by the flags that were given."""
    named = defaults.PRESETS[FLAGS.preset] if FLAGS.preset else defaults.DATASETS.get(dataset, defaults.OTHER)
    chosen = defaults.COMMON | {name: value for name, value in named.items() if name in defaults.COMMON}
    return {name: value if FLAGS[name].value is None else FLAGS[name].value for name, value in chosen.items()}


def main(arguments):
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}; the data set is named by --dataset")
    apply_preset()
    settings = settings_of(FLAGS.dataset)
    given = [f"--{name}" for name in OF_THE_MODEL if FLAGS.weights and FLAGS[name].value is not None]
    if given:
        raise InputError(f"{', '.join(given)} cannot be given with --weights: the file says what model it is")
    for name in ("warmup_epochs", "cooldown_epochs"):
        if not math.isfinite(settings[name]):
            raise InputError(f"--{name} is {settings[name]}; it must be a number from 0 up")
    registry.check_data_set(FLAGS.dataset, FLAGS.data_dir, FLAGS.download)
    weights = pretrained.find(FLAGS.weights, defaults.RUNS)[0] if FLAGS.weights else None
    run = RunDirectory(FLAGS.run_dir or os.path.join(defaults.RUNS, FLAGS.preset or run_name(FLAGS.dataset)))
    has_workers = FLAGS.strategy == "multi_worker"
    if not has_workers:
        # Before TensorFlow is imported, so that the answer comes at once.
        run.check_unused()
        run.check_writable(0)
    tf = app.import_tensorflow(starts_devices=not has_workers)
    from glow_tf.data import image_data
    from glow_tf.glow import Glow
    from glow_tf.training import distributed
    from glow_tf.training.trainer import Trainer, default_strategy, schedule

    if FLAGS.jit_compile and not tf.config.list_physical_devices("GPU"):
        raise InputError("--jit_compile is for GPUs, of which there is none: on CPUs steps take many times longer")
    # Before anything else is done with TensorFlow.
    strategy = distributed.multi_worker_strategy(FLAGS.communication) if has_workers else default_strategy()
    images = image_data.load(
        FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        image_size=FLAGS.img_size,
        channels=FLAGS.channel_size,
        download=FLAGS.download,
    )
    if settings["flip"] and not images.flippable:
        raise InputError(f"--flip would change what the images of {images.name} mean; leave it out")
    if settings["conditional"] and not images.class_names:
        raise InputError(f"--conditional needs classes; {images.name} has no labels and no folder for each class")
    if settings["weight_y"] and not (settings["conditional"] or FLAGS.weights):
        raise InputError(f"--weight_y is {settings['weight_y']:g}, which needs --conditional")
    with strategy.scope():
        glow = Glow.load(weights) if weights else Glow(config_of(images, settings), seed=FLAGS.seed)
    config = glow.config
    check_data_fits(images, config)
    trainer = Trainer(
        glow,
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        optimizer=settings["optimizer"],
        **schedule(
            settings["epochs"],
            settings["warmup_epochs"],
            settings["cooldown_epochs"],
            images.train.steps_per_epoch(settings["batch_size"]),
            FLAGS.steps,
        ),
        beta_2=settings["beta_2"],
        ema_decay=settings["ema_decay"],
        backprop=settings["backprop"],
        seed=FLAGS.seed,
        weight_y=settings["weight_y"],
        mixed_precision=FLAGS.mixed_precision,
        jit_compile=FLAGS.jit_compile,
    )
    is_chief = trainer.workers.is_chief
    if FLAGS.fresh and is_chief:
        moved = run.archive()
        if moved:
            print(f"the earlier run was moved to {moved}")
    writing = f"writing to {run.path}" if is_chief else f"worker {trainer.workers.index} follows the chief"
    print(
        f"{images.name}: {images.train.num_images} training and {images.test.num_images} test images of "
        f"{'x'.join(map(str, config.image_shape))}; K={config.num_steps}, L={config.num_levels}, "
        f"{glow.num_parameters:,} parameters; {writing}",
        flush=True,
    )
    if is_chief and images.test.num_images < FEW_TEST_IMAGES:
        logging.warning(
            "%d test images give only a rough idea of bits/dim and z; more of them make it better",
            images.test.num_images,
        )
    outcome = trainer.fit(
        images.train,
        images.test,
        epochs=settings["epochs"],
        run_directory=run,
        max_steps=FLAGS.steps,
        flip=settings["flip"],
        metadata={
            "command": recorded_command(),
            "dataset": FLAGS.dataset,
            "seed": FLAGS.seed,
            "class_names": list(images.class_names),
        },
        keep=FLAGS.keep,
        evaluate_every=FLAGS.evaluate_every,
        settings={"dataset": FLAGS.dataset, "seed": FLAGS.seed}
        | {name: value for name, value in settings.items() if name not in MAY_CHANGE},
    )
    if outcome.stopped_by is not None:
        where = f"stopped at step {outcome.steps}"
        if not outcome.is_saved:
            where += ", which could not be saved; an earlier state may be there"
        print(f"{where}. To go on:\n  {app.resume_command(without=['fresh'])}")
        return 128 + outcome.stopped_by
    if not is_chief:
        return 0
    if outcome.bits_per_dim is not None:
        print(f"test: {outcome.bits_per_dim:.4f} bits/dim, standard error {outcome.standard_error:.4f}")
    if not outcome.is_saved:
        print(f"error: the last save failed; what {run.checkpoints} holds is older", file=sys.stderr)
        return 1
    print(f"weights: {run.weights}\npictures: {run.results}\nmore: python3 sample.py --weights {run.weights}")
    return 0


def recorded_command():
    """The command for the weights file: the flags that were given, by name, without those that change no weight."""
    given = [flag for flag in FLAGS.get_flags_for_module(__name__) if flag.present and flag.name not in NOT_RECORDED]
    return shlex.join(["python3", "main.py", *(flag.serialize() for flag in sorted(given, key=lambda f: f.name))])


def config_of(images, settings):
    """The GlowConfig of a new model."""
    from glow_tf.config import GlowConfig

    return GlowConfig(
        image_shape=images.image_shape,
        num_levels=settings["l_glow"],
        num_steps=settings["k_glow"],
        width=settings["width"],
        coupling=settings["coupling"],
        permutation=settings["permutation"],
        num_bits=settings["n_bits"],
        num_classes=len(images.class_names) if settings["conditional"] else 0,
        classifier=bool(settings["weight_y"]),
        pixels=settings["pixels"],
    )


def check_data_fits(images, config):
    """InputError if the images are not what the model is of."""
    if images.image_shape != config.image_shape:
        have, need = ("x".join(map(str, shape)) for shape in (images.image_shape, config.image_shape))
        raise InputError(
            f"the images of {images.name} are {have}, the model's {need}; see --img_size and --channel_size"
        )
    if config.num_classes and config.num_classes < len(images.class_names):
        raise InputError(
            f"{images.name} has {len(images.class_names)} classes, the model {config.num_classes}; name other data"
        )


def run_name(dataset):
    """The run directory's name for a data set: its own, or the folder's."""
    name = os.path.basename(os.path.normpath(dataset)) if os.path.isdir(dataset) else dataset
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "images"


def run():
    """The command, from the command line; does not return."""
    app.run(main, __doc__)
