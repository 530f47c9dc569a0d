"""Compares this package with other Glow implementations: the same work in the same run, in alternation.

    python3 benchmarks/compare.py --size S
    python3 benchmarks/compare.py --size P --peers normflows,normflows-autocast
    python3 benchmarks/compare.py --size P --peers normflows --memory 8,16,32,64    peak memory against the batch

The peers need `pip install torch normflows nflows`; those that are not installed are left out. Each implementation runs
in its own process, and the processes alternate, so that other load on the machine affects them equally. Prints the
processor, and the seconds from the start of the process to the end of the first training step, seconds per step
(median), images sampled and scored per second (median), peak memory, parameters, and the GFLOP/s of a step next to
those of a large matrix product on the same machine.

`glow_tf-bfloat16` trains with `--mixed_precision`; it scores and samples in float32, as always. `normflows-autocast`
and `nflows-autocast` do everything under `torch.autocast` in bfloat16.
"""

import argparse
import functools
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
LEARNING_RATE = 1e-5  # so small that nothing is learned; a diverging model would be slow for another reason
NUM_DIMS = SIDE * SIDE * CHANNELS

# Extensions with float32 or bfloat16 products, as /proc/cpuinfo names them on x86 and ARM.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")


def flops_of_step(levels, steps, width, batch):
    """Multiplications and additions of a training step: three times the networks' forward pass."""
    total = 0
    for level in range(levels):
        positions = (SIDE >> level + 1) ** 2
        channels = CHANNELS * 2 ** (level + 2)
        total += positions * (9 * (channels // 2 + 1) * width + width * width + 9 * width * channels)
    return 3 * 2 * batch * steps * total


def random_bytes(batch):
    """Random images, uint8 [batch, 32, 32, 3]."""
    return np.random.default_rng(0).integers(0, 256, [batch, SIDE, SIDE, CHANNELS]).astype(np.uint8)


def dequantized(images, rng):
    """Dequantises uint8 images NHWC to float32 in [-0.5, 0.5)."""
    return ((images + rng.random(images.shape)) / 256 - 0.5).astype(np.float32)


def bits_per_dim(log_prob):
    """Bits/dim of the bytes, from the log density (nats per image) of their `dequantized` values."""
    return 8 - np.asarray(log_prob) / (NUM_DIMS * np.log(2))


class GlowTF:
    """This package."""

    def __init__(
        self,
        levels,
        steps,
        width,
        images,
        beta_2=0.999,
        seed=0,
        backprop="stored",
        architecture="openai",
        dequantization="uniform",
        optimizer="adam",
        mixed_precision=False,
        initial=None,
    ):
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import glow_tf

        config = glow_tf.GlowConfig(
            (SIDE, SIDE, CHANNELS), levels, steps, width, architecture=architecture, dequantization=dequantization
        )
        self.glow = glow_tf.Glow(config, seed=seed)
        self.trainer = glow_tf.Trainer(
            self.glow,
            batch_size=len(images),
            learning_rate=LEARNING_RATE,
            optimizer=optimizer,
            beta_2=beta_2,
            backprop=backprop,
            seed=seed,
            mixed_precision=mixed_precision,
        )
        self.trainer.initialize(images if initial is None else initial)
        self.num_parameters = self.glow.num_parameters
        self.seed = seed

    def set_rate(self, rate):
        self.trainer.optimizer.learning_rate.assign(rate)

    def step(self, images):
        float(self.trainer.train_step(images)["bits_per_dim"])

    def sample(self, images):
        self.glow.sample(len(images), 1.0).numpy()

    def score(self, images):
        return self.glow.bits_per_dim(images, seed=self.seed).numpy()


class TorchPeer:
    """Base class of the two PyTorch packages: a module with log_prob and sample, Adam, images as floats.

    It runs on the first GPU, if there is one; "float32" products there are TF32, as XLA's are.
    """

    def __init__(self, levels, steps, width, images, beta_2=0.999, seed=0, autocast=False):
        import torch

        torch.manual_seed(seed)
        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        self.precision = functools.partial(torch.autocast, self.device, torch.bfloat16, enabled=autocast)
        self.rng = np.random.default_rng(seed)
        self.model = self.build(levels, steps, width).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE, betas=(0.9, beta_2))
        self.num_parameters = sum(p.numel() for p in self.model.parameters())

    def floats(self, images):
        return self.torch.from_numpy(dequantized(images, self.rng).transpose(0, 3, 1, 2).copy()).to(self.device)

    def set_rate(self, rate):
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(self, images):
        self.optimizer.zero_grad()
        with self.precision():
            loss = -self.log_prob(self.floats(images)).mean() / NUM_DIMS
        loss.backward()
        self.optimizer.step()
        float(loss)

    def score(self, images):
        with self.torch.no_grad(), self.precision():
            return bits_per_dim(self.log_prob(self.floats(images)).float().cpu().numpy())

    def sample(self, images):
        with self.torch.no_grad(), self.precision():
            samples = self.model.sample(len(images))
            (samples[0] if isinstance(samples, tuple) else samples).cpu()  # waits for a GPU


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

    def log_prob(self, floats):
        return self.model.log_prob(floats, None)


class NFlows(TorchPeer):
    """https://github.com/bayesiains/nflows: its transforms, with Glow's coupling network."""

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
        return flows.Flow(scales, distributions.StandardNormal([NUM_DIMS]))

    def log_prob(self, floats):
        return self.model.log_prob(floats)


class TFP:
    """TensorFlow Probability's `tfb.Glow` with its default networks, and Keras' Adam."""

    def __init__(self, levels, steps, width, images, beta_2=0.999, seed=0):
        os.environ.update(TF_USE_LEGACY_KERAS="1", TF_ENABLE_ONEDNN_OPTS="1", TF_CPP_MIN_LOG_LEVEL="3")
        import tensorflow as tf
        import tensorflow_probability as tfp

        tf.random.set_seed(seed)
        self.rng = np.random.default_rng(seed)
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
        model.log_prob(dequantized(images, self.rng))  # creates the variables
        variables = model.trainable_variables
        optimizer = tf.keras.optimizers.Adam(LEARNING_RATE, beta_2=beta_2, jit_compile=False)
        self.num_parameters = sum(int(np.prod(v.shape)) for v in variables)

        def step(floats):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(model.log_prob(floats)) / NUM_DIMS
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        optimizer.build(variables)
        self.set_rate = optimizer.learning_rate.assign
        batch = len(images)
        self._step = tf.function(step, autograph=False)
        self._sample = tf.function(lambda: model.sample(batch), autograph=False)
        self._score = tf.function(model.log_prob, autograph=False)

    def step(self, images):
        float(self._step(dequantized(images, self.rng)))

    def sample(self, images):
        self._sample().numpy()

    def score(self, images):
        return bits_per_dim(self._score(dequantized(images, self.rng)).numpy())


IMPLEMENTATIONS = {
    "glow_tf": GlowTF,
    "glow_tf-bfloat16": functools.partial(GlowTF, mixed_precision=True),
    "glow_tf-recompute": functools.partial(GlowTF, backprop="recompute"),
    "glow_tf-reversible": functools.partial(GlowTF, backprop="reversible"),
    "normflows": Normflows,
    "normflows-autocast": functools.partial(Normflows, autocast=True),
    "nflows": NFlows,
    "nflows-autocast": functools.partial(NFlows, autocast=True),
    "tfb.Glow": TFP,
}


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(name, size, batch):
    """The child process: builds the model, runs one step, then times the methods named on stdin, one per line."""
    levels, steps, width, _ = SIZES[size]
    images = random_bytes(batch)
    model = IMPLEMENTATIONS[name](levels, steps, width, images)
    model.step(images)
    print(json.dumps({"parameters": model.num_parameters, "peak_mb": peak_mb()}), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        getattr(model, line.strip())(images)
        seconds = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(seconds | {"peak_mb": peak_mb()}), flush=True)


class Child:
    """One implementation in its own process."""

    def __init__(self, name, size, batch):
        start = time.perf_counter()
        command = [sys.executable, "-W", "ignore", os.path.abspath(__file__), "--work", name, "--size", size]
        command += ["--batch", str(batch)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{name} failed; run it alone to see why: {' '.join(command)}")
        self.first_step = time.perf_counter() - start
        built = json.loads(answer)
        self.parameters, self.peak_mb = built["parameters"], built["peak_mb"]
        self.found = {"step": [], "sample": [], "score": []}
        self.cpu = []

    def time(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.found[what].append(answer["seconds"])
        if what == "step":
            self.cpu.append(answer["cpu"])
            self.peak_mb = answer["peak_mb"]


def matrix_product_rate(size=2048, repeats=5):
    """GFLOP/s of numpy's float32 matrix product, the best of several."""
    a = np.random.default_rng(0).random([size, size], dtype=np.float32)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def processor(cpu_info="/proc/cpuinfo"):
    """The number of cores in use, the processor's name, and its extensions among `FLAGS`."""
    with open(cpu_info) as file:
        fields = dict(line.replace("\t", "").strip().split(": ", 1) for line in file if ": " in line)
    have = fields.get("flags", fields.get("Features", "")).split()
    flags = ", ".join(flag for flag in FLAGS if flag in have)
    return f"{len(os.sched_getaffinity(0))} cores, {fields.get('model name', 'unknown processor')} ({flags})"


def compare(names, size, batch, rounds):
    children = {name: Child(name, size, batch) for name in names}  # one at a time: each first step is timed alone
    for what in ("step", "score", "sample"):
        for _ in range(rounds + 1):  # the first round warms up
            for child in children.values():
                child.time(what)
    gflop = flops_of_step(*SIZES[size][:-1], batch) / 1e9
    levels, steps, width, _ = SIZES[size]
    print(f"\n{processor()}; float32 matrix product {matrix_product_rate():.0f} GFLOP/s")
    print(f"{size}: L={levels} K={steps} width {width} batch {batch}, {rounds} rounds; {gflop:.0f} GFLOP per step")
    print("| | first step s | step s | CPU s per step | GFLOP/s | sample img/s | score img/s | peak MB | parameters |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, child in children.items():
        step, score, sample = (np.median(child.found[w][1:]) for w in ("step", "score", "sample"))
        print(
            f"| {name} | {child.first_step:.1f} | {step:.3f} | {np.median(child.cpu[1:]):.3f} | {gflop / step:.0f} | "
            f"{batch / sample:.1f} | {batch / score:.1f} | {child.peak_mb:.0f} | {child.parameters:,} |"
        )


def compare_memory(names, size, batches):
    """Prints the peak memory of a process that builds the model and runs one training step."""
    print(f"{size}, peak MB\n| batch | {' | '.join(names)} |\n|" + "---|" * (len(names) + 1))
    for batch in batches:
        peaks = []
        for name in names:
            child = Child(name, size, batch)
            child.process.kill()
            child.process.wait()
            peaks.append(f"{child.peak_mb:.0f}")
        print(f"| {batch} | {' | '.join(peaks)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="S")
    peers = "normflows,normflows-autocast,nflows,nflows-autocast,tfb.Glow"
    parser.add_argument("--peers", default=peers, help="comma-separated; '' for none")
    parser.add_argument("--own", default="glow_tf,glow_tf-bfloat16,glow_tf-recompute")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, help="batch size; default: that of --size")
    parser.add_argument("--memory", metavar="BATCHES", help="measure only peak memory, at batch sizes such as 8,16")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.size, options.batch)
        return
    names = [name for name in f"{options.own},{options.peers}".split(",") if name]
    packages = {name: name.removesuffix("-autocast") for name in names if name.startswith(("normflows", "nflows"))}
    missing = [name for name, package in packages.items() if not importlib.util.find_spec(package)]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}")
    names = [name for name in names if name not in missing]
    if options.memory:
        compare_memory(names, options.size, map(int, options.memory.split(",")))
    else:
        compare(names, options.size, options.batch or SIZES[options.size][-1], options.rounds)


if __name__ == "__main__":
    main()
