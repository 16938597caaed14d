"""The answer: which settings won, by how much, how sure, at which NFE, and at what cost."""

from collections.abc import Iterable, Mapping
from typing import Any

from meanflow_tune.config.overrides import flatten
from meanflow_tune.plan.confirm import title
from meanflow_tune.plan.findings import kind_of
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.page.markup import Html, join, paragraph, table, tag
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.text import about, counted, figure, short
from meanflow_tune.search.analysis.ranking import Row, columns, describe_difference
from meanflow_tune.search.analysis.significance import LEVEL, Interval
from meanflow_tune.search.objectives import measures

ANCHOR, TITLE = "answer", "The answer"


def answer_section(view: StudyView) -> Section:
    """In words first, then the tables they rest on."""
    found = view.findings
    parts: list[Html] = [_goal(view)]
    if found.leader is None:
        parts.append(paragraph(_nothing_yet(view), class_="verdict"))
        return Section(ANCHOR, TITLE, join(parts))
    parts += [paragraph(line, class_="verdict") for line in verdicts(view)]
    if found.reference is not None and found.leader is not found.reference:
        parts.append(_differences(found.reference, found.leader))
    if found.rows:
        parts.append(_confirmation(view))
    parts.append(_costs(view))
    return Section(ANCHOR, TITLE, join(parts))


def _goal(view: StudyView) -> Html:
    return paragraph(tag("b", "Goal."), " ", view.plan.space.goal, class_="goal")


def _nothing_yet(view: StudyView) -> str:
    count = len(view.records)
    if view.running:
        return f"No trial has completed yet, of {counted(count, 'trial')} started."
    return (
        f"No trial completed, of {counted(count, 'trial')}, so that there is no answer; the trials and "
        "what ended them are listed below."
    )


def verdicts(view: StudyView) -> list[str]:
    """Who leads, and what the confirmation says about it at each column."""
    found = view.findings
    assert found.leader is not None
    lines = [f"The leader is trial {found.leader.number} ({kind_of(found.leader)})."]
    shown = columns(view.objectives)
    for row in found.rows[1:]:
        if not row.against:
            continue
        words = [
            f"{name} {describe_difference(row.against[name], objective.direction)}"
            for name, objective in shown.items()
        ]
        lines.append(f"{row.name} against the reference {found.rows[0].name}: {'; '.join(words)}.")
    if found.rows:
        lines.append(_how_sure(found.rows[1:]))
    elif len(found.order) > 1:
        lines.append(
            "Nothing was confirmed on fresh seeds, so that the order of the trials is partly chance and "
            "nothing is called better."
        )
    return lines


def _how_sure(rows: Iterable[Row]) -> str:
    count = min((next(iter(row.against.values())).count for row in rows if row.against), default=0)
    if count < 2:
        return "One seed gives no interval."
    if count >= 6:
        return f"Intervals are of paired differences over {count} seeds, at {LEVEL:.0%}."
    return (
        f"With {count} seeds an interval contains the true difference in at most "
        f"{1 - 2 ** (1 - count):.0%} of cases; --confirm-seeds 6 makes it {LEVEL:.0%}."
    )


def _differences(reference: TrialRecord, leader: TrialRecord) -> Html:
    rows = [
        (tag("code", name), short(theirs), short(ours))
        for name, theirs, ours in differing(reference.config, leader.config)
    ]
    if not rows:
        return paragraph("The leader has the settings of the reference.")
    head = ("setting", f"reference: {title(reference)}", f"leader: {title(leader)}")
    return table("What differs in the settings", head, rows, text_columns=3)


def differing(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, object, object]]:
    """path, value, value of each setting that differs; a missing one is empty."""
    left, right = dict(flatten(dict(first))), dict(flatten(dict(second)))
    names = [*left, *(name for name in right if name not in left)]
    return [
        (name, left.get(name, ""), right.get(name, ""))
        for name in names
        if left.get(name) != right.get(name) and name != "seed"
    ]


def _confirmation(view: StudyView) -> Html:
    shown = columns(view.objectives)
    rows: list[list[object]] = []
    first = view.findings.rows[0]
    for row in view.findings.rows:
        name = f"reference: {row.name}" if row is first else row.name
        rows.append([name, *(_interval(row.means[c]) for c in shown)])
    for row in view.findings.rows[1:]:
        if row.against:
            cells = [_difference(row, column) for column in shown]
            rows.append([f"{row.name} − reference", *cells])
    seeds = max(len(row.seeds) for row in view.findings.rows)
    return table(
        f"Retrained on {counted(seeds, 'fresh seed')} and judged on fresh latents; differences are paired "
        "by seed",
        ("", *shown),
        rows,
    )


def _interval(found: Interval, sign: str = "") -> Html:
    mean = tag("span", f"{found.mean:{sign}.4f}")
    if found.low is None or found.high is None:
        return mean
    return join([mean, tag("small", f"{found.low:{sign}.4f} to {found.high:{sign}.4f}")])


def _difference(row: Row, column: str) -> Html:
    share = row.relative[column]
    percent = [] if share is None else [tag("small", f"{100 * share:+.1f} %")]
    return join([_interval(row.against[column], "+"), *percent])


def _costs(view: StudyView) -> Html:
    shown = columns(view.objectives)
    rows = []
    for one in view.chosen():
        report = one.record.reports[-1]
        found = measures(report)
        seconds = found.get("cost")
        step = report.cost.get("step_ms")
        rows.append(
            [
                f"{one.title} ({one.words})",
                *(figure(o.value(found)) for o in shown.values()),
                f"{report.images:,}",
                "" if seconds is None else about(seconds),
                "" if step is None else f"{step:.2f}",
            ]
        )
    unit = "GPU time" if _on_gpu(view) else "processor time"
    return table(
        "In the search: one seed, the same latents, and what the training cost",
        ("trial", *shown, "images", unit, "ms per step"),
        rows,
    )


def _on_gpu(view: StudyView) -> bool:
    return any("gpu_seconds" in r.reports[-1].cost for r in view.completed)
