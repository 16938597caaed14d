"""Rung audit: whether early values told how trials end, and what each rung stopped."""

from collections.abc import Sequence

from meanflow_tune.plan.confirm import title
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.page.charts.chart import Axis, Chart, Series, spread
from meanflow_tune.report.page.charts.svg_chart import charts_in_a_row
from meanflow_tune.report.page.markup import Html, join, paragraph, table
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.sections.trial_values import (
    objective_name,
    objective_of,
    value_of,
)
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.search.analysis.activity import Activity
from meanflow_tune.search.analysis.rung_audit import Audit, audit

ANCHOR, TITLE = "rungs", "Rung audit"


def rung_section(view: StudyView) -> Section:
    """The correlation of each rung with the end, and early against final values."""
    if view.manifest is not None and view.manifest.rungs == "none":
        return Section(ANCHOR, TITLE, paragraph("This search stops no trial early."))
    found = audit(view.records, objective_of(view))
    if not found.rungs:
        text = "No trial that reported at an earlier rung has completed yet."
        return Section(ANCHOR, TITLE, paragraph(text))
    charts = tuple(_chart(view, rung.images) for rung in found.rungs)
    parts = [_table(found), charts_in_a_row(list(charts))]
    if found.advice is not None:
        parts.insert(1, paragraph(f"Warning: {found.advice}.", class_="warning"))
    question = view.plan.space.question
    if view.insight.rungs and question is not None:
        parts.append(_factor(view.insight.rungs, question.factor))
    return Section(ANCHOR, TITLE, join(parts), charts)


def _table(found: Audit) -> Html:
    rows = []
    for rung in found.rungs:
        known = rung.correlation is not None
        words = {True: "yes", False: "hardly", None: "unknown"}[rung.predicts]
        rows.append(
            [
                f"{rung.images:,}",
                words,
                "never stopped ones" if rung.unselected and found.selected else "all completed",
                rung.count,
                f"{rung.correlation:+.2f}" if known else "too few trials",
                f"{rung.low:+.2f} to {rung.high:+.2f}" if known else "",
            ]
        )
    return table(
        "Rank correlation (Kendall's τ) of the value at a rung with the final value: near 1, stopping there "
        "stops the worse trials; near 0, it stops by luck",
        ("rung (images)", "predicts the end", "over", "trials", "τ", "95 % interval"),
        rows,
        text_columns=3,
    )


def _chart(view: StudyView, images: int) -> Chart:
    points: list[tuple[TrialRecord, float, float]] = []
    for record in view.completed:
        early = next((r for r in record.reports[:-1] if r.images == images), None)
        if early is None:
            continue
        x, y = value_of(view, early), value_of(view, record.reports[-1])
        if x is not None and y is not None:
            points.append((record, x, y))
    name = objective_name(view)
    return Chart(
        name=f"rung-{images}",
        title=f"{images:,} images against the end",
        caption=f"{len(points)} completed trials.",
        x=Axis(f"{name} at {images:,} images", log=spread(x for _, x, _ in points)),
        y=Axis(f"final {name}", log=spread(y for _, _, y in points)),
        series=tuple(
            Series(
                ((x, y),),
                view.role_of(record),
                tips=(f"{title(record)}: {x:.4g}, then {y:.4g}",),
                strength=0.8,
            )
            for record, x, y in points
        ),
        small=True,
    )


def _factor(rungs: Sequence[Activity], factor: str) -> Html:
    rows = [
        [
            f"{rung.images:,}",
            f"{rung.stopped_with} of {rung.stopped}",
            f"{rung.passed_with} of {rung.passed}",
            rung.ramping,
        ]
        for rung in rungs
    ]
    head = (
        "rung (images)",
        "stopped ones with it",
        "those that went on with it",
        "stopped in a ramp",
    )
    return table(f"How often proposed trials had {factor}, by what the rung decided", head, rows)
