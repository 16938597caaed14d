"""What a person sees while a search runs: a live view on a terminal, one plain line an event elsewhere."""

import sys
import threading
import time
from collections import deque
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

COLOURS = {
    "completed": "green",
    "pruned": "yellow",
    "diverged": "magenta",
    "out_of_memory": "magenta",
    "paused": "blue",
    "failed": "red",
    "running": "cyan",
}


class View:
    """Shows `state` (filled by the driver) and events. Use as a context manager.

    state keys: study, total, done (counts by status), best (text), running (list of rows), note.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = make_console()
        self.interactive = self.console.is_terminal and not quiet
        self.quiet = quiet
        self.began = time.monotonic()
        self.state: dict[str, Any] = {}
        self._events: deque[str] = deque(maxlen=8)
        self._live: Live | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "View":
        if self.interactive:
            self._live = Live(
                get_renderable=self._render,
                console=self.console,
                refresh_per_second=2,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def elapsed(self) -> float:
        """Seconds since this view was made."""
        return time.monotonic() - self.began

    def event(self, text: str, style: str = "") -> None:
        """Something happened: a line with the seconds since the start."""
        if self.quiet:
            return
        stamp = f"[{self.elapsed:6.1f} s]"
        with self._lock:
            if self._live is not None:
                self._live.console.print(Text(f"{stamp} ", style="dim").append(text, style=style))
            else:
                print(f"{stamp} {text}", flush=True)

    def error(self, text: str) -> None:
        """A line on standard error, shown in every mode."""
        print(text, file=sys.stderr, flush=True)

    def _render(self) -> Group:
        state = dict(self.state)
        done = state.get("done", {})
        finished = sum(n for status, n in done.items() if status != "running")
        head = Text(f"{state.get('study', '')}  ", style="bold")
        head.append(f"{finished}/{state.get('total', '?')} trials", style="bold cyan")
        for status, count in done.items():
            if count and status != "running":
                head.append(f"  {count} {status}", style=COLOURS.get(status, ""))
        head.append(f"  {clock(self.elapsed)}", style="dim")
        parts: list[Any] = [head]
        if state.get("best"):
            parts.append(Text(state["best"]))
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
        for name in ("trial", "what", "phase", "progress", "images", "last rung"):
            table.add_column(name, header_style="dim", no_wrap=True)
        for row in state.get("running", []):
            of = max(row.get("of", 0), 1)
            table.add_row(
                row["name"],
                row["what"],
                row.get("phase", ""),
                ProgressBar(total=of, completed=row.get("images", 0), width=24),
                f"{row['images']:,} / {row['of']:,}" if row.get("of") else "",
                row.get("last", ""),
            )
        parts.append(table)
        if state.get("note"):
            parts.append(Text(state["note"], style="dim"))
        return Group(*parts)


def make_console() -> Console:
    """Of standard output. A pipe or a file has no width; 80 columns would break the tables."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def clock(seconds: float) -> str:
    """83 -> `1:23`; 5000 -> `1:23:20`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
