"""Functions drawn as functions: densities of (t, s), schedules of ds, and ramps of shares, by result."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.random import make_generator
from meanflow_tune.plan.confirm import title
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.page.charts.chart import Axis, Chart, Series
from meanflow_tune.report.page.charts.svg_chart import charts_in_a_row, figure_of
from meanflow_tune.report.page.markup import Html, join, name, paragraph, tag
from meanflow_tune.report.page.samples.sample_images import data_uri, density_png
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.sections.trial_values import best_first, last_value, strengths
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.text import figure, short
from meanflow_tune.time_samplers import DRAWS

ANCHOR, TITLE = "functions", "Functions of the training"
PAIRS = 40_000
CELLS = 64
PANELS, LINES = 8, 48
STEPS = 41
GAP = 1.0
SMALLEST = 1e-3

Configured = tuple[TrialRecord, TrialConfig]


def functions_section(view: StudyView) -> Section:
    """Densities of times, then schedules and ramps, the better the stronger."""
    ranked = _configured(best_first(view, view.records))
    if not ranked:
        return Section(ANCHOR, TITLE, paragraph("No trial has reached a rung yet."))
    parts, charts = [tag("h3", "Times (t, s)"), _densities(view, ranked)], []
    if schedules := _schedules(view, ranked):
        charts.append(schedules)
        parts += [tag("h3", "Schedules of ds"), figure_of(schedules)]
    if ramps := _ramps(view, ranked):
        charts += ramps
        parts += [
            tag("h3", "Weights of the losses"),
            _ramp_text(len(ranked)),
            charts_in_a_row(ramps),
        ]
    return Section(ANCHOR, TITLE, join(parts), tuple(charts))


def _configured(records: Sequence[TrialRecord]) -> list[Configured]:
    """Those whose configuration this revision reads."""
    found = []
    for record in records:
        try:
            found.append((record, TrialConfig.from_dict(record.config)))
        except ValueError:
            continue
    return found


def _densities(view: StudyView, ranked: Sequence[Configured]) -> Html:
    """The best trial of each kind of sampler, best first."""
    kinds: dict[str, list[Configured]] = {}
    for one in ranked:
        kinds.setdefault(one[1].time_sampler.kind, []).append(one)
    panels = []
    for kind, members in list(kinds.items())[:PANELS]:
        record, config = members[0]
        value = last_value(view, record)
        words = f"{title(record)}, the best of {len(members)}: {figure(value or 0.0)}"
        image = tag(
            "img",
            src=data_uri(density_png(_density(config))),
            alt=f"Density of (t, s) of {kind} in {title(record)}",
        )
        given = _numbers(config)
        share = f"{100 * config.time_sampler.diagonal_share:.0f} % with t = s, not drawn"
        lines = (tag("span", name(line), class_="line") for line in (words, given, share) if line)
        panels.append(tag("figure", image, tag("figcaption", tag("b", name(kind)), *lines)))
    text = (
        "Where training draws its pairs: t to the right from 0 to 1, s upwards, blue where few pairs are "
        "drawn and orange where many are. One panel per family of samplers, of its best trial; the family "
        "with the best result comes first."
    )
    return join([paragraph(text), tag("div", *panels, class_="panels")])


def _numbers(config: TrialConfig) -> str:
    unshown = {"kind", "diagonal_share", "diagonal_at", "diagonal"}
    plain = config.time_sampler.model_dump(mode="json")
    return ", ".join(_setting(key, value) for key, value in plain.items() if key not in unshown)


def _setting(key: str, value: Any) -> str:
    if isinstance(value, dict):
        inner = " ".join(short(v, 3) for part, v in value.items() if part != "kind")
        return f"{key} {value.get('kind', '')} {inner}".strip()
    return f"{key} {short(value, 3)}"


def _density(config: TrialConfig) -> Any:
    """[CELLS, CELLS] counts of (t, s), s = 1 on top."""
    generator = make_generator(0, "plot")
    uniform = torch.rand(PAIRS, DRAWS, generator=generator, dtype=torch.float64)
    pairs = config.time_sampler.pairs(uniform, torch.zeros(PAIRS, dtype=torch.bool))
    edges = np.linspace(0.0, 1.0, CELLS + 1)
    counts, _, _ = np.histogram2d(pairs.s.numpy(), pairs.t.numpy(), bins=(edges, edges))
    return counts[::-1]


def _schedules(view: StudyView, ranked: Sequence[Configured]) -> Chart | None:
    own = [(r, c.ds_schedule) for r, c in ranked if c.ds_schedule is not None][:LINES]
    if not own:
        return None
    at = torch.tensor([GAP])
    lines = []
    for (record, schedule), strength in zip(own, strengths(len(own)), strict=True):
        points = tuple(
            (k / (STEPS - 1), max(float(schedule.ratio(k / (STEPS - 1), at)), SMALLEST / 10))
            for k in range(STEPS)
        )
        lines.append(_curve(view, record, points, strength, schedule.kind))
    return Chart(
        name="schedules",
        title="ρ = ds / (s − t) over training, at s − t = 1",
        caption=f"A line per trial that uses a schedule ({len(own)}); the stronger, the better its result.",
        x=Axis("progress of the training", low=0.0, high=1.0),
        y=Axis("ρ", log=True),
        series=tuple(reversed(lines)),
    )


def _curve(
    view: StudyView,
    record: TrialRecord,
    points: tuple[tuple[float, float], ...],
    strength: float,
    kind: str = "",
) -> Series:
    role = view.role_of(record)
    named = role in ("leader", "reference", "proposed")
    words = next((one.words for one in view.chosen() if one.record is record), "")
    label = f"{title(record)} ({words})" if named else "other trials"
    return Series(
        points,
        role if named else "other",
        label,
        line=True,
        mark=None,
        strength=1.0 if named else strength,
    )


def _ramps(view: StudyView, ranked: Sequence[Configured]) -> list[Chart]:
    """A chart per loss that any trial uses, of its weight over progress."""
    shown = ranked[:LINES]
    losses = dict.fromkeys(loss for _, config in shown for loss in config.losses.active)
    charts = []
    for loss in losses:
        lines = []
        for (record, config), strength in zip(shown, strengths(len(shown)), strict=True):
            if loss not in config.losses.active:
                continue
            weights = [config.losses.weights(k / (STEPS - 1)).get(loss, 0.0) for k in range(STEPS)]
            points = tuple((k / (STEPS - 1), weight) for k, weight in enumerate(weights))
            lines.append(_curve(view, record, points, strength))
        charts.append(
            Chart(
                name=f"weight-{loss}",
                title=loss,
                caption=f"{len(lines)} trials.",
                x=Axis("progress", low=0.0, high=1.0),
                y=Axis("weight"),
                series=tuple(reversed(lines)),
                small=True,
            )
        )
    return charts


def _ramp_text(count: int) -> Html:
    best = f"the {LINES} best of {count} trials" if count > LINES else "all trials with a result"
    return paragraph(
        f"The weight of each term of the loss over training, of {best} that use it: the stronger a line, "
        "the better the result. A ramp starts at 0 and ends at the term's share."
    )
