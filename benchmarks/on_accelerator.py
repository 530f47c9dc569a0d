"""Times, profiles and trains with a step that `accelerator.py` exported; it needs only JAX, numpy and Pillow.

    python3 benchmarks/on_accelerator.py time step.npz
    python3 benchmarks/on_accelerator.py profile step.npz
    python3 benchmarks/on_accelerator.py train step.npz --images images --seconds 600 --out trained

`train` warms the learning rate up and lets it fall to zero over the second half of the time. It writes training.csv and
the averaged weights in pieces of at most 15 MB, those of the end to the folder `end`. Everything runs on CPUs, too.
"""

import argparse
import collections
import concurrent.futures
import csv
import itertools
import time
from pathlib import Path

import numpy as np

PIECE_BYTES = 15_000_000
STEP, IMAGES = 0, 1  # indices of these inputs
LOG_EVERY = 100  # steps
LONGEST_KERNELS = 30  # rows of a profile


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    timing = commands.add_parser("time")
    timing.set_defaults(run=time_steps)
    timing.add_argument("steps", nargs="+", help="files of `accelerator.py export`")
    timing.add_argument("--repeat", type=int, default=50, help="steps to run")
    timing.add_argument("--together", action="store_true", help="also run them at the same time, in threads")
    profile = commands.add_parser("profile")
    profile.set_defaults(run=profile_step)
    profile.add_argument("step", help="file of `accelerator.py export`")
    profile.add_argument("--repeat", type=int, default=50, help="steps to run")
    train = commands.add_parser("train")
    train.set_defaults(run=train_for)
    train.add_argument("step", help="file of `accelerator.py export`")
    train.add_argument("--images", nargs="+", required=True, help="folders of `accelerator.py images`")
    train.add_argument("--seconds", type=float, required=True)
    train.add_argument("--learning_rate", type=float, default=2e-3)
    train.add_argument("--warmup_seconds", type=float, default=10.0)
    train.add_argument("--snapshots", type=int, default=0, help="also write this many averages on the way")
    train.add_argument("--flip", action="store_true", help="mirror half of the images")
    train.add_argument("--out", required=True, help="folder")
    options = parser.parse_args()
    options.run(options)


class Step:
    """The exported step and its state, on JAX's first device.

    Args:
        path: file of `accelerator.py export`.

    Attributes:
        batch_size: images per step.
        compile_seconds: how long XLA took.
    """

    def __init__(self, path):
        import jax
        from jax._src.lib import xla_client

        jax.config.update("jax_enable_x64", True)  # the count of updates is an int64
        with np.load(path) as stored:
            self._rest = {name: stored[name] for name in stored.files if not name.startswith("input")}
            inputs = [_input(name, stored[name]) for name in sorted(stored.files) if name.startswith("input")]
        self._device = jax.devices()[0]
        start = time.perf_counter()
        self._executable = self._device.client.compile_and_load(
            stablehlo(self._rest.pop("hlo").tobytes()),
            xla_client.DeviceList((self._device,)),
            xla_client.CompileOptions(),
        )
        self.compile_seconds = time.perf_counter() - start
        self.batch_size = len(inputs[IMAGES])
        self.image_shape = inputs[IMAGES].shape[1:]
        self._inputs = [jax.device_put(value, self._device) for value in inputs]

    @property
    def device(self):
        return self._device.device_kind

    def __call__(self, number, images, rate):
        """One step. Returns {metric: array}, which are computed when they are read."""
        import jax

        values = {STEP: np.int32(number), IMAGES: images, int(self._rest["rate"]): np.float32(rate)}
        for index, value in values.items():
            self._inputs[index] = jax.device_put(value, self._device)
        outputs = self._executable.execute_sharded(self._inputs).disassemble_into_single_device_arrays()
        outputs, names = [shards[0] for shards in outputs], self._rest["metrics"]
        # XLA gives the memory of a variable's old value to its new one, so the old one must not be used again.
        for index, value in zip(self._rest["updated"], outputs[len(names) :], strict=True):
            self._inputs[index] = value
        return dict(zip(map(str, names), outputs, strict=False))

    def write_weights(self, folder, **about):
        """Writes the weights (moving averages), the configuration and `about` in pieces of at most PIECE_BYTES."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        about |= {"config": self._rest["config"], "command": self._rest["command"], "device": self.device}
        pieces, size = [about], 0
        for text in self._rest["weights"]:
            index, name = str(text).split(" ")
            value = np.asarray(self._inputs[int(index)])
            if size + value.nbytes > PIECE_BYTES:
                pieces.append({})
                size = 0
            pieces[-1][name] = value
            size += value.nbytes
        for number, piece in enumerate(pieces):
            np.savez(folder / f"weights{number:03d}.npz", **piece)


def stablehlo(hlo):
    """Serialised StableHLO, from serialised HLO.

    Its copies, which StableHLO has no operation for and a GPU's plugin therefore refuses, are left out.
    """
    import io

    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jax._src.lib.mlir import ir

    with mlir.make_ir_context():
        module = ir.Module.parse(xla_client._xla.mlir.hlo_to_stablehlo(hlo))
        _remove_copies(module.operation)
        bytecode = io.BytesIO()
        module.operation.write_bytecode(bytecode)
    return bytecode.getvalue()


def _remove_copies(operation):
    for block in (block for region in operation.regions for block in region):
        for inner in [op.operation for op in block]:
            if inner.name == "mhlo.copy":
                inner.result.replace_all_uses_with(inner.operands[0])
                inner.erase()
            else:
                _remove_copies(inner)


def _input(name, value):
    """The stored value, or small random weights of the stored shape."""
    if name.endswith(".shape"):
        return (0.01 * np.random.default_rng(0).standard_normal(value)).astype(np.float32)
    return value


def random_images(step):
    return np.random.default_rng(0).integers(0, 256, [step.batch_size, *step.image_shape]).astype(np.uint8)


def time_steps(options):
    """Prints the milliseconds of each step: with its result read every time, and in a row without reading results."""
    with concurrent.futures.ThreadPoolExecutor(len(options.steps)) as pool:
        steps = list(pool.map(Step, options.steps))  # XLA compiles them at the same time
        for path, step in zip(options.steps, steps, strict=True):
            images, seconds = random_images(step), []
            for number in range(options.repeat + 2):
                start = time.perf_counter()
                metrics = step(number, images, 1e-6)
                float(metrics["bits_per_dim"])
                seconds.append(time.perf_counter() - start)
            if not metrics["is_finite"]:
                print(f"{path}: the loss is not finite, so the updates are skipped")
            in_a_row = seconds_in_a_row(step, options.repeat)
            print(
                f"{path} on {step.device}: compiled in {step.compile_seconds:.0f} s; "
                f"{1e3 * np.median(seconds[2:]):.2f} ms, in a row {1e3 * in_a_row:.2f} ms; "
                f"{step.batch_size / in_a_row:,.0f} images/s",
                flush=True,
            )
        if options.together:
            found = pool.map(seconds_in_a_row, steps, [options.repeat] * len(steps))
            for path, seconds in zip(options.steps, found, strict=True):
                print(f"{path}, together with the others: {1e3 * seconds:.2f} ms", flush=True)


def seconds_in_a_row(step, repeat):
    """Seconds per step."""
    images = random_images(step)
    start = time.perf_counter()
    for number in range(repeat):
        metrics = step(number, images, 1e-6)
    float(metrics["bits_per_dim"])
    return (time.perf_counter() - start) / repeat


def profile_step(options):
    """Prints where the device's time goes: the kernels' total beside the clock, and the longest of them."""
    import tempfile

    import jax

    step = Step(options.step)
    images = random_images(step)
    for number in range(3):
        float(step(number, images, 1e-6)["bits_per_dim"])
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with jax.profiler.trace(folder):
            for number in range(options.repeat):
                metrics = step(number, images, 1e-6)
            float(metrics["bits_per_dim"])
        wall = time.perf_counter() - start
        data = jax.profiler.ProfileData.from_file(str(next(Path(folder).rglob("*.xplane.pb"))))
    seconds, counts = collections.Counter(), collections.Counter()
    for plane in data.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                seconds[event.name] += event.duration_ns / 1e9
                counts[event.name] += 1
    total = sum(seconds.values())
    print(
        f"{options.step}: {1e3 * wall / options.repeat:.2f} ms a step with the profiler on; "
        f"{sum(counts.values()) / options.repeat:.0f} kernels of {1e3 * total / options.repeat:.2f} ms in all"
    )
    for name, value in seconds.most_common(LONGEST_KERNELS):
        print(f"{1e3 * value / options.repeat:8.3f} ms {counts[name] / options.repeat:6.0f} x {name[:110]}")


def read_images(folders):
    """uint8 [N, side, side, 3], from mosaics whose names end with the side."""
    from PIL import Image

    images = []
    for path in itertools.chain(*(sorted(Path(folder).glob("*.webp")) for folder in folders)):
        side = int(path.stem.split("-")[1])
        mosaic = np.asarray(Image.open(path).convert("RGB"))
        rows, columns = mosaic.shape[0] // side, mosaic.shape[1] // side
        tiles = mosaic.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
        images.append(tiles.reshape(-1, side, side, 3))
    return np.concatenate(images)


def batches(images, batch_size, flip):
    """Yields shuffled batches without end, and drops the rest of each pass."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(images))[: len(images) // batch_size * batch_size]
        for rows in order.reshape(-1, batch_size):
            batch = images[rows]
            if flip:
                is_mirrored = rng.random(batch_size) < 0.5
                batch[is_mirrored] = batch[is_mirrored, :, ::-1]
            yield batch


def train_for(options):
    """Trains for a fixed time."""
    images = read_images(options.images)
    step = Step(options.step)
    print(f"{len(images):,} images; {step.device}: compiled in {step.compile_seconds:.0f} s", flush=True)
    out, stream = Path(options.out), batches(images, step.batch_size, options.flip)
    out.mkdir(parents=True, exist_ok=True)
    snapshots = [options.seconds * part / (options.snapshots + 1) for part in range(1, options.snapshots + 1)]
    start, number, recent = time.monotonic(), 0, []

    def write(name):
        epoch, seconds = round(number * step.batch_size / len(images)), time.monotonic() - start
        step.write_weights(out / name, step=number, epoch=epoch, seconds=seconds)

    with open(out / "training.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "epoch", "seconds", "bits_per_dim", "gradient_norm", "skipped", "learning_rate"])
        while (elapsed := time.monotonic() - start) < options.seconds:
            fall = 2 * (1 - elapsed / options.seconds)
            rate = options.learning_rate * min(1.0, (elapsed + 0.1) / options.warmup_seconds, fall)
            recent.append(step(number, next(stream), rate))
            number += 1
            if number % LOG_EVERY == 0:
                bits, norm, finite = (
                    np.array([np.asarray(metrics[name]) for metrics in recent])
                    for name in ("bits_per_dim", "gradient_norm", "is_finite")
                )
                row = [number, number * step.batch_size / len(images), elapsed, bits.mean(), np.median(norm)]
                rows.writerow([*(f"{value:.6g}" for value in row), int((~finite).sum()), f"{rate:.3g}"])
                if number % (10 * LOG_EVERY) == 0:
                    file.flush()
                    print(f"step {number}, {elapsed:.0f} s: {bits.mean():.4f} bits/dim", flush=True)
                recent.clear()
            if snapshots and elapsed > snapshots[0]:
                snapshots.pop(0)
                write(f"step{number}")
    write("end")
    print(f"{number} steps, {number * step.batch_size / len(images):.1f} epochs, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
