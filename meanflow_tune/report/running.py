"""Trials that run, one line each, as wide as there is room."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from meanflow_tune.report.characters import one_line

HEADER = ("trial", "what", "phase", "progress", "images", "last rung")
NAME, WHAT, PHASE, BAR, IMAGES, LAST = range(len(HEADER))
NUMBERS = (IMAGES, LAST)
GAP = 2
SHORTEST_WHAT = 10
BARS = (24, 10, 0)  # widths of a bar


def running_lines(
    rows: Iterable[Mapping[str, Any]], width: int, most: int | None = None
) -> list[Text]:
    """A header and a line per row, none wider than `width`; at most so many trials are shown.

    Where a line is too narrow for all of it, the bar goes first, then what is trained, then the phase;
    names and numbers are never cut. Below that, each trial takes several lines.
    """
    cells = [_cells(row) for row in rows]
    shown = cells if most is None or len(cells) <= most else cells[: max(most - 1, 1)]
    if not shown:
        return []
    layout = _layout(shown, width)
    lines = _stacked(shown) if layout is None else _aligned(shown, layout)
    if left := len(cells) - len(shown):
        lines.append(Text(f"and {left} more", style="dim"))
    return lines


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of a row, of which the bar's is the share as a number."""
    images, of = _whole(row.get("images")), _whole(row.get("of"))
    counts = f"{images:,} / {of:,}" if of else ""
    name, what, phase, last = (
        one_line(str(row.get(key) or "")) for key in ("name", "what", "phase", "last")
    )
    return name, what, phase, str(min(images / of, 1.0)) if of else "", counts, last


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e18 else 0


def _layout(cells: Sequence[tuple[str, ...]], width: int) -> dict[int, int] | None:
    """column -> its width, of the columns that fit; None where not even the numbers do."""
    natural = {
        column: max(cell_len(HEADER[column]), *(cell_len(row[column]) for row in cells))
        for column in range(len(HEADER))
        if any(row[column] for row in cells)
    }
    for bar in BARS:
        columns = {k: v for k, v in natural.items() if k != BAR}
        if bar and BAR in natural:
            columns[BAR] = max(bar, len(HEADER[BAR]))
        spare = width - _total(columns)
        if spare >= 0:
            return columns
        if columns.get(WHAT, 0) + spare >= SHORTEST_WHAT and bar != BARS[0]:
            return columns | {WHAT: columns[WHAT] + spare}
    for left_out in ({WHAT, BAR}, {WHAT, BAR, PHASE}):
        columns = {k: v for k, v in natural.items() if k not in left_out}
        if _total(columns) <= width:
            return columns
    return None


def _total(columns: Mapping[int, int]) -> int:
    return sum(columns.values()) + GAP * (len(columns) - 1)


def _aligned(cells: Sequence[tuple[str, ...]], layout: Mapping[int, int]) -> list[Text]:
    order = sorted(layout)
    gap = " " * GAP
    header = gap.join(_fit(HEADER[column], column, layout[column]) for column in order)
    lines = [Text(header.rstrip(), style="dim", no_wrap=True)]
    for row in cells:
        line = Text(no_wrap=True)
        for column in order:
            if column != order[0]:
                line.append(gap)
            if column == BAR and row[BAR]:
                full = round(float(row[BAR]) * layout[BAR])
                line.append("█" * full, style="cyan").append(
                    "░" * (layout[BAR] - full), style="dim"
                )
            else:
                line.append(_fit(row[column], column, layout[column]))
        line.rstrip()
        lines.append(line)
    return lines


def _fit(text: str, column: int, width: int) -> str:
    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…"
    blank = " " * (width - cell_len(text))
    return blank + text if column in NUMBERS else text + blank


def _stacked(cells: Sequence[tuple[str, ...]]) -> list[Text]:
    lines = []
    for row in cells:
        lines.append(Text(row[NAME], style="bold").append(f" {row[PHASE]}", style="not bold"))
        lines += [
            Text(f"  {HEADER[column]} {row[column]}") for column in (IMAGES, LAST) if row[column]
        ]
    return lines
