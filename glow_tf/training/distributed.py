"""Training by several processes: the cluster, and how the other workers follow the chief.

Every worker runs the same command on the same data. Only the chief decides, evaluates and writes: before each step it
tells the others what comes next, and they do it on their part of the batch. Whatever ends the chief's run, a signal
or an error, ends theirs, and a signal to any of them stops all.

A collective operation cannot continue without one of its processes. When one dies, each of the others raises
`WorkerLost`; all are restarted and resume from the chief's last state, which the chief broadcasts: the other workers
need no shared folder.
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from glow_tf.config import TrainConfig
from glow_tf.data.dataset import ArrayDataset, StreamingDataset
from glow_tf.errors import InputError, TrainingFailure, WorkerLost
from glow_tf.training.signals import GracefulShutdown

if TYPE_CHECKING:
    from glow_tf.training.trainer import Trainer

COMMUNICATIONS = ("auto", "ring", "nccl")

# What the chief announces.
_STEP, _TAKE_VALUES, _END, _FAILED = range(1, 5)


def multi_worker_strategy(communication: str = "auto") -> tf.distribute.Strategy:
    """A MultiWorkerMirroredStrategy from TF_CONFIG, else from Slurm; waits until all workers have connected.

    Must come before TensorFlow's first operation, even before it lists its devices.

    Args:
        communication: "auto", "ring" (any device) or "nccl" (NVIDIA GPUs).

    Raises:
        InputError: if there is neither, or TF_CONFIG is not valid.
        WorkerLost: if another worker dies meanwhile.
    """
    if communication not in COMMUNICATIONS:
        raise InputError(f"communication is {communication!r}; it can be {', '.join(COMMUNICATIONS)}")
    if communication == "nccl" and not tf.config.list_physical_devices("GPU"):
        raise InputError("communication is 'nccl', but TensorFlow sees no GPU here; 'ring' works on CPUs")
    implementation = getattr(tf.distribute.experimental.CommunicationImplementation, communication.upper())
    options = tf.distribute.experimental.CommunicationOptions(implementation=implementation)
    resolver = _cluster()
    with _raising_worker_lost():
        return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)


class Workers:
    """The processes of a strategy; with any other than a multi-worker strategy, this one process.

    Attributes:
        index: number of this worker; the chief is 0.
        count: number of workers.
        first_replica: number of this worker's first replica.
        num_local_replicas: number of this worker's replicas.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        ids = strategy.experimental_local_results(
            strategy.experimental_distribute_values_from_function(lambda context: context.replica_id_in_sync_group)
        )
        self.first_replica, self.num_local_replicas = int(ids[0]), len(ids)
        self.count = strategy.num_replicas_in_sync // len(ids)
        self.index = self.first_replica // len(ids)
        self._summed = tf.function(self._sum_over_workers, autograph=False)
        self._send: Callable[[], Any] | None = None

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that evaluates and writes."""
        return self.index == 0

    def raising_worker_lost(self) -> contextlib.AbstractContextManager[None]:
        """A context that raises WorkerLost instead of TensorFlow's errors when another worker is gone."""
        return _raising_worker_lost() if self.count > 1 else contextlib.nullcontext()

    def share(self, variables: Iterable[tf.Variable]) -> None:
        """Gives all workers the chief's values, bit for bit; all workers call it, always with the same variables."""
        if self.count == 1:
            return
        if self._send is None:
            unique = {id(variable): variable for variable in variables}.values()
            send = functools.partial(_overwrite_with_chiefs, unique)
            self._send = tf.function(lambda: self._strategy.run(send), autograph=False)
        with self.raising_worker_lost():
            self._send()

    def exchange(self, action: int = 0, number: int = 0, signal_received: int = 0) -> np.ndarray:
        """[2 + count] integers that every worker gets: the chief's action and number, and each one's signal."""
        message = [action, number, *(signal_received if i == self.index else 0 for i in range(self.count))]
        with self.raising_worker_lost():
            return self._summed(tf.constant(message, tf.int64)).numpy()

    def _sum_over_workers(self, message: tf.Tensor) -> tf.Tensor:
        def in_replica(message: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            speaks = tf.equal(context.replica_id_in_sync_group % self.num_local_replicas, 0)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(speaks, message, tf.zeros_like(message)))

        result = self._strategy.run(in_replica, args=(message,))
        return self._strategy.experimental_local_results(result)[0]


def _overwrite_with_chiefs(variables: Iterable[tf.Variable]) -> None:
    """In replica context: overwrites variables with the chief's, by a sum to which the others add nothing."""
    context = tf.distribute.get_replica_context()
    is_chief = tf.equal(context.replica_id_in_sync_group, 0)
    for variable in variables:
        value = tf.convert_to_tensor(variable)
        # -0.0 changes no float, not even another -0.0.
        value = value if value.dtype.is_floating else tf.cast(value, tf.int64)
        nothing = tf.constant(-0.0 if value.dtype.is_floating else 0, value.dtype)
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(is_chief, value, nothing))
        tf.raw_ops.AssignVariableOp(resource=variable.handle, value=tf.cast(total, variable.dtype))


@dataclasses.dataclass(eq=False)
class Chief:
    """The chief's side of a run: tells the other workers what comes next. Without other workers it does nothing."""

    trainer: "Trainer"
    others_agree: bool = False  # whether the other workers have the chief's variables

    def __post_init__(self) -> None:
        self._workers = self.trainer.workers

    def announce_step(self) -> None:
        """Must come before each step. A signal that another worker received is sent to this process, too."""
        if self._workers.count == 1:
            return
        if not self.others_agree:
            self._workers.exchange(_TAKE_VALUES)
            self.trainer.broadcast_variables()
            self.others_agree = True
        received = self._workers.exchange(_STEP, self.trainer.step_count)[2:].max()
        if received:
            os.kill(os.getpid(), int(received))

    def announce_end(self, stopped_by: int | None) -> None:
        """Ends the other workers' runs, after the last epoch or after a signal."""
        if self._workers.count > 1:
            self._workers.exchange(_END, stopped_by or 0)

    @contextlib.contextmanager
    def announcing_failure(self) -> Iterator[None]:
        """An error inside the context ends the other workers, too."""
        try:
            yield
        except WorkerLost:
            raise
        except BaseException:
            if self._workers.count > 1:
                with contextlib.suppress(WorkerLost):
                    self._workers.exchange(_FAILED)
            raise


def follow(trainer: "Trainer", batches: "TrainingBatches") -> int | None:
    """The run of every worker but the chief; returns the number of the signal that stopped it, or None.

    Raises:
        TrainingFailure: if the chief ended with an error.
    """
    with GracefulShutdown() as signals:
        while True:
            message = trainer.workers.exchange(signal_received=signals.received or 0)
            action, number = int(message[0]), int(message[1])
            if action == _STEP:
                trainer.state.step_count = number
                trainer.train_step(*batches.batch(number))
            elif action == _TAKE_VALUES:
                trainer.broadcast_variables()
            elif action == _END:
                return number or None
            else:
                raise TrainingFailure("the chief ended with an error, which its own output names")


@dataclasses.dataclass(eq=False)
class TrainingBatches:
    """This worker's part of the training batches, by their number over all epochs."""

    train: ArrayDataset | StreamingDataset
    config: TrainConfig
    shard: tuple[int, int]  # see `Trainer.shard`
    has_labels: bool

    def __post_init__(self) -> None:
        self.per_epoch = self.train.steps_per_epoch(self.config.batch_size)
        self._next: int | None = None
        self._iterator: Iterator = iter(())

    def batch(self, number: int) -> tuple[tf.Tensor, tf.Tensor | None]:
        """(images, labels or None); consecutive batches share an iterator."""
        epoch, done = divmod(number, self.per_epoch)
        if number != self._next or not done:
            size, seed, flip = self.config.batch_size, self.config.seed, self.config.flip
            self._iterator = iter(
                self.train.training_batches(size, seed, epoch, flip=flip, skip=done, shard=self.shard)
            )
        self._next = number + 1
        images, labels = next(self._iterator)
        return images, labels if self.has_labels else None


@contextlib.contextmanager
def _raising_worker_lost() -> Iterator[None]:
    try:
        yield
    except (tf.errors.ResourceExhaustedError, tf.errors.InvalidArgumentError):
        raise
    except tf.errors.OpError as error:
        raise WorkerLost(
            f"another worker is gone ({type(error).__name__}); restart all of them: the run resumes from its last state"
        ) from error


def _cluster() -> tf.distribute.cluster_resolver.ClusterResolver:
    """The ClusterResolver of the environment."""
    if os.environ.get("TF_CONFIG"):
        _check_tf_config(os.environ["TF_CONFIG"])
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if "SLURM_STEP_NODELIST" in os.environ:
        return _slurm_cluster()
    raise InputError(
        "several workers need TF_CONFIG, or a Slurm step (srun); to use only the devices of this machine, leave "
        "--strategy out"
    )


def _check_tf_config(text: str) -> None:
    example = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        tasks = {kind: list(addresses) for kind, addresses in config["cluster"].items()}
        kind, index = config["task"]["type"], int(config["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"TF_CONFIG cannot be read ({reason}); a valid one is {example}") from None
    unknown = sorted(set(tasks) - {"chief", "worker"})
    if unknown:
        raise InputError(f"TF_CONFIG names tasks of type {', '.join(unknown)}; it can be chief and worker")
    if not 0 <= index < len(tasks.get(kind, [])):
        raise InputError(
            f"TF_CONFIG says that this is task {index} of type {kind!r}, but lists {len(tasks.get(kind, []))} of them"
        )


def _slurm_cluster() -> tf.distribute.cluster_resolver.ClusterResolver:
    """The tasks of this Slurm step, one worker each, with the GPUs that are visible to each of them.

    TensorFlow's Slurm resolver assigns GPUs by setting CUDA_VISIBLE_DEVICES, which fails if Slurm has done so, and it
    divides by zero without GPUs. Only its addresses are used.
    """
    try:
        # Jobs that share a node use different ports.
        port = 20_000 + 16 * (int(os.environ.get("SLURM_JOB_ID", 0)) % 1000)
        slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port, gpus_per_node=2**16, gpus_per_task=1, auto_set_gpu=False
        )
        spec = slurm.cluster_spec()
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise InputError(f"Slurm's variables do not describe a cluster: {error}") from error
    gpus = len(tf.config.list_physical_devices("GPU"))
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, task_type=slurm.task_type, task_id=slurm.task_id, num_accelerators={"GPU": gpus}, rpc_layer="grpc"
    )
