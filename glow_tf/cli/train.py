"""Trains a Glow.

    python3 main.py                                                 digits, no download
    python3 main.py --preset fashion_mnist-small                    minutes on two CPU cores
    python3 main.py --dataset cifar10 --k_glow 32 --l_glow 3        the paper's model
    python3 main.py --dataset path/to/images --img_size 64          a folder of images
    python3 main.py --conditional --weight_y 0.01                   a class-conditional model
    python3 main.py --preset celeba256                              one of openai/glow's published runs
    python3 main.py --strategy multi_worker                         several machines: docs/cluster.md

The same command resumes a run that was stopped, from its last state. Ctrl-C, SIGTERM and SIGHUP finish the step and
save the state. Exit status: 0 trained to the end; 130, 143 or 129 stopped by that signal; 1 the last save failed, the
result is not finite, or gradients were not finite even after halving the learning rate; 2 invalid input; 75 another
worker is gone and all must be restarted.
"""

import contextlib
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from glow_tf._files import counted, printable
from glow_tf.cli import app, defaults, options
from glow_tf.config import MAX_CHANNELS, MAX_LEVELS, MAX_SIDE, GlowConfig, TrainConfig
from glow_tf.data import registry
from glow_tf.errors import InputError
from glow_tf.metadata import caveat
from glow_tf.training import settings
from glow_tf.training.run_directory import RunDirectory
from glow_tf.weights import open_weights

if TYPE_CHECKING:
    from glow_tf.data.image_data import ImageData
    from glow_tf.training.loop import FitResult
    from glow_tf.training.trainer import Trainer

FLAGS = flags.FLAGS

flags.DEFINE_string("dataset", defaults.DATASET, "digits, a TFDS name such as cifar10, or a folder of images.")
flags.DEFINE_string("data_dir", None, app.DATA_DIR_HELP)
flags.DEFINE_bool("download", True, app.DOWNLOAD_HELP)
flags.DEFINE_integer("img_size", None, "Height and width of the images. Default: the data set's own.", 1, MAX_SIDE)
flags.DEFINE_integer("channel_size", None, "Channels of the images. Default: the data set's own.", 1, MAX_CHANNELS)
flags.DEFINE_float("max_bad", 0.05, "Largest fraction of unreadable files in a folder of images.", 0, 1)
flags.DEFINE_bool("conditional", None, "Learn one Gaussian per class; the images need labels or class folders.")
flags.DEFINE_string(
    "weights",
    None,
    f"Start from these weights, which also define the model; --dequantization variational adds learned noise to it. "
    f"{app.WEIGHTS_HELP}",
)
flags.DEFINE_enum("preset", None, [*defaults.PRESETS], "Settings of a known run; see the table.")
flags.DEFINE_enum(
    "strategy", "mirrored", ["mirrored", "multi_worker"], "Train on this machine's devices, or in several processes."
)
flags.DEFINE_enum(
    "communication", "auto", ["auto", "ring", "nccl"], "How the workers of --strategy multi_worker sum gradients."
)
flags.DEFINE_string("run_dir", None, "Folder of the run. Default: runs/<preset or data set>.")
flags.DEFINE_bool("fresh", False, "Start over; an earlier run in the same folder is archived.")

# Flags that change no weight: equal runs in two folders write equal weights files.
NOT_RECORDED = ("data_dir", "download", "evaluate_every", "fresh", "keep", "run_dir")

FEW_TEST_IMAGES = 20  # fewer give a large standard error
WORSE = 0.01  # bits/dim by which the last weights of a run are clearly worse than its best


def _define_options() -> None:
    """Defines a flag for each option of a model and of its training; None stands for the default of the data set."""
    for name, field in (options.MODEL | options.TRAINING).items():
        text, choices = field.metadata["doc"], field.metadata["choices"]
        if name in options.OVERRIDDEN:
            text += " Default: see the table."
        elif field.default is not None and field.default is not False:
            text += f" Default: {field.default}."
        if isinstance(field.default, bool) and choices:
            flags.DEFINE_flag(options.AutoFlag(name, None, text))
        elif choices:
            flags.DEFINE_enum(name, None, choices, text)
        else:
            kinds: dict[Any, Any] = {bool: flags.DEFINE_bool, float: flags.DEFINE_float}
            kinds.get(field.type, flags.DEFINE_integer)(name, None, text)


_define_options()


def usage() -> str:
    """The text that `--help` prints before the flags."""
    return f"{__doc__}\n{options.table(app.HELP_WIDTH)}"


def main(arguments: list[str]) -> int:
    """Trains the model that the flags describe; returns the exit status."""
    with _naming_flags():
        model, config = _check_flags(arguments)
        weights = app.find_weights(FLAGS.weights) if FLAGS.weights else None
        kind = registry.check_data_set(FLAGS.dataset, FLAGS.data_dir, FLAGS.download)
        if FLAGS["max_bad"].present and kind != "folder":
            raise InputError(f"--max_bad is for a folder of images, and {FLAGS.dataset} is a data set; leave it out")
        app.check_data_dir(kind, FLAGS.dataset)
        run = _run_directory(_known_settings(model, weights, kind) | config.fixed() | {"dataset": FLAGS.dataset})
        if kind == "folder":
            run.check_outside(FLAGS.dataset)
        tf = app.import_tensorflow(starts_devices=FLAGS.strategy != "multi_worker")
        if config.jit_compile and not tf.config.list_physical_devices("GPU"):
            raise InputError("--jit_compile needs a GPU: on CPUs it makes steps many times slower")
        trainer, images = _build(model, config, weights)
        if FLAGS.fresh and trainer.workers.is_chief:
            archived = run.archive()
            if archived:
                print(f"the earlier run was moved to {archived}")
        _announce(trainer, images, run)
        metadata = {"command": recorded_command(), "dataset": FLAGS.dataset, "seed": config.seed}
        result = trainer.fit(
            images.train,
            images.test,
            run_directory=run,
            metadata=metadata | {"class_names": list(images.class_names)},
            settings={"dataset": FLAGS.dataset},
            images=images.fingerprint(),
        )
    return _finish(result, config, run, is_chief=trainer.workers.is_chief)


def _check_flags(arguments: list[str]) -> tuple[dict[str, Any], TrainConfig]:
    """(settings of the model, training options), checked as far as possible without data and TensorFlow."""
    app.check_no_arguments(arguments, "--dataset names the data set")
    if FLAGS["communication"].present and FLAGS.strategy != "multi_worker":
        raise InputError("--communication is for --strategy multi_worker; leave it out")
    if not 0 <= FLAGS.max_bad <= 1:  # absl takes NaN for a number of the range
        raise InputError(f"--max_bad is {FLAGS.max_bad}; it must be a number from 0 to 1")
    for name in ("dataset", "data_dir", "weights", "run_dir"):
        try:
            (FLAGS[name].value or "").encode()
        except UnicodeEncodeError:
            raise InputError(f"--{name} is {printable(FLAGS[name].value)}, which is not UTF-8; rename it") from None
    for name in ("dataset", "img_size"):
        if FLAGS.preset and not FLAGS[name].present:
            FLAGS[name].value = defaults.PRESETS[FLAGS.preset][name]
    given = {name: FLAGS[name].value for name in (*options.STANDARD, "img_size")}
    chosen = options.for_run(FLAGS.preset, FLAGS.dataset, given)
    config = TrainConfig(**{name: chosen[name] for name in options.TRAINING})
    model = {name: chosen[name] for name in (*options.MODEL, "conditional")} | {"classifier": config.weight_y > 0}
    if FLAGS.weights:
        present = [f"--{name}" for name in (*options.MODEL, "conditional") if FLAGS[name].value is not None]
        if _learns_noise():
            present.remove("--dequantization")
        if present:
            raise InputError(f"{', '.join(present)} cannot be combined with --weights: the file defines the model")
        if FLAGS.preset:
            logging.warning("--weights defines the model; --preset sets only the data and the training")
    else:
        if config.weight_y and not model["conditional"]:
            raise InputError(f"--weight_y is {config.weight_y:g}, which needs --conditional")
        # If the image size is still unknown, use one that is divisible at every level.
        side = chosen.get("img_size", 2**MAX_LEVELS)
        model_config(model, (side, side, FLAGS.channel_size or 1), num_classes=2)
    return model, config


def _learns_noise() -> bool:
    """Whether learned noise is asked for; with --weights, a model of uniform noise is then fine-tuned with it."""
    return FLAGS.dequantization == "variational"


def _known_settings(model: Mapping[str, Any], weights: app.Weights | None, kind: str) -> dict[str, Any]:
    """The settings of the model that a run records, as far as they are known without its data."""
    if weights is not None:
        learned = {"dequantization": "variational"} if _learns_noise() else {}
        return {"model": weights.config.to_dict() | learned}
    channels = FLAGS.channel_size or (3 if kind == "folder" else 0)
    side = FLAGS.img_size or 2**MAX_LEVELS
    known = model_config(model, (side, side, channels or 1), num_classes=2).to_dict()
    unknown = [] if FLAGS.img_size and channels else ["image_shape"]
    unknown += ["num_classes"] if model["conditional"] else []
    return {"model": {name: value for name, value in known.items() if name not in unknown}}


def _run_directory(known: Mapping[str, Any]) -> RunDirectory:
    """The run's directory, if no other trainer uses it and no run with other settings is there.

    The settings are those that are known without importing TensorFlow, which takes seconds.
    """
    run = RunDirectory(FLAGS.run_dir or os.path.join(defaults.RUNS, FLAGS.preset or run_name(FLAGS.dataset)))
    if FLAGS.strategy != "multi_worker":
        if FLAGS.fresh:
            run.check_movable()
        elif run.has_saved():
            settings.compare(run, known)
        run.check_unused()
        run.check_writable(0)
    return run


def _build(model: Mapping[str, Any], config: TrainConfig, weights: app.Weights | None) -> tuple["Trainer", "ImageData"]:
    """Loads the images and creates the trainer with its model."""
    from glow_tf.data import image_data
    from glow_tf.glow import Glow
    from glow_tf.training import distributed, hardware
    from glow_tf.training.loop import initial_images
    from glow_tf.training.schedule import Schedule
    from glow_tf.training.trainer import Trainer

    # The strategy must be created before TensorFlow does anything else.
    has_workers = FLAGS.strategy == "multi_worker"
    strategy = distributed.multi_worker_strategy(FLAGS.communication) if has_workers else hardware.default_strategy()
    images = image_data.load(
        FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        image_size=FLAGS.img_size,
        channels=FLAGS.channel_size,
        download=FLAGS.download,
        max_bad=FLAGS.max_bad,
    )
    if config.flip and not images.flippable:
        raise InputError(f"--flip would change the meaning of the images of {images.name}; leave it out")
    if model["conditional"] and not images.class_names:
        raise InputError(f"--conditional needs classes; {images.name} has neither labels nor one folder per class")
    with strategy.scope():
        if weights is not None:
            images.check_fits(weights.config)
            glow = Glow.load(weights.path)
            if _learns_noise() and glow.flow.noise is None:
                count = min(initial_images(glow.config), images.train.num_images)
                glow = glow.with_learned_noise(images.train.random_subset(count, seed=config.seed)[0])
        else:
            glow = Glow(model_config(model, images.image_shape, len(images.class_names)), seed=config.seed)
    if config.mixed_precision is True and not hardware.has_fast_bfloat16():
        logging.warning("--mixed_precision is slower here: neither a GPU nor this processor computes in bfloat16")
    schedule = Schedule.from_config(config, images.train.steps_per_epoch(config.batch_size))
    if schedule.warmup_steps > schedule.total_steps:
        message = "the run has %d steps and its warm-up %d, so --learning_rate is not reached; lower --warmup_epochs"
        logging.warning(message, schedule.total_steps, schedule.warmup_steps)
    return Trainer(glow, config, schedule), images


def model_config(model: Mapping[str, Any], image_shape: tuple[int, int, int], num_classes: int) -> GlowConfig:
    """The GlowConfig of a new model, from settings that are named like the flags."""
    settings = {field.name: model[flag] for flag, field in options.MODEL.items()}
    num_classes = num_classes if model["conditional"] else 0
    return GlowConfig(image_shape, num_classes=num_classes, classifier=model["classifier"], **settings)


def _announce(trainer: "Trainer", images: "ImageData", run: RunDirectory) -> None:
    config, workers = trainer.glow.config, trainer.workers
    print(
        f"{images.name}: {images.train.num_images} training and {images.test.num_images} test images of "
        f"{'x'.join(map(str, config.image_shape))} in {config.num_bits} bits; K={config.num_steps}, "
        f"L={config.num_levels}, {trainer.glow.num_parameters:,} parameters; "
        + (f"run directory {run.path}" if workers.is_chief else f"worker {workers.index} follows the chief"),
        flush=True,
    )
    if workers.is_chief and images.test.num_images < FEW_TEST_IMAGES:
        few = counted(images.test.num_images, "test image")
        logging.warning("with %s, bits/dim and the statistics of z are rough estimates", few)


def _finish(result: "FitResult", config: TrainConfig, run: RunDirectory, *, is_chief: bool) -> int:
    """Prints how the run ended; returns the exit status."""
    if result.stopped_by is not None:
        unsaved = "" if result.is_saved else ", which could not be saved; an earlier state may exist"
        print(f"stopped at step {result.steps}{unsaved}. To resume:\n  {app.resume_command()}")
        return 128 + result.stopped_by
    if not is_chief:
        return 0
    if result.new_steps == 0:
        longer = f"--epochs {2 * config.epochs}"
        if config.steps is not None and config.steps <= result.steps:
            longer = f"--steps {2 * config.steps}"
        print(f"this run has reached its end, step {result.steps}; to train further, use {longer}")
    if result.bits_per_dim is not None:
        error = "" if result.standard_error is None else f", standard error {result.standard_error:.4f}"
        print(f"test: {result.bits_per_dim:.4f} bits/dim{error}{caveat(result.bits_per_dim, result.standard_error)}")
    if not result.is_saved:
        print(f"error: the last save failed; the files in {run.checkpoints} are older", file=sys.stderr)
        return 1
    if result.bits_per_dim is not None and not math.isfinite(result.bits_per_dim):
        print(
            f"error: the test bits/dim is {result.bits_per_dim}: the model does not score all test images. Start over "
            f"(--fresh) with a smaller --learning_rate, a longer --warmup_epochs or --coupling additive",
            file=sys.stderr,
        )
        return 1
    _print_best(run)
    weights = shlex.quote(str(run.weights))
    print(f"weights: {run.weights}\npictures: {run.results}\nmore: python3 sample.py --weights {weights}")
    return 0


def _print_best(run: RunDirectory) -> None:
    """Names the best weights of a run if the last ones are clearly worse."""
    found = []
    with contextlib.suppress(InputError):  # there are none
        for path in (run.best_weights, run.weights):
            with open_weights(path) as file:
                found.append(file.metadata)
    # Where the last weights were scored on more images than the others, the best were chosen by another mean.
    bits: list[Any] = [metadata.get("selection_bits_per_dim", metadata.get("test_bits_per_dim")) for metadata in found]
    if len(bits) == 2 and None not in bits and bits[1] - bits[0] > WORSE:
        print(
            f"the last weights are not the best, as after overfitting: the test bits/dim was {bits[0]:.4f} after epoch "
            f"{found[0]['epoch']} and is {bits[1]:.4f} now; the best weights: {run.best_weights}"
        )


@contextlib.contextmanager
def _naming_flags() -> Iterator[None]:
    """Replaces option names by flag names in error messages."""
    try:
        yield
    except InputError as error:
        names = "|".join([*options.STANDARD, "image_size", "channels"])
        message = re.sub(rf"(?:\bmodel\.)?(?<![\w-])({names})(?= (?:is|was) )", r"--\1", str(error))
        raise InputError(re.sub(r"\bmodel\.(?=num_|image_shape)", "", message)) from error


def recorded_command() -> str:
    """The command to record in weights files: the flags in use, sorted, without those that change no weight."""
    present = [flag for flag in FLAGS.get_flags_for_module(__name__) if flag.present and flag.name not in NOT_RECORDED]
    return shlex.join(["python3", "main.py", *(flag.serialize() for flag in sorted(present, key=lambda f: f.name))])


def run_name(dataset: str) -> str:
    """The name of the run directory: that of the data set, or of the folder of images."""
    name = os.path.basename(os.path.normpath(dataset)) if os.path.isdir(dataset) else dataset
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "images"


def run() -> None:
    """Runs the command with the arguments of the command line; does not return."""
    app.run(main, usage())
