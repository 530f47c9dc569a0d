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
import dataclasses
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from absl import logging

from glow_tf._files import counted, printable
from glow_tf._option import integer, option
from glow_tf.cli import app, command_line, defaults, run_settings
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

# Flags that change no weight: equal runs in two folders write equal weights files.
NOT_RECORDED = ("data_dir", "debug", "download", "evaluate_every", "fresh", "keep", "run_dir")

FEW_TEST_IMAGES = 20  # fewer give a large standard error
WORSE = 0.01  # bits/dim by which the last weights of a run are clearly worse than its best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(command_line.Options):
    """The flags of main.py; those of the model and of the training, of which any can be left out, are in `given`."""

    dataset: str = option(defaults.DATASET, "digits, a TFDS name such as cifar10, or a folder of images.")
    data_dir: str | None = option(None, app.DATA_DIR_HELP)
    download: bool = option(True, app.DOWNLOAD_HELP)
    img_size: int | None = option(
        None, "Height and width of the images. Default: the data set's own.", *integer(1, MAX_SIDE)
    )
    channel_size: int | None = option(
        None, "Channels of the images. Default: the data set's own.", *integer(1, MAX_CHANNELS)
    )
    max_bad: float = option(
        0.05,
        "Largest fraction of unreadable files in a folder of images.",
        "a number from 0 to 1",
        lambda v: 0 <= v <= 1,
    )
    conditional: bool | None = option(None, "Learn one Gaussian per class; the images need labels or class folders.")
    weights: str | None = option(
        None,
        "Start from these weights, which also define the model; --dequantization variational adds learned noise to it. "
        + app.WEIGHTS_HELP,
    )
    preset: str | None = option(None, "Settings of a known run; see the table.", choices=(*defaults.PRESETS,))
    strategy: str = option(
        "mirrored",
        "Train on this machine's devices, or in several processes.",
        choices=("mirrored", "multi_worker"),
    )
    communication: str = option(
        "auto", "How the workers of --strategy multi_worker sum gradients.", choices=("auto", "ring", "nccl")
    )
    run_dir: str | None = option(None, "Folder of the run. Default: runs/<preset or data set>.")
    fresh: bool = option(False, "Start over; an earlier run in the same folder is archived.")

    @classmethod
    def flags(cls) -> dict[str, dataclasses.Field]:
        """{flag: field} of the command, those of the model and of its training included."""
        return super().flags() | run_settings.flags()

    @property
    def learns_noise(self) -> bool:
        """Whether learned noise is asked for; with --weights, a model of uniform noise is then fine-tuned with it."""
        return self.given.get("dequantization") == "variational"


def usage() -> str:
    """The text that `--help` prints before the flags."""
    return f"{__doc__}\n{run_settings.table(command_line.HELP_WIDTH)}"


def main(options: Options) -> int:
    """Trains the model that the options describe; returns the exit status."""
    with _naming_flags():
        options = _with_preset(options)
        model, config = _check_options(options)
        weights = app.find_weights(options.weights) if options.weights else None
        kind = registry.check_data_set(options.dataset, options.data_dir, options.download)
        if "max_bad" in options.given and kind != "folder":
            raise InputError(f"--max_bad is for a folder of images, and {options.dataset} is a data set; leave it out")
        app.check_data_dir(options.data_dir, kind, options.dataset)
        known = _known_settings(options, model, weights, kind)
        source = {"dataset": options.dataset} | ({"weights": f"sha256:{weights.digest[:16]}"} if weights else {})
        run = _run_directory(options, known | config.fixed() | source)
        if kind == "folder":
            run.check_outside(options.dataset)
        tf = app.import_tensorflow(options.debug, starts_devices=options.strategy != "multi_worker")
        if config.jit_compile and not tf.config.list_physical_devices("GPU"):
            raise InputError("--jit_compile needs a GPU: on CPUs it makes steps many times slower")
        trainer, images = _build(options, model, config, weights)
        if options.fresh and trainer.workers.is_chief:
            archived = run.archive()
            if archived:
                print(f"the earlier run was moved to {archived}")
        _announce(trainer, images, run)
        metadata = {"command": recorded_command(options), "dataset": options.dataset, "seed": config.seed}
        result = trainer.fit(
            images.train,
            images.test,
            run_directory=run,
            metadata=metadata | {"class_names": list(images.class_names)},
            settings=source,
            images=images.fingerprint(),
        )
    return _finish(result, trainer, run)


def _with_preset(options: Options) -> Options:
    """The options with the data set of the preset, unless the command line names another one."""
    if options.preset is None:
        return options
    names = {"dataset", "img_size"} - set(options.given)
    return dataclasses.replace(options, **{name: defaults.PRESETS[options.preset][name] for name in names})


def _check_options(options: Options) -> tuple[dict[str, Any], TrainConfig]:
    """(settings of the model, training options), checked as far as possible without data and TensorFlow."""
    app.check_no_arguments(options, "--dataset names the data set")
    if "communication" in options.given and options.strategy != "multi_worker":
        raise InputError("--communication is for --strategy multi_worker; leave it out")
    for name in ("dataset", "data_dir", "weights", "run_dir"):
        value = getattr(options, name) or ""
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"--{name} is {printable(value)}, which is not UTF-8; rename it") from None
    given = {name: value for name, value in options.given.items() if name in run_settings.STANDARD}
    chosen = run_settings.for_run(options.preset, options.dataset, given | {"img_size": options.img_size})
    config = TrainConfig(**{name: chosen[name] for name in run_settings.TRAINING})
    model = {name: chosen[name] for name in (*run_settings.MODEL, "conditional")} | {"classifier": config.weight_y > 0}
    if options.weights:
        present = [f"--{name}" for name in (*run_settings.MODEL, "conditional") if name in given]
        if options.learns_noise:
            present.remove("--dequantization")
        if present:
            raise InputError(f"{', '.join(present)} cannot be combined with --weights: the file defines the model")
        if options.preset:
            logging.warning("--weights defines the model; --preset sets only the data and the training")
    else:
        if config.weight_y and not model["conditional"]:
            raise InputError(f"--weight_y is {config.weight_y:g}, which needs --conditional")
        # If the image size is still unknown, use one that is divisible at every level.
        side = chosen.get("img_size", 2**MAX_LEVELS)
        model_config(model, (side, side, options.channel_size or 1), num_classes=2)
    return model, config


def _known_settings(
    options: Options, model: Mapping[str, Any], weights: app.Weights | None, kind: str
) -> dict[str, Any]:
    """The settings of the model that a run records, as far as they are known without its data."""
    if weights is not None:
        learned = {"dequantization": "variational"} if options.learns_noise else {}
        return {"model": weights.config.to_dict() | learned}
    channels = options.channel_size or (3 if kind == "folder" else 0)
    side = options.img_size or 2**MAX_LEVELS
    known = model_config(model, (side, side, channels or 1), num_classes=2).to_dict()
    unknown = [] if options.img_size and channels else ["image_shape"]
    unknown += ["num_classes"] if model["conditional"] else []
    return {"model": {name: value for name, value in known.items() if name not in unknown}}


def _run_directory(options: Options, known: Mapping[str, Any]) -> RunDirectory:
    """The run's directory, if no other trainer uses it and no run with other settings is there.

    The settings are those that are known without importing TensorFlow, which takes seconds.
    """
    run = RunDirectory(options.run_dir or os.path.join(defaults.RUNS, options.preset or run_name(options.dataset)))
    if options.strategy != "multi_worker":
        if options.fresh:
            run.check_movable()
        elif run.has_saved():
            settings.compare(run, known)
        run.check_unused()
        run.check_writable(0)
    return run


def _build(
    options: Options, model: Mapping[str, Any], config: TrainConfig, weights: app.Weights | None
) -> tuple["Trainer", "ImageData"]:
    """Loads the images and creates the trainer with its model."""
    from glow_tf.data import image_data
    from glow_tf.glow import Glow
    from glow_tf.training import distributed, hardware
    from glow_tf.training.loop import initial_images
    from glow_tf.training.schedule import Schedule
    from glow_tf.training.trainer import Trainer

    # The strategy must be created before TensorFlow does anything else.
    has_workers = options.strategy == "multi_worker"
    strategy = distributed.multi_worker_strategy(options.communication) if has_workers else hardware.default_strategy()
    images = image_data.load(
        options.dataset,
        data_dir=options.data_dir,
        image_size=options.img_size,
        channels=options.channel_size,
        download=options.download,
        max_bad=options.max_bad,
    )
    if config.flip and not images.flippable:
        raise InputError(f"--flip would change the meaning of the images of {images.name}; leave it out")
    if model["conditional"] and not images.class_names:
        raise InputError(f"--conditional needs classes; {images.name} has neither labels nor one folder per class")
    with strategy.scope():
        if weights is not None:
            images.check_fits(weights.config)
            glow = Glow.load(weights.path)
            if options.learns_noise and glow.flow.noise is None:
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
    settings = {field.name: model[flag] for flag, field in run_settings.MODEL.items()}
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


def _finish(result: "FitResult", trainer: "Trainer", run: RunDirectory) -> int:
    """Prints how the run ended; returns the exit status."""
    config = trainer.config
    if result.stopped_by is not None:
        unsaved = "" if result.is_saved else ", which could not be saved; an earlier state may exist"
        print(f"stopped at step {result.steps}{unsaved}. To resume:\n  {app.resume_command()}")
        return 128 + result.stopped_by
    if not trainer.workers.is_chief:
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
    sample = "python3 sample.py" if os.path.basename(sys.argv[0]) == "main.py" else "python3 -m glow_tf sample"
    weights = shlex.quote(str(run.weights))
    temperature = " --temp 0.9" if trainer.glow.config.architecture == "plus" else ""
    print(f"weights: {run.weights}\npictures: {run.results}\nmore: {sample} --weights {weights}{temperature}")
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
        flags = {name: name for name in (*run_settings.STANDARD, "weights")}
        flags |= {"image_size": "img_size", "channels": "channel_size"}
        option = rf"(?:\bmodel\.)?(?<![\w-])({'|'.join(flags)})(?= (?:is|was) )"
        message = re.sub(option, lambda found: f"--{flags[found[1]]}", str(error))
        raise InputError(re.sub(r"\bmodel\.(?=num_|image_shape)", "", message)) from error


def recorded_command(options: Options) -> str:
    """The command to record in weights files: the flags in use, sorted, without those that change no weight."""
    recorded = sorted(set(options.given) - set(NOT_RECORDED))
    return shlex.join(["python3", "main.py", *(command_line.serialize(name, options.given[name]) for name in recorded)])


def run_name(dataset: str) -> str:
    """The name of the run directory: that of the data set, or of the folder of images."""
    name = os.path.basename(os.path.normpath(dataset)) if os.path.isdir(dataset) else dataset
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "images"


def run() -> None:
    """Runs the command with the arguments of the command line; does not return."""
    app.run(main, Options, usage())
