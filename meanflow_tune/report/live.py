"""What a user sees while a search runs: a live view on a terminal, elsewhere one plain line per event."""

import sys
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from meanflow_tune.files import OnlyShown
from meanflow_tune.report.outlook import outlook_lines, standing_lines
from meanflow_tune.report.text import COLOURS, clock, make_console

BEAT_SECONDS = 60.0
TALL = 36  # lines of a terminal that has room for a picture


class View:
    """Shows `state` (filled by the driver) and events. Use as a context manager.

    state keys: study, total, done (counts by status), best, teacher (texts), warnings (list of texts),
    running (list of rows), and those of `outlook.Outlook`.
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
        self._beaten: tuple[float, int] = (self.began, 0)
        self._shown = OnlyShown(self.error)

    def __enter__(self) -> "View":
        if self.interactive:
            self._shown("draw the live view", self._start, None)
        return self

    def _start(self) -> None:
        live = Live(
            get_renderable=self._render,
            console=self.console,
            refresh_per_second=2,
            transient=True,
        )
        live.start()
        self._live = live

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._shown("draw the live view", self._live.stop, None)
            self._live = None

    @property
    def elapsed(self) -> float:
        """Seconds since this view was made."""
        return time.monotonic() - self.began

    def event(self, text: str, style: str = "") -> None:
        """Something happened: a line with the seconds since the start."""
        if not self.quiet:
            self._shown("show an event", partial(self._print, text, style), None)

    def _print(self, text: str, style: str) -> None:
        stamp = f"[{self.elapsed:6.1f} s]"
        with self._lock:
            if self._live is not None:
                self._live.console.print(Text(f"{stamp} ", style="dim").append(text, style=style))
            else:
                print(f"{stamp} {text}", flush=True)

    def beat(self) -> None:
        """Without a live view: from time to time, a line on where the search stands.

        Every BEAT_SECONDS, and earlier when a trial ends.
        """
        if self.quiet or self.interactive or not self.state.get("total"):
            return
        ended, now = self._ended(), time.monotonic()
        if ended == self._beaten[1] and now - self._beaten[0] < BEAT_SECONDS:
            return
        self._beaten = (now, ended)
        done = self.state.get("done", {})
        parts = [f"{ended}/{self.state['total']} trials"]
        parts += [
            f"{done[status]} {status}" for status in ("running", "paused") if done.get(status)
        ]
        words = [", ".join(parts), self.state.get("best"), self.state.get("forecast")]
        words += self.state.get("warnings") or []
        self.event("; ".join(word for word in words if word))

    def _ended(self) -> int:
        done = self.state.get("done", {})
        return sum(n for status, n in done.items() if status not in ("running", "paused"))

    def error(self, text: str) -> None:
        """A line on standard error, shown in every mode; nowhere if that is closed."""
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)

    def _render(self) -> Group:
        # Drawn also where an event is printed, in the thread of the search.
        return self._shown("draw the live view", self._draw, Group())

    def _draw(self) -> Group:
        state = dict(self.state)
        done = state.get("done", {})
        head = Text(f"{state.get('study', '')}  ", style="bold")
        head.append(f"{self._ended()}/{state.get('total', '?')} trials", style="bold cyan")
        for status, count in done.items():
            if count and status != "running":
                head.append(f"  {count} {status}", style=COLOURS.get(status, ""))
        head.append(f"  {clock(self.elapsed)}", style="dim")
        parts: list[Any] = [head]
        parts += standing_lines(state)
        bar = 24 if self.console.width >= 100 else 9
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
        for name in ("trial", "what", "phase", "progress", "images", "last rung"):
            table.add_column(name, header_style="dim", no_wrap=True)
        for row in state.get("running", []):
            of = max(row.get("of", 0), 1)
            table.add_row(
                row["name"],
                row["what"],
                row.get("phase", ""),
                ProgressBar(total=of, completed=row.get("images", 0), width=bar),
                f"{row['images']:,} / {row['of']:,}" if row.get("of") else "",
                row.get("last", ""),
            )
        parts.append(table)
        parts += outlook_lines(state, picture=self.console.height >= TALL)
        return Group(*parts)
