"""The benchmark of faults with small counts, and a sampler beside a trainer; docs/faults.md lists where the rest is."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from commands import environment
from helpers import make_glow

from glow_tf.glow import Glow

ROOT = Path(__file__).parents[1]


def test_the_benchmark_finds_nothing_wrong(tmp_path):
    counts = ["--kills", "2", "--mutants", "40", "--indices", "4", "--states", "8", "--settings", "20", "--tfds", "4"]
    counts += ["--flags", "15", "--images", "30", "--nans", "1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "faults.py"), *counts, "--small"],
        capture_output=True, text=True, timeout=400, check=False, env=environment(TMPDIR=str(tmp_path)),
    )  # fmt: skip
    rows = [line for line in done.stdout.splitlines() if line.endswith("| yes |")]
    # With so few steps the model is far from trained, and two steps less do show.
    wrong = [line for line in done.stdout.splitlines() if line.endswith("| NO |") and "bits/dim with and" not in line]
    assert not wrong, done.stdout
    assert len(rows) >= 30, done.stdout + done.stderr
    assert re.search(r"fuzzed images, then trained on \| 30 \| \d+ usable", done.stdout)


def test_a_sampler_beside_a_trainer_reads_complete_files(tmp_path):
    path = tmp_path / "weights.h5"
    glow = make_glow()
    variables = glow.trainable_variables
    glow.save_weights(path, step=0)
    stop = threading.Event()

    def save_for_ever():
        step = 0
        while not stop.is_set():
            step += 1
            for variable in variables:
                variable.assign(np.full(variable.shape, step))
            glow.save_weights(path, step=step)

    trainer = threading.Thread(target=save_for_ever)
    trainer.start()
    try:
        seen = set()
        for _ in range(20):
            loaded = Glow.load(path)
            step = loaded.metadata["step"]
            assert step == 0 or all((v.numpy() == step).all() for v in loaded.trainable_variables)
            seen.add(step)
    finally:
        stop.set()
        trainer.join()
    assert len(seen) > 2
