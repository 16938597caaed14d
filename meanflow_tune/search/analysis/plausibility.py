"""Completed trials whose objective is finite and yet shows that their training failed."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from meanflow_tune.records import TrialRecord
from meanflow_tune.search.objectives import COST, Objectives, SearchObjective, measures

# Named limits and their metrics with NFE, the strictest first.
Limits = Mapping[str, Mapping[str, float]]
# Without a limit: this many times the median of the completed trials, of which there are this many.
MEDIANS, ENOUGH = 100.0, 4
SHOWN = 12


@dataclass(frozen=True)
class Implausible:
    """Completed trials that are worse than what needs no training. than: what that is, in words."""

    trials: tuple[int, ...]
    than: str
    objective: str

    def sentence(self, several: bool = False) -> str:
        """For a user; several: whether the search has several objectives."""
        one = len(self.trials) == 1
        listed = ", ".join(map(str, self.trials[:SHOWN]))
        more = f" and {len(self.trials) - SHOWN} more" if len(self.trials) > SHOWN else ""
        by = f" by {self.objective}" if several else ""
        return (
            f"{len(self.trials)} completed trial{' is' if one else 's are'} worse{by} than {self.than}, "
            f"so {'its' if one else 'their'} training failed: trial{'' if one else 's'} {listed}{more}"
        )


def find_implausible(
    records: Iterable[TrialRecord],
    objectives: Objectives,
    limits_of: Callable[[TrialRecord], Limits],
) -> tuple[Implausible, ...]:
    """Per objective except cost, the completed trials that are beyond a limit.

    limits_of: what a trial is compared with; the first that has all metrics of the objective counts.
    A trial without such a limit is judged by the others: it fails where it exceeds MEDIANS times the
    median of at least ENOUGH completed trials, if the objective is minimised.
    """
    done = [r for r in records if r.status == "completed" and r.reports]
    found: dict[tuple[str, str], list[int]] = {}
    for objective in objectives.parts:
        if COST in objective.metrics:
            continue
        values = {record.number: objective.value(measures(record.reports[-1])) for record in done}
        median = statistics.median(values.values()) if len(values) >= ENOUGH else None
        for record in done:
            than = _beyond(values[record.number], objective, limits_of(record), median)
            if than is not None:
                found.setdefault((than, str(objective)), []).append(record.number)
    return tuple(
        Implausible(tuple(numbers), than, objective) for (than, objective), numbers in found.items()
    )


def explain(found: Sequence[Implausible], leader: int | None, several: bool = False) -> list[str]:
    """Sentences for a user: what was found, and a warning if the leader is among the trials."""
    lines = [f"{one.sentence(several)}." for one in found]
    if any(leader in one.trials for one in found):
        lines.append(
            f"warning: the leader, trial {leader}, is one of them, so best.json holds a configuration "
            "whose training failed."
        )
    return lines


def marks(found: Sequence[Implausible]) -> dict[int, str]:
    """Trial -> `worse than the teacher's own Euler steps`, with the objective."""
    words: dict[int, list[str]] = {}
    for one in found:
        for number in one.trials:
            words.setdefault(number, []).append(f"worse than {one.than} by {one.objective}")
    return {number: "; ".join(texts) for number, texts in sorted(words.items())}


def _beyond(
    value: float, objective: SearchObjective, limits: Limits, median: float | None
) -> str | None:
    """What the value is worse than; None where it is plausible."""
    minimize = objective.direction == "minimize"
    for name, metrics in limits.items():
        if all(metric in metrics for metric in objective.metrics):
            limit = objective.value(metrics)
            return name if (value > limit if minimize else value < limit) else None
    if minimize and median is not None and value > MEDIANS * median > 0.0:
        return f"{MEDIANS:g} times the median of all"
    return None
