"""Configurations: what a Glow is (stored beside its weights), and how it is trained.

A field is all that an option needs: its check, the flag of the training command with its help, the description in the
docstring and the record in weights files and a run's settings come from here.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from glow_tf._files import shown
from glow_tf._option import check, documented, integer, option, plain
from glow_tf.errors import InputError

COUPLINGS = ("affine", "additive")
PERMUTATIONS = ("conv1x1", "shuffle", "reverse")
DTYPES = ("float32", "float64")
PIXELS = ("scale", "logit")
DEQUANTIZATIONS = ("uniform", "variational")
ARCHITECTURES = ("openai", "plus", "glow_tf2")
OPTIMIZERS = ("adamax", "adam", "muon")
BACKPROPS = ("stored", "recompute", "reversible")

# The third value of some flags: on or off, whichever is faster on this machine.
AUTO = "auto"

# Bounds on the configuration in an untrusted weights file, so that its model cannot exhaust the memory.
MAX_LEVELS = 8
MAX_STEPS = 512
MAX_CHANNELS = 4
MAX_SIDE = 1024
MAX_WIDTH = 8192
MAX_CLASSES = 100_000
MAX_WEIGHTS = 1_000_000_000


@documented
@dataclasses.dataclass(frozen=True)
class GlowConfig:
    """The architecture of a Glow; an invalid value raises an InputError that names the valid ones.

    >>> config = GlowConfig(image_shape=(32, 32, 3), num_levels=3, num_steps=32, width=512)
    >>> config.squeezed_shapes()
    [(16, 16, 12), (8, 8, 24), (4, 4, 48)]
    >>> GlowConfig.from_dict(config.to_dict()) == config
    True
    >>> GlowConfig(image_shape=(30, 32, 3), num_levels=2)
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: image height 30 is not divisible by 2**2 = 4 ...
    """

    image_shape: tuple[int, int, int] = option(
        dataclasses.MISSING,
        "(height, width, channels); height and width divisible by 2**num_levels, 1 to 4 channels.",
        flag=False,
    )
    num_levels: int = option(3, "L, levels of the multi-scale architecture.", *integer(1, MAX_LEVELS), flag="l_glow")
    num_steps: int = option(32, "K, flow steps per level.", *integer(1, MAX_STEPS), flag="k_glow")
    width: int = option(512, "Hidden channels of the coupling networks.", *integer(1, MAX_WIDTH))
    coupling: str = option("affine", "Type of the coupling layers.", choices=COUPLINGS)
    permutation: str = option(
        "conv1x1",
        "Channel permutation between couplings: the paper's 1x1 convolution, fixed random orders, or RealNVP's.",
        choices=PERMUTATIONS,
    )
    num_bits: int = option(8, "Bits per channel, 1 to 8.", *integer(1, 8), flag="n_bits")
    learned_top: bool = option(
        True, "Whether the Gaussian of the deepest latents is learned, as in every published run.", flag=False
    )
    num_classes: int = option(
        0,
        "Number of classes of a class-conditional model; 0 for a model without classes.",
        *integer(0, MAX_CLASSES),
        flag=False,
    )
    classifier: bool = option(
        False, "Whether a class-conditional model also has OpenAI's classifier of its deepest latents.", flag=False
    )
    pixels: str = option(
        "scale", "What the flow models: the pixels themselves, as in the paper, or RealNVP's logit.", choices=PIXELS
    )
    pixel_range: tuple[float, float] = option(
        (-0.5, 0.5), "(low, high) of the continuous pixels, all bins together.", flag=False
    )
    architecture: str = option(
        "openai",
        "Networks and Gaussians: the paper's; plus, which learns faster; or those of GLOW-tf2.",
        choices=ARCHITECTURES,
    )
    dequantization: str = option(
        "uniform", "Noise within the bins: uniform, as in the paper, or learned.", choices=DEQUANTIZATIONS
    )
    dtype: str = option("float32", "Type of the weights and latents.", choices=DTYPES, flag=False)

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "image_shape", _tuple("image_shape", self.image_shape, 3, int))
        object.__setattr__(self, "pixel_range", _tuple("pixel_range", self.pixel_range, 2, (int, float)))
        height, width, channels = self.image_shape
        _check_range("image channels", channels, 1, MAX_CHANNELS)
        factor = 2**self.num_levels
        for name, side in (("height", height), ("width", width)):
            _check_range(f"image {name}", side, 1, MAX_SIDE)
            if side % factor:
                raise InputError(
                    f"image {name} {side} is not divisible by 2**{self.num_levels} = {factor} (num_levels is "
                    f"{self.num_levels}); use {_nearby(side, factor)} pixels or fewer levels"
                )
        _check_pixel_range(*self.pixel_range)
        if self.classifier and not self.num_classes:
            raise InputError("classifier is on but num_classes is 0: only a class-conditional model has one")
        if self.min_num_weights > MAX_WEIGHTS:
            raise InputError(
                f"the model has at least {self.min_num_weights:,} weights; it can have {MAX_WEIGHTS:,}: lower width, "
                "num_steps or num_levels"
            )

    @property
    def num_dims(self) -> int:
        """H * W * C."""
        return math.prod(self.image_shape)

    @property
    def min_num_weights(self) -> int:
        """A close lower bound on the number of weights, which needs no model.

        Before a model is built from a weights file, the file must hold at least this many numbers.
        """
        total = 0
        for level, (_, _, channels) in enumerate(self.squeezed_shapes()):
            matrices = 2 * channels**2 if self.permutation == "conv1x1" else 0
            kernels = self.width**2 + 9 * self.width * channels  # both 3x3 kernels have at least half of the channels
            total += self.num_steps * (2 * channels + kernels + matrices)
            total += channels**2 // 2 if level < self.num_levels - 1 else 0  # the prior of a split
        height, width, channels = self.squeezed_shapes()[-1]
        positions = height * width if self.architecture == "plus" else 1
        return total + self.num_classes * positions * 2 * channels

    def squeezed_shapes(self) -> list[tuple[int, int, int]]:
        """(H, W, C) of the flow steps of each level, level 0 (the finest) first."""
        height, width, channels = self.image_shape
        return [(height >> i + 1, width >> i + 1, channels * 2 ** (i + 2)) for i in range(self.num_levels)]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self) | {"image_shape": list(self.image_shape), "pixel_range": list(self.pixel_range)}

    def differences(self, other: "GlowConfig") -> str:
        """Each key in which `other` differs, with both values; empty if they are equal.

        >>> GlowConfig((8, 8, 1), width=64).differences(GlowConfig((8, 8, 1), width=32))
        'width: 64 there, 32 here'
        """
        there, here = self.to_dict(), other.to_dict()
        return "; ".join(f"{key}: {there[key]!r} there, {here[key]!r} here" for key in there if there[key] != here[key])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GlowConfig":
        """The inverse of `to_dict`, where a missing key has its default.

        Raises:
            InputError: if image_shape is missing, a key is unknown, or a value has the wrong type or is invalid.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise InputError(f"the configuration has unknown keys: {', '.join(unknown[:3])}")
        if "image_shape" not in values:
            raise InputError("the configuration has no image_shape")
        for key, value in values.items():
            expected = fields[key].type
            if expected in (int, str, bool) and type(value) is not expected:
                raise InputError(f"the configuration's {key} is {shown(value)}, not of type {expected.__name__}")
        return cls(**values)


# The valid values of several options, in words and as a test.
_COUNT = integer(1, 2**31 - 1)
_FROM_ZERO = integer(0, 2**31 - 1)
_BELOW_ONE = 0.9999999  # float32 rounds 0.99999998 to 1
_EPOCHS = ("a number from 0 to 1e6", lambda v: 0 <= v <= 1e6)


@documented
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a Glow is trained.

    Raises:
        InputError: for a value that is not allowed; the message names the option and the valid values.

    >>> TrainConfig(batch_size=16).learning_rate
    0.001
    >>> TrainConfig(learning_rate=-1.0)
    Traceback (most recent call last):
    ...
    glow_tf.errors.InputError: learning_rate is -1.0; it must be a number from 1e-30 to 1e30, 0.001 is usual
    """

    batch_size: int = option(64, "Images per step, over all devices.", *_COUNT, is_fixed=True)
    epochs: int = option(100, "Passes over the training images in all, before and after a resume.", *_COUNT)
    steps: int | None = option(None, "Stop after this many steps in all, even within an epoch.", *_COUNT)
    learning_rate: float = option(
        1e-3,
        "Learning rate between warm-up and cool-down.",
        "a number from 1e-30 to 1e30, 0.001 is usual",
        lambda v: 1e-30 <= v <= 1e30,  # in float32 it must be neither zero nor infinite
        is_fixed=True,
    )
    warmup_epochs: float = option(1.0, "Epochs over which the learning rate rises from 0.", *_EPOCHS, is_fixed=True)
    cooldown_epochs: float = option(
        0.0, "Epochs at the end over which the learning rate falls to 0; at most half of the run.", *_EPOCHS
    )
    optimizer: str = option("adamax", "Update rule; muon learns fastest.", choices=OPTIMIZERS, is_fixed=True)
    beta_2: float = option(
        0.999,
        "Decay of the optimizer's second moments; 0.99 learns faster in runs of few steps.",
        "a number from 0 to 0.9999999, 0.999 is usual, 0.99 for short runs",
        lambda v: 0 <= v <= _BELOW_ONE,
        is_fixed=True,
    )
    ema_decay: float = option(
        0.999,
        "Decay per step of the moving average of the weights; 0 disables the average.",
        "a number from 0 (no average) to 0.9999999",
        lambda v: 0 <= v <= _BELOW_ONE,
        is_fixed=True,
    )
    weight_y: float = option(
        0.0,
        "Weight of the classifier's loss (bits per image) added to the bits/dim; 0.01 is usual, 0 means no classifier.",
        "a number from 0 to 1e30, 0.01 is usual",
        lambda v: 0 <= v <= 1e30,
        is_fixed=True,
    )
    backprop: str = option(
        "stored", "How the backward pass gets the activations; all but stored save memory.", choices=BACKPROPS
    )
    mixed_precision: bool | str = option(
        False,
        "Compute the coupling networks in bfloat16 during training; auto: only where that is faster.",
        choices=(AUTO,),
    )
    jit_compile: bool = option(False, "Compile the training step with XLA; for GPUs only.")
    flip: bool = option(False, "Mirror training images at random; for natural images only.", is_fixed=True)
    seed: int = option(0, "Seed for weights, noise and data order.", *_FROM_ZERO, is_fixed=True)
    evaluate_every: int = option(1, "Epochs between evaluations, which also save the weights.", *_COUNT)
    eval_images: int | None = option(
        None,
        "Test images per evaluation; the last evaluation uses all. By default an evaluation takes at most a tenth of "
        "an epoch.",
        *_COUNT,
        is_fixed=True,
    )
    keep: int = option(0, "Number of snapshots of the weights to keep, one for each evaluation.", *_FROM_ZERO)

    def __post_init__(self) -> None:
        check(self)

    def fixed(self) -> dict[str, Any]:
        """The options that must stay the same when a run is resumed."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["is_fixed"]}


def _tuple(name: str, value: Any, length: int, kind: type | tuple[type, ...]) -> tuple:
    try:
        values = tuple(map(plain, value))  # accepts a TensorShape, too
    except (TypeError, ValueError):
        values = ()
    if len(values) != length or any(not isinstance(v, kind) or isinstance(v, bool) for v in values):
        raise InputError(f"{name} is {shown(value)}; it must hold {length} numbers")
    return values


def _check_pixel_range(low: float, high: float) -> None:
    largest = max(abs(low), abs(high))
    if not (largest <= 1e6 and high - low >= max(1e-6, 1e-3 * largest)):  # bins must be wide enough for float32
        needed = "between -1e6 and 1e6, the first below the second, and no narrower than a thousandth of them"
        raise InputError(f"pixel_range is {shown((low, high))}; it must lie {needed}")


def _check_range(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} is {shown(value)}; it must be an integer from {low} to {high}")


def _nearby(side: int, factor: int) -> str:
    below, above = side // factor * factor, (side // factor + 1) * factor
    return f"{below} or {above}" if below else f"{above}"
