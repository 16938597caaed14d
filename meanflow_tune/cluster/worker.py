"""What runs on every rank of a slot: take a job, serve it, tell how it ended, take the next.

No checkpoints of Ray are used: progress lies in the trial's own folder, so that a rank that was
killed is simply started again and serves the same job from its last checkpoint.
"""

import importlib
import os
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any, Protocol

import ray

from meanflow_tune.cluster import signals

BEAT_SECONDS = 1.0
TICK_SECONDS = 0.5
# Shorter than `Broker.lost_after`: a rank that is cut off ends before its job begins elsewhere.
SILENCE_SECONDS = 40.0

# What the other ranks see when one rank ends: not the cause, so the job deserves another try.
_PEER_SIGNS = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "timed out waiting",
    "connection was likely closed",
    "socket",
    "nccl",
)


class Sink(Protocol):
    """How a job talks to the search. Only rank 0's report and tick reach it."""

    def report(self, report: dict[str, Any]) -> bool:
        """Hand in a rung (`records.Report.to_dict()`); True to go on. Waits for the driver.

        At the last rung True means: make the repeats.
        """

    def tick(self, progress: dict[str, Any]) -> None:
        """Live progress; cheap, never waits, may be dropped."""

    def stopping(self) -> bool:
        """Whether to end at a safe point with an outcome of status `running`. Ranks may differ."""


Serve = Callable[[dict[str, Any], int, int, str, Sink], dict[str, Any]]


class Line:
    """One rank's line to the broker; its thread beats, and ends the process when told to."""

    def __init__(self, broker: Any, slot: str, incarnation: str) -> None:
        self.broker, self.slot, self.incarnation = broker, slot, incarnation
        self.stopping = 0  # the round that is to stop
        threading.Thread(target=self._beat, name="broker-beat", daemon=True).start()

    def call(self, method: str, *arguments: Any) -> Any:
        return ray.get(self.send(method, *arguments))

    def send(self, method: str, *arguments: Any) -> Any:
        return getattr(self.broker, method).remote(self.slot, self.incarnation, *arguments)

    def _beat(self) -> None:
        heard = time.monotonic()
        while True:
            try:
                answer = ray.get(
                    self.send("beat", signals.notice_given()), timeout=SILENCE_SECONDS / 2
                )
                heard, self.stopping = time.monotonic(), answer["stopping"]
                if answer["die"]:
                    os._exit(1)  # the main thread may hang in a collective or in native code
            except ray.exceptions.RayActorError:
                os._exit(1)  # the broker is gone, and with it the search
            except Exception:
                if time.monotonic() - heard > SILENCE_SECONDS:
                    os._exit(1)
            signals.wait_for_notice(BEAT_SECONDS)


class JobSink:
    """The sink of one job on one rank."""

    def __init__(self, line: Line, number: int, rank: int, search: int) -> None:
        self._line, self._number, self._rank, self._ticked = line, number, rank, 0.0
        self._round = search

    def report(self, report: dict[str, Any]) -> bool:
        if self._rank != 0:
            raise RuntimeError(f"only rank 0 reports, but rank {self._rank} did")
        return bool(self._line.call("report", self._number, report))

    def tick(self, progress: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._rank == 0 and now - self._ticked >= TICK_SECONDS:
            self._ticked = now
            self._line.send("tick", self._number, progress)

    def stopping(self) -> bool:
        return self._line.stopping >= self._round


def serve_slot(config: dict[str, Any]) -> None:
    """`train_loop_per_worker` of a slot. config: broker, slot, serve (see `resolve`)."""
    from ray import train
    from ray.train.torch import get_device

    context = train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    broker, slot = config["mailbox"], config["slot"]
    shared = _orders(size)
    incarnation = shared(uuid.uuid4().hex)
    if rank == 0:
        ray.get(broker.hello.remote(slot, incarnation))
    shared(None)  # nobody beats before the incarnation is known
    line = Line(broker, slot, incarnation)
    try:
        serve = resolve(config["serve"])
    except Exception:
        if rank == 0:
            ray.get(broker.broken.remote(slot, traceback.format_exc(limit=-3)))
        return
    device = str(get_device())
    while True:
        order = shared(line.call("next_job") if rank == 0 else None)
        if order["kind"] == "close":
            return
        if order["kind"] == "stale":
            raise RuntimeError(f"slot {slot} was given up while it was silent; starting it again")
        if order["kind"] == "leave":
            raise RuntimeError(f"a host of slot {slot} is going away; starting it elsewhere")
        if order["kind"] == "job":
            signals.set_serving(True)
            _serve_one(serve, order, rank, size, device, line)
            signals.set_serving(False)


def _serve_one(
    serve: Serve, order: dict[str, Any], rank: int, size: int, device: str, line: Line
) -> None:
    """One job. An exception becomes an end or a fault, and is raised if other ranks would hang."""
    from meanflow_tune.training.memory import free_memory

    job, number = order["job"], order["job"]["number"]
    try:
        outcome = serve(job, rank, size, device, JobSink(line, number, rank, order["round"]))
    except Exception as error:
        end = _end_of(error)
        if end is None:
            line.call("fault", number, f"rank {rank}: {type(error).__name__}: {error}")
        else:
            line.call("done", number, end)
        # Other ranks may stand in a collective, and a device error stays with its process; but memory
        # that did not suffice can be given back.
        short = end is not None and end["status"] == "out_of_memory"
        if size > 1 or ("cuda" in device and not short):
            raise
    else:
        if rank == 0:
            line.call("done", number, outcome)
        return
    free_memory()


def _end_of(error: Exception) -> dict[str, Any] | None:
    """The outcome that an exception means; None where the job deserves another try."""
    from meanflow_tune.training.memory import memory_shortage

    shortage = memory_shortage(error)
    if shortage is None and is_infrastructure(error):
        return None
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f'File "{place.filename}", line {place.lineno}, in {place.name}'
    reason = " ".join(f"{type(error).__name__}: {error} ({where})".split())
    if shortage is not None:
        return {"status": "out_of_memory", "reason": reason, "violation": shortage}
    return {"status": "failed", "reason": reason, "deterministic": True}


def is_infrastructure(error: Exception) -> bool:
    """Whether the same job may well succeed when it is begun again."""
    if isinstance(error, ray.exceptions.RayError | ConnectionError):
        return True
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _PEER_SIGNS)


def resolve(serve: str | Serve) -> Serve:
    """`module:function` as the function; a callable as it is."""
    if not isinstance(serve, str):
        return serve
    module, _, name = serve.partition(":")
    found: Serve = getattr(importlib.import_module(module), name)
    return found


def _orders(size: int) -> Callable[[Any], Any]:
    """A function that gives rank 0's value to every rank."""
    if size == 1:
        return lambda value: value
    import torch.distributed as dist

    # Gloo also where NCCL trains: ranks that wait for a job must not keep their GPUs spinning.
    group = dist.new_group(backend="gloo")

    def from_rank_0(value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=0, group=group)
        return box[0]

    return from_rank_0
