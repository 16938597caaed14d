"""Quality against the number of function evaluations, with the teacher, data and noise for scale."""

from collections.abc import Mapping

from meanflow_tune.plan import confirm
from meanflow_tune.plan.confirm import Side
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.page.charts.chart import Axis, Chart, Level, Series, spread
from meanflow_tune.report.page.charts.svg_chart import figure_of
from meanflow_tune.report.page.markup import details, join, paragraph, table
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.study_view import Chosen, StudyView
from meanflow_tune.report.text import figure
from meanflow_tune.search.analysis.significance import Interval, interval

ANCHOR, TITLE = "quality", "Quality against the number of evaluations"
SHIFT = 1.035  # between series, so that their intervals stand next to each other


def quality_section(view: StudyView) -> Section:
    """A chart per metric that was measured at several NFE."""
    chosen = [one for one in view.chosen() if one.record.reports]
    names = metric_names([one.record for one in chosen])
    if not chosen or not names:
        text = "No trial has completed yet." if not chosen else "No metric was measured."
        return Section(ANCHOR, TITLE, paragraph(text))
    charts = tuple(_chart(view, chosen, name) for name in names)
    first, *rest = charts
    parts = [figure_of(first), _numbers(view, chosen, names)]
    if rest:
        parts.insert(1, details("Other metrics", *(figure_of(chart) for chart in rest)))
    return Section(ANCHOR, TITLE, join(parts), charts)


def metric_names(records: list[TrialRecord]) -> list[str]:
    """Metrics `name@nfe` by name, without training losses, in the order of the last reports."""
    found: dict[str, None] = {}
    for record in records:
        for key in record.reports[-1].metrics:
            if "@" in key and not key.startswith("loss"):
                found.setdefault(key.partition("@")[0])
    return list(found)


def by_nfe(metrics: Mapping[str, float], name: str) -> dict[int, float]:
    """NFE -> value of a metric, ascending."""
    found = {
        int(key.partition("@")[2]): value
        for key, value in metrics.items()
        if key.partition("@")[0] == name and key.partition("@")[2].isdigit()
    }
    return dict(sorted(found.items()))


def confirmed_values(view: StudyView, one: Chosen, name: str) -> dict[int, Interval]:
    """NFE -> mean and interval over the fresh seeds; empty where it was not confirmed."""
    side = Side(one.title, one.record, untuned=_tuned(view, one))
    runs = confirm.runs_of(side, view.findings.confirmed, view.objectives, view.plan.request.seed)
    done = [run for run in runs if run.status == "completed" and run.reports]
    values: dict[int, list[float]] = {}
    for run in done:
        for nfe, value in by_nfe(run.reports[-1].metrics, name).items():
            values.setdefault(nfe, []).append(value)
    return {nfe: interval(found) for nfe, found in sorted(values.items())}


def _tuned(view: StudyView, one: Chosen) -> bool:
    return any(
        int(run.params["candidate"]) == one.record.number and confirm.FACTOR in run.params
        for run in view.findings.confirmed
    )


def _chart(view: StudyView, chosen: list[Chosen], name: str) -> Chart:
    confirmed = {one.title: confirmed_values(view, one, name) for one in chosen}
    fresh = all(confirmed.values())
    series, every = [], []
    marks = ("circle", "square", "diamond")
    for place, one in enumerate(chosen):
        own = by_nfe(one.record.reports[-1].metrics, name)
        found = confirmed[one.title] if fresh else {n: interval([v]) for n, v in own.items()}
        shift = SHIFT ** (place - (len(chosen) - 1) / 2)
        points = tuple((nfe * shift, each.mean) for nfe, each in found.items())
        spans = tuple(
            None if each.low is None or each.high is None else (each.low, each.high)
            for each in found.values()
        )
        tips = tuple(f"{one.title}, NFE {nfe}: {figure(each.mean)}" for nfe, each in found.items())
        label = f"{one.title} ({one.words})"
        mark = marks[place % len(marks)]
        given = {"line": True, "spans": spans, "tips": tips, "mark": mark}
        series.append(Series(points, one.role, label, **given))  # type: ignore[arg-type]
        every += [point[1] for point in points]
    quality = view.findings.quality
    euler = by_nfe(quality.euler, name)
    if euler:
        points = tuple((float(n), v) for n, v in euler.items())
        tips = tuple(f"teacher's Euler steps, NFE {n}: {figure(v)}" for n, v in euler.items())
        label = "teacher (Euler)"
        series.append(
            Series(points, "teacher", label, line=True, dashed=True, mark="triangle", tips=tips)
        )
        every += list(euler.values())
    levels = tuple(
        Level(quality.held_out[of][name], words)
        for of, words in (
            ("data", "training data"),
            ("teacher", "teacher, solved ODE"),
            ("noise", "noise"),
        )
        if name in quality.held_out.get(of, {})
    )
    every += [level.value for level in levels]
    places = sorted({round(p[0]) for one in series for p in one.points})
    ticks = tuple((float(n), str(n)) for n in places)
    low, high = (places[0], places[-1]) if places else (1, 4)
    return Chart(
        name=f"quality-{name}",
        title=f"{name} against NFE",
        caption=_caption(view, fresh, bool(levels)),
        x=Axis("function evaluations per sample (NFE)", True, low / 1.2, high * 1.2, ticks),
        y=Axis(f"{name}, lower is better", log=spread(every)),
        series=tuple(series),
        levels=levels,
    )


def _caption(view: StudyView, fresh: bool, levels: bool) -> str:
    if fresh:
        what = (
            "Means over the fresh seeds of the confirmation; a bar is the interval of the mean over seeds. "
            "Differences are judged paired, in the answer above: bars that overlap may still differ."
        )
    else:
        what = "Of one seed in the search, so that small differences may be chance."
    return what + (
        " Horizontal lines: the same metric of what is named, for scale." if levels else ""
    )


def _numbers(view: StudyView, chosen: list[Chosen], names: list[str]) -> object:
    rows = []
    for name in names:
        for one in chosen:
            values = confirmed_values(view, one, name)
            own = by_nfe(one.record.reports[-1].metrics, name)
            for nfe, value in own.items():
                mean = values.get(nfe)
                bounds = ["", "", ""]
                if mean is not None:
                    bounds[0] = f"{mean.mean:#.4g}"
                    if mean.low is not None and mean.high is not None:
                        bounds[1:] = [f"{mean.low:#.4g}", f"{mean.high:#.4g}"]
                rows.append([f"{one.title} ({one.words})", name, nfe, f"{value:#.4g}", *bounds])
    head = ("trial", "metric", "NFE", "in the search", "fresh seeds", "from", "to")
    return details("Numbers", table("Quality at each NFE", head, rows, text_columns=2))
