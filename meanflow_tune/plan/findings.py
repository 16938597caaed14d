"""What a search and its confirmation found: the trials that matter, and their results on fresh seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from meanflow_tune.plan import confirm
from meanflow_tune.plan.contrast import Contrast, contrast_of, factor_contrasts
from meanflow_tune.plan.insight import Insight, insight_of
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.quality import Quality, quality_of
from meanflow_tune.records import TrialRecord
from meanflow_tune.search.analysis.plausibility import Implausible, Limits, find_implausible, marks
from meanflow_tune.search.analysis.ranking import Row, rank_trials
from meanflow_tune.search.analysis.significance import PairedComparison, rank_by_differences
from meanflow_tune.search.objectives import Objectives


@dataclass(frozen=True)
class Findings:
    """The records of a search and of its confirmation, and the trials that matter.

    order: the completed trials, the leader first. leader: the best of all, whose configuration is
    best.json, be it a baseline or proposed; best_proposed: the best that the sampler proposed, which may
    be worse than a baseline; reference: the best reference baseline (the space's REFERENCE). None where
    no such trial completed.

    rivals: comparisons of the leader that its repeats have not decided; rows: the final table, its first
    row the reference; implausible: completed trials whose training failed; quality: what samples were
    compared with, of the reference where that is known. winner: against the reference, the leader, or, where
    the reference leads, the best proposed trial; pairs: with the factor of the space's question against
    without it, the reference's first; empty where nothing asks or answers it.
    """

    records: list[TrialRecord]
    confirmed: list[TrialRecord]
    order: tuple[TrialRecord, ...]
    leader: TrialRecord | None
    best_proposed: TrialRecord | None
    reference: TrialRecord | None
    rivals: tuple[PairedComparison, ...]
    rows: list[Row]
    implausible: tuple[Implausible, ...]
    quality: Quality
    winner: Contrast | None = None
    pairs: tuple[Contrast, ...] = ()
    make_insight: Callable[[], Insight] = field(default=Insight, compare=False, repr=False)

    @cached_property
    def insight(self) -> Insight:
        """What the trials say about the parameters; made once, since it takes a while for many trials."""
        return self.make_insight()

    def facts(self, objectives: Objectives) -> dict[str, Any]:
        """For the tags of the search's run in tracking; empty where no trial completed.

        best_trial, best_value: of the leader, which may be a baseline (best_trial_is says so);
        best_proposed_..., reference_...: of those trials; implausible_trials: whose training failed, or
        `none`; best_trial_implausible: why the leader's did, or `no`.
        """
        if self.leader is None:
            return {}
        facts = self._facts_of("best", self.leader, objectives)
        facts["best_trial_is"] = kind_of(self.leader)
        if self.best_proposed is not None:
            facts |= self._facts_of("best_proposed", self.best_proposed, objectives)
        if self.reference is not None:
            facts |= self._facts_of("reference", self.reference, objectives)
        # Always there: a tag of an earlier end of this search would stay, and no longer be true.
        known = marks(self.implausible)
        facts["implausible_trials"] = ", ".join(map(str, known)) or "none"
        facts["best_trial_implausible"] = known.get(self.leader.number, "no")
        return facts

    def _facts_of(self, name: str, record: TrialRecord, objectives: Objectives) -> dict[str, Any]:
        facts: dict[str, Any] = {f"{name}_trial": record.number}
        if record.value is not None:
            return facts | {f"{name}_value": record.value}
        names = map(str, objectives.parts)
        return facts | {f"{name}_values": dict(zip(names, record.values, strict=True))}

    def figures(self) -> dict[str, float]:
        """For the metrics of the search's run: `held_out/teacher/sliced_wasserstein` and so on."""
        return {
            f"held_out/{of}/{name}": value
            for of, metrics in self.quality.held_out.items()
            for name, value in metrics.items()
        }


def kind_of(record: TrialRecord) -> str:
    """`proposed`, or `baseline forward`."""
    return "proposed" if record.baseline is None else f"baseline {record.baseline}"


def find(plan: Plan, records: list[TrialRecord], confirmed: list[TrialRecord]) -> Findings:
    """Rank the completed trials: one objective by paired differences, several by their fronts."""
    names = plan.space.reference
    order = rank_trials(records, plan.objectives)
    single = plan.objectives.single
    sides = confirm.sides(records, plan.space, plan.objectives, plan.request.confirm)
    reference = next((record for record in order if record.baseline in names), None)
    leader = order[0] if order else None
    best_proposed = next((record for record in order if record.baseline is None), None)
    winner = best_proposed if leader is reference else leader
    return Findings(
        records=records,
        confirmed=confirmed,
        order=order,
        leader=leader,
        best_proposed=best_proposed,
        reference=reference,
        rivals=rank_by_differences(records, single).undecided if single is not None else (),
        rows=confirm.table(sides, confirmed, plan.objectives, plan.request.seed),
        implausible=implausible_trials(records, plan.objectives),
        quality=first_known([*([reference] if reference else []), *order, *records]),
        winner=contrast_of(plan, sides, confirmed, reference, winner),
        pairs=factor_contrasts(plan, sides, confirmed),
        make_insight=partial(insight_of, plan, records),
    )


def implausible_trials(
    records: Sequence[TrialRecord],
    objectives: Objectives,
    limits_of: Callable[[TrialRecord], Limits] = lambda record: quality_of(record).limits,
) -> tuple[Implausible, ...]:
    """Completed trials that are worse than what their own files of samples compare them with."""
    return find_implausible(records, objectives, limits_of)


def first_known(records: Sequence[TrialRecord]) -> Quality:
    """The figures of the first trial that has any."""
    found = (quality_of(record) for record in records)
    return next((quality for quality in found if quality), Quality())
