"""This package beside other Glows: the same work, in the same run, taking turns.

    python3 benchmarks/compare.py --size S
    python3 benchmarks/compare.py --size P --peers normflows

Needs `pip install torch normflows nflows` for the peers; one that is not installed is left out. Each
implementation lives in a process of its own; the parent lets them take turns, so that what else the machine
does hits all of them alike. Prints seconds from the start of the process to the end of the first training
step, seconds a step (median), images sampled and scored a second (median), peak memory, parameters, and
GFLOP/s of the step beside the machine's own rate for a large matrix product.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

# L, K, width, batch; images are 32x32x3, couplings affine, permutations 1x1 convolutions.
SIZES = {"S": (3, 8, 128, 32), "P": (3, 32, 512, 8), "tiny": (2, 2, 16, 4)}
SIDE, CHANNELS = 32, 3
LEARNING_RATE = 1e-5  # nothing is learned here; a diverging model would be slow for another reason


def flops_of_step(levels, steps, width, batch):
    """Multiplications and additions of a training step: the networks' forward pass three times."""
    total = 0
    for level in range(levels):
        positions = (SIDE >> level + 1) ** 2
        channels = CHANNELS * 2 ** (level + 2)
        total += positions * (9 * (channels // 2 + 1) * width + width * width + 9 * width * channels)
    return 3 * 2 * batch * steps * total


class GlowTF:
    """This package."""

    def __init__(self, levels, steps, width, batch, backprop="stored"):
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import glow_tf

        config = glow_tf.GlowConfig((SIDE, SIDE, CHANNELS), num_levels=levels, num_steps=steps, width=width)
        self.glow = glow_tf.Glow(config)
        self.trainer = glow_tf.Trainer(
            self.glow, batch_size=batch, learning_rate=LEARNING_RATE, optimizer="adam", backprop=backprop
        )
        self.images = np.random.default_rng(0).integers(0, 256, [batch, SIDE, SIDE, CHANNELS]).astype(np.uint8)
        self.trainer.initialize(self.images)
        self.num_parameters = self.glow.num_parameters

    def step(self):
        float(self.trainer.train_step(self.images)["bits_per_dim"])

    def sample(self):
        self.glow.sample(len(self.images), 1.0).numpy()

    def score(self):
        self.glow.bits_per_dim(self.images).numpy()


class GlowTFRecompute(GlowTF):
    """This package, keeping only each step's input for the backward pass."""

    def __init__(self, *size):
        super().__init__(*size, backprop="recompute")


class GlowTFReversible(GlowTF):
    """This package, keeping nothing for the backward pass."""

    def __init__(self, *size):
        super().__init__(*size, backprop="reversible")


class TorchPeer:
    """What the two PyTorch packages share: a module with log_prob and sample, Adam, images as floats."""

    def __init__(self, levels, steps, width, batch):
        import torch

        torch.manual_seed(0)
        self.torch = torch
        self.batch = batch
        self.model = self.build(levels, steps, width)
        images = np.random.default_rng(0).random([batch, CHANNELS, SIDE, SIDE], dtype=np.float32)
        self.images = torch.from_numpy(images)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)
        self.num_parameters = sum(p.numel() for p in self.model.parameters())

    def step(self):
        self.optimizer.zero_grad()
        loss = -self.log_prob().mean()
        loss.backward()
        self.optimizer.step()
        float(loss)

    def score(self):
        with self.torch.no_grad():
            self.log_prob().numpy()

    def sample(self):
        with self.torch.no_grad():
            self.draw()


class Normflows(TorchPeer):
    """https://github.com/VincentStimper/normalizing-flows: GlowBlock, MultiscaleFlow."""

    def build(self, levels, steps, width):
        import normflows as nf

        bases, merges, flows = [], [], []
        for i in range(levels):
            blocks = [nf.flows.GlowBlock(CHANNELS * 2 ** (levels + 1 - i), width) for _ in range(steps)]
            flows.append([*blocks, nf.flows.Squeeze()])
            side = SIDE // 2 ** (levels - i) if i else SIDE // 2**levels
            channels = CHANNELS * 2 ** (levels - i) if i else CHANNELS * 2 ** (levels + 1)
            if i:
                merges.append(nf.flows.Merge())
            bases.append(nf.distributions.DiagGaussian((channels, side, side)))
        return nf.MultiscaleFlow(bases, flows, merges)

    def log_prob(self):
        return self.model.log_prob(self.images, None)

    def draw(self):
        self.model.sample(self.batch)


class NFlows(TorchPeer):
    """https://github.com/bayesiains/nflows: its transforms, with Glow's network."""

    def build(self, levels, steps, width):
        from nflows import distributions, flows, transforms
        from torch import nn

        class Network(nn.Sequential):
            def __init__(self, channels_in, channels_out):
                super().__init__(
                    nn.Conv2d(channels_in, width, 3, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(width, width, 1),
                    nn.ReLU(),
                    nn.Conv2d(width, channels_out, 3, padding=1),
                )

            def forward(self, inputs, context=None):
                return super().forward(inputs)

        def step(channels):
            mask = [1 if i < channels // 2 else -1 for i in range(channels)]
            return transforms.CompositeTransform(
                [
                    transforms.ActNorm(channels),
                    transforms.OneByOneConvolution(channels),
                    transforms.AffineCouplingTransform(self.torch.tensor(mask), Network),
                ]
            )

        scales = transforms.MultiscaleCompositeTransform(num_transforms=levels)
        channels, side = CHANNELS, SIDE
        for _ in range(levels):
            channels, side = channels * 4, side // 2
            level = [transforms.SqueezeTransform(), *(step(channels) for _ in range(steps))]
            shape = scales.add_transform(transforms.CompositeTransform(level), (channels, side, side))
            if shape:
                channels = shape[0]
        return flows.Flow(scales, distributions.StandardNormal([CHANNELS * SIDE * SIDE]))

    def log_prob(self):
        return self.model.log_prob(self.images)

    def draw(self):
        self.model.sample(self.batch)


class TFP:
    """`tfb.Glow` of TensorFlow Probability, its default network and exits, Keras' Adam."""

    def __init__(self, levels, steps, width, batch):
        os.environ.update(TF_USE_LEGACY_KERAS="1", TF_ENABLE_ONEDNN_OPTS="1", TF_CPP_MIN_LOG_LEVEL="3")
        import tensorflow as tf
        import tensorflow_probability as tfp

        tfb, tfd = tfp.bijectors, tfp.distributions
        glow = tfb.Glow(
            output_shape=(SIDE, SIDE, CHANNELS),
            num_glow_blocks=levels,
            num_steps_per_block=steps,
            coupling_bijector_fn=lambda shape: tfb.GlowDefaultNetwork(shape, num_hidden=width),
            exit_bijector_fn=tfb.GlowDefaultExitNetwork,
        )
        base = tfd.MultivariateNormalDiag(loc=tf.zeros(glow.inverse_event_shape([SIDE, SIDE, CHANNELS])))
        model = tfd.TransformedDistribution(base, glow)
        images = tf.constant(np.random.default_rng(0).random([batch, SIDE, SIDE, CHANNELS], dtype=np.float32))
        model.log_prob(images)  # makes the variables
        variables = model.trainable_variables
        optimizer = tf.keras.optimizers.Adam(LEARNING_RATE, jit_compile=False)
        self.num_parameters = sum(int(np.prod(v.shape)) for v in variables)

        def step():
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(model.log_prob(images))
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        optimizer.build(variables)
        self._step = tf.function(step, autograph=False)
        self._sample = tf.function(lambda: model.sample(batch), autograph=False)
        self._score = tf.function(lambda: model.log_prob(images), autograph=False)

    def step(self):
        float(self._step())

    def sample(self):
        self._sample().numpy()

    def score(self):
        self._score().numpy()


IMPLEMENTATIONS = {
    "glow_tf": GlowTF,
    "glow_tf-recompute": GlowTFRecompute,
    "glow_tf-reversible": GlowTFReversible,
    "normflows": Normflows,
    "nflows": NFlows,
    "tfb.Glow": TFP,
}


def work(name, size):
    """The child: builds, makes the first step, then times what it is told to, one word a line."""
    model = IMPLEMENTATIONS[name](*SIZES[size])
    model.step()
    print(json.dumps({"parameters": model.num_parameters}), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        getattr(model, line.strip())()
        seconds = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(seconds | {"peak_mb": memory}), flush=True)


class Child:
    """One implementation in its process."""

    def __init__(self, name, size):
        start = time.perf_counter()
        command = [sys.executable, "-W", "ignore", os.path.abspath(__file__), "--work", name, "--size", size]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{name} failed; run it alone to see why: {' '.join(command)}")
        self.first_step = time.perf_counter() - start
        self.parameters = json.loads(answer)["parameters"]
        self.found = {"step": [], "sample": [], "score": []}
        self.cpu = []
        self.peak_mb = 0.0

    def time(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.found[what].append(answer["seconds"])
        if what == "step":
            self.cpu.append(answer["cpu"])
            self.peak_mb = answer["peak_mb"]


def matrix_product_rate(size=2048, repeats=5):
    """GFLOP/s of numpy's float32 matrix product, the best of some."""
    a = np.random.default_rng(0).random([size, size], dtype=np.float32)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def compare(names, size, rounds):
    batch = SIZES[size][-1]
    children = {name: Child(name, size) for name in names}  # one after the other: first steps are timed alone
    for what in ("step", "score", "sample"):
        for _ in range(rounds + 1):  # the first round warms up
            for child in children.values():
                child.time(what)
    gflop = flops_of_step(*SIZES[size]) / 1e9
    print(f"\n{size}: L={SIZES[size][0]} K={SIZES[size][1]} width {SIZES[size][2]} batch {batch}, {rounds} rounds; "
          f"a step is {gflop:.0f} GFLOP; matrix product {matrix_product_rate():.0f} GFLOP/s")
    print("| | first step s | step s | CPU s a step | GFLOP/s | sample img/s | score img/s | peak MB | parameters |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, child in children.items():
        step, score, sample = (np.median(child.found[w][1:]) for w in ("step", "score", "sample"))
        print(f"| {name} | {child.first_step:.1f} | {step:.3f} | {np.median(child.cpu[1:]):.3f} | {gflop / step:.0f} | "
              f"{batch / sample:.1f} | {batch / score:.1f} | {child.peak_mb:.0f} | {child.parameters:,} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--peers", default="normflows,nflows,tfb.Glow", help="comma-separated; '' for none")
    parser.add_argument("--own", default="glow_tf,glow_tf-recompute")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.size)
        return
    names = [name for name in f"{options.own},{options.peers}".split(",") if name]
    packages = {"normflows": "normflows", "nflows": "nflows"}
    missing = [name for name in names if name in packages and not importlib.util.find_spec(packages[name])]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}")
    compare([name for name in names if name not in missing], options.size, options.rounds)


if __name__ == "__main__":
    main()
