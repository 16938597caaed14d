"""One side of `benchmark.py search`, as a process of its own that prints a line a finished trial.

`python -m benchmarks.overhead.sides SIDE KIND TRIALS FOLDER [mlflow]`; FOLDER has the teachers.
One trial runs at a time.
"""

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.overhead import short_space, stock
from benchmarks.overhead.books import Unsent
from benchmarks.overhead.trials import serve_trivial
from meanflow_tune.cluster.session import end_process
from meanflow_tune.driver.driver import Driver
from meanflow_tune.driver.stage import Stage
from meanflow_tune.plan.plan import make_plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Outcome, Report
from meanflow_tune.report.live import View
from meanflow_tune.search.errors import SearchStopped
from meanflow_tune.search.store.lease import Lease


def main(argv: list[str]) -> int:
    """Run a side; the lines go to standard output, and all else that is printed to standard error."""
    name, kind, trials, folder = argv[0], argv[1], int(argv[2]), Path(argv[3])
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(number: int, training: float) -> None:
        """A trial has ended; training: its seconds in optimiser steps."""
        print(json.dumps({"trial": number, "training": training}), file=lines, flush=True)

    what, _, ranks = name.partition("-")
    if what == "ours":
        return _ours(kind, int(ranks), trials, folder, "mlflow" in argv[4:], tell)
    if what == "trainer":
        stock.trainers(kind, int(ranks), trials, folder, tell)
    elif name == "tune":
        stock.functions(kind, trials, folder, tell)
    else:
        stock.one_process(kind, trials, folder, tell)
    return 0


def _ours(kind: str, ranks: int, trials: int, folder: Path, mlflow: bool, tell: Any) -> int:
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
    with Lease.acquire(request.folder) as lease, View(quiet=True) as view:
        driver = _Measured(plan, lease, view, "", False)
        driver.tell, driver.mlflow = tell, mlflow
        if kind == "trivial":
            driver.serve = serve_trivial
        return driver.run()


class _Measured(Driver):
    """The whole driver, but for its last words and, unless `mlflow`, the tracking server."""

    tell: Any = None
    mlflow = False

    def _sink(self) -> Any:
        return super()._sink() if self.mlflow else Unsent()

    def _work(self, search: Stage, stack: ExitStack) -> None:
        super()._work(_Told(search, self.tell), stack)  # type: ignore[arg-type]

    def _close(self, search: Stage, interrupted: bool, stopped: SearchStopped | None = None) -> int:
        if stopped is not None:
            raise stopped
        self.background.shutdown(wait=True)
        self._drain(120.0)
        return 0


class _Told:
    """A stage that says when a trial has ended."""

    def __init__(self, stage: Stage, tell: Any) -> None:
        self._stage, self._tell = stage, tell
        self._training: dict[int, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def on_report(self, number: int, report: Report) -> bool:
        self._training[number] = report.cost["wall_seconds"]
        return self._stage.on_report(number, report)

    def on_end(self, number: int, outcome: Outcome) -> None:
        self._stage.on_end(number, outcome)
        if outcome.status != "completed":
            raise RuntimeError(f"trial {number} ended as {outcome.status}: {outcome.reason}")
        self._tell(number, self._training[number])


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
