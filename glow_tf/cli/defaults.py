"""Defaults of the commands' flags. A data set can override them; a flag on the command line takes precedence.

Only the commands read this file. The standard model and training, which hold where nothing here overrides them, are the
defaults of `GlowConfig` and `TrainConfig`.
"""

# The default data set: bundled, no download, minutes on two CPU cores.
DATASET = "digits"

# The folder of all runs; each run has a sub-folder named after its data set.
RUNS = "runs"

# Standard deviation of the latents when sampling: the paper's.
TEMPERATURE = 0.7

# Images of a sample grid.
NUM_SAMPLES = 64

# A cool-down is capped at half of the run, so this value means half of a run of any length.
HALF_OF_THE_RUN = 1e6

# The paper's model: 3.35 bits/dim.
CIFAR = {"img_size": 32, "epochs": 1000, "warmup_epochs": 10.0}

# openai/glow's depth.
IMAGENET_32 = {"img_size": 32, "k_glow": 48, "epochs": 50, "warmup_epochs": 0.5}
IMAGENET_64 = {"img_size": 64, "k_glow": 48, "l_glow": 4, "batch_size": 16, "epochs": 50, "warmup_epochs": 0.5}

# Models that two CPU cores train in minutes or an hour.
SMALL = {
    "img_size": 32,
    "architecture": "plus",
    "dequantization": "variational",
    "mixed_precision": "auto",
    "batch_size": 32,
    "optimizer": "muon",
    "beta_2": 0.99,
    "cooldown_epochs": HALF_OF_THE_RUN,
}

DATASETS: dict[str, dict] = {
    # 8x8 grey, 4 bits: small enough for two cores.
    "digits": {
        "img_size": 8,
        "k_glow": 8,
        "l_glow": 2,
        "width": 96,
        "n_bits": 4,
        "epochs": 45,
        "warmup_epochs": 2.0,
    },
    "mnist": {"img_size": 32, "k_glow": 16, "width": 128, "epochs": 50},
    "fashion_mnist": {"img_size": 32, "k_glow": 16, "width": 128, "epochs": 50},
    "cifar10": CIFAR,
    "cifar100": CIFAR,
    "imagenet_resized/32x32": IMAGENET_32,
    "imagenet_resized/64x64": IMAGENET_64,
}

# --preset. Flags on the command line take precedence here as well: --dataset and --data_dir select your own images.
#
# cifar10-small takes an hour or two and fashion_mnist-small minutes on two CPU cores. The others are openai/glow's
# published runs. Batch sizes are totals over all of its workers, so one GPU needs a smaller --batch_size. Its warm-up
# is 10 "epochs" of 50,000 images counted as 32x32, converted here to epochs of the data set. Those runs had no fixed
# length: `epochs` is our choice. ImageNet is TFDS's down-sampled version, whose 64x64 images are not van den Oord's;
# CelebA-HQ and LSUN must be prepared by hand (TFDS explains how).
PRESETS: dict[str, dict] = {
    "cifar10-small": {
        **SMALL,
        "dataset": "cifar10",
        "k_glow": 16,
        "width": 80,
        "flip": True,
        "epochs": 13,
        "learning_rate": 2e-3,
        "warmup_epochs": 0.2,
        "ema_decay": 0.998,
    },
    "fashion_mnist-small": {
        **SMALL,
        "dataset": "fashion_mnist",
        "k_glow": 8,
        "width": 64,
        "conditional": True,
        "epochs": 3,
        "learning_rate": 1e-3,  # twice as much diverged
        "warmup_epochs": 0.1,
        "ema_decay": 0.995,
    },
    "cifar10": {**CIFAR, "dataset": "cifar10", "batch_size": 512},
    "imagenet32": {**IMAGENET_32, "dataset": "imagenet_resized/32x32", "batch_size": 512, "warmup_epochs": 0.4},
    "imagenet64": {
        **IMAGENET_64,
        "dataset": "imagenet_resized/64x64",
        "batch_size": 128,
        "warmup_epochs": 0.1,
        "backprop": "recompute",
    },
    "lsun64": {
        "dataset": "lsun/bedroom",
        "img_size": 64,
        "k_glow": 48,
        "batch_size": 128,
        "warmup_epochs": 0.04,
        "epochs": 20,
        "backprop": "recompute",
    },
    "celeba256": {
        "dataset": "celeb_a_hq/256",
        "img_size": 256,
        "l_glow": 6,
        "coupling": "additive",
        "n_bits": 5,
        "batch_size": 40,
        "warmup_epochs": 0.3,
        "epochs": 50,
        "backprop": "recompute",
    },
    "cifar10-conditional": {
        **CIFAR,
        "dataset": "cifar10",
        "coupling": "additive",
        "n_bits": 5,
        "batch_size": 512,
        "conditional": True,
        "weight_y": 0.01,
    },
}

# For a folder of images, or a TFDS data set that is not listed above: the cool-down of cifar10-small, but a shallower
# and wider model of the paper's architecture, Adam, and smaller batches for fewer images. 5 bits look as good as 8 and
# are learned faster.
OTHER: dict = {
    "k_glow": 8,
    "width": 128,
    "n_bits": 5,
    "batch_size": 16,
    "optimizer": "adam",
    "learning_rate": 2e-3,
    "beta_2": 0.99,
    "warmup_epochs": 1.0,
    "cooldown_epochs": HALF_OF_THE_RUN,
    "ema_decay": 0.99,
}
