"""The answer on the terminal: its sentences, and the figures behind them as tables."""

from rich.console import Console
from rich.table import Table

from meanflow_tune.plan.contrast import Contrast, Measured
from meanflow_tune.plan.findings import Findings
from meanflow_tune.report.answer import (
    Answer,
    change,
    effect,
    outcome,
)
from meanflow_tune.report.text import counted, figure, headed, make_table, short


def show_answer(console: Console, found: Answer, findings: Findings) -> None:
    """What differs and by how much, the question's pairs, then all of it in words."""
    if findings.winner is not None:
        show_differences(console, findings.winner)
        show_contrast(console, findings.winner)
    if findings.pairs and found.question is not None:
        show_pairs(console, found.question, findings.pairs)
    _paragraph(console, "Which settings won?", found.winner)
    if found.question is not None:
        _paragraph(console, found.question, found.factor)
    if found.insight:
        _paragraph(console, "What mattered?", found.insight)
    if found.sure:
        _paragraph(console, "How sure is it?", found.sure)


def show_differences(console: Console, contrast: Contrast) -> None:
    """The settings that differ, of the winner against the reference."""
    table = make_table("settings that differ", *_names(contrast))
    for one in contrast.differences:
        table.add_row(one.setting, _setting(one.base), _setting(one.other))
    console.print(table)


def show_contrast(console: Console, contrast: Contrast) -> None:
    """Metrics at each NFE, of the objective and of quality, and costs, with paired differences."""
    where = counted(contrast.seeds, "fresh seed") if contrast.seeds else "one seed"
    table = make_table(where, *_names(contrast), "change in %", "verdict")
    for one in contrast.of("objective"):
        _add(table, one, contrast.seeds)
    table.add_section()
    for one in contrast.of("quality"):
        _add(table, one, contrast.seeds)
    table.add_section()
    for one in contrast.of("cost"):
        table.add_row(one.name, f"{one.base:.4g}", f"{one.other:.4g}", _narrow(one), "")
    console.print(table)


def show_pairs(console: Console, question: str, pairs: tuple[Contrast, ...]) -> None:
    """Of each pair the change by the factor, per metric, in percent."""
    names = [one.name for one in pairs[0].of("objective")]
    table = make_table(question, *names)
    for pair in pairs:
        seeds = counted(pair.seeds, "fresh seed")
        cells = (_cell(one, pair.seeds) for one in pair.of("objective"))
        table.add_row(f"{pair.subject}\n{seeds}", *cells)
        table.add_section()
    console.print(table)


def _add(table: Table, one: Measured, seeds: int) -> None:
    row = one.name, figure(one.base), figure(one.other), _narrow(one), outcome(one, seeds)
    table.add_row(*row)


def _cell(one: Measured, seeds: int) -> str:
    """The change, its interval and what it means, each on a line."""
    return "\n".join([*_narrow(one).split(" ", 1), effect(one, seeds)])


def _narrow(one: Measured) -> str:
    """The change without a space in its interval, so that a terminal of 80 columns shows it whole."""
    return change(one).replace(", ", ",")


def _names(contrast: Contrast) -> tuple[str, str]:
    """Short headings: the sentences have the whole names."""
    base, other = contrast.trials
    return f"reference\ntrial {base}", f"trial {other}"


def _setting(value: object) -> str:
    return "-" if value is None else short(value)


def _paragraph(console: Console, heading: str, lines: tuple[str, ...]) -> None:
    console.print()
    console.print(headed(heading))
    for line in lines:
        console.print(line)
