"""Confirmation: best trial and baseline retrained on fresh seeds and judged on fresh latents.

The sibling study `NAME/confirm` holds these runs, so that they resume like any others. Pairs share a
seed (weights, data order, noise, times) and all of them share latents that the search never used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meanflow_tune.core.random import fold
from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.search.analysis import BEST, Paired, confirm_table
from meanflow_tune.search.objective import SearchObjective

SEED_LIMIT = 2**31


@dataclass(frozen=True)
class Entry:
    """One confirmation run: which trial of the search, on which seed."""

    candidate: int
    seed: int

    @property
    def name(self) -> str:
        return f"trial {self.candidate}, seed {self.seed}"

    @property
    def params(self) -> dict[str, int]:
        return {"candidate": self.candidate, "seed": self.seed}


def entries(candidates: Sequence[TrialRecord], search_seed: int, count: int) -> list[Entry]:
    """`count` fresh seeds for each candidate, seed by seed, so that pairs run side by side."""
    seeds = [fold(search_seed, "confirm", index) % SEED_LIMIT for index in range(count)]
    return [Entry(record.number, seed) for seed in seeds for record in candidates]


def suggester(records: Sequence[TrialRecord], search_seed: int) -> Callable[[Any], dict[str, Any]]:
    """`suggest` of the confirming study: a trial's configuration on another seed, one rung."""
    configs = {record.number: record.config for record in records}
    latent_seed = fold(search_seed, "confirm", "latents") % SEED_LIMIT

    def suggest(trial: Any) -> dict[str, Any]:
        config = dict(configs[trial.suggest_int("candidate", 0, SEED_LIMIT)])
        config["seed"] = trial.suggest_int("seed", 0, SEED_LIMIT)
        config["budget"] = config["budget"] | {"rungs": [1.0]}
        config["evaluation"] = config["evaluation"] | {"latent_seed": latent_seed}
        return config

    return suggest


def compare(
    records: Sequence[TrialRecord], best: int, baseline: int, objective: SearchObjective
) -> list[Paired]:
    """Paired differences of the trials `best` and `baseline` on the seeds that both completed.

    The first line is the search's objective itself, called `objective`; the others are all metrics.
    """
    sides = {best: BEST, baseline: "baseline"}
    runs = [
        replace(
            record, reports=(*record.reports[:-1], _with_objective(record.reports[-1], objective))
        )
        for record in records
        if record.status == "completed" and record.params["candidate"] in sides
    ]
    return confirm_table(runs, side=lambda record: sides[record.params["candidate"]])


def _with_objective(report: Report, objective: SearchObjective) -> Report:
    value = objective.value(report.metrics)
    return replace(report, metrics={"objective": value, **report.metrics})
