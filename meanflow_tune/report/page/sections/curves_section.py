"""Learning curves with what ended them, and the decisions at the rungs."""

from collections.abc import Sequence

from meanflow_tune.plan.confirm import title
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.page.charts.chart import Axis, Chart, Mark, Role, Series, spread
from meanflow_tune.report.page.charts.svg_chart import figure_of
from meanflow_tune.report.page.markup import Html, details, join, paragraph, table, tag
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.sections.trial_values import (
    caption_of_objective,
    objective_name,
    value_of,
)
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.text import figure

ANCHOR, TITLE = "curves", "Learning curves"
DECISIONS = 400  # rows; the newest trials'
# status -> how its end is marked, and in which words
ENDS: dict[str, tuple[Mark, Role, str]] = {
    "completed": ("circle", "other", "completed"),
    "pruned": ("triangle", "other", "stopped at a rung"),
    "paused": ("square", "other", "paused at a rung"),
    "running": ("diamond", "other", "running"),
    "diverged": ("cross", "bad", "diverged"),
    "out_of_memory": ("cross", "bad", "out of memory"),
    "failed": ("cross", "bad", "failed"),
}


def curves_section(view: StudyView) -> Section:
    """Each trial's objective at its rungs."""
    shown = [record for record in view.records if record.reports]
    if not shown:
        return Section(ANCHOR, TITLE, paragraph("No trial has reached a rung yet."))
    chart = _chart(view, shown)
    return Section(
        ANCHOR, TITLE, join([figure_of(chart), _by_rung(shown), _decisions(view, shown)]), (chart,)
    )


def _line(view: StudyView, record: TrialRecord) -> tuple[tuple[float, float], ...]:
    points = []
    for report in record.reports:
        value = value_of(view, report)
        if value is not None:
            points.append((float(report.images), value))
    return tuple(points)


def _chart(view: StudyView, shown: Sequence[TrialRecord]) -> Chart:
    chosen = {one.record.number: one for one in view.chosen()}
    lines: list[Series] = []
    ends: dict[str, list[tuple[TrialRecord, tuple[float, float]]]] = {}
    every: list[float] = []
    faint = min(0.5, max(0.08, 25.0 / len(shown)))
    for record in sorted(shown, key=lambda r: r.number in chosen):
        points = _line(view, record)
        every += [y for _, y in points]
        one = chosen.get(record.number)
        if one is not None:
            label = f"{one.title} ({one.words})"
            lines.append(Series(points, one.role, label, line=True, tips=_tips(record, points)))
        else:
            lines.append(Series(points, "other", line=True, mark=None, strength=faint))
            if points:
                ends.setdefault(record.status, []).append((record, points[-1]))
    marks = [
        Series(
            tuple(point for _, point in members),
            role,
            words,
            mark=mark,
            tips=tuple(_tip(record, point[1]) for record, point in members),
        )
        for status, (mark, role, words) in ENDS.items()
        if (members := ends.get(status))
    ]
    near = [record for record in lines if record.label]
    rest = [record for record in lines if not record.label]
    return Chart(
        name="curves",
        title=f"{objective_name(view)} during training",
        caption=f"{caption_of_objective(view)}A line per trial, measured at its rungs on the latents that "
        "all trials share; the mark at its end says what ended it, and its tooltip why.",
        x=Axis("images seen", log=spread(x for one in lines for x, _ in one.points)),
        y=Axis(objective_name(view), log=spread(every)),
        series=(*rest, *marks, *near),
    )


def _tips(record: TrialRecord, points: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    return tuple(f"{title(record)}: {y:.4g} at {x:,.0f} images" for x, y in points)


def _tip(record: TrialRecord, value: float) -> str:
    words = ENDS[record.status][2]
    why = record.reason or (record.decisions[-1] if record.decisions else "")
    return f"{title(record)}, {words} with {value:.4g}{f': {why}' if why else ''}"


def _by_rung(shown: Sequence[TrialRecord]) -> Html:
    """How many trials each rung let through."""
    rungs = sorted({report.images for record in shown for report in record.reports})
    rows = []
    for images in rungs:
        there = [r for r in shown if any(report.images == images for report in r.reports)]
        last = [r for r in there if r.reports[-1].images == images]
        rows.append(
            [
                f"{images:,}",
                len(there),
                len(there) - len(last),
                *(sum(r.status == s for r in last) for s in ("pruned", "paused", "completed")),
                sum(r.status in ("diverged", "out_of_memory", "failed") for r in last),
            ]
        )
    head = (
        "rung (images)",
        "reported",
        "went on",
        "stopped",
        "paused",
        "completed",
        "failed after it",
    )
    return table("What became of the trials at each rung", head, rows)


def _decisions(view: StudyView, shown: Sequence[TrialRecord]) -> Html:
    rows = []
    for record in reversed(shown):
        for place, report in enumerate(record.reports):
            value = value_of(view, report)
            why = record.decisions[place] if place < len(record.decisions) else ""
            rows.append(
                [
                    title(record),
                    f"{report.images:,}",
                    "" if value is None else figure(value),
                    tag("span", why, class_="reason"),
                ]
            )
    left = len(rows) - DECISIONS
    note = f", of the newest trials; {left} older ones are in the study" if left > 0 else ""
    made = table(
        f"Decisions{note}",
        ("trial", "images", objective_name(view), "decision"),
        rows[:DECISIONS],
        sortable=True,
        class_="decisions",
    )
    return details("Each decision at each rung, and why", made)
