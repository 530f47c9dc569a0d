"""Several processes and several devices against one: the same numbers; and who may not take part."""

import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import worker
from forked import call_all

from glow_tf.config import TrainConfig
from glow_tf.data.dataset import ArrayDataset
from glow_tf.errors import InputError, TrainingFailure
from glow_tf.training import distributed

ROOT = pathlib.Path(__file__).parents[2]


def free_ports(count):
    """Ports that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def cluster_environments(count):
    """The environment of each worker."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        yield os.environ | {"TF_CONFIG": json.dumps(config), "PYTHONPATH": str(ROOT)}


def start(*arguments, environment=None):
    environment = environment or os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(*processes):
    """[(exit status, output)] of all; none is left running."""
    try:
        return [(process.wait(180), process.stdout.read()) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def runs():
    """{name: what worker.py found}: this process, one of four devices, and two workers of a device each."""
    workers = [(worker.train_on, (1,), environment) for environment in cluster_environments(2)]
    worker0, worker1, four = call_all(*workers, (worker.train_on, (4,), dict(os.environ)))
    one = worker.train(tf.distribute.get_strategy())
    return {"one": one, "four": four, "worker0": worker0, "worker1": worker1}


def test_two_workers_compute_what_one_process_does(runs):
    assert [tuple(runs[name]["shard"]) for name in ("worker0", "worker1")] == [(0, 2), (1, 2)]
    np.testing.assert_allclose(runs["worker0"]["bits"], runs["one"]["bits"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(runs["worker0"]["bits"], runs["worker1"]["bits"])
    np.testing.assert_array_equal(runs["worker0"]["weights"], runs["worker1"]["weights"])


def test_four_devices_compute_what_one_does(runs):
    assert runs["four"]["replicas"] == 4
    np.testing.assert_allclose(runs["four"]["bits"], runs["one"]["bits"], rtol=0, atol=1e-5)


def test_the_steps_lower_the_bits(runs):
    bits = runs["one"]["bits"]
    assert len(bits) == 20
    assert np.mean(bits[-3:]) < np.mean(bits[:3]) - 0.1


def test_one_process_is_its_own_chief(two_replicas):
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        alone = distributed.Workers(strategy)
        assert (alone.is_chief, alone.index, alone.count, alone.first_replica) == (True, 0, 1, 0)
        alone.share([])
        assert alone.exchange(3, 7, 15).tolist() == [3, 7, 15]


def test_the_chief_sends_its_values_once_and_takes_the_others_signals(monkeypatch):
    sent, signals = [], []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid == os.getpid(), number)))
    workers = SimpleNamespace(count=2, exchange=lambda *message: sent.append(message) or np.array([0, 0, 0, len(sent)]))
    trainer = SimpleNamespace(workers=workers, step_count=7, broadcast_variables=lambda: sent.append("values"))
    chief = distributed.Chief(trainer)
    chief.announce_step()
    chief.announce_step()
    chief.announce_end(15)
    take_values, step, end = distributed._TAKE_VALUES, distributed._STEP, distributed._END
    assert sent == [(take_values,), "values", (step, 7), (step, 7), (end, 15)]
    assert signals == [(True, 3), (True, 4)]


def test_the_other_workers_do_what_the_chief_says():
    done = []
    take_values, step, end = distributed._TAKE_VALUES, distributed._STEP, distributed._END
    messages = iter([(take_values, 0), (step, 7), (step, 8), (end, 15), (end, 0), (distributed._FAILED, 0)])
    trainer = SimpleNamespace(
        workers=SimpleNamespace(exchange=lambda signal_received: next(messages)),
        state=SimpleNamespace(step_count=0),
        broadcast_variables=lambda: done.append("values"),
        train_step=lambda *batch: done.append((trainer.state.step_count, *batch)),
    )
    batches = SimpleNamespace(batch=lambda number: (f"images {number}", f"labels {number}"))
    assert distributed.follow(trainer, batches) == 15
    assert done == ["values", (7, "images 7", "labels 7"), (8, "images 8", "labels 8")]
    assert distributed.follow(trainer, batches) is None
    with pytest.raises(TrainingFailure, match="the chief ended with an error"):
        distributed.follow(trainer, batches)


def test_batches_are_those_of_the_options_and_have_the_labels_of_a_model_with_classes(rng):
    train = ArrayDataset(rng.integers(0, 256, (10, 2, 4, 1)).astype(np.uint8), np.arange(10))
    batches = distributed.TrainingBatches(train, TrainConfig(batch_size=4, seed=3, flip=True), (1, 2), has_labels=True)
    for number in (0, 1, 2, 5):  # one after the other, and after a stop inside an epoch
        found = batches.batch(number)
        expected = next(iter(train.training_batches(4, 3, number // 2, flip=True, skip=number % 2, shard=(1, 2))))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    plain = distributed.TrainingBatches(train, TrainConfig(batch_size=4), (0, 1), has_labels=False)
    assert plain.batch(0)[1] is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "several workers need TF_CONFIG, or a Slurm step"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG cannot be read .JSONDecodeError.*; a valid one is"),
        ({"TF_CONFIG": "{}"}, "TF_CONFIG cannot be read .KeyError: 'cluster'"),
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}'},
            "this is task 1 of type 'worker', but lists 1 of them",
        ),
        (
            {"TF_CONFIG": '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}'},
            "tasks of type ps; it can be chief and worker",
        ),
        (
            {
                "SLURM_STEP_NODELIST": "n[1-2]",
                "SLURM_STEP_TASKS_PER_NODE": "what",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_PROCID": "0",
            },
            "Slurm's variables do not describe a cluster",
        ),
    ],
)
def test_an_impossible_cluster_is_refused(environment, message, monkeypatch):
    set_environment(monkeypatch, environment)
    with pytest.raises(InputError, match=message):
        distributed.multi_worker_strategy()


def test_an_impossible_communication_is_refused():
    with pytest.raises(InputError, match="communication is 'mpi'; it can be auto, ring, nccl"):
        distributed.multi_worker_strategy("mpi")


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="needs a machine without GPUs")
def test_nccl_needs_gpus():
    with pytest.raises(InputError, match="communication is 'nccl', but TensorFlow sees no GPU"):
        distributed.multi_worker_strategy("nccl")


def test_slurm_names_the_workers(monkeypatch):
    set_environment(
        monkeypatch,
        {
            "SLURM_STEP_NODELIST": "gpu[07-08]",
            "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
            "SLURM_STEP_NUM_TASKS": "4",
            "SLURM_PROCID": "3",
            "SLURM_JOB_ID": "1234002",
        },
    )
    resolver = distributed._cluster()
    assert resolver.cluster_spec().as_dict() == {"worker": ["gpu07:20032", "gpu07:20033", "gpu08:20032", "gpu08:20033"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 3)
    assert resolver.num_accelerators() == {"GPU": len(tf.config.list_physical_devices("GPU"))}


def set_environment(monkeypatch, environment):
    for name in [*os.environ]:
        if name == "TF_CONFIG" or name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_killed_workers_end_where_undisturbed_ones_do():
    process = start(ROOT / "benchmarks" / "multi_worker.py", "--kills", 2, "--epochs", 6)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert "weights equal byte for byte: True" in output


@pytest.mark.slow
def test_a_signal_to_any_worker_stops_all(tmp_path):
    words = shlex.split("--k_glow 1 --l_glow 1 --width 4 --batch_size 64 --strategy multi_worker --run_dir")
    chief, other = (
        start(ROOT / "main.py", *words, tmp_path / f"run{index}", environment=environment)
        for index, environment in enumerate(cluster_environments(2))
    )
    # The chief says where the first step was.
    for line in chief.stdout:
        if line.startswith("step "):
            break
    other.send_signal(signal.SIGTERM)
    (chief_status, output), (status, _) = finish(chief, other)
    assert (chief_status, status) == (143, 143), output
    assert "To resume:" in output
    assert list((tmp_path / "run0" / "checkpoints" / "state").glob("ckpt-*.sha256"))
    assert not (tmp_path / "run1").exists()
