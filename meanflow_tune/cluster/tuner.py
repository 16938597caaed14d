"""Ray Tune in front of the slots: its searcher and scheduler ask a `Director`."""

import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.result_grid import ResultGrid
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.broker_handle import BrokerHandle, explaining_loss
from meanflow_tune.cluster.relays import EVENT, JOB, Relay, Seats
from meanflow_tune.cluster.signals import Interrupt, Stop
from meanflow_tune.records import Director, Job, Outcome, Report

POLL_SECONDS = 1.0
# Restarts of a relay whose process died; its job continues meanwhile.
_RELAY_RETRIES = 5


class SlotCount(Protocol):
    """The slots of a search. count: trials at once; tick: looks after the slots, about once a second."""

    @property
    def count(self) -> int: ...

    def tick(self, snapshot: Mapping[str, Any]) -> None: ...


def run_search(
    director: Director,
    broker: BrokerHandle,
    storage_dir: Path | str,
    name: str,
    slots: SlotCount,
    interrupt: Stop | None = None,
) -> None:
    """Run trials until the director is exhausted or `interrupt` is requested and all have ended.

    storage_dir: a folder of the driver's host for Tune's own files, which are removed afterwards, since
    no restart needs them; name: of no other search that uses it. Raises SlotsLost, and every exception
    of the director.
    """
    bridge = _Bridge(director, broker, slots, interrupt or Interrupt())
    label = f"{name}-{uuid.uuid4().hex[:8]}"
    folder = Path(storage_dir).absolute() / "tune"
    remove_leftovers(folder, name)
    seats = Seats(broker)
    tuner = tune.Tuner(
        tune.with_resources(Relay, {"memory": 1.0}),  # nominal: see `Seats`
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=_Searcher(bridge),
            scheduler=_Scheduler(bridge, seats),
            reuse_actors=True,
            trial_name_creator=_short_name,
            trial_dirname_creator=_short_name,
        ),
        run_config=tune.RunConfig(
            name=label,
            storage_path=str(folder),
            verbose=0,
            callbacks=[_Poll(bridge)],
            failure_config=tune.FailureConfig(max_failures=_RELAY_RETRIES),
        ),
    )
    try:
        with _without_stored_errors():
            tuner.fit()
        bridge.raise_error()
        bridge.last_poll()
    finally:
        with suppress(ray.exceptions.RayError):
            seats.close()
        shutil.rmtree(folder / label, ignore_errors=True)


@contextmanager
def _without_stored_errors() -> Iterator[None]:
    """Let Tune's results not unpickle the errors of its trials from files, which a full disk leaves torn.

    Nobody reads those results: what ends a job is told by its events.
    """
    read = ResultGrid.__dict__["_populate_exception"]
    ResultGrid._populate_exception = staticmethod(lambda trial: None)
    try:
        yield
    finally:
        ResultGrid._populate_exception = read


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove Tune's files of earlier drivers of a search, which were killed: it has one at a time."""
    for left in folder.glob(f"{name}-*"):
        if re.fullmatch(r"[0-9a-f]{8}", left.name.removeprefix(f"{name}-")):
            shutil.rmtree(left, ignore_errors=True)


@dataclass(eq=False)
class _Bridge:
    """Tune's events as calls of the director; keeps the first exception for the main loop to raise.

    (Tune treats an exception in a scheduler as a failure of the trial, and continues.)
    """

    director: Director
    broker: BrokerHandle
    slots: SlotCount
    interrupt: Stop
    running: dict[str, Job] = field(default_factory=dict)  # by Tune's name of the trial
    left: list[Job] = field(default_factory=list)  # whose relays Tune has given up
    error: BaseException | None = None
    polled: float = 0.0
    stopped: bool = False
    faults_taken: int = 0

    def suggest(self, trial_id: str) -> Job | str | None:
        """A job, None (not now) or Searcher.FINISHED."""
        self.poll()
        if self.left:
            return self._start(trial_id, self.left.pop())
        if self.interrupt.requested:
            return str(Searcher.FINISHED)
        if len(self.running) >= self.slots.count:
            return None
        job = self.director.next_job()
        if job is not None:
            return self._start(trial_id, job)
        finished = not self.running and self.director.exhausted()
        return str(Searcher.FINISHED) if finished else None

    def event(self, trial_id: str, event: dict[str, Any]) -> None:
        job = self.running.get(trial_id)
        if job is None or self.error is not None:
            return
        if event["kind"] == "end":
            self._guard(lambda: self._end(trial_id, Outcome(**event["outcome"])))
        else:
            self._guard(lambda: self._report(job.number, Report(**event["report"])))

    def trial_complete(self, trial_id: str) -> None:
        """Tune has ended a trial. If its job has not ended, Tune gave up restarting its relay, while a
        slot runs the job: a new relay hears all its events.
        """
        if trial_id in self.running:
            self.left.append(self.running.pop(trial_id))

    def poll(self) -> None:
        """At each turn of Tune's loop: kept exceptions, interrupts, lost slots, the live view."""
        self.raise_error()
        if self.interrupt.requested and not self.stopped:
            self.stopped = True
            with explaining_loss():
                self.broker.call(Broker.stop_all)
        if time.monotonic() - self.polled < POLL_SECONDS:
            return
        self.polled = time.monotonic()
        with explaining_loss():
            snapshot = self._snapshot(60.0)
        self.director.on_tick(snapshot)  # first, since its faults may be why no slot is left
        self.slots.tick(snapshot)
        for number in self.director.to_stop():
            self.broker.send(Broker.stop_job, number)

    def last_poll(self) -> None:
        """What happened since the last poll, such as the fault that ended the last trial."""
        while self.left:  # given up after a stop: Tune asks for no further trial
            reason = "the process of its relay on the driver's host crashed repeatedly"
            self.director.on_end(self.left.pop().number, Outcome("running", reason))
        with suppress(ray.exceptions.RayError):
            self.director.on_tick(self._snapshot(5.0))

    def _snapshot(self, seconds: float) -> dict[str, Any]:
        snapshot = self.broker.call_within(seconds, Broker.snapshot, self.faults_taken)
        for fault in snapshot["faults"]:
            self.faults_taken = fault["index"] + 1
        return snapshot

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error

    def _start(self, trial_id: str, job: Job) -> Job:
        self.running[trial_id] = job
        return job

    def _report(self, number: int, report: Report) -> None:
        go_on = self.director.on_report(number, report)
        self.broker.send(Broker.decide, number, report.images, go_on, report.repeat)

    def _end(self, trial_id: str, outcome: Outcome) -> None:
        self.director.on_end(self.running.pop(trial_id).number, outcome)

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self.error = error


class _Searcher(Searcher):
    """Tune's searcher: hands out the director's jobs as JSON text."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, str] | str | None:
        job = self._bridge.suggest(trial_id)
        return {JOB: json.dumps(job.to_dict())} if isinstance(job, Job) else job

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._bridge.trial_complete(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is resumed by running the same command again")

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune writes a copy of its settings for a `restore` that is never called.
        return Searcher, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Searcher":
        return self


class _Scheduler(FIFOScheduler):
    """Tune's scheduler: the decision goes to the worker, which ends its job itself.

    Tune is never told to stop a trial, since that would end processes and leak reservations.
    """

    def __init__(self, bridge: _Bridge, seats: Seats) -> None:
        super().__init__()
        self._bridge, self._seats = bridge, seats

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        # Before the trial's actor is started. Tune's own parameter for this cannot be reached from Tuner.
        tune_controller._actor_manager._resource_manager = self._seats

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if EVENT in result and not result.get("done"):
            self._bridge.event(trial.trial_id, json.loads(result[EVENT]))
        return str(TrialScheduler.CONTINUE)

    def __reduce__(self) -> tuple[Any, ...]:
        return FIFOScheduler, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Scheduler":
        return self


class _Poll(tune.Callback):
    """Polls at each turn of Tune's loop; an exception raised here reaches the caller."""

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._bridge.poll()

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()


def _short_name(trial: Any) -> str:
    return str(trial.trial_id)
