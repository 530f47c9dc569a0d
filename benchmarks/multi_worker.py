"""Kills and restarts two workers on this machine at random moments, and compares them with an undisturbed run.

    python3 benchmarks/multi_worker.py --kills 5

Each worker is supervised as in docs/cluster.md: it is restarted whenever it ends with status 75 or by SIGKILL. The exit
status is 1 if the final weights differ in a byte from those of the undisturbed run.
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

# Statuses after which a worker is restarted.
RESTARTED = (75, -9)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of 24 steps each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logs", type=Path, help="folder for the workers' logs")
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
            # Four in five kills happen during steps and evaluations, the others while the workers start.
            has_ended = number % 5 != 4 and run.wait_for_progress()
            moment = chance.uniform(0, 10)
            if not (has_ended or run.wait(moment)):
                run.kill(victim)
                print(f"kill {number + 1}: worker {victim}; {run.where()}", flush=True)
            else:
                print(f"kill {number + 1}: the run had ended; starting a new one", flush=True)
                check(run, undisturbed)
                shutil.rmtree(run.folder)
                run = Run(run.folder, options.epochs, logs)
        run.wait()
        check(run, undisturbed)


def check(run, undisturbed):
    same = run.weights() == undisturbed.weights()
    print(f"ended after {run.restarts} restarts; weights equal byte for byte: {same}", flush=True)
    if not same:
        sys.exit(1)


class Run:
    """Two workers and their run directory.

    Attributes:
        restarts: the number of restarts of a worker.
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
        """Restarts workers as needed for this long; returns whether both have ended."""
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
        """Waits until the chief prints a new step; returns whether both workers have ended."""
        before = self._shown()
        while self._shown() == before:
            if self.wait(0.5):
                return True
        return False

    def where(self):
        """The last step that the chief printed, and the newest state."""
        states = sorted((self.folder / "checkpoints" / "state").glob("ckpt-*.index"), key=os.path.getmtime)
        state = states[-1].stem if states else "none"
        return f"the chief last printed {self._shown()[-1:]}, the newest state is {state}"

    def _shown(self):
        lines = Path(self._logs[0].name).read_text().splitlines()
        return [line.split("  ")[0] for line in lines if line.startswith("step ")]

    def weights(self):
        """{name: bytes} of the variables of weights.h5, without its metadata."""
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
