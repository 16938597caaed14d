"""A small conditional space whose values have a formula, and studies of it."""

from pathlib import Path
from typing import Any

import optuna

from benchmarks.replay.table import Table, make_table
from meanflow_tune.records import Outcome, Report, Status, TrialRecord
from meanflow_tune.search.objectives import SearchObjective
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.study.ledger import Ledger
from tests.support.manifests import manifest
from tests.support.records import build_record
from tests.support.rungs import LEDGER

OBJECTIVE = SearchObjective.parse("gap@1")
RUNGS = (10, 20, 40)


def space(trial: Any) -> dict[str, Any]:
    """Conditional, with a categorical, a logarithmic and an integer parameter."""
    config: dict[str, Any] = {"x": trial.suggest_float("x", -1.0, 1.0)}
    config["kind"] = trial.suggest_categorical("kind", ["plain", "bent"])
    if config["kind"] == "bent":
        config["rate"] = trial.suggest_float("rate", 1e-3, 1.0, log=True)
    config["steps"] = trial.suggest_int("steps", 1, 4)
    return config


def gap(params: dict[str, Any]) -> float:
    return 0.1 + (params["x"] - 0.3) ** 2 + 0.2 * params.get("rate", 0.5)


def trials(count: int, diverged: int = 0) -> tuple[list[TrialRecord], dict[int, Any]]:
    """Blind draws of `space` that ran through, the last ones diverged after their first rung."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    records, distributions = [], {}
    for number in range(count):
        trial = study.ask()
        space(trial)
        status: Status = "diverged" if number >= count - diverged else "completed"
        reports = tuple(
            Report(images, {"gap@1": gap(trial.params) * (1 + 4 / images)}, {"cpu_seconds": images / 10}, 0.0)
            for images in (RUNGS if status == "completed" else RUNGS[:1])
        )  # fmt: skip
        baseline = f"base{number}" if number < 2 else None
        records.append(
            build_record(
                number,
                status,
                *reports,
                params=dict(trial.params),
                baseline=baseline,
                started=0,
                ended=0,
            )
        )
        distributions[number] = trial.distributions
    return records, distributions


def flat(values: list[float], costs: list[float] | None = None, rungs: int = 1) -> Table:
    """A table of one parameter whose rows have these final values."""
    costs = costs or [1.0] * len(values)
    distribution = optuna.distributions.FloatDistribution(0.0, float(len(values)))
    records = [
        build_record(
            i, "completed",
            *(Report(k + 1, {"gap@1": value}, {"cpu_seconds": cost * (k + 1) / rungs}, 0.0)
              for k in range(rungs)),
            params={"x": i + 0.5}, started=0, ended=0,
        )
        for i, (value, cost) in enumerate(zip(values, costs, strict=True))
    ]  # fmt: skip
    return make_table("s", records, {i: {"x": distribution} for i in range(len(values))}, OBJECTIVE)


def write_study(folder: Path, count: int = 20) -> Ledger:
    """A finished study of `space`, as a search leaves it."""
    manifest(study="s", space="none").write(folder)
    budget = {"budget": {"images": 40, "global_batch": 1}}
    ledger = Ledger(
        storage=open_storage(folder / JOURNAL_NAME, lambda: None), study_name="s",
        suggest=lambda trial: space(trial) | budget, baselines={}, objectives=OBJECTIVE, rungs=None,
        sampler="random", seed=0, total=count, folder=folder, fence=lambda: None, **LEDGER,
    )  # fmt: skip
    while (job := ledger.next()) is not None:
        for images in RUNGS:
            metrics = {"gap@1": gap(job.config) * (1 + 4 / images)}
            ledger.record(job.number, Report(images, metrics, {"cpu_seconds": images / 10}, 0.0))
        ledger.finish(job.number, Outcome("completed"))
    return ledger
