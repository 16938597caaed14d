"""Two configurations against each other: what differs, by how much, on which seeds, at what cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from meanflow_tune.config import TrialConfig
from meanflow_tune.config.overrides import flatten
from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import Side
from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import TrialRecord
from meanflow_tune.search.analysis.ranking import columns, describe_difference
from meanflow_tune.search.analysis.significance import SEEDS_FOR_LEVEL, Interval, interval
from meanflow_tune.search.objectives import Direction, measures

# What every run has of its own, and what no user chose.
OWN = ("seed", "evaluation.latent_seed", "budget.rungs")
COSTS = ("cpu_seconds", "gpu_seconds", "step_ms")


@dataclass(frozen=True)
class Difference:
    """A setting that differs; None where one side has no such setting."""

    setting: str
    base: Any
    other: Any


@dataclass(frozen=True)
class Measured:
    """A measured quantity of both sides: means over `seeds` seeds, and other - base paired by seed.

    change: interval of the paired difference; relative: its mean as a share of the base's, None where
    that is 0; direction: of improvement, None for a cost of the machine.
    """

    name: str
    base: float
    other: float
    change: Interval
    relative: float | None
    direction: Direction | None
    kind: Literal["objective", "quality", "cost"]

    @property
    def improves(self) -> bool | None:
        """Whether `other` is better on every seed (True), worse on every seed (False), or neither."""
        if self.direction is None:
            return None
        said = describe_difference(self.change, self.direction)
        return None if said == "undecided" else said == "better"


@dataclass(frozen=True)
class Contrast:
    """`other` against `base`. seeds: fresh seeds on which both completed; 0: each ran once in the search,
    on its one seed, which confirms nothing.

    base, other: their names; trials: the numbers of their trials in the search; subject: what a pair of
    the question's factor is about, the name of its side in the search; images: of base and of other at
    their ends; configs: as trained.
    """

    base: str
    other: str
    trials: tuple[int, int]
    subject: str
    configs: tuple[Mapping[str, Any], Mapping[str, Any]]
    differences: tuple[Difference, ...]
    seeds: int
    measured: tuple[Measured, ...]
    images: tuple[int, int]

    def of(self, kind: Literal["objective", "quality", "cost"]) -> list[Measured]:
        """What was measured of a kind: the objective and its metrics first, in the order of tables."""
        return [one for one in self.measured if one.kind == kind]


def verdict(change: Interval, direction: Direction) -> str:
    """`better`, `worse` or `undecided` by a paired difference; `leans better` and `leans worse` where its
    seeds are too few for the level."""
    said = describe_difference(change, direction)
    leans = said != "undecided" and change.count < SEEDS_FOR_LEVEL
    return f"leans {said}" if leans else said


def settings_that_differ(base: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """Of two resolved configurations, by dotted path in the order of the first.

    Seeds are left out, and so are defaults of parts that one of the two does not have.
    """
    ours, theirs = flatten(base), flatten(other)
    chosen = _chosen(base) | _chosen(other)
    return [
        Difference(name, ours.get(name), theirs.get(name))
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name) != theirs.get(name)
        and (name in chosen or (name in ours and name in theirs))
        and not name.startswith(OWN)
    ]


def _chosen(config: Mapping[str, Any]) -> set[str]:
    """The settings that are not at their defaults; all where this revision refuses the configuration."""
    try:
        plain = TrialConfig.from_dict(config)
    except ValueError:
        return set(flatten(config))
    return set(flatten(plain.model_dump(mode="json", exclude_defaults=True)))


def contrast_of(
    plan: Plan,
    sides: Sequence[Side],
    confirmed: Sequence[TrialRecord],
    base: TrialRecord | None,
    other: TrialRecord | None,
) -> Contrast | None:
    """Two trials of the search on the fresh seeds of the confirmation, else on their own seed.

    None where one of them is missing or has no report.
    """
    if base is None or other is None or not (base.reports and other.reports):
        return None
    side_of = {side.candidate.number: side for side in sides}
    found = [
        side_of.get(record.number) or Side(confirm.title(record), record)
        for record in (base, other)
    ]
    return _contrast(plan, found[0], found[1], confirmed) or _compare(
        plan, found[0], found[1], [base], [other], seeds=0
    )


def factor_contrasts(
    plan: Plan, sides: Sequence[Side], confirmed: Sequence[TrialRecord]
) -> tuple[Contrast, ...]:
    """With the factor of the space's question against without it, of every pair with a common seed."""
    pairs = confirm.pairs(sides, confirm.question_of(plan))
    found = (_contrast(plan, pair.without, pair.including, confirmed) for pair in pairs)
    return tuple(one for one in found if one is not None)


def _contrast(
    plan: Plan, base: Side, other: Side, confirmed: Sequence[TrialRecord]
) -> Contrast | None:
    """On the fresh seeds that both completed; None without one."""
    runs = [_by_seed(plan, side, confirmed) for side in (base, other)]
    common = [seed for seed in runs[0] if seed in runs[1]]
    if not common:
        return None
    ours, theirs = ([side[seed] for seed in common] for side in runs)

    def named(side: Side) -> Side:
        given = confirmed, plan.objectives, plan.request.seed
        return replace(side, name=confirm.label(side, *given))

    return _compare(plan, named(base), named(other), ours, theirs, seeds=len(common))


def _by_seed(plan: Plan, side: Side, confirmed: Sequence[TrialRecord]) -> dict[int, TrialRecord]:
    runs = confirm.runs_of(side, confirmed, plan.objectives, plan.request.seed)
    done = [run for run in runs if run.status == "completed" and run.reports]
    return {int(run.config["seed"]): run for run in sorted(done, key=lambda run: run.number)}


def _compare(
    plan: Plan,
    base: Side,
    other: Side,
    base_runs: Sequence[TrialRecord],
    other_runs: Sequence[TrialRecord],
    seeds: int,
) -> Contrast:
    """seeds: fresh ones; the runs are paired."""
    first, second = base_runs[0].config, other_runs[0].config
    ends = [[run.reports[-1] for run in side] for side in (base_runs, other_runs)]
    measured = []

    def add(
        name: str,
        kind: Literal["objective", "quality", "cost"],
        direction: Direction | None,
        values: Sequence[Sequence[float | None]],
    ) -> None:
        pairs = [(x, y) for x, y in zip(*values, strict=True) if x is not None and y is not None]
        if len(pairs) < len(values[0]) or not pairs:
            return
        mean = sum(x for x, _ in pairs) / len(pairs)
        change = interval([y - x for x, y in pairs])
        theirs = sum(y for _, y in pairs) / len(pairs)
        relative = change.mean / mean if mean else None
        measured.append(Measured(name, mean, theirs, change, relative, direction, kind))

    shown = columns(plan.objectives)
    for name, objective in shown.items():
        values = [[objective.value(measures(end)) for end in side] for side in ends]
        add(name, "objective", objective.direction, values)
    known = {*shown, *plan.objectives.metrics}
    for name in ends[0][0].metrics:
        if name not in known and "@" in name and not name.startswith("loss/"):
            add(name, "quality", "minimize", [[e.metrics.get(name) for e in side] for side in ends])
    for name in COSTS:
        add(name, "cost", None, [[end.cost.get(name) for end in side] for side in ends])
    return Contrast(
        base=base.name,
        other=other.name,
        trials=(base.candidate.number, other.candidate.number),
        subject=other.name if base.switched else base.name,
        configs=(first, second),
        differences=tuple(settings_that_differ(first, second)),
        seeds=seeds,
        measured=tuple(measured),
        images=(ends[0][0].images, ends[1][0].images),
    )
