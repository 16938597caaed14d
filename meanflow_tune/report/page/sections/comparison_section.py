"""Several studies against the first: what is comparable, then at equal images, equal compute, and paired."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meanflow_tune.plan import confirm
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.answer import how_sure
from meanflow_tune.report.page.charts.chart import Axis, Chart, Role, Series, spread
from meanflow_tune.report.page.charts.svg_chart import figure_of
from meanflow_tune.report.page.markup import Html, bullets, join, paragraph, table, tag
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.sections.trial_values import (
    objective_name,
    objective_of,
    value_of,
)
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.text import counted, figure
from meanflow_tune.search.analysis.ranking import describe_difference
from meanflow_tune.search.analysis.significance import interval
from meanflow_tune.search.objectives import COST, measures

ANCHOR, TITLE = "comparison", "Comparison of the studies"
ROLES: tuple[Role, ...] = ("reference", "leader", "proposed", "ink")


@dataclass(frozen=True)
class Hindrance:
    """Something that differs between two studies. fatal: their values are no longer of one quantity."""

    text: str
    fatal: bool


def comparison_section(views: Sequence[StudyView]) -> Section:
    """The leaders of the studies, each against that of the first."""
    first = views[0]
    parts: list[Html] = []
    compared = [first]
    for other in views[1:]:
        found = hindrances(first, other)
        parts.append(tag("h3", f"{other.name} against {first.name}"))
        parts += _said(found)
        if not any(one.fatal for one in found):
            compared.append(other)
    charts: tuple[Chart, ...] = ()
    led = [view for view in compared if view.findings.leader is not None]
    if len(led) < 2 or led[0] is not first:
        parts.append(
            paragraph("There are no two studies with a leader whose values can be compared.")
        )
    else:
        charts = (_curves(led, "images"), _curves(led, "cost"))
        parts += [*map(figure_of, charts), _equal(led), *(_paired(first, v) for v in led[1:])]
    return Section(ANCHOR, TITLE, join(parts), charts)


def hindrances(first: StudyView, other: StudyView) -> list[Hindrance]:
    """What stands between the values of two studies, the fatal first."""
    found = []
    ours, theirs = _leader_config(first), _leader_config(other)
    if str(first.objectives) != str(other.objectives):
        text = f"their objectives differ ({first.objectives}; {other.objectives})"
        found.append(Hindrance(text, fatal=True))
    if first.plan.data_fingerprint != other.plan.data_fingerprint:
        found.append(Hindrance("their data differ", fatal=True))
    if ours is not None and theirs is not None:
        needs_teacher = any(name.startswith("teacher_gap@") for name in first.objectives.metrics)
        if any(_of(ours, key) != _of(theirs, key) for key in ("teacher", "guidance")):
            text = "their teachers differ" + (
                ", and teacher_gap is the distance to each one's own teacher"
                if needs_teacher
                else ""
            )
            found.append(Hindrance(text, fatal=needs_teacher))
        evaluation = [dict(_of(config, "evaluation") or {}) for config in (ours, theirs)]
        latents = [one.pop("latent_seed", None) for one in evaluation]
        if evaluation[0] != evaluation[1]:
            found.append(
                Hindrance("their evaluations differ (samples, solver, or metrics)", fatal=True)
            )
        if latents[0] != latents[1]:
            text = (
                "they were measured from different latents, so that part of a difference is chance"
            )
            found.append(Hindrance(text, fatal=False))
        if _of(ours, "seed") != _of(theirs, "seed"):
            text = "they trained on different seeds, so that values of the search are not paired"
            found.append(Hindrance(text, fatal=False))
    versions = [v.manifest.versions.get("torch") if v.manifest else None for v in (first, other)]
    if versions[0] != versions[1]:
        found.append(Hindrance(f"torch was {versions[0]} and {versions[1]}", fatal=False))
    codes = [v.manifest.code for v in (first, other) if v.manifest is not None]
    if len(codes) == 2 and codes[0] and codes[1] and codes[0] != codes[1]:
        changed = sorted(k for k in codes[0] if codes[0][k] != codes[1].get(k))
        if changed:
            found.append(
                Hindrance(f"the code of {', '.join(changed)} changed between them", fatal=False)
            )
    return sorted(found, key=lambda one: not one.fatal)


def _leader_config(view: StudyView) -> dict[str, Any] | None:
    leader = view.findings.leader or next((r for r in view.records if r.reports), None)
    return leader.config if leader is not None else None


def _of(config: dict[str, Any], key: str) -> Any:
    return json.loads(json.dumps(config.get(key)))


def _said(found: Sequence[Hindrance]) -> list[Html]:
    fatal = [one.text for one in found if one.fatal]
    minor = [one.text for one in found if not one.fatal]
    parts = []
    if fatal:
        text = f"Not comparable: {'; '.join(fatal)}. No value of one is set against a value of the other."
        parts.append(paragraph(tag("b", text), class_="warning"))
    else:
        parts.append(paragraph("Comparable: objective, data, evaluation and teacher are the same."))
    if minor:
        parts += [paragraph("Mind that"), bullets(minor)]
    return parts


def _resource(record: TrialRecord, what: str) -> list[tuple[float, int]]:
    """Images, or the cost, at each report, with its place."""
    found = []
    for place, report in enumerate(record.reports):
        x = float(report.images) if what == "images" else measures(report).get(COST)
        if x is not None:
            found.append((x, place))
    return found


def _points(view: StudyView, record: TrialRecord, what: str) -> tuple[tuple[float, float], ...]:
    found = []
    for x, place in _resource(record, what):
        value = value_of(view, record.reports[place])
        if value is not None:
            found.append((x, value))
    return tuple(found)


def _curves(views: Sequence[StudyView], what: str) -> Chart:
    series = []
    for place, view in enumerate(views):
        leader = view.findings.leader
        assert leader is not None
        points = _points(view, leader, what)
        tips = tuple(
            f"{view.name}, {confirm.title(leader)}: {y:.4g} at {x:,.4g}" for x, y in points
        )
        label = f"{view.name}: {confirm.title(leader)}"
        series.append(Series(points, ROLES[place], label, line=True, tips=tips))
    label = "images seen" if what == "images" else "seconds of compute"
    every = [y for one in series for _, y in one.points]
    return Chart(
        name=f"studies-{what}",
        title=f"The studies' leaders at equal {'images' if what == 'images' else 'compute'}",
        caption="At its rungs, on the seed of its own search.",
        x=Axis(label, log=spread(x for one in series for x, _ in one.points)),
        y=Axis(objective_name(views[0]), log=spread(every)),
        series=tuple(series),
    )


def _equal(views: Sequence[StudyView]) -> Html:
    """The objective of each leader at the largest amount that all of them have reached."""
    rows = []
    for what, words in (("images", "images"), ("cost", "seconds of compute")):
        curves = [_points(v, v.findings.leader, what) for v in views if v.findings.leader]
        if not all(curves):
            continue
        amount = min(curve[-1][0] for curve in curves)
        values = [value_at(curve, amount) for curve in curves]
        rows.append(
            [f"at {amount:,.4g} {words}", *("–" if v is None else figure(v) for v in values)]
        )
    head = ("", *(view.name for view in views))
    return table(
        "The leaders at equal images and at equal compute, on one seed each; between rungs the value is "
        "interpolated in the logarithm",
        head,
        rows,
    )


def value_at(curve: Sequence[tuple[float, float]], amount: float) -> float | None:
    """The value of a curve at an amount; None before its first point."""
    before = [point for point in curve if point[0] <= amount]
    after = [point for point in curve if point[0] >= amount]
    if not before or not after:
        return None
    (x0, y0), (x1, y1) = before[-1], after[0]
    if x0 == x1:
        return y0
    share = (math.log(amount) - math.log(x0)) / (math.log(x1) - math.log(x0)) if x0 > 0 else 1.0
    return y0 + share * (y1 - y0)


def _paired(first: StudyView, other: StudyView) -> Html:
    """The leaders on the fresh seeds that both confirmations have, where their latents are the same."""
    ours, theirs = (_confirmed(view) for view in (first, other))
    common = [key for key in ours if key in theirs]
    name = f"{other.name} − {first.name}"
    if not common:
        return paragraph(
            f"{name}: not paired, since the leaders share no fresh seed with the same latents; both studies "
            "have the same ones where they have the same --seed and both leaders were confirmed."
        )
    objective = objective_of(first)
    differences, relative = [], []
    for key in common:
        values = [objective.value(measures(runs[key].reports[-1])) for runs in (ours, theirs)]
        differences.append(values[1] - values[0])
        relative.append(values[0])
    found = interval(differences)
    base = sum(relative) / len(relative)
    percent = f", {100 * found.mean / base:+.1f} %" if base else ""
    words = f"{found.mean:+.4f}"
    if found.low is not None and found.high is not None:
        words += f" [{found.low:+.4f}, {found.high:+.4f}]"
    verdict = {
        "better": f"{other.name} is better",
        "worse": f"{other.name} is worse",
        "undecided": "the two cannot be told apart",
    }[describe_difference(found, objective.direction)]
    return paragraph(
        f"{name}, the leaders paired on {counted(len(common), 'fresh seed')} and the same latents: "
        f"{objective_name(first)} {words}{percent}, so {verdict}. {how_sure(len(common))}"
    )


def _confirmed(view: StudyView) -> dict[tuple[int, int], TrialRecord]:
    """(seed, latent seed) -> completed run of the leader on it."""
    leader = view.findings.leader
    sides = confirm.sides(view.records, view.plan.space, view.objectives, view.plan.request.confirm)
    side = next(
        (s for s in sides if leader is not None and s.candidate.number == leader.number), None
    )
    if side is None:
        return {}
    given = view.findings.confirmed, view.objectives, view.plan.request.seed
    runs = confirm.runs_of(side, *given)
    return {
        (int(run.config["seed"]), int(run.config["evaluation"]["latent_seed"])): run
        for run in runs
        if run.status == "completed" and run.reports
    }
