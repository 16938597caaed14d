"""The findings of the doctor as a table: green what is good, yellow or red the rest with its remedy."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from meanflow_tune.report.safe_console import AdaptiveTable

MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "fault": ("FAULT", "bold red")}


def show_findings(console: Console, rows: Iterable[tuple[str, str, str, str, str]]) -> None:
    """rows: check, level (of MARKS), where, found, remedy."""
    table = AdaptiveTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for heading in ("", "check", "where", "found"):
        table.add_column(heading, overflow="fold")
    for check, level, where, found, remedy in rows:
        mark, style = MARKS[level]
        text = Text(found)
        if remedy:
            text.append(f"\n{remedy}", style=style)
        table.add_row(Text(mark, style=style), check, where, text)
    console.print(table)
