"""Consoles, colours and numbers in words."""

import sys

from rich.console import Console

COLOURS = {
    "completed": "green",
    "pruned": "yellow",
    "diverged": "magenta",
    "out_of_memory": "magenta",
    "paused": "blue",
    "failed": "red",
    "running": "cyan",
}


def make_console() -> Console:
    """Of standard output. A pipe or a file has no width; 80 columns would break the tables."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def clock(seconds: float) -> str:
    """83 -> `1:23`; 5000 -> `1:23:20`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def about(seconds: float) -> str:
    """A length of time for a person: `40 s`, `12 min`, `1 h 20 min`, `2 d 3 h`."""
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
    """A number with three digits that count: `1,500,000`."""
    if count < 1000:
        return f"{count:.0f}"
    unit = 10 ** (len(str(int(count))) - 3)
    return f"{round(count / unit) * unit:,}"


def size(count: float) -> str:
    """Bytes for a person: `840 KB`, `1.2 MB`; powers of 1000."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 9.95 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
