"""What a search and its confirmation have found: who leads, and what the fresh seeds say."""

from dataclasses import dataclass

from meanflow_tune.plan import confirm
from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import TrialRecord
from meanflow_tune.search.analysis.ranking import Row, rank_trials
from meanflow_tune.search.analysis.significance import PairedComparison, rank_by_differences


@dataclass(frozen=True)
class Findings:
    """The records of a search and of its confirmation, and the trials that matter.

    winner: the best of all completed trials, whose configuration is best.json; best: the best that is
    no reference baseline; baseline: the best of these (the space's REFERENCE); rivals: contests of the
    winner that its repeats have not decided; rows: the final table, its first row the baseline.
    """

    records: list[TrialRecord]
    confirmed: list[TrialRecord]
    winner: TrialRecord | None
    best: TrialRecord | None
    baseline: TrialRecord | None
    rivals: tuple[PairedComparison, ...]
    rows: list[Row]


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
