"""A finished study as a table: value and cost of each of its configurations at every rung.

A row is a trial that completed, or that diverged, as it would in any search that draws it. Trials that
were stopped early have no final value and are left out, so make the study with `--scheduler none`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from benchmarks.replay.options import Cost
from meanflow_tune.records import INFEASIBLE, TrialRecord
from meanflow_tune.search.objectives import SearchObjective, measures
from meanflow_tune.search.store.manifest import Manifest
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import read_records

LEAST_ROWS = 20
# The mean distance of two uniform draws from [0, 1].
ONE_SIDED = 1.0 / 3.0

Params = Mapping[str, Any]
Distributions = Mapping[str, BaseDistribution]


@dataclass(frozen=True)
class Curve:
    """The course of a run. values: the objective at each rung reached; costs: cumulative, at the same rungs.

    A run with fewer values than rungs diverges at the last of its costs, which has no value.
    """

    values: tuple[float, ...]
    costs: tuple[float, ...]

    @property
    def diverges(self) -> bool:
        return len(self.costs) > len(self.values)


@dataclass(frozen=True)
class Row:
    """One trial of the study. distributions: those its parameters were drawn from."""

    number: int
    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    baseline: str | None
    curve: Curve


@dataclass(frozen=True)
class Table:
    """rungs: images at each; left_out: status -> number of trials that are no rows."""

    study: str
    rows: tuple[Row, ...]
    rungs: tuple[int, ...]
    direction: Literal["minimize", "maximize"]
    objective: str
    cost: Cost
    left_out: dict[str, int]

    @property
    def finals(self) -> np.ndarray:
        """Final values of the rows that did not diverge: [rows]."""
        return np.array([row.curve.values[-1] for row in self.rows if not row.curve.diverges])

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """All parameters of any row, in order of first appearance."""
        return {
            name: distribution
            for row in self.rows
            for name, distribution in row.distributions.items()
        }

    @property
    def baselines(self) -> dict[str, dict[str, Any]]:
        return {row.baseline: row.params for row in self.rows if row.baseline is not None}

    def mean_cost(self) -> float:
        """Mean cost of running a row to its end."""
        return float(np.mean([row.curve.costs[-1] for row in self.rows]))

    def describe(self) -> str:
        """One paragraph for the head of the report."""
        sign = 1.0 if self.direction == "minimize" else -1.0
        best, median = sign * np.min(sign * self.finals), np.median(self.finals)
        diverged = sum(row.curve.diverges for row in self.rows)
        text = (
            f"{self.study}: {len(self.rows)} rows, {len(self.baselines)} of them baselines and "
            f"{diverged} diverged, rungs at {', '.join(f'{rung:,}' for rung in self.rungs)} images\n"
            f"{self.direction} {self.objective}: best {best:.4g}, median {median:.4g}; "
            f"cost in {self.cost}, {self.mean_cost():.4g} per row on average"
        )
        if self.left_out:
            parts = ", ".join(f"{count} {status}" for status, count in self.left_out.items())
            text += f"\nleft out because they have no final value: {parts}"
        return text


def load_table(folder: Path, cost: Cost = "seconds") -> tuple[Table, Manifest]:
    """Read a study's folder without changing it.

    Raises:
        ValueError: there is no study, or too few of its trials completed.
        StorageError: its files are damaged.
    """
    manifest = Manifest.read(folder)
    if manifest is None:
        raise ValueError(f"--study {folder}: there is no manifest.json; name a study's folder")
    storage = open_storage(folder / JOURNAL_NAME)
    records = read_records(storage, manifest.study, folder)
    study_id = storage.get_study_id_from_name(manifest.study)
    distributions = {
        trial.number: trial.distributions for trial in storage.get_all_trials(study_id)
    }
    objective = SearchObjective.parse(manifest.objective)
    return make_table(manifest.study, records, distributions, objective, cost), manifest


def make_table(
    study: str,
    records: Sequence[TrialRecord],
    distributions: Mapping[int, dict[str, BaseDistribution]],
    objective: SearchObjective,
    cost: Cost = "seconds",
) -> Table:
    """The table of trial records; distributions: trial number -> its distributions.

    Raises:
        ValueError: fewer than LEAST_ROWS trials completed with the same rungs.
    """
    through = [record for record in records if record.status == "completed"]
    places = Counter(tuple(report.images for report in record.reports) for record in through)
    rungs = places.most_common(1)[0][0] if places else ()
    rows, left_out = [], Counter[str]()
    diverged = []
    for record in records:
        images = tuple(report.images for report in record.reports)
        if record.status in INFEASIBLE and images == rungs[: len(images)]:
            diverged.append(record)
        elif record.status == "completed" and images == rungs:
            costs = tuple(_cost(record, i, cost) for i in range(len(rungs)))
            curve = Curve(tuple(_values(record, objective)), costs)
            rows.append(
                Row(
                    record.number,
                    record.params,
                    distributions[record.number],
                    record.baseline,
                    curve,
                )
            )
        else:
            left_out[record.status if record.status != "completed" else "with other rungs"] += 1
    if len(rows) < LEAST_ROWS:
        raise ValueError(
            f"study {study} has {len(rows)} completed trials, and a replay needs {LEAST_ROWS}; "
            "run more of them with --sampler qmc --scheduler none"
        )
    typical = np.median([row.curve.costs for row in rows], axis=0)
    for record in diverged:
        # The time of divergence is not stored; the whole interval up to the next rung is charged.
        reached = len(record.reports)
        costs = tuple(_cost(record, i, cost) for i in range(reached))
        step = typical[reached] - (typical[reached - 1] if reached else 0.0)
        curve = Curve(tuple(_values(record, objective)), (*costs, (costs or (0.0,))[-1] + step))
        rows.append(
            Row(record.number, record.params, distributions[record.number], record.baseline, curve)
        )
    rows.sort(key=lambda row: row.number)
    return Table(
        study, tuple(rows), rungs, objective.direction, str(objective), cost, dict(left_out)
    )


def _values(record: TrialRecord, objective: SearchObjective) -> list[float]:
    return [objective.value(measures(report)) for report in record.reports]


def _cost(record: TrialRecord, rung: int, cost: Cost) -> float:
    report = record.reports[rung]
    if cost == "images":
        return float(report.images)
    found = measures(report).get("cost")
    if found is None:
        raise ValueError(
            f"trial {record.number} reports no gpu_seconds or cpu_seconds; count with --cost images"
        )
    return found


def unit(value: Any, distribution: BaseDistribution) -> float:
    """A number's position in its range, from 0 to 1, on the scale from which it is drawn."""
    ends = distribution.low, distribution.high  # type: ignore[attr-defined]
    low, high = (float(distribution.to_internal_repr(end)) for end in ends)
    number = float(distribution.to_internal_repr(value))
    if distribution.log:  # type: ignore[attr-defined]
        low, high, number = math.log(low), math.log(high), math.log(number)
    return (number - low) / (high - low) if high > low else 0.0


def distance(a: Params, b: Params, distributions: Distributions) -> float:
    """The distance of two configurations of a conditional space; 0 for equal ones.

    A differing choice counts 1, a number the difference of its positions in the range, and a
    parameter that only one of the two has 1/3, the mean difference of two random positions.
    """
    total = 0.0
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b:
            total += ONE_SIDED
        elif isinstance(distributions[name], CategoricalDistribution):
            total += float(a[name] != b[name])
        else:
            total += abs(unit(a[name], distributions[name]) - unit(b[name], distributions[name]))
    return total


def without_baselines(table: Table) -> Table:
    """The same rows, none marked as a baseline."""
    return replace(table, rows=tuple(replace(row, baseline=None) for row in table.rows))
