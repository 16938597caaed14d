"""Reading the result of a search: who is ahead, and whether a winner wins again on other seeds."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from meanflow_tune.records import Status, TrialRecord

BEST = "best"


@dataclass(frozen=True)
class Standing:
    """One line of the leaderboard. value: the objective at the last rung; images: seen by then."""

    rank: int
    number: int
    status: Status
    baseline: str | None
    value: float
    images: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Paired:
    """One metric of the confirmation: best minus a baseline, trained on the same seeds.

    differences: seed -> difference (negative: the best has the smaller metric); mean over seeds;
    standard_error of that mean, None for a single seed; relative: mean over the baseline's mean,
    None where that is 0.
    """

    metric: str
    baseline: str
    best_mean: float
    baseline_mean: float
    differences: dict[int, float]
    mean: float
    standard_error: float | None
    relative: float | None


def leaderboard(
    records: Iterable[TrialRecord], direction: Literal["minimize", "maximize"] = "minimize"
) -> list[Standing]:
    """Completed trials by value, then the others by how far they came, then by value.

    Trials without a report, and diverged and failed ones, have no place.
    """
    sign = 1.0 if direction == "minimize" else -1.0
    placed = [
        record
        for record in records
        if record.value is not None
        and record.status in ("completed", "pruned", "paused", "running")
    ]

    def order(record: TrialRecord) -> tuple[bool, int, float, int]:
        completed = record.status == "completed"
        images = 0 if completed else -record.reports[-1].images
        assert record.value is not None
        return (not completed, images, sign * record.value, record.number)

    return [
        Standing(
            rank=rank,
            number=record.number,
            status=record.status,
            baseline=record.baseline,
            value=record.value if record.value is not None else math.nan,
            images=record.reports[-1].images,
            metrics=dict(record.reports[-1].metrics),
        )
        for rank, record in enumerate(sorted(placed, key=order), start=1)
    ]


def arm(record: TrialRecord) -> str:
    """Which side of a confirmation a repeat is on: its baseline's name up to a "#", or "best".

    Repeats are named "best#1", "backward_lr_mid#1" and so on; one without a name is the best's.
    """
    return BEST if record.baseline is None else record.baseline.split("#", 1)[0]


def confirm_table(
    records: Iterable[TrialRecord], side: Callable[[TrialRecord], str] = arm
) -> list[Paired]:
    """Paired differences between the best configuration and each baseline, for every metric.

    records: completed repeats of both on several seeds (`config["seed"]`); others are left out, and
    so are metrics called loss/... A seed counts where both sides have completed it.

    Raises:
        ValueError: two completed repeats of one side have the same seed.
    """
    sides: dict[str, dict[int, dict[str, float]]] = {}
    for record in records:
        if record.status != "completed" or not record.reports:
            continue
        name, seed = side(record), int(record.config["seed"])
        seeds = sides.setdefault(name, {})
        if seed in seeds:
            raise ValueError(
                f"two repeats of {name!r} have the seed {seed} (trial {record.number})"
            )
        seeds[seed] = record.reports[-1].metrics
    best = sides.pop(BEST, {})
    table = []
    for name, runs in sides.items():
        common = sorted(best.keys() & runs.keys())
        if not common:
            continue
        for metric in _shared([*best.values(), *runs.values()]):
            ours = {seed: best[seed][metric] for seed in common}
            theirs = {seed: runs[seed][metric] for seed in common}
            table.append(_pair(metric, name, ours, theirs))
    return table


def _shared(runs: list[dict[str, float]]) -> list[str]:
    """Metrics that all runs have, in the order of the first, without losses."""
    return [
        name
        for name in runs[0]
        if not name.startswith("loss/") and all(name in metrics for metrics in runs)
    ]


def _pair(metric: str, baseline: str, best: dict[int, float], other: dict[int, float]) -> Paired:
    differences = {seed: best[seed] - other[seed] for seed in best}
    count = len(differences)
    mean = math.fsum(differences.values()) / count
    squares = math.fsum((difference - mean) ** 2 for difference in differences.values())
    other_mean = math.fsum(other.values()) / count
    return Paired(
        metric=metric,
        baseline=baseline,
        best_mean=math.fsum(best.values()) / count,
        baseline_mean=other_mean,
        differences=differences,
        mean=mean,
        standard_error=math.sqrt(squares / (count - 1) / count) if count > 1 else None,
        relative=mean / other_mean if other_mean else None,
    )
