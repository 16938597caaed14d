"""The answer: which settings won, by how much, how sure, at which NFE, at what cost, and the question's."""

from collections.abc import Iterable

from meanflow_tune.plan.contrast import Contrast, Measured
from meanflow_tune.report.answer import (
    Answer,
    answer,
    change,
    effect,
    outcome,
)
from meanflow_tune.report.page.markup import Html, join, paragraph, table, tag
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.text import counted, figure, short
from meanflow_tune.search.analysis.plausibility import explain

ANCHOR, TITLE = "answer", "The answer"
COST_UNITS = {
    "cpu_seconds": "processor seconds",
    "gpu_seconds": "GPU seconds",
    "step_ms": "ms per step",
}


def answer_section(view: StudyView) -> Section:
    """In words first, then the tables that they rest on."""
    found, said = view.findings, answer(view.plan, view.findings, view.insight)
    parts = [paragraph(tag("b", "Goal."), " ", view.plan.space.goal, class_="goal")]
    if found.leader is None:
        parts.append(paragraph(_nothing_yet(view), class_="verdict"))
        return Section(ANCHOR, TITLE, join(parts))
    parts += _words(said)
    parts += [paragraph(line, class_="warning") for line in _warnings(view)]
    if found.winner is not None:
        parts += [_differences(found.winner), _measured(found.winner)]
    if found.pairs:
        parts.append(_pairs(found.pairs, said.question or ""))
    return Section(ANCHOR, TITLE, join(parts))


def _nothing_yet(view: StudyView) -> str:
    count = len(view.records)
    if view.running:
        return f"No trial has completed yet, of {counted(count, 'trial')} started."
    return (
        f"No trial completed, of {counted(count, 'trial')}, so that there is no answer; the trials and "
        "what ended them are listed below."
    )


def _words(said: Answer) -> list[Html]:
    first, *rest = said.winner
    parts = [
        tag("h3", "Which settings won?"),
        paragraph(first, class_="verdict"),
        *map(paragraph, rest),
    ]
    if said.question is not None:
        parts += [tag("h3", said.question), *_lines(said.factor)]
    if said.insight:
        parts += [tag("h3", "What mattered?"), *_lines(said.insight)]
    if said.sure or said.next_step is not None:
        parts += [tag("h3", "How sure is it?"), *_lines(said.sure)]
    if said.next_step is not None:
        option, what = said.next_step
        parts.append(
            paragraph("To ", what, ", run the search's command with ", tag("code", option), ".")
        )
    return parts


def _lines(lines: Iterable[str]) -> list[Html]:
    return [paragraph(line) for line in lines]


def _warnings(view: StudyView) -> list[str]:
    found = view.findings
    leader = found.leader.number if found.leader is not None else None
    lines = list(explain(found.implausible, leader, view.objectives.single is None))
    if found.quality.teacher_is_noise:
        lines.append(
            "warning: the end of the teacher's ODE is hardly closer to the data than noise is, so "
            "following this teacher teaches nothing; train it for longer."
        )
    return lines


def _differences(contrast: Contrast) -> Html:
    rows = [
        (tag("code", one.setting), _setting(one.base), _setting(one.other))
        for one in contrast.differences
    ]
    if not rows:
        return paragraph(f"{contrast.other} has the settings of {contrast.base}.")
    head = ("setting", f"reference: {contrast.base}", contrast.other)
    return table("Settings that differ", head, rows, text_columns=3, class_="numbers")


def _setting(value: object) -> str:
    return "–" if value is None else short(value)


def _measured(contrast: Contrast) -> Html:
    where = (
        f"over {counted(contrast.seeds, 'fresh seed')}"
        if contrast.seeds
        else "on one seed, the search's"
    )
    rows = [
        [
            one.name,
            figure(one.base),
            figure(one.other),
            f"{change(one)}",
            outcome(one, contrast.seeds),
        ]
        for one in (*contrast.of("objective"), *contrast.of("quality"))
    ]
    for one in contrast.of("cost"):
        name = COST_UNITS.get(one.name, one.name)
        rows.append([name, f"{one.base:.4g}", f"{one.other:.4g}", change(one), ""])
    rows.append(["images", f"{contrast.images[0]:,}", f"{contrast.images[1]:,}", "", ""])
    head = ("", f"reference: {contrast.base}", contrast.other, "change in % [interval]", "verdict")
    caption = f"Measured {where}: means, and the difference paired by seed; lower is better"
    return table(caption, head, rows)


def _pairs(pairs: tuple[Contrast, ...], question: str) -> Html:
    names = [one.name for one in pairs[0].of("objective")]
    rows = [
        [
            join([pair.subject, tag("small", counted(pair.seeds, "fresh seed"))]),
            *(_effect(one, pair.seeds) for one in pair.of("objective")),
        ]
        for pair in pairs
    ]
    caption = f"{question} Change in %, with vs. without, paired by seed"
    return table(caption, ("pair", *names), rows)


def _effect(one: Measured, seeds: int) -> Html:
    return join([change(one), tag("small", effect(one, seeds))])
