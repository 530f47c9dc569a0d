"""Two workers on this machine, killed at random moments and started again, against an undisturbed run.

    python3 benchmarks/multi_worker.py --kills 5

Each worker runs under the small loop of docs/cluster.md: it is started again whenever it ends with status 75 or by
SIGKILL. Exit status 1 if the weights at the end differ in a byte from those of the run that nobody disturbed.
"""

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

RUN = "--dataset digits --k_glow 2 --l_glow 2 --width 16 --batch_size 64 --epochs {epochs} --strategy multi_worker"

# Statuses after which a worker is started again.
RESTARTED = (75, -9)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8, help="of 24 steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logs", type=Path, help="folder for the workers' output")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        logs = options.logs or folder
        start = time.monotonic()
        undisturbed = Run(folder / "undisturbed", options.epochs, logs)
        undisturbed.wait()
        seconds = time.monotonic() - start
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        run = Run(folder / "disturbed", options.epochs, logs)
        for number in range(options.kills):
            victim = number % 2
            # Four in five among the steps and evaluations, the others while the workers start.
            has_ended = number % 5 != 4 and run.wait_for_progress()
            moment = chance.uniform(0, 10)
            if not (has_ended or run.wait(moment)):
                run.kill(victim)
                print(f"kill {number + 1}: worker {victim}; {run.where()}", flush=True)
            else:
                print(f"kill {number + 1}: the run had ended; it begins again", flush=True)
                check(run, undisturbed)
                shutil.rmtree(run.folder)
                run = Run(run.folder, options.epochs, logs)
        run.wait()
        check(run, undisturbed)


def check(run, undisturbed):
    same = run.weights() == undisturbed.weights()
    print(f"ended; started again {run.restarts} times; weights equal byte for byte: {same}", flush=True)
    if not same:
        sys.exit(1)


class Run:
    """Two workers and what they write.

    Attributes:
        restarts: how often a worker was started again.
    """

    def __init__(self, folder, epochs, logs):
        self.folder, self.restarts = folder, 0
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self._addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        for each in sockets:
            each.close()
        self._words = RUN.format(epochs=epochs).split()
        self._logs = [open(logs / f"{folder.name}{index}.log", "w") for index in range(2)]  # noqa: SIM115
        self._workers = [self._start(index) for index in range(2)]

    def _start(self, index):
        task = {"cluster": {"worker": self._addresses}, "task": {"type": "worker", "index": index}}
        return subprocess.Popen(
            [sys.executable, "main.py", *self._words, "--run_dir", str(self.folder)],
            env=os.environ | {"TF_CONFIG": json.dumps(task)},
            cwd=ROOT,
            stdout=self._logs[index],
            stderr=subprocess.STDOUT,
        )

    def kill(self, index):
        self._workers[index].kill()

    def wait(self, seconds=float("inf")):
        """Keeps the workers running for so long; whether both ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            statuses = [worker.poll() for worker in self._workers]
            if statuses == [0, 0]:
                return True
            for index, status in enumerate(statuses):
                if status in RESTARTED:
                    self.restarts += 1
                    self._workers[index] = self._start(index)
                elif status:
                    for worker in self._workers:
                        worker.kill()
                    sys.exit(f"worker {index} ended with status {status}; its log says why")
            time.sleep(0.2)
        return False

    def wait_for_progress(self):
        """Waits until the chief shows a step that it had not shown when it was called; whether both ended."""
        before = self._shown()
        while self._shown() == before:
            if self.wait(0.5):
                return True
        return False

    def where(self):
        """What the chief has shown last, and the newest state."""
        states = sorted((self.folder / "checkpoints" / "state").glob("ckpt-*.index"), key=os.path.getmtime)
        state = states[-1].stem if states else "none"
        return f"the chief last said {self._shown()[-1:]}, the newest state is {state}"

    def _shown(self):
        lines = Path(self._logs[0].name).read_text().splitlines()
        return [line.split("  ")[0] for line in lines if line.startswith("step ")]

    def weights(self):
        """The variables of weights.h5; its metadata holds nothing else that could differ."""
        import h5py

        found = {}

        def note(name, item):
            if isinstance(item, h5py.Dataset):
                found[name] = item[()].tobytes()

        with h5py.File(self.folder / "checkpoints" / "weights.h5") as file:
            file.visititems(note)
        return found


if __name__ == "__main__":
    main()
