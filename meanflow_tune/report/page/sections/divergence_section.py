"""Which settings diverged: the share of diverged trials by parameter, and the two that tell most."""

from collections.abc import Sequence
from dataclasses import dataclass

from meanflow_tune.plan.confirm import title
from meanflow_tune.records import INFEASIBLE, TrialRecord
from meanflow_tune.report.page.charts.chart import Axis, Chart, Series, spread
from meanflow_tune.report.page.charts.svg_chart import figure_of
from meanflow_tune.report.page.markup import Html, join, paragraph, table, tag
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.text import counted, short

ANCHOR, TITLE = "divergence", "Divergence map"
ROWS = 12


@dataclass(frozen=True)
class Bin:
    """A choice, or a third of the values, of a parameter."""

    text: str
    failed: int
    count: int

    @property
    def share(self) -> float:
        return self.failed / self.count if self.count else 0.0


def divergence_section(view: StudyView) -> Section:
    """Where training failed, by parameter."""
    tried = [r for r in view.records if r.reports or r.status in INFEASIBLE]
    failed = [r for r in tried if r.status in INFEASIBLE]
    if not failed:
        text = f"None of {counted(len(tried), 'trial')} diverged or ran out of memory."
        return Section(
            ANCHOR, TITLE, paragraph(text if tried else "No trial has reached a rung yet.")
        )
    bins = _ranked(tried)
    head = f"{len(failed)} of {counted(len(tried), 'trial')} diverged or ran out of memory."
    parts = [paragraph(head), _table(bins), _reasons(failed)]
    numeric = [name for name in bins if _is_number(name, tried)]
    charts: tuple[Chart, ...] = ()
    if len(numeric) > 1:
        charts = (_chart(numeric[0], numeric[1], tried),)
        parts.insert(1, figure_of(charts[0]))
    return Section(ANCHOR, TITLE, join(parts), charts)


def _ranked(tried: Sequence[TrialRecord]) -> dict[str, list[Bin]]:
    """parameter -> its bins, those that tell most about failure first."""
    names = dict.fromkeys(name for record in tried for name in record.params)
    found = {name: _bins(name, tried) for name in names}
    useful = {name: bins for name, bins in found.items() if len(bins) > 1}
    return {name: useful[name] for name in sorted(useful, key=lambda n: -_excess(useful[n]))}


def _excess(bins: Sequence[Bin]) -> float:
    """Pearson's chi-squared of failure over the bins, above what chance gives: small bins tell little."""
    count = sum(one.count for one in bins)
    share = sum(one.failed for one in bins) / count
    if share in (0.0, 1.0):
        return -float(len(bins))
    spread = sum(one.count * (one.share - share) ** 2 for one in bins)
    return spread / (share * (1.0 - share)) - (len(bins) - 1)


def _is_number(name: str, tried: Sequence[TrialRecord]) -> bool:
    values = [record.params[name] for record in tried if name in record.params]
    return len(set(values)) > 3 and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in values
    )


def _bins(name: str, tried: Sequence[TrialRecord]) -> list[Bin]:
    own = [record for record in tried if name in record.params]
    if not _is_number(name, tried):
        groups: dict[str, list[TrialRecord]] = {}
        for record in own:
            groups.setdefault(short(record.params[name]), []).append(record)
        return [_bin(text, members) for text, members in sorted(groups.items())]
    own.sort(key=lambda record: float(record.params[name]))
    size = len(own)
    thirds = [own[k * size // 3 : (k + 1) * size // 3] for k in range(3)]
    return [
        _bin(f"{short(t[0].params[name], 3)} to {short(t[-1].params[name], 3)}", t)
        for t in thirds
        if t
    ]


def _bin(text: str, members: Sequence[TrialRecord]) -> Bin:
    return Bin(text, sum(r.status in INFEASIBLE for r in members), len(members))


def _table(bins: dict[str, list[Bin]]) -> Html:
    rows = []
    for name, own in list(bins.items())[:ROWS]:
        cells = [
            tag(
                "span",
                f"{one.text}: ",
                tag("b", f"{one.failed} / {one.count}"),
                class_="bin of-bad" if one.share >= 0.5 else "bin",
            )
            for one in own
        ]
        rows.append([tag("code", name), join(cells, " ")])
    return table(
        "Failed of all trials, by thirds of a parameter's values, or by choice; the parameters that tell "
        "most come first. Bins with at least half of their trials failed are coloured.",
        ("parameter", "values: failed / trials"),
        rows,
        text_columns=2,
    )


def _reasons(failed: Sequence[TrialRecord]) -> Html:
    rows = [[title(r), r.status.replace("_", " "), r.reason] for r in failed]
    return table("What they said", ("trial", "state", "reason"), rows, text_columns=3)


def _chart(first: str, second: str, tried: Sequence[TrialRecord]) -> Chart:
    both = [r for r in tried if first in r.params and second in r.params]
    series = []
    for words, failed in (("trained", False), ("diverged or out of memory", True)):
        own = [r for r in both if (r.status in INFEASIBLE) is failed]
        series.append(
            Series(
                tuple((float(r.params[first]), float(r.params[second])) for r in own),
                "bad" if failed else "other",
                words,
                mark="cross" if failed else "circle",
                tips=tuple(f"{title(r)}: {r.reason or r.status}" for r in own),
                strength=1.0 if failed else 0.6,
            )
        )
    return Chart(
        name="divergence",
        title="Where training failed",
        caption="The two numerical parameters that separate failed trials most; crosses failed.",
        x=Axis(first, log=spread(float(r.params[first]) for r in both)),
        y=Axis(second, log=spread(float(r.params[second]) for r in both)),
        series=tuple(series),
    )
