"""One side of `benchmark.py search`, in its own process, which prints one line per finished trial.

`python -m benchmarks.overhead.sides SIDE KIND TRIALS FOLDER [mlflow]`; FOLDER holds the teachers.
One trial runs at a time.
"""

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.overhead import short_space, stock
from benchmarks.overhead.bookkeeping import NullSink
from benchmarks.overhead.stock import Tell
from benchmarks.overhead.trials import run_trivial
from meanflow_tune.cluster.connection.session import end_process
from meanflow_tune.driver.driver import Driver
from meanflow_tune.driver.stage import Stage
from meanflow_tune.driver.tracking import drain
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Outcome, Report
from meanflow_tune.report.live import View
from meanflow_tune.search.store.lease import Lease


def main(argv: list[str]) -> None:
    """Run a side; its lines go to standard output, everything else that is printed to standard error."""
    name, kind, trials, folder = argv[0], argv[1], int(argv[2]), Path(argv[3])
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(number: int, training: float) -> None:
        """Report that a trial has ended; training: its seconds in optimiser steps."""
        print(json.dumps({"trial": number, "training": training}), file=lines, flush=True)

    what, _, ranks = name.partition("-")
    if what == "ours":
        _ours(kind, int(ranks), trials, folder, "mlflow" in argv[4:], tell)
    elif what == "trainer":
        stock.trainers(kind, int(ranks), trials, folder, tell)
    elif name == "tune":
        stock.functions(kind, trials, folder, tell)
    else:
        stock.one_process(kind, trials, folder, tell)


def _ours(kind: str, ranks: int, trials: int, folder: Path, mlflow: bool, tell: Tell) -> None:
    """The whole driver but for its summary and, unless `mlflow`, the tracking server."""
    request = SearchRequest(
        space=str(Path(short_space.__file__)),
        study=f"{kind}-{ranks}",
        trials=trials,
        storage=folder,
        workers_per_trial=ranks,
        max_concurrent=1,
        gpus_per_worker=0.0,
        scheduler="none",
        confirm=0,
        confirm_seeds=0,
    )
    plan = make_plan(request)
    with Lease.acquire(request.folder) as lease, View(quiet=True) as view, ExitStack() as stack:
        driver = Driver(
            plan,
            lease,
            view,
            "",
            verbose=False,
            make_sink=None if mlflow else NullSink,
            run_job=run_trivial if kind == "trivial" else None,
        )
        search = driver.open(stack)
        stack.callback(driver.status.stop)
        driver.status.start()
        with driver.start_runner() as runner, driver.time_budget:
            runner.search(_Watched(search, tell), search.name, driver.interrupt)
        driver.background.shutdown(wait=True)
        drain(driver.stages, driver.view, 120.0, driver.command)


class _Watched:
    """A search that tells when a trial has ended; raises RuntimeError where one did not complete."""

    def __init__(self, search: Stage, tell: Tell) -> None:
        self._search, self._tell = search, tell
        self._training: dict[int, float] = {}
        self.next_job, self.exhausted = search.next_job, search.exhausted
        self.on_tick, self.to_stop = search.on_tick, search.to_stop

    def on_report(self, number: int, report: Report) -> bool:
        self._training[number] = report.cost["wall_seconds"]
        return self._search.on_report(number, report)

    def on_end(self, number: int, outcome: Outcome) -> None:
        self._search.on_end(number, outcome)
        if outcome.status != "completed":
            raise RuntimeError(f"trial {number} ended as {outcome.status}: {outcome.reason}")
        self._tell(number, self._training[number])


if __name__ == "__main__":
    main(sys.argv[1:])
    end_process(0)
