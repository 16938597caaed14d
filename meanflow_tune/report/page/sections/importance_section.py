"""Which parameters mattered: importance, best values at a bound, and the objective against each one."""

from collections.abc import Sequence

from meanflow_tune.plan.confirm import title
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.page.charts.chart import Axis, Chart, Role, Series, spread
from meanflow_tune.report.page.charts.svg_chart import charts_in_a_row
from meanflow_tune.report.page.markup import Html, bullets, join, paragraph, table, tag
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.sections.trial_values import objective_name, value_of
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.text import short
from meanflow_tune.search.analysis.influence import FEWEST, Influence, comparable_rung

ANCHOR, TITLE = "importance", "What mattered"
SLICES = 9
LEAST = 0.001  # share of importance that is listed
JITTER = 0.16
LETTERS = 44  # below a small chart, of all choices together

Valued = tuple[TrialRecord, float]


def importance_section(view: StudyView) -> Section:
    """The table of importance, the bounds, and slices through the space."""
    images = comparable_rung(view.records)
    valued = _valued(view, images)
    found = view.insight.influence
    parts: list[Html] = []
    names = _parameters(valued)
    if found is None or not found.importances:
        parts.append(
            paragraph(
                f"Importance is not estimated from {len(valued)} trials with a value at a common rung; "
                f"it needs {FEWEST} at least, of this space."
            )
        )
    else:
        parts += [_importances(found), _bounds(found)]
        names = [name for name in found.importances if name in names]
    charts = tuple(_slice(view, name, valued, images or 0) for name in names[:SLICES])
    if charts:
        parts.append(tag("h3", "Slices"))
        parts.append(
            paragraph(
                f"The objective at {images:,} images against one parameter at a time, all others "
                "as they were; a trial that has no such parameter is left out."
            )
        )
        parts.append(charts_in_a_row(list(charts)))
    return Section(ANCHOR, TITLE, join(parts), charts)


def _valued(view: StudyView, images: int | None) -> list[Valued]:
    found = []
    for record in view.records:
        report = next((r for r in record.reports if r.images == images), None)
        value = value_of(view, report) if report is not None else None
        if value is not None:
            found.append((record, value))
    return found


def _parameters(valued: Sequence[Valued]) -> list[str]:
    """Parameters with several values, those of most trials first."""
    counts: dict[str, int] = {}
    values: dict[str, set[object]] = {}
    for record, _ in valued:
        for name, value in record.params.items():
            counts[name] = counts.get(name, 0) + 1
            values.setdefault(name, set()).add(value)
    return sorted((n for n in counts if len(values[n]) > 1), key=lambda n: -counts[n])


def _importances(found: Influence) -> Html:
    rows = []
    shown = {name: share for name, share in found.importances.items() if share >= LEAST}
    largest = max(shown.values(), default=1.0)
    for name, share in shown.items():
        bar = tag("span", class_="bar", style=f"width:{max(1.0, 160 * share / largest):.0f}px")
        rows.append([tag("code", name), bar, f"{share:.1%}"])
    left = len(found.importances) - len(shown)
    others = f" {left} parameters with less than {LEAST:.1%} are left out." if left else ""
    return table(
        f"Importance: what set the best {found.quantile:.0%} of {found.count} trials apart at "
        f"{found.images:,} images (PED-ANOVA, shares of all importance). It says which parameters "
        "mattered for being among the best, not in which direction." + others,
        ("parameter", "", "share"),
        rows,
        text_columns=2,
        class_="importance",
    )


def _bounds(found: Influence) -> Html:
    heading = tag("h3", "Boundary check")
    if not found.boundaries:
        text = "No parameter of the best trials lies at an end of its range."
        return join([heading, paragraph(text)])
    lines = [
        join(
            [
                "The best ",
                one.count,
                " trials lie at the ",
                one.at,
                " end of ",
                tag("code", one.name),
                f": {short(one.typical)} in the middle, with the bound at {short(one.bound)}. A wider "
                "range may be better.",
            ]
        )
        for one in found.boundaries
    ]
    return join([heading, bullets(lines)])


def _slice(view: StudyView, name: str, valued: Sequence[Valued], images: int) -> Chart:
    own = [(r, r.params[name], y) for r, y in valued if name in r.params]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for _, v, _ in own)
    choices = sorted({short(v) for _, v, _ in own}) if not numeric else []
    few = sorted({v for _, v, _ in own}) if numeric else []
    if numeric and 1 < len(few) <= 4 and all(isinstance(v, int) for v in few):
        numeric, choices = False, [short(v) for v in few]
    groups: dict[Role, list[tuple[float, float, str]]] = {}
    for index, (record, value, y) in enumerate(own):
        if numeric:
            x = float(value)
        else:
            x = choices.index(short(value)) + JITTER * ((index * 0.618) % 1.0 - 0.5) * 2
        tip = f"{title(record)}: {short(value)} gives {y:.4g}"
        groups.setdefault(view.role_of(record), []).append((x, y, tip))
    order = sorted(groups, key=lambda role: role not in ("other", "bad"))
    series = tuple(
        Series(
            tuple((x, y) for x, y, _ in groups[role]),
            role,
            tips=tuple(tip for _, _, tip in groups[role]),
            strength=1.0 if role in ("leader", "reference", "proposed") else 0.6,
        )
        for role in order
    )
    if numeric:
        axis = Axis(name, log=spread(float(v) for _, v, _ in own))
    else:
        letters = max(3, LETTERS // max(1, len(choices)))
        ticks = tuple((float(i), _shortened(c, letters)) for i, c in enumerate(choices))
        axis = Axis(name, low=-0.5, high=len(choices) - 0.5, ticks=ticks)
    return Chart(
        name=f"slice-{name.replace('/', '-')}",
        title=name,
        caption=f"{len(own)} trials.",
        x=axis,
        y=Axis(objective_name(view), log=spread(y for _, _, y in own)),
        series=series,
        small=True,
    )


def _shortened(choice: str, letters: int) -> str:
    return choice if len(choice) <= letters else f"{choice[: letters - 1]}…"
