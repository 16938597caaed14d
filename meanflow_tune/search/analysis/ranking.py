"""Results of a search: the order of its trials, and comparisons on fresh seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.search.analysis.significance import Interval, interval, rank_by_differences
from meanflow_tune.search.objectives import Objectives, SearchObjective, measures
from meanflow_tune.search.pareto import non_dominated, ranks

Comparison = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Row:
    """A row of the final table: a configuration trained on several seeds.

    seeds: of its completed runs; means: column -> mean over them; against: column -> paired difference
    from the first row on the seeds that both completed (empty for the first row); relative: the same
    as a share of the first row's mean on those seeds, None where that is 0.
    """

    name: str
    seeds: tuple[int, ...]
    means: dict[str, Interval]
    against: dict[str, Interval]
    relative: dict[str, float | None]


def rank_trials(records: Iterable[TrialRecord], objectives: Objectives) -> tuple[TrialRecord, ...]:
    """Completed trials, best first.

    One objective: by paired differences (`rank_by_differences`). Several: by front, then by the
    distance to the ideal point, which has the best value of every objective on the first front; each
    objective is scaled by its spread there.
    """
    done = [r for r in records if r.status == "completed" and r.reports]
    if objectives.single is not None or not done:
        return rank_by_differences(done, objectives.parts[0]).order
    values = [objectives.values(record.reports[-1]) for record in done]
    fronts = ranks(values, objectives.directions)
    distances = ideal_distances(values, objectives)
    rows = sorted(range(len(done)), key=lambda i: (fronts[i], distances[i], done[i].number))
    return tuple(done[row] for row in rows)


def front(records: Iterable[TrialRecord], objectives: Objectives) -> list[TrialRecord]:
    """Non-dominated completed trials, in the order of the first objective."""
    done = [r for r in records if r.status == "completed" and r.reports]
    values = [objectives.values(record.reports[-1]) for record in done]
    best = non_dominated(values, objectives.directions)
    sign = 1.0 if objectives.directions[0] == "minimize" else -1.0
    chosen = [(sign * v[0], r.number, r) for v, r, b in zip(values, done, best, strict=True) if b]
    return [record for _, _, record in sorted(chosen, key=lambda entry: entry[:2])]


def ideal_distances(values: Sequence[Sequence[float]], objectives: Objectives) -> list[float]:
    """Euclidean distance of each point from the ideal of the first front, in units of its spread."""
    best = non_dominated(values, objectives.directions)
    first = [point for point, on in zip(values, best, strict=True) if on]
    ideal, scale = [], []
    for column, direction in enumerate(objectives.directions):
        on_front = [point[column] for point in first]
        ideal.append(min(on_front) if direction == "minimize" else max(on_front))
        scale.append((max(on_front) - min(on_front)) or 1.0)
    return [
        math.hypot(*((x - i) / s for x, i, s in zip(point, ideal, scale, strict=True)))
        for point in values
    ]


def columns(objectives: Objectives) -> dict[str, SearchObjective]:
    """The columns of tables: every objective and the metrics in it, each with its direction.

    A single objective is called `objective` where it combines several metrics.
    """
    found: dict[str, SearchObjective] = {}
    for part in objectives.parts:
        combined = len(part.metrics) > 1
        found["objective" if combined and objectives.single else str(part)] = part
        if combined:
            for name in part.metrics:
                alone = SearchObjective(metrics=(name,), direction=part.direction)
                found.setdefault(name, alone)
    return found


def final_table(sides: Mapping[str, Iterable[TrialRecord]], objectives: Objectives) -> list[Row]:
    """Means and paired differences of configurations trained on the same fresh seeds.

    sides: name -> runs, paired by `config["seed"]`; the others are compared with the first one. Only
    completed runs count; sides without one are left out.

    Raises:
        ValueError: two completed runs of one side have the same seed.
    """
    runs = {name: _by_seed(name, records) for name, records in sides.items()}
    shown = columns(objectives)
    reference = next(iter(runs.values()), {})
    table = []
    for name, reports in runs.items():
        if not reports:
            continue
        common = [seed for seed in reports if seed in reference and reports is not reference]
        row = Row(name, tuple(reports), {}, {}, {})
        for column, objective in shown.items():
            ours = {seed: objective.value(measures(report)) for seed, report in reports.items()}
            row.means[column] = interval(list(ours.values()))
            if common:
                theirs = {seed: objective.value(measures(reference[seed])) for seed in common}
                difference = interval([ours[seed] - theirs[seed] for seed in common])
                mean = math.fsum(theirs.values()) / len(common)
                row.against[column] = difference
                row.relative[column] = difference.mean / mean if mean else None
        table.append(row)
    return table


def describe_difference(difference: Interval, direction: str) -> Comparison:
    """Better or worse only where the interval of a paired difference excludes 0."""
    if not difference.excludes_zero:
        return "undecided"
    return "better" if (difference.mean < 0) == (direction == "minimize") else "worse"


def _by_seed(name: str, records: Iterable[TrialRecord]) -> dict[int, Report]:
    found: dict[int, Report] = {}
    for record in records:
        if record.status != "completed" or not record.reports:
            continue
        seed = int(record.config["seed"])
        if seed in found:
            raise ValueError(f"two runs of {name!r} have the seed {seed} (trial {record.number})")
        found[seed] = record.reports[-1]
    return dict(sorted(found.items()))
