"""The paired sheet of samples: data, teacher and students in rows, NFE in columns, one latent per place."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from meanflow_tune.config import TrialConfig
from meanflow_tune.report.page.markup import Html, join, name, paragraph, tag
from meanflow_tune.report.page.samples.sample_images import (
    Floats,
    data_uri,
    image_png,
    limit_of,
    points_png,
)
from meanflow_tune.report.page.samples.sample_sources import (
    IMAGES,
    NFES,
    Deadline,
    Frame,
    SampleSource,
    Unavailable,
)
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.pictures import comparison_grid
from meanflow_tune.report.text import figure

ANCHOR, TITLE = "samples", "Samples"
RUNGS = 8  # positions of the slider at most, the last always among them


@dataclass(frozen=True)
class Row:
    """title, words: what heads the row; role: its colour; frames: in the order of training."""

    title: str
    words: str
    role: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Sheet:
    """single: name, words and samples of rows that have one panel for every NFE; rows: with one per NFE."""

    points: bool
    single: tuple[tuple[str, str, Floats | str], ...]
    rows: tuple[Row, ...]
    latents: str


def make_sheet(
    views: Sequence[StudyView], seconds: float | None, check: Callable[[], None]
) -> Sheet:
    """The sheet of one study or of several, all from the latents of the first. Raises Unavailable."""
    view = views[0]
    chosen = [(v, one) for v in views for one in v.chosen()]
    if not chosen:
        raise Unavailable("no trial has completed yet")
    config = TrialConfig.from_dict(chosen[0][1].record.config)
    source = SampleSource(config, view.plan.request.teachers, Deadline(seconds), check)
    single: list[tuple[str, str, Floats | str]] = [
        ("held-out data", "real samples, in no order", source.data())
    ]
    how = "solved ODE"
    try:
        solved, how = source.solved()
        single.append(("teacher", f"its ODE solved ({how})", solved))
    except Unavailable as error:
        single.append(("teacher", "its ODE solved", str(error)))
    rows = [_euler(source, view)]
    for owner, one in chosen:
        words = one.words if len(views) == 1 else f"{owner.name}: {one.words}"
        frames = _thinned(source.frames(one.record))
        rows.append(Row(one.title, words, one.role, frames))
    seed = config.evaluation.latent_seed if config.evaluation is not None else 0
    return Sheet(source.points, tuple(single), tuple(rows), f"{len(source.latents):,}, seed {seed}")


def _euler(source: SampleSource, view: StudyView) -> Row:
    samples, lacking = {}, {}
    for nfe in NFES:
        try:
            samples[nfe] = source.euler(nfe)
        except Unavailable as error:
            lacking[nfe] = str(error)
    frame = Frame(0, samples, view.findings.quality.euler, lacking=lacking)
    return Row("teacher", "Euler steps of its ODE", "teacher", (frame,))


def _thinned(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    if len(frames) <= RUNGS:
        return tuple(frames)
    step = (len(frames) - 1) / (RUNGS - 1)
    return tuple(frames[round(k * step)] for k in range(RUNGS))


def sheet_section(
    views: Sequence[StudyView],
    seconds: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> Section:
    """The section with the sheet and its slider. Raises Unavailable."""
    sheet = make_sheet(views, seconds, check)
    return Section(ANCHOR, TITLE, sheet_html(sheet), files=partial(write_sheet, sheet=sheet))


def write_sheet(folder: Path, sheet: Sheet) -> list[Path]:
    """samples.png and samples.svg: the teacher's Euler steps and the students at their last rungs.

    NFE that not every row has are left out. Raises OSError.
    """
    last = {f"{row.title}\n{row.words}": row.frames[-1] for row in sheet.rows if row.frames}
    common = [nfe for nfe in NFES if all(nfe in frame.samples for frame in last.values())]
    if not common:
        return []
    count = min(len(frame.samples[nfe]) for frame in last.values() for nfe in common)
    rows = {n: {nfe: f.samples[nfe][:count] for nfe in common} for n, f in last.items()}
    labels = {
        title: {
            nfe: f"gap {figure(frame.metrics[f'teacher_gap@{nfe}'])}"
            for nfe in common
            if f"teacher_gap@{nfe}" in frame.metrics
        }
        for title, frame in last.items()
    }
    written = []
    for kind in ("png", "svg"):
        path = folder / f"samples.{kind}"
        comparison_grid(rows, path, labels, most=IMAGES)
        written.append(path)
    return written


def sheet_html(sheet: Sheet) -> Html:
    """The sheet as a table; a slider moves the students through training."""
    panels = _Panels(sheet)
    steps = sorted({f.images for row in sheet.rows for f in row.frames if f.images})
    head = [tag("td")] + [
        tag("th", f"{nfe} step" if nfe == 1 else f"{nfe} steps", scope="col") for nfe in NFES
    ]
    body = [_row(row, panels) for row in sheet.rows]
    what = "points" if sheet.points else "images"
    caption = (
        f"Each place in a panel belongs to one latent (and label), the same in all panels: {sheet.latents}. "
        + (
            "A dot per sample, blue where they are sparse and orange where they are dense. "
            if sheet.points
            else "The pixels are those of the samples, enlarged. "
        )
        + "The figure below a panel is its teacher gap, the per-sample distance to the teacher's solved "
        "ODE from the same latent, where it was measured; lower is better."
    )
    made = tag(
        "table",
        tag("caption", caption, class_="below"),
        tag("thead", tag("tr", *head)),
        tag("tbody", *body),
        class_=f"sheet {what}",
    )
    scroller = tag("div", made, class_="scroll", tabindex="0", role="group", aria_label="Samples")
    return join([_scale_panels(sheet, panels), _slider(steps), scroller])


def _slider(steps: Sequence[int]) -> Html:
    if len(steps) < 2:
        return Html("")
    last = len(steps) - 1
    return tag(
        "div",
        tag("label", "Training of the students", for_="rung"),
        tag(
            "input",
            id="rung",
            type="range",
            min=0,
            max=last,
            step=1,
            value=last,
            data_steps=json.dumps(list(steps)),
            aria_valuetext=f"{steps[-1]:,} images",
        ),
        tag("output", f"{steps[-1]:,} images", for_="rung", id="rung-text"),
        class_="slider",
    )


class _Panels:
    """Pictures of a sheet, all points on one scale."""

    def __init__(self, sheet: Sheet) -> None:
        self._points = sheet.points
        known = [x for _, _, x in sheet.single if not isinstance(x, str)]
        known += [x for row in sheet.rows[:1] for x in row.frames[-1].samples.values()]
        self._limit = limit_of(known) if sheet.points else 1.0

    def source(self, samples: Floats) -> Html:
        made = points_png(samples, self._limit) if self._points else image_png(samples)
        return data_uri(made)


def _scale_panels(sheet: Sheet, panels: _Panels) -> Html:
    """Data and the solved ODE, which are the same at every NFE."""
    figures = []
    for what, words, samples in sheet.single:
        label = tag("figcaption", tag("b", what), f": {words}")
        if isinstance(samples, str):
            figures.append(
                tag("figure", paragraph(f"not shown: {samples}", class_="missing"), label)
            )
            continue
        source = panels.source(samples)
        image = tag("img", src=source, alt=f"Samples of {what}: {words}")
        figures.append(tag("figure", image, label))
    kind = "points" if sheet.points else "images"
    return tag("div", *figures, class_=f"panels sheet {kind}")


def _row(row: Row, panels: _Panels) -> Html:
    head = tag(
        "th",
        tag("b", name(row.title)),
        tag("span", row.words),
        scope="row",
        class_=f"of-{row.role}",
    )
    if any(frame.samples for frame in row.frames):
        return tag("tr", head, *(_cell(row, nfe, panels) for nfe in NFES))
    reasons = dict.fromkeys(_lacking(row, nfe) for nfe in NFES)
    text = paragraph(f"not shown: {'; '.join(reasons)}", class_="missing")
    return tag("tr", head, tag("td", text, colspan=len(NFES), class_="none"))


def _lacking(row: Row, nfe: int) -> str:
    if not row.frames:
        return "no rung was reached"
    return row.frames[-1].lacking.get(nfe, "it was not kept")


def _cell(row: Row, nfe: int, panels: _Panels) -> Html:
    """A panel with its states at the rungs; the last is shown."""
    states = []
    for frame in row.frames:
        if nfe not in frame.samples:
            continue
        samples = frame.samples[nfe]
        gap = frame.metrics.get(f"teacher_gap@{nfe}")
        words = "" if gap is None else figure(gap)
        if panels._points and len(samples) < 400:
            words += f"{' · ' if words else ''}{len(samples)} kept points"
        states.append({"at": frame.images, "src": panels.source(samples), "text": words})
    if not states:
        return tag("td", paragraph(f"not shown: {_lacking(row, nfe)}", class_="missing"))
    last = states[-1]
    image = tag(
        "img",
        src=Html(str(last["src"])),
        alt=f"{row.title}, {row.words}, {nfe} {'step' if nfe == 1 else 'steps'}: "
        f"{last['text'] or 'not measured'}",
    )
    under = tag("p", str(last["text"]) or Html("&#8202;"), class_="under")
    if len(states) == 1:
        return tag("td", image, under)
    return tag("td", image, under, data_states=json.dumps(states))
