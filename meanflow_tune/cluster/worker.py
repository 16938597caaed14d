"""The loop of every rank of a slot: take a job, run it, hand in its outcome.

Ray's checkpoints are not used: progress is in the trial's own folder, so that a killed rank is just
started again and continues the job from its last checkpoint.
"""

import os
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray import cloudpickle

from meanflow_tune.cluster import signals
from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.broker_handle import BrokerHandle
from meanflow_tune.cluster.process_use import ProcessUse
from meanflow_tune.records import Job, Outcome, Report, RunJob
from meanflow_tune.urls import hide_password

P = ParamSpec("P")
R = TypeVar("R")

BEAT_SECONDS = 1.0  # progress goes with them: messages are the broker's largest load
# Shorter than `Broker.lost_after`: a rank that is cut off ends before its job starts elsewhere.
SILENCE_SECONDS = 40.0

# What the other ranks see when one rank ends: not the cause, so the job is retried.
_PEER_SIGNS = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "timed out waiting",
    "connection was likely closed",
    "socket",
    "nccl",
)


class Connection:
    """One rank's connection to the broker; a thread sends heartbeats, and ends the process when told.

    stopping: the round of the search that is to stop, 0 for none; stopped_job: round and number of a job
    that alone is to stop, None for none. use: what the rank takes of its host. progress: number of a job and
    its newest progress, which goes with the next heartbeat.
    """

    def __init__(
        self, broker: BrokerHandle, slot: str, incarnation: str, rank: int, use: ProcessUse
    ) -> None:
        self.broker, self.slot, self.incarnation = broker, slot, incarnation
        self.rank, self.use = rank, use
        self.stopping = 0
        self.stopped_job: tuple[int, int] | None = None
        self.progress: tuple[int, dict[str, Any]] | None = None
        threading.Thread(target=self._beat, name="broker-beat", daemon=True).start()

    def call(
        self,
        method: Callable[Concatenate[Broker, str, str, P], Coroutine[Any, Any, R]],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> R:
        """Call a method of the broker that takes a slot and an incarnation first."""
        return self.broker.call(method, self.slot, self.incarnation, *arguments, **keywords)

    def _beat(self) -> None:
        heard, told = time.monotonic(), None
        while True:
            progress = self.progress
            try:
                answer = self.broker.call_within(
                    SILENCE_SECONDS / 2,
                    Broker.beat,
                    self.slot,
                    self.incarnation,
                    signals.notice_given(),
                    self.rank,
                    self.use.latest,
                    progress if progress is not told else None,
                )
                told, heard, self.stopping = progress, time.monotonic(), answer["stopping"]
                self.stopped_job = answer["stopped_job"]
                if answer["die"]:
                    os._exit(1)  # the main thread may hang in a collective or in native code
            except ray.exceptions.RayActorError:
                os._exit(1)  # the broker has ended, and with it the search
            except Exception:  # the call was lost, or comes late: only a long silence counts
                if time.monotonic() - heard > SILENCE_SECONDS:
                    os._exit(1)
            signals.wait_for_notice(BEAT_SECONDS)


@dataclass
class JobReporter:
    """The `Reporter` of one job on one rank. round: of the search that the job belongs to."""

    connection: Connection
    number: int
    rank: int
    round: int

    def report(self, report: Report) -> bool:
        if self.rank != 0:
            raise RuntimeError(f"only rank 0 reports, but rank {self.rank} did")
        return self.connection.call(Broker.report, self.number, report.to_dict())

    def tick(self, progress: dict[str, Any]) -> None:
        if self.rank == 0:
            self.connection.progress = self.number, progress

    def fault(self, cause: str, action: str) -> None:
        if self.rank == 0:  # every rank waits for a silent storage
            self.connection.call(Broker.damage, self.number, cause, action)

    def stopping(self) -> bool:
        to = self.connection
        return to.stopping >= self.round or to.stopped_job == (self.round, self.number)


def run_worker(config: dict[str, Any]) -> None:
    """`train_loop_per_worker` of a slot. config: broker, slot, and run_job, pickled."""
    from ray import train
    from ray.train.torch import get_device

    from meanflow_tune.training.memory import cap_gpu_memory
    from meanflow_tune.training.process.freed_memory import keep_freed_memory, return_freed_memory
    from meanflow_tune.training.process.stopwatch import Stopwatch, process_age, show_start

    keep_freed_memory()
    show_start()
    age, stopwatch = process_age() or 0.0, Stopwatch()

    context = train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    broker: BrokerHandle = config["broker"]
    slot: str = config["slot"]
    shared = _from_rank_0(size)
    incarnation = shared(uuid.uuid4().hex)
    if rank == 0:
        broker.call(Broker.register, slot, incarnation)
    shared(None)  # no heartbeat before the incarnation is known
    use = ProcessUse(ray.util.get_node_ip_address())
    connection = Connection(broker, slot, incarnation, rank, use)
    stopwatch.mark("registration")
    try:
        run_job: RunJob = cloudpickle.loads(config["run_job"])
    except Exception:
        if rank == 0:
            broker.call(Broker.unusable, slot, traceback.format_exc(limit=-3))
        return
    stopwatch.mark("code of trials")
    stopwatch.log(f"{slot}, rank {rank}, whose process is {age:.1f} s old")
    device = use.device = str(get_device())
    cap_gpu_memory(ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0), device)
    while True:
        order = shared(connection.call(Broker.next_job) if rank == 0 else None)
        if order["kind"] == "close":
            return
        if order["kind"] == "stale":
            raise RuntimeError(f"slot {slot} was given up while it was silent; restarting it")
        if order["kind"] == "leave":
            raise RuntimeError(f"a host of slot {slot} is going away; restarting it elsewhere")
        if order["kind"] == "job":
            job = Job(**order["job"] | {"repeats": tuple(order["job"]["repeats"])})
            reporter = JobReporter(connection, job.number, rank, order["round"])
            signals.set_busy(True)
            _run_one(run_job, job, size, device, reporter)
            return_freed_memory()
            signals.set_busy(False)


def _run_one(run_job: RunJob, job: Job, size: int, device: str, reporter: JobReporter) -> None:
    """One job. An exception becomes an outcome or a fault, and is raised if other ranks would hang."""
    from meanflow_tune.training.memory import free_memory

    rank, call = reporter.rank, reporter.connection.call
    try:
        outcome = run_job(job, rank, size, device, reporter)
    except Exception as error:
        end = outcome_of(error)
        if end is None:
            cause = f"rank {rank}: {type(error).__name__}: {error}"
            call(Broker.fault, job.number, cause)
        else:
            call(Broker.done, job.number, end.to_dict())
        # Other ranks may wait in a collective, and a device error stays with its process; but memory
        # that ran out can be freed.
        short = end is not None and end.status == "out_of_memory"
        if size > 1 or ("cuda" in device and not short):
            raise
    else:
        if rank == 0:
            call(Broker.done, job.number, outcome.to_dict())
        return
    free_memory()


def outcome_of(error: Exception) -> Outcome | None:
    """The outcome of a job that raised `error`; None where the job is to be retried."""
    from meanflow_tune.training.memory import memory_shortage

    shortage = memory_shortage(error)
    if shortage is None and is_infrastructure(error):
        return None
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f'File "{place.filename}", line {place.lineno}, in {place.name}'
    reason = hide_password(" ".join(f"{type(error).__name__}: {error} ({where})".split()))
    if shortage is not None:
        return Outcome("out_of_memory", reason, violation=shortage)
    return Outcome("failed", reason, deterministic=True)


def is_infrastructure(error: Exception) -> bool:
    """Whether a retry of the same job may succeed."""
    if isinstance(error, ray.exceptions.RayError | ConnectionError):
        return True
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _PEER_SIGNS)


def _from_rank_0(size: int) -> Callable[[Any], Any]:
    """A function that gives rank 0's value to every rank."""
    if size == 1:
        return lambda value: value
    import torch.distributed as dist

    # Gloo also where NCCL trains: ranks that wait for a job must not keep their GPUs spinning.
    group = dist.new_group(backend="gloo")

    def shared(value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=0, group=group)
        return box[0]

    return shared
