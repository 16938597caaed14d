"""What the trials of a search say about its parameters: importance, bounds, and the question's factor."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meanflow_tune.plan.plan import Plan
from meanflow_tune.records import TrialRecord
from meanflow_tune.search.analysis.activity import Activity, activity
from meanflow_tune.search.analysis.influence import Influence, influence

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Insight:
    """influence: None for too few trials; rungs: of the question's factor, empty without a question."""

    influence: Influence | None = None
    rungs: tuple[Activity, ...] = ()


def insight_of(plan: Plan, records: Sequence[TrialRecord]) -> Insight:
    """Nothing of it decides anything, so what cannot be computed is left out with a warning."""
    question = plan.space.question

    def has(config: Mapping[str, Any]) -> bool:
        return question is not None and question.has(config)

    try:
        found = influence(records, plan.objectives, plan.space.suggest)
        rungs = activity(records, has, plan.ramps_end) if question is not None else []
    except Exception:  # of a space's own code, or of a library
        log.warning("the importance of parameters is left out", exc_info=True)
        return Insight()
    return Insight(found, tuple(rungs))
