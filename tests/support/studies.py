"""A toy search whose trials cost nothing: a conditional space and a worker without a process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna import Trial
from optuna.storages import BaseStorage

from meanflow_tune.records import Job, Outcome, Report
from meanflow_tune.search.objectives import SearchObjective
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import read_records
from meanflow_tune.search.study.ledger import Ledger
from tests.support.rungs import LEDGER, make_rungs

NAME = "toy"
RUNGS = (20, 50, 100)
OBJECTIVE = SearchObjective.parse("gap@1")
BASELINES: dict[str, dict[str, Any]] = {
    "plain": {"x": 0.9, "kind": "plain", "z": 0.5},
    "bent": {"x": -0.9, "kind": "bent", "rate": 0.1, "z": 0.5},
}


def suggest(trial: Trial) -> dict[str, Any]:
    x = trial.suggest_float("x", -1.0, 1.0)
    kind = trial.suggest_categorical("kind", ["plain", "bent", "dead"])
    rate = trial.suggest_float("rate", 1e-3, 1.0, log=True) if kind == "bent" else 0.0
    z = trial.suggest_float("z", 0.0, 1.0)
    return {
        "x": x,
        "kind": kind,
        "rate": rate,
        "z": z,
        "budget": {"images": 100, "global_batch": 10},
    }


def report(config: dict[str, Any], images: int) -> Report:
    gap = (config["x"] - 0.3) ** 2 + config["rate"] * 0.1 + 0.01 * config["z"] + 1.0 / images
    return Report(images=images, metrics={"gap@1": gap}, cost={"cpu_seconds": images}, time=0.0)


def make_ledger(folder: Path, storage: BaseStorage | None = None, **changes: Any) -> Ledger:
    settings: dict[str, Any] = {
        "study_name": NAME,
        "suggest": suggest,
        "baselines": BASELINES,
        "objectives": OBJECTIVE,
        "rungs": make_rungs(reduction=2.0, min_peers=2),
        "sampler": "tpe",
        "seed": 7,
        "total": 8,
        "folder": folder,
        "fence": allow,
        "startup_trials": 3,
    }
    fence: Callable[[], None] = changes.get("fence", allow)
    return Ledger(
        storage=storage or open_storage(folder / JOURNAL_NAME, fence),
        **(LEDGER | settings | changes),
    )


def allow() -> None:
    """The fence of a driver that nobody disputes."""


def run_job(ledger: Ledger, job: Job) -> None:
    """What a worker does with a job, in no time; interrupted, it reports all rungs once more."""
    for images in RUNGS:
        decision = ledger.record(job.number, report(job.config, images))
        if not decision.go_on:
            ledger.finish(job.number, Outcome("pruned", decision.reason))
            return
        if job.config["kind"] == "dead":
            ledger.finish(job.number, Outcome("diverged", "the loss is not finite at step 3"))
            return
    ledger.finish(job.number, Outcome("completed"))


def run_all(ledger: Ledger) -> None:
    """A search with one slot, from wherever it stands to its end."""
    while (job := ledger.next()) is not None:
        run_job(ledger, job)
    assert ledger.exhausted()
    ledger.end()


def outcome_of(folder: Path, where: str | Path | None = None) -> list[dict[str, Any]]:
    """All that a study holds, in the journal of a folder or `where`, except clocks and attempts."""
    storage = open_storage(where or folder / JOURNAL_NAME)
    trials = storage.get_all_trials(storage.get_study_id_from_name(NAME))
    records = read_records(storage, NAME, Path())
    return [
        {
            "params": record.params,
            "config": record.config,
            "status": record.status,
            "state": trial.state.name,
            "value": trial.value,
            "rungs": trial.intermediate_values,
            "constraints": trial.constraints,
            "baseline": record.baseline,
            "reports": [one.to_dict() for one in record.reports],
            "verdicts": {k: v for k, v in trial.user_attrs.items() if k.startswith("report/")},
            "reason": record.reason,
            "decisions": record.decisions,
            "repeats": record.repeats,
            "protected": record.protected,
            "bracket": record.bracket,
        }
        for trial, record in zip(trials, records, strict=True)
    ]
