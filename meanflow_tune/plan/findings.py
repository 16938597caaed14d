"""What a search and its confirmation found: the best trials, and their results on fresh seeds."""

from dataclasses import dataclass
from typing import Any

from meanflow_tune.plan import confirm
from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import TrialRecord
from meanflow_tune.search.analysis.ranking import Row, rank_trials
from meanflow_tune.search.analysis.significance import PairedComparison, rank_by_differences
from meanflow_tune.search.objectives import Objectives


@dataclass(frozen=True)
class Findings:
    """The records of a search and of its confirmation, and the trials that matter.

    winner: the best completed trial, whose configuration is best.json; baseline: the best reference
    baseline (the space's REFERENCE); best: the best trial besides these; rivals: contests of the
    winner that its repeats have not decided; rows: the final table, its first row the baseline.
    """

    records: list[TrialRecord]
    confirmed: list[TrialRecord]
    winner: TrialRecord | None
    best: TrialRecord | None
    baseline: TrialRecord | None
    rivals: tuple[PairedComparison, ...]
    rows: list[Row]

    def facts(self, objectives: Objectives) -> dict[str, Any]:
        """The winner's number and values, for tracking; empty without one."""
        if self.winner is None:
            return {}
        facts: dict[str, Any] = {"best_trial": self.winner.number}
        if self.winner.value is not None:
            return facts | {"best_value": self.winner.value}
        names = map(str, objectives.parts)
        return facts | {"best_values": dict(zip(names, self.winner.values, strict=True))}


def find(plan: Plan, records: list[TrialRecord], confirmed: list[TrialRecord]) -> Findings:
    """Rank the completed trials: one objective by paired differences, several by their fronts."""
    reference = plan.space.reference
    order = rank_trials(records, plan.objectives)
    single = plan.objectives.single
    sides = confirm.sides(records, plan.space, plan.objectives, plan.request.confirm)
    return Findings(
        records=records,
        confirmed=confirmed,
        winner=order[0] if order else None,
        best=next((record for record in order if record.baseline not in reference), None),
        baseline=next((record for record in order if record.baseline in reference), None),
        rivals=rank_by_differences(records, single).undecided if single is not None else (),
        rows=confirm.table(sides, confirmed, plan.objectives, plan.request.seed),
    )
