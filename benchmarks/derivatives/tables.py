"""Plain-text tables, and the replacement of a page's tables by them."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.derivatives.accuracy import Differences, Errors
from benchmarks.derivatives.cost import Cost
from benchmarks.derivatives.peer import GOAL, Peer
from benchmarks.derivatives.providers import COMPONENTS

SYMBOLS = {"u": "u", "d_s": "∂_s u", "d_t": "D u", "d_t_d_s": "D ∂_s u"}


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right. rows[0] is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def cost_table(cost: Cost, precision: str) -> str:
    """One network: time in plain forwards, memory and errors, with remarks and ratios below."""
    rows = [["", "forwards", "quartiles", "ms", "MiB", *(SYMBOLS[c] for c in COMPONENTS)]]
    remarks: list[str] = []
    for row in cost.rows:
        name = row.name
        if row.note:
            if row.note not in remarks:
                remarks.append(row.note)
            name += f" [{remarks.index(row.note) + 1}]"
        if row.units is None or row.milliseconds is None or row.peak_mib is None:
            rows.append([name, *["-"] * 8])
            continue
        low, middle, high = row.units
        errors = [f"{row.errors[c]:.0e}" if c in row.errors else "" for c in COMPONENTS]
        rows.append(
            [
                name + (" WRONG" if row.wrong else ""),
                f"{middle:.2f}",
                f"{low:.2f}-{high:.2f}",
                f"{row.milliseconds:.2f}",
                f"{row.peak_mib:.1f}",
                *errors,
            ]
        )
    heading = f"{cost.network}: {cost.note}, batch {cost.batch}, {precision}, {cost.clock}"
    lines = [heading, grid(rows)]
    lines += [f"[{i}] {remark}" for i, remark in enumerate(remarks, 1)]
    lines += [f"{name}: {value:.2f}" for name, value in cost.ratios.items()]
    return "\n".join(lines)


def precision_table(rows: Sequence[Errors]) -> str:
    """Largest relative error of each component, by network and precision."""
    return grid(
        [
            ["network", "precision", *(SYMBOLS[c] for c in COMPONENTS)],
            *(
                [row.network, row.precision, *(f"{row.errors[c]:.0e}" for c in COMPONENTS)]
                for row in rows
            ),
        ]
    )


def differences_table(rows: Sequence[Differences]) -> str:
    """Relative error of the mixed derivative, by step and kind."""
    kinds = list(rows[0].errors)
    return grid(
        [
            ["step", *kinds],
            *([f"{r.step:.0e}", *(f"{r.errors[k]:.0e}" for k in kinds)] for r in rows),
        ]
    )


def peer_table(peer: Peer, clock: str) -> str:
    """Both sides of a first-order step, with images per second and the ratios below."""
    rows = [["first-order step", "images/s", "ms", "quartiles", "MiB"]]
    remarks = []
    for side in peer.sides:
        if side.seconds is None or side.images_per_second is None or side.peak_mib is None:
            rows.append([side.name, *["-"] * 4])
            remarks.append(f"{side.name}: {side.note}")
            continue
        low, middle, high = (1e3 * second for second in side.seconds)
        quarters = f"{low:.1f}-{high:.1f}"
        rate = f"{side.images_per_second:.1f}"
        rows.append([side.name, rate, f"{middle:.1f}", quarters, f"{side.peak_mib:.1f}"])
    lines = [f"{peer.note}, batch {peer.batch}, {peer.precision}, {clock}", grid(rows), *remarks]
    lines += [f"{name}: {ratio:.2f} (goal {GOAL:g})" for name, ratio in peer.ratios.items()]
    return "\n".join(lines)


def operators_table(families: Mapping[str, Sequence[str]]) -> str:
    """The operators that have a rule, by family, as `supported_operators` gives them."""
    lines = []
    for about, names in families.items():
        text = textwrap.fill(" ".join(names), 96, initial_indent="    ", subsequent_indent="    ")
        lines += [about, text]
    return "\n".join(lines)


def check_page(page: Path, names: Sequence[str]) -> None:
    """Raises ValueError unless `page` has a place for each table, OSError where it is unreadable."""
    text = page.read_text()
    missing = [name for name in names if not _place(name).search(text)]
    if missing:
        raise ValueError(
            f"{page} has no lines `<!-- table: {missing[0]} -->` and `{_END}` below it; add them, or "
            "name the tables that it has with --tables"
        )


def replace_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Put each table between `<!-- table: NAME -->` and `<!-- end of table -->` of `page`."""
    check_page(page, list(tables))
    text = page.read_text()
    for name, table in tables.items():
        block = f"```text\n{table}\n```\n".replace("\\", "\\\\")
        # Once: after an empty place, a second match would start there and end at the next table.
        text = _place(name).sub(block, text, count=1)
    page.write_text(text)


_END = "<!-- end of table -->"


def _place(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- table: {re.escape(name)} -->\n).*?(?={_END})", re.DOTALL)
