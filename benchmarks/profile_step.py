"""Profiles a training step, scoring or sampling by operation.

    python3 benchmarks/profile_step.py --size P --backprop recompute
    python3 benchmarks/profile_step.py --size S --what score

Prints the CPU milliseconds of each kind of operation (summed over cores, excluding nested operations) and the rate of
the convolutions, as measured by TensorFlow's profiler.
"""

import argparse
import collections
import glob
import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import compare

# Events that contain operations or wait for them.
CONTAINERS = ("KernelAndDeviceFunc::Run", "FunctionRun", "EagerKernelExecute", "_run_on_replicas")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=compare.SIZES, default="S")
    parser.add_argument("--backprop", choices=["stored", "recompute", "reversible"], default="stored")
    parser.add_argument("--what", choices=["step", "score", "sample"], default="step")
    parser.add_argument("--mixed_precision", action="store_true", help="bfloat16 networks in a training step")
    parser.add_argument("--repeats", type=int, default=5, help="profiled steps, of which each operation's least counts")
    parser.add_argument("--rows", type=int, default=25)
    options = parser.parse_args()
    levels, steps, width, batch = compare.SIZES[options.size]
    images = compare.random_bytes(batch)
    mode = {"backprop": options.backprop, "mixed_precision": options.mixed_precision}
    model = compare.GlowTF(levels, steps, width, images, **mode)
    import tensorflow as tf

    work = getattr(model, options.what)
    for _ in range(3):
        work(images)
    wall, cpu = time.perf_counter(), time.process_time()
    work(images)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    profiles = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            tf.profiler.experimental.start(folder)
            work(images)
            tf.profiler.experimental.stop()
            profiles.append(times_of_operations(folder))
    # Other load can only lengthen an event, so the least of several is its own time.
    counts = {name: len(events) for name, events in profiles[0].items()}
    seconds = collections.Counter(
        {
            name: sum(map(min, zip(*(profile.get(name, events) for profile in profiles), strict=False)))
            for name, events in profiles[0].items()
        }
    )
    total = sum(seconds.values())
    convolutions = sum(value for name, value in seconds.items() if "Conv2D" in name)
    flop = compare.flops_of_step(levels, steps, width, batch) / (1 if options.what == "step" else 3)
    rate = compare.matrix_product_rate()
    print(f"{options.size}, {options.what}: {wall:.3f} s, {cpu:.3f} CPU s when not profiled; {flop / 1e9:.0f} GFLOP; "
          f"a large matrix product {rate:.0f} GFLOP/s")  # fmt: skip
    print(f"operations {total:.3f} CPU s; convolutions {convolutions:.3f} of them, {flop / convolutions / 1e9:.0f} "
          f"GFLOP per CPU s\n| operation | times | CPU ms | share |\n|---|---|---|---|")  # fmt: skip
    for name, value in seconds.most_common(options.rows):
        print(f"| {name} | {counts[name]} | {1e3 * value:.1f} | {value / total:.1%} |")


def times_of_operations(folder):
    """{operation: its seconds each time, without nested operations, in ascending order} of a profile in a folder."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    with open(glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)[0], "rb") as file:
        space.ParseFromString(file.read())
    seconds = collections.defaultdict(list)
    for plane in space.planes:
        if "CPU" not in plane.name:
            continue
        names = {key: value.name for key, value in plane.event_metadata.items()}
        for line in plane.lines:
            open_events = []  # (end, list, index in the list), each nested in the previous one
            for event in sorted(line.events, key=lambda e: (e.offset_ps, -e.duration_ps)):
                name = names[event.metadata_id]
                found = seconds[name if "::" in name else name.split(":")[-1]]
                while open_events and open_events[-1][0] <= event.offset_ps:
                    open_events.pop()
                if open_events:
                    _, outer, index = open_events[-1]
                    outer[index] -= event.duration_ps / 1e12
                found.append(event.duration_ps / 1e12)
                open_events.append((event.offset_ps + event.duration_ps, found, len(found) - 1))
    return {name: sorted(found) for name, found in seconds.items() if name not in CONTAINERS}


if __name__ == "__main__":
    main()
