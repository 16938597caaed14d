"""A search in simulated time: workers run curves of a table for the trials of a director."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.replay.table import Curve
from meanflow_tune.records import Decision, Job, Outcome, Report

METRIC = "value@1"  # the name of the objective in reports to a director


class Director(Protocol):
    """The methods of `Ledger` that a worker needs."""

    def next(self) -> Job | None: ...

    def record(self, number: int, report: Report) -> Decision: ...

    def finish(self, number: int, outcome: Outcome) -> None: ...


@dataclass(frozen=True)
class Run:
    """completed: (time, value) of each completed trial, in order of time; started: number of trials;
    spent: worker seconds (or images) up to the deadline."""

    completed: tuple[tuple[float, float], ...]
    started: int
    spent: float


@dataclass(frozen=True)
class _Running:
    job: Job
    curve: Curve
    stage: int  # index of the next rung
    since: float


def simulate(
    director: Director,
    curve_of: Callable[[dict[str, Any]], Curve],
    rungs: tuple[int, ...],
    workers: int,
    deadline: float,
) -> Run:
    """Run a search until the deadline. A trial that is handed out again continues where it stopped.

    curve_of: the curve of a job's configuration. Work not reported by the deadline is lost.
    """
    # Events: (time, order of scheduling, what arrives then).
    events: list[tuple[float, int, _Running]] = []
    stages: dict[int, int] = {}
    completed: list[tuple[float, float]] = []
    free, order, spent, now = workers, 0, 0.0, 0.0

    def schedule(running: _Running) -> None:
        nonlocal order
        before = running.curve.costs[running.stage - 1] if running.stage else 0.0
        time = running.since + running.curve.costs[running.stage] - before
        heapq.heappush(events, (time, order, running))
        order += 1

    while True:
        while free and (job := director.next()) is not None:
            free -= 1
            schedule(_Running(job, curve_of(job.config), stages.get(job.number, 0), now))
        if not events or events[0][0] > deadline:
            break
        now, _, running = heapq.heappop(events)
        spent += now - running.since
        stages[running.job.number] = running.stage + 1
        ended, value = _arrive(director, running, rungs, now)
        if ended:
            free += 1
        else:
            schedule(_Running(running.job, running.curve, running.stage + 1, now))
        if value is not None:
            completed.append((now, value))
    spent += sum(deadline - running.since for _, _, running in events)
    started = len({*stages, *(running.job.number for _, _, running in events)})
    return Run(tuple(completed), started, spent)


def _arrive(
    director: Director, running: _Running, rungs: tuple[int, ...], now: float
) -> tuple[bool, float | None]:
    """Report a rung; whether the worker is free again, and the value of a completed trial."""
    number, curve, stage = running.job.number, running.curve, running.stage
    if stage == len(curve.values):
        director.finish(number, Outcome("diverged", "diverged in the table", violation=1.0))
        return True, None
    value = curve.values[stage]
    report = Report(rungs[stage], {METRIC: value}, {"cpu_seconds": curve.costs[stage]}, now)
    decision = director.record(number, report)
    if not decision.go_on:
        director.finish(number, Outcome("pruned", decision.reason))
        return True, None
    if stage < len(rungs) - 1:
        return False, None
    director.finish(number, Outcome("completed"))
    return True, value
