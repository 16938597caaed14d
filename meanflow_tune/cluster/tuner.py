"""Ray Tune in front of the slots: its searcher and scheduler ask a `Director`."""

import json
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from meanflow_tune.cluster.errors import SlotsLost
from meanflow_tune.cluster.signals import Interrupt, Stop
from meanflow_tune.cluster.worker_groups import WorkerGroups
from meanflow_tune.records import Job, Outcome, Report

LOOK_SECONDS = 1.0
# Restarts of a thin trial whose process died; its job goes on meanwhile.
_RELAY_RETRIES = 5


class Director(Protocol):
    """Decides what runs. All methods are called in the driver's main thread, one at a time.

    An exception of any of them ends `run_search` with that exception.
    """

    def next_job(self) -> Job | None:
        """The next job, or None when there is none now."""

    def exhausted(self) -> bool:
        """Whether `next_job` gives nothing any more (asked only while nothing runs)."""

    def on_report(self, number: int, report: Report) -> bool:
        """A rung; True lets the trial go on. May come again with the same repeat and images.

        At the last rung of the trial's own run True means: make the repeats that the job names; at
        the end of a repeat: make the next one.
        """

    def on_end(self, number: int, outcome: Outcome) -> None:
        """How a trial ended. Status `running`: it was interrupted and can go on another time."""

    def on_tick(self, snapshot: dict[str, Any]) -> None:
        """About once a second: the broker's snapshot, for a live view."""


def run_search(
    director: Director,
    broker: Any,
    max_concurrent: int,
    storage_dir: Path | str,
    name: str,
    slots: WorkerGroups | None = None,
    interrupt: Stop | None = None,
) -> None:
    """Run trials until the director is exhausted or `interrupt` is requested and all have ended.

    storage_dir: a folder of the driver's host, for Tune's own files; they are removed afterwards,
    since no restart needs them. Raises SlotsLost, or whatever the director raised.
    """
    bridge = _Bridge(director, broker, max_concurrent, slots, interrupt or Interrupt())
    label = f"{name}-{uuid.uuid4().hex[:8]}"
    folder = Path(storage_dir).absolute() / "tune"
    # Pinned to the driver's host: a host that is lost takes no thin trial with it.
    host = f"node:{ray.util.get_node_ip_address()}"
    trainable = tune.with_resources(
        tune.with_parameters(relay, broker=broker), {"memory": 1e6, host: 0.001}
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=_Searcher(bridge),
            scheduler=_Scheduler(bridge),
            reuse_actors=True,
            trial_name_creator=_short_name,
            trial_dirname_creator=_short_name,
        ),
        run_config=tune.RunConfig(
            name=label,
            storage_path=str(folder),
            verbose=0,
            callbacks=[_Step(bridge)],
            failure_config=tune.FailureConfig(max_failures=_RELAY_RETRIES),
        ),
    )
    try:
        tuner.fit()
        bridge.raise_error()
    finally:
        shutil.rmtree(folder / label, ignore_errors=True)


class _Bridge:
    """Tune's events as calls of the director; keeps the first exception for the main loop to raise.

    (Tune takes an exception in a scheduler for a failure of the trial, and goes on.)
    """

    def __init__(
        self,
        director: Director,
        broker: Any,
        max_concurrent: int,
        slots: WorkerGroups | None,
        interrupt: Stop,
    ) -> None:
        self._director, self._broker, self._max = director, broker, max_concurrent
        self._slots, self._interrupt = slots, interrupt
        self._running: dict[str, int] = {}
        self._error: BaseException | None = None
        self._looked = 0.0
        self._told_to_stop = False

    def suggest(self, trial_id: str) -> Job | str | None:
        """A job, None (not now) or Searcher.FINISHED."""
        self.look()
        if self._interrupt.requested:
            return str(Searcher.FINISHED)
        if len(self._running) >= self._max:
            return None
        job = self._director.next_job()
        if job is not None:
            self._running[trial_id] = job.number
            return job
        finished = not self._running and self._director.exhausted()
        return str(Searcher.FINISHED) if finished else None

    def event(self, trial_id: str, event: dict[str, Any]) -> None:
        number = self._running.get(trial_id)
        if number is None or self._error is not None:
            return
        if event["kind"] == "end":
            self._guard(lambda: self._end(trial_id, Outcome(**event["outcome"])))
        else:
            self._guard(lambda: self._report(number, Report(**event["report"])))

    def gone(self, trial_id: str) -> None:
        """Tune has given a trial up. Without an end its follower died again and again."""
        if trial_id in self._running and self._error is None:
            outcome = Outcome("running", "its follower process on the driver's host kept dying")
            self._guard(lambda: self._end(trial_id, outcome))

    def look(self) -> None:
        """At each turn of Tune's loop: interrupts, lost slots, the live view, kept exceptions."""
        self.raise_error()
        if self._interrupt.requested and not self._told_to_stop:
            self._told_to_stop = True
            ray.get(self._broker.stop_all.remote())
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            snapshot = ray.get(self._broker.snapshot.remote(), timeout=60)
        except ray.exceptions.RayError as error:
            raise SlotsLost(f"the broker of the search is gone: {error}") from error
        if self._slots is not None:
            self._slots.check(snapshot)
        self._director.on_tick(snapshot)

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _report(self, number: int, report: Report) -> None:
        go_on = self._director.on_report(number, report)
        self._broker.decision.remote(number, report.images, go_on, report.repeat)

    def _end(self, trial_id: str, outcome: Outcome) -> None:
        self._director.on_end(self._running.pop(trial_id), outcome)

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._error = error


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
        self._bridge.gone(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search goes on by running the same command again")

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune writes a copy of its settings for a `restore` that is never called.
        return Searcher, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Searcher":
        return self


class _Scheduler(FIFOScheduler):
    """Tune's scheduler: the decision goes to the worker, which ends its job itself.

    Tune is never told to stop a trial: that would tear down processes and leak reservations.
    """

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if EVENT in result and not result.get("done"):
            self._bridge.event(trial.trial_id, json.loads(result[EVENT]))
        return str(TrialScheduler.CONTINUE)

    def __reduce__(self) -> tuple[Any, ...]:
        return FIFOScheduler, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Scheduler":
        return self


class _Step(tune.Callback):
    """Looks around at each turn of Tune's loop; here an exception does reach the caller."""

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._bridge.look()

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()


def _short_name(trial: Any) -> str:
    return str(trial.trial_id)


JOB, EVENT = "job", "event"


def relay(config: dict[str, str], broker: Any) -> None:
    """config: {"job": JSON text}; text, since Ray Tune takes "/" in keys of a config apart.

    Reports {"event": JSON text}, so that neither a NaN nor a missing metric means anything to Tune.
    Started again after its process died, it replays all events: the driver takes each once.
    """
    job = json.loads(config[JOB])
    ray.get(broker.submit.remote(job))
    seen = 0
    while True:
        for event in ray.get(broker.events.remote(job["number"], seen)):
            seen += 1
            tune.report({EVENT: json.dumps(event)})
            if event["kind"] == "end":
                return
