"""Quality against cost: every completed trial, and the front of those that no other beats in both."""

from collections.abc import Sequence

from meanflow_tune.plan.confirm import title
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.page.charts.chart import Axis, Chart, Series, spread
from meanflow_tune.report.page.charts.svg_chart import figure_of
from meanflow_tune.report.page.markup import join, paragraph, table
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.sections.trial_values import (
    caption_of_objective,
    objective_name,
    objective_of,
    value_of,
)
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.text import about, figure
from meanflow_tune.search.objectives import COST, measures
from meanflow_tune.search.pareto import non_dominated

ANCHOR, TITLE = "front", "Quality and cost"
Placed = tuple[TrialRecord, float, float]


def front_section(view: StudyView) -> Section:
    """The objective against the cost of training, with the Pareto front of the two."""
    placed = _placed(view)
    if not placed:
        why = "No trial has completed yet." if not view.completed else "No cost was measured."
        return Section(ANCHOR, TITLE, paragraph(why))
    directions = (objective_of(view).direction, "minimize")
    best = non_dominated([(y, x) for _, x, y in placed], directions)  # type: ignore[arg-type]
    front = sorted((p for p, on in zip(placed, best, strict=True) if on), key=lambda p: p[1])
    charts = [_chart(view, placed, front)]
    parts = [figure_of(charts[0]), _numbers(view, front)]
    if view.objectives.single is None:
        charts.append(_objectives(view, placed))
        parts.insert(1, figure_of(charts[1]))
    return Section(ANCHOR, TITLE, join(parts), tuple(charts))


def _placed(view: StudyView) -> list[Placed]:
    found = []
    for record in view.completed:
        cost, value = measures(record.reports[-1]).get(COST), value_of(view, record.reports[-1])
        if cost is not None and value is not None:
            found.append((record, cost, value))
    return found


def _unit(placed: Sequence[Placed]) -> str:
    gpu = any("gpu_seconds" in record.reports[-1].cost for record, _, _ in placed)
    return "GPU seconds" if gpu else "processor seconds"


def _points(view: StudyView, points: Sequence[tuple[TrialRecord, float, float]]) -> list[Series]:
    """A series per kind of trial; those looked at closely come last, on top."""
    chosen = {one.record.number: one for one in view.chosen()}
    groups: dict[str, list[tuple[TrialRecord, float, float]]] = {}
    for each in points:
        one = chosen.get(each[0].number)
        kind = "other trials" if each[0].baseline is None else "other baselines"
        groups.setdefault(f"{one.title} ({one.words})" if one else kind, []).append(each)
    named = sorted(groups, key=lambda name: (not name.startswith("other"), name))
    made = []
    for name in named:
        members = groups[name]
        mark = "diamond" if name == "other baselines" else "circle"
        tips = tuple(f"{title(r)}: {y:.4g} at {x:.4g}" for r, x, y in members)
        strength = 0.75 if name.startswith("other") else 1.0
        at = tuple((x, y) for _, x, y in members)
        role = view.role_of(members[0][0])
        made.append(Series(at, role, name, mark=mark, tips=tips, strength=strength))  # type: ignore[arg-type]
    return made


def _chart(view: StudyView, placed: Sequence[Placed], front: Sequence[Placed]) -> Chart:
    line = tuple((x, y) for _, x, y in front)
    name, unit = objective_name(view), _unit(placed)
    return Chart(
        name="front",
        title=f"{name} against the cost of training",
        caption=f"{caption_of_objective(view)}A point per completed trial, on the seed of the search. The "
        "line joins the front: no other trial is both better and cheaper. Cost is that of the training "
        "alone, not of the evaluation.",
        x=Axis(unit, log=spread(x for _, x, _ in placed)),
        y=Axis(name, log=spread(y for _, _, y in placed)),
        series=(
            Series(line, "ink", "front", line=True, mark=None, dashed=True),
            *_points(view, placed),
        ),
    )


def _objectives(view: StudyView, placed: Sequence[Placed]) -> Chart:
    first, second = view.objectives.parts[:2]
    points = []
    for record, _, _ in placed:
        values = view.objectives.values(record.reports[-1])
        points.append((record, values[0], values[1]))
    return Chart(
        name="objectives",
        title=f"{second} against {first}",
        caption="The first two objectives of the completed trials.",
        x=Axis(str(first), log=spread(x for _, x, _ in points)),
        y=Axis(str(second), log=spread(y for _, _, y in points)),
        series=tuple(_points(view, points)),
    )


def _numbers(view: StudyView, front: Sequence[Placed]) -> object:
    rows = [
        [title(record), "baseline" if record.baseline else "proposed", figure(y), about(x)]
        for record, x, y in front
    ]
    return table("The front", ("trial", "what", objective_name(view), "cost"), rows, text_columns=2)
