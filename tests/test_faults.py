"""The benchmark of faults with small counts, and a sampler beside a trainer; docs/faults.md lists where the rest is."""

import contextlib
import io
import re
import runpy
import sys
import threading
from pathlib import Path

import numpy as np
from forked import call_all, environment
from helpers import make_glow

from glow_tf.glow import Glow

ROOT = Path(__file__).parents[1]


def output_of(script, arguments):
    """What a Python script prints."""
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script), *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    return output.getvalue()


def test_the_benchmark_finds_nothing_wrong(tmp_path):
    counts = ["--kills", "2", "--mutants", "40", "--indices", "4", "--states", "8", "--settings", "20", "--tfds", "4"]
    counts += ["--flags", "15", "--images", "30", "--nans", "1"]
    script = ROOT / "benchmarks" / "faults.py"
    output = call_all((output_of, (script, [*counts, "--small"]), environment(TMPDIR=str(tmp_path))))[0]
    rows = [line for line in output.splitlines() if line.endswith("| yes |")]
    # With so few steps the model is far from trained, and two steps less do show.
    wrong = [line for line in output.splitlines() if line.endswith("| NO |") and "bits/dim with and" not in line]
    assert not wrong, output
    assert len(rows) >= 30, output
    assert re.search(r"fuzzed images, then trained on \| 30 \| \d+ usable", output)


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
