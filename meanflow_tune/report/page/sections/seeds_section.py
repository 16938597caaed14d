"""Seeds: each run of the confirmation, and repeats in the search, so that chance can be seen."""

from collections.abc import Callable, Sequence

from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import Side
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.page.charts.chart import Axis, Chart, Mark, Role, Series, spread
from meanflow_tune.report.page.charts.svg_chart import figure_of
from meanflow_tune.report.page.markup import Html, join, paragraph, table
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.sections.trial_values import (
    caption_of_objective,
    last_value,
    objective_name,
    objective_of,
)
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.text import figure
from meanflow_tune.search.analysis.significance import scores

ANCHOR, TITLE = "seeds", "Seeds"
MARKS: tuple[Mark, ...] = ("circle", "square", "diamond", "triangle")

Runs = dict[int, TrialRecord]


def seeds_section(view: StudyView) -> Section:
    """The objective of each side on each fresh seed, and of trials with repeats."""
    sides = _sides(view)
    parts: list[Html] = []
    charts: list[Chart] = []
    if sides:
        seeds = sorted({seed for _, runs in sides for seed in runs}, key=_order(view))
        charts.append(_chart(view, sides, seeds))
        parts += [figure_of(charts[0]), _table(view, sides, seeds)]
    else:
        parts.append(
            paragraph(
                "No configuration has been retrained on fresh seeds (yet), so that how much of a difference "
                "is chance cannot be seen here."
            )
        )
    if repeats := _repeats(view):
        parts.append(repeats)
    return Section(ANCHOR, TITLE, join(parts), tuple(charts))


def _sides(view: StudyView) -> list[tuple[Side, Runs]]:
    """Sides of the confirmation with a completed run."""
    request, objectives = view.plan.request, view.objectives
    chosen = confirm.sides(view.records, view.plan.space, objectives, request.confirm)
    found = []
    for side in confirm.trained(chosen, confirm.question_of(view.plan)):
        runs = confirm.runs_of(side, view.findings.confirmed, objectives, request.seed)
        done = {int(r.config["seed"]): r for r in runs if r.status == "completed" and r.reports}
        if done:
            found.append((side, done))
    return found


def _order(view: StudyView) -> Callable[[int], int]:
    known = confirm.fresh_seeds(view.plan.request.seed, 64)

    def place(seed: int) -> int:
        return known.index(seed) if seed in known else len(known)

    return place


def _chart(view: StudyView, sides: Sequence[tuple[Side, Runs]], seeds: Sequence[int]) -> Chart:
    series = []
    every = []
    for place, (side, runs) in enumerate(sides):
        points, tips = [], []
        shift = 0.08 * (place - (len(sides) - 1) / 2)
        for index, seed in enumerate(seeds, 1):
            value = last_value(view, runs[seed]) if seed in runs else None
            if value is not None:
                points.append((index + shift, value))
                tips.append(f"{side.name}, seed {seed}: {value:.4g}")
                every.append(value)
        role: Role = "other" if side.switched else view.role_of(side.candidate)
        mark = MARKS[place % len(MARKS)]
        series.append(
            Series(
                tuple(points),
                role,
                side.name,
                line=True,
                mark=mark,
                dashed=side.switched,
                tips=tuple(tips),
            )
        )
    return Chart(
        name="seeds",
        title=f"{objective_name(view)} on each fresh seed",
        caption=f"{caption_of_objective(view)}Lines that rise and fall together show what the seed does to "
        "all; a gap that stays shows what the settings do. Differences are judged paired, seed by seed.",
        x=Axis(
            "fresh seed",
            low=0.5,
            high=len(seeds) + 0.5,
            ticks=tuple((float(k), str(k)) for k in range(1, len(seeds) + 1)),
        ),
        y=Axis(objective_name(view), log=spread(every)),
        series=tuple(series),
    )


def _table(view: StudyView, sides: Sequence[tuple[Side, Runs]], seeds: Sequence[int]) -> Html:
    rows = []
    for side, runs in sides:
        values = [last_value(view, runs[seed]) if seed in runs else None for seed in seeds]
        rows.append([side.name, *("" if v is None else figure(v) for v in values)])
    head = ("", *(f"{k}: {seed}" for k, seed in enumerate(seeds, 1)))
    return table("The same as numbers, by seed", head, rows)


def _repeats(view: StudyView) -> Html | None:
    """Trials of the search that ran on more seeds than one."""
    repeated = [record for record in view.completed if record.repeats]
    if not repeated:
        return None
    objective = objective_of(view)
    known = [(record, scores(record, objective)) for record in repeated]
    names = list(dict.fromkeys(name for _, found in known for name in found))
    rows = [
        [confirm.title(record), *(figure(found[n]) if n in found else "" for n in names)]
        for record, found in known
    ]
    return table(f"Repeats in the search: {objective_name(view)} by seed", ("trial", *names), rows)
