"""`python killed.py POINT ARGUMENTS`: scripts/tune.py that kills itself at a named point.

The product knows nothing of this: functions of it are wrapped from outside, in its own process.
POINT is a key of POINTS, or "never". Environment, besides that of `killed_worker`: TUNE, a file for what
Ray Tune was told and what its results say in the end.
"""

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]

# Point: module, class or "", function, at which of its calls, and whether before or after it. The
# order is that of one chain of drivers, each of which resumes where the previous one was killed.
POINTS: dict[str, tuple[str, str, str, int, str]] = {
    "while taking the lease": ("meanflow_tune.search.store.lease", "", "_write", 1, "after"),
    "in the middle of an ask": ("optuna.trial", "Trial", "suggest_float", 6, "before"),
    "between ask and hand-out": (
        "meanflow_tune.tracking.events",
        "Tracker",
        "trial_started",
        1,
        "before",
    ),
    "between create and storage of an MLflow run": (
        "mlflow",
        "MlflowClient",
        "create_run",
        1,
        "after",
    ),
    "in a report before its line": (
        "meanflow_tune.search.study.ledger",
        "Ledger",
        "record",
        2,
        "before",
    ),
    "in a report after its line": (
        "meanflow_tune.search.study.ledger",
        "Ledger",
        "record",
        2,
        "after",
    ),
    "in a tell before its outcome": (
        "meanflow_tune.search.study.ledger",
        "Ledger",
        "finish",
        1,
        "before",
    ),
    "in a tell after its outcome": ("optuna", "Study", "tell", 1, "before"),
    "in the roll-forward of a resume": ("optuna", "Study", "tell", 1, "before"),
    "after a tell": ("meanflow_tune.search.study.ledger", "Ledger", "finish", 1, "after"),
    "in a checkpoint of a worker": ("", "", "", 2, ""),
    "while writing results": ("meanflow_tune.report.result_files", "", "write_best", 1, "before"),
}


def arm(point: str) -> None:
    """Wrap the function of a point so that it ends this process."""
    module, owner, name, count, when = POINTS[point]
    place = importlib.import_module(module)
    place = getattr(place, owner) if owner else place
    real: Callable[..., Any] = getattr(place, name)
    lock, calls = threading.Lock(), 0

    def deadly(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            now = calls == count
        if now and when == "before":
            die(point)
        result = real(*arguments, **keywords)
        if now:
            die(point)
        return result

    setattr(place, name, deadly)


def die(point: str) -> None:
    """As `kill -9` does it."""
    Path(os.environ["KILLED"]).write_text(point)
    os.kill(os.getpid(), signal.SIGKILL)


def observe(path: Path) -> None:
    """Keep what Ray Tune was told (its scheduler's results) and the ResultGrid that it ends with."""
    from ray import tune

    from meanflow_tune.cluster import tuner

    told: list[dict[str, Any]] = []
    hear, fit = tuner._Scheduler.on_trial_result, tune.Tuner.fit

    def heard(self: Any, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if tuner.EVENT in result and not result.get("done"):
            number = json.loads(trial.config[tuner.JOB])["number"]
            told.append({"number": number, "event": json.loads(result[tuner.EVENT])})
        return hear(self, controller, trial, result)

    def fitted(self: Any) -> Any:
        grid = fit(self)
        ends = [
            {
                "job": json.loads(result.config[tuner.JOB]),
                "last": json.loads(result.metrics[tuner.EVENT]),
                "error": str(result.error or ""),
            }
            for result in grid
        ]
        path.write_text(json.dumps({"told": told, "ends": ends}))
        return grid

    tuner._Scheduler.on_trial_result = heard  # type: ignore[method-assign]
    tune.Tuner.fit = fitted


def main(point: str, arguments: list[str]) -> int:
    from meanflow_tune.training import job
    from tests.support.processes import killed_worker

    in_worker = point == "in a checkpoint of a worker"
    os.environ["DRIVER"] = str(os.getpid())
    os.environ["KILL_IN_CHECKPOINT"] = str(POINTS[point][3]) if in_worker else "0"
    job.run_job = killed_worker.run_job  # the workers, other processes, import the real one
    if "TUNE" in os.environ:
        observe(Path(os.environ["TUNE"]))
    if point != "never" and not in_worker:
        arm(point)
    sys.path.insert(0, str(ROOT / "scripts"))
    tune = importlib.import_module("tune")
    return int(tune.main(arguments))


if __name__ == "__main__":
    from meanflow_tune.cluster.connection.session import end_process

    end_process(main(sys.argv[1], sys.argv[2:]))
