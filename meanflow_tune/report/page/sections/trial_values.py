"""What several sections need: values of trials at a rung, their cost, and their order."""

from collections.abc import Sequence

from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.search.objectives import COST, SearchObjective, measures


def objective_of(view: StudyView) -> SearchObjective:
    """The objective that charts show: the only one, or the first that is no cost."""
    parts = view.objectives.parts
    return next((part for part in parts if part.metrics != (COST,)), parts[0])


def objective_name(view: StudyView) -> str:
    """A short name for axes."""
    objective = objective_of(view)
    return "objective" if len(objective.metrics) > 1 else str(objective)


def value_of(view: StudyView, report: Report) -> float | None:
    """The objective of a report; None where it lacks a metric."""
    try:
        return objective_of(view).value(measures(report))
    except ValueError:
        return None


def last_value(view: StudyView, record: TrialRecord) -> float | None:
    return value_of(view, record.reports[-1]) if record.reports else None


def best_first(view: StudyView, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Records with a value, those that got further first, and among them the better."""
    sign = 1.0 if objective_of(view).direction == "minimize" else -1.0
    known = [(r, v) for r in records if (v := last_value(view, r)) is not None]
    known.sort(key=lambda pair: (-pair[0].reports[-1].images, sign * pair[1], pair[0].number))
    return [record for record, _ in known]


def strengths(count: int) -> list[float]:
    """Opacities of lines from the best to the worst."""
    if count < 2:
        return [1.0] * count
    return [1.0 - 0.75 * place / (count - 1) for place in range(count)]


def caption_of_objective(view: StudyView) -> str:
    objective = objective_of(view)
    better = "lower" if objective.direction == "minimize" else "higher"
    named = (
        f"The objective is {objective}, {better} is better. " if len(objective.metrics) > 1 else ""
    )
    if view.objectives.single is None:
        named += f"Of several objectives, {objective} is drawn. "
    return named
