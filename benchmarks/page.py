"""Measures the response time of the page of `python3 -m glow_tf explore`.

    python3 benchmarks/page.py                       the bundled digits
    python3 benchmarks/page.py --weights FILE
    python3 benchmarks/page.py --random              a 32x32x3 model (L=3, K=8, width 128) with random weights

Starts the command, sends it HTTP requests as a browser does, one at a time, and prints the seconds from each request to
its answer. Needs Gradio (the extra `explore`).
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIDE, LEVELS, STEPS, WIDTH = 32, 3, 8, 128


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--requests", type=int, default=50, help="requests of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.random:
            weights, more = save_random_model(folder)
        else:
            weights = options.weights or os.path.join(ROOT, "glow_tf", "pretrained", "digits.h5")
            more = []
        command = [sys.executable, "-m", "glow_tf", "explore", "--weights", os.path.abspath(weights), *more]
        start = time.perf_counter()
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            address = server.stdout.readline().strip()
            if not address:
                raise SystemExit(f"error: the page did not start; run it alone to see why: {' '.join(command)}")
            print(f"address after {time.perf_counter() - start:.1f} s")
            time_requests(Page(address), options.requests)
        finally:
            server.terminate()
            server.wait()


def save_random_model(folder):
    """Saves an untrained model and a direction; returns (weights file, flags)."""
    sys.path.insert(0, ROOT)
    import glow_tf

    glow = glow_tf.Glow(glow_tf.GlowConfig((SIDE, SIDE, 3), num_levels=LEVELS, num_steps=STEPS, width=WIDTH))
    rng = np.random.default_rng(0)
    glow.initialize(rng.uniform(-0.5, 0.5, [64, SIDE, SIDE, 3]).astype(np.float32))
    weights, direction = os.path.join(folder, "weights.h5"), os.path.join(folder, "direction.npy")
    glow.save_weights(weights)
    np.save(direction, rng.standard_normal([SIDE, SIDE, 3]).astype(np.float32))
    return weights, ["--direction", f"random={direction}"]


class Page:
    """A client of the server that sends the same requests as its page."""

    def __init__(self, address):
        self.netloc = urllib.parse.urlsplit(address).netloc
        self.config = json.loads(self.ask("GET", "/config").read())
        self.sessions = 0

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.netloc, timeout=60)
        connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse()

    def event_of(self, output):
        """(number of the event, initial values of its inputs: None for state on the server)."""
        widgets = {c["id"]: c for c in self.config["components"]}
        event = next(
            d for d in self.config["dependencies"]
            if len(d["outputs"]) == 1 and widgets[d["outputs"][0]]["props"].get("elem_id") == output
        )  # fmt: skip
        states = [widgets[i] for i in event["inputs"]]
        return event["id"], [None if w["type"] == "state" else w["props"].get("value") for w in states]

    def seconds(self, number, values):
        self.sessions += 1
        session = f"s{self.sessions}"
        body = {"data": values, "fn_index": number, "session_hash": session}
        start = time.perf_counter()
        self.ask("POST", "/gradio_api/queue/join", body).read()
        for line in self.ask("GET", f"/gradio_api/queue/data?session_hash={session}"):
            message = json.loads(line[5:]) if line.startswith(b"data:") else {}
            if message.get("msg") == "process_completed":
                answer = message["output"]["data"][0]
                if "<img" not in answer:
                    raise RuntimeError(f"no picture: {answer[:200]}")
                return time.perf_counter() - start
        raise RuntimeError("no answer")


def time_requests(page, count):
    kinds = {
        "16 samples": ("samples", lambda i, start: [0.05 * (i % 20), i, *start[2:]]),
        "mixture": ("mixed", lambda i, start: [(i % 20) / 20, *start[1:]]),
        "attribute": ("moved", lambda i, start: [0.1 * (i % 20), *start[1:]]),
    }
    print("| answer | median s | 95% | largest |\n|---|---|---|---|")
    for title, (output, values_of) in kinds.items():
        number, start = page.event_of(output)
        found = [page.seconds(number, values_of(i, start)) for i in range(count)]
        print(f"| {title} | {np.median(found):.2f} | {np.quantile(found, 0.95):.2f} | {max(found):.2f} |", flush=True)


if __name__ == "__main__":
    main()
