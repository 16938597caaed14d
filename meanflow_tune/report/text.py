"""Tables, colours, and numbers in words."""

from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from meanflow_tune.report.safe_console import AdaptiveTable
from meanflow_tune.search.objectives import SearchObjective

NARROW = 20  # columns, below which nothing is indented

COLOURS = {
    "completed": "green",
    "pruned": "yellow",
    "diverged": "magenta",
    "out_of_memory": "magenta",
    "paused": "blue",
    "failed": "red",
    "running": "cyan",
}


def make_table(*names: str, text: int = 1) -> AdaptiveTable:
    """A plain table; its first `text` columns are text, the others are numbers."""
    table = AdaptiveTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(names):
        number = index >= text
        justify: Any = "right" if number else "left"
        table.add_column(name, justify=justify, no_wrap=number, overflow="fold")
    return table


def headed(head: str, rest: str = "", style: str = "bold") -> Text:
    """A line whose first words stand out. Neither part is read as markup."""
    return Text.assemble((head, style), rest)


def hanging(line: Text, width: int) -> Text:
    """A line that begins with blanks, with its further lines indented by two more."""
    blanks = len(line.plain) - len(line.plain.lstrip(" "))
    room = width - blanks - 2
    if not blanks or line.no_wrap or cell_len(line.plain) <= width or room < NARROW:
        return line
    first, *rest = _wrapped(line, width)
    more = _wrapped(Text(" ").join(rest), room)
    indent = " " * (blanks + 2)
    return Text("\n").join([first, *(Text(indent, style=line.style) + part for part in more)])


def _wrapped(line: Text, width: int) -> list[Text]:
    parts = list(line.wrap(Console(width=width), width))
    for part in parts:
        part.rstrip()
    return parts


def better(objective: SearchObjective) -> str:
    """`teacher_gap@1, lower is better`."""
    return f"{objective}, {'lower' if objective.direction == 'minimize' else 'higher'} is better"


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`, `1,500 trials`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def short(value: object, digits: int = 4) -> str:
    """A setting's value: a float by its leading digits, None as nothing."""
    if value is None:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def figure(value: float) -> str:
    """A metric or an objective: `0.0840`; absurdly large ones as `8.6e+07`."""
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.3g}"


def clock(seconds: float) -> str:
    """83 -> `1:23`; 5000 -> `1:23:20`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def about(seconds: float) -> str:
    """A length of time: `40 s`, `12 min`, `1 h 20 min`, `2 d 3 h`."""
    if seconds < 119.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def rounded(count: float) -> str:
    """A number with three significant digits: `1,500,000`."""
    if count < 1000:
        return f"{count:.0f}"
    unit = 10 ** (len(str(int(count))) - 3)
    return f"{round(count / unit) * unit:,}"


def size(count: float) -> str:
    """Bytes: `840 KB`, `1.2 MB`; powers of 1000."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 9.95 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
