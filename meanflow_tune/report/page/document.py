"""The page as one HTML file: head, answer first, the other sections, and nothing that needs a network."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from meanflow_tune.report.page.markup import Html, bullets, join, paragraph, tag
from meanflow_tune.report.page.samples import sample_sheet
from meanflow_tune.report.page.section import Section, guarded
from meanflow_tune.report.page.sections import answer_section as answer
from meanflow_tune.report.page.sections import comparison_section as comparison
from meanflow_tune.report.page.sections import curves_section as curves
from meanflow_tune.report.page.sections import divergence_section as divergence
from meanflow_tune.report.page.sections import front_section as front
from meanflow_tune.report.page.sections import functions_section as functions
from meanflow_tune.report.page.sections import importance_section as importance
from meanflow_tune.report.page.sections import quality_section as quality
from meanflow_tune.report.page.sections import rung_section as rungs
from meanflow_tune.report.page.sections import seeds_section as seeds
from meanflow_tune.report.page.sections import trials_section as trials
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.text import better, counted

HERE = Path(__file__).parent
RELOAD_SECONDS = 15
# Chromium asks for an icon otherwise, and a page without a server has none.
_ICON = "data:,"

Maker = Callable[[StudyView], Section]
# In the order of the page; the sheet of samples follows the answer.
SECTIONS: tuple[tuple[str, str, Maker], ...] = (
    (quality.ANCHOR, quality.TITLE, quality.quality_section),
    (front.ANCHOR, front.TITLE, front.front_section),
    (seeds.ANCHOR, seeds.TITLE, seeds.seeds_section),
    (curves.ANCHOR, curves.TITLE, curves.curves_section),
    (importance.ANCHOR, importance.TITLE, importance.importance_section),
    (functions.ANCHOR, functions.TITLE, functions.functions_section),
    (divergence.ANCHOR, divergence.TITLE, divergence.divergence_section),
    (rungs.ANCHOR, rungs.TITLE, rungs.rung_section),
    (trials.ANCHOR, trials.TITLE, trials.trials_section),
)

# In the bar of sections, where a title is too long.
SHORT = {
    answer.ANCHOR: "Answer",
    comparison.ANCHOR: "Comparison",
    quality.ANCHOR: "NFE",
    front.ANCHOR: "Cost",
    curves.ANCHOR: "Curves",
    importance.ANCHOR: "Importance",
    functions.ANCHOR: "Functions",
    divergence.ANCHOR: "Divergence",
    rungs.ANCHOR: "Rungs",
    trials.ANCHOR: "Trials",
}


def make_sections(
    views: Sequence[StudyView],
    seconds: float | None = None,
    progress: Callable[[str], None] = lambda title: None,
    check: Callable[[], None] = lambda: None,
) -> list[Section]:
    """The sections of a study, or of several, the first of which is looked at closely.

    seconds: for generating samples, None for as long as it takes; progress: called with the title of each
    section before it is made; check: called between calculations, may raise to stop.
    """
    view = views[0]
    made = []
    sheet = partial(sample_sheet.sheet_section, views, seconds, check)
    several = []
    if len(views) > 1:
        compare = partial(comparison.comparison_section, views)
        several.append((comparison.ANCHOR, comparison.TITLE, compare))
    makers: list[tuple[str, str, Callable[[], Section]]] = [
        (answer.ANCHOR, answer.TITLE, partial(answer.answer_section, view)),
        *several,
        (sample_sheet.ANCHOR, sample_sheet.TITLE, sheet),
        *((anchor, title, partial(make, view)) for anchor, title, make in SECTIONS),
    ]
    for anchor, title, make in makers:
        check()
        progress(title)
        made.append(guarded(anchor, title, make))
    return made


def page_html(views: Sequence[StudyView], sections: Sequence[Section]) -> str:
    """The whole page."""
    view = views[0]
    title = " and ".join(one.name for one in views)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title} · report"),
        tag("link", rel="icon", href=_ICON),
        tag("style", Html((HERE / "style.css").read_text(encoding="utf-8"))),
    )
    items = [tag("li", tag("a", _short(s), href=f"#{s.anchor}")) for s in sections]
    body = tag(
        "body",
        tag("a", "Skip to the answer", href=f"#{sections[0].anchor}", class_="skip"),
        _header(views, title),
        tag("nav", tag("ul", *items), aria_label="Sections"),
        tag("main", *(_section(one) for one in sections)),
        _footer(view),
        tag("script", Html((HERE / "behaviour.js").read_text(encoding="utf-8"))),
        data_reload=RELOAD_SECONDS if view.running else None,
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _short(section: Section) -> str:
    return SHORT.get(section.anchor, section.title)


def _section(section: Section) -> Html:
    heading = f"{section.anchor}-heading"
    return tag(
        "section",
        tag("h2", section.title, id=heading),
        section.body,
        id=section.anchor,
        aria_labelledby=heading,
    )


def _header(views: Sequence[StudyView], title: str) -> Html:
    lines = []
    for view in views:
        counts = Counter(record.status for record in view.records)
        listed = ", ".join(f"{count} {status}" for status, count in counts.items())
        state = "running" if view.running else "not running"
        about = f"{counted(len(view.records), 'trial')} ({listed})" if listed else "no trials"
        name = f"{view.name}: " if len(views) > 1 else ""
        lines.append(paragraph(f"{name}{about}; the search is {state}.", class_="facts"))
        lines += [
            paragraph(f"Objective: {better(part)}.", class_="facts")
            for part in view.objectives.parts
        ]
    notes = [note for view in views for note in view.notes]
    if len(views) > 1:
        notes.append(
            f"All sections but the comparison and the samples are of {views[0].name} alone."
        )
    parts = [tag("h1", title), *lines]
    if notes:
        parts.append(bullets(notes, class_="notes"))
    return tag("header", join(parts))


def _footer(view: StudyView) -> Html:
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(view.made or time.time()))
    facts = [f"Made {made} from {view.folder}."]
    if view.manifest is not None:
        used = view.manifest
        versions = ", ".join(
            f"{name} {used.versions[name]}" for name in ("python", "torch") if name in used.versions
        )
        facts.append(f"Space {used.space}, sampler {used.sampler}, seed {used.seed}; {versions}.")
    return tag("footer", *(paragraph(fact) for fact in facts))
