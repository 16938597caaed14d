"""What a user sees while a search runs: a live view on a terminal, elsewhere one plain line per event."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from meanflow_tune.files import OnlyShown
from meanflow_tune.report.characters import clean, one_line
from meanflow_tune.report.running import running_lines
from meanflow_tune.report.safe_console import is_terminal, make_console
from meanflow_tune.report.state.host_lines import host_lines
from meanflow_tune.report.state.host_state import read_hosts
from meanflow_tune.report.state.standing import outlook_lines, standing_lines
from meanflow_tune.report.text import COLOURS, clock

BEAT_SECONDS = 60.0
TALL, WIDE = 36, 60  # lines and columns of a terminal that has room for a picture
LEAST_ROWS = 3  # of running trials, however low the terminal
HOST_SHARE = 4  # hosts take a quarter of the lines at most


class View:
    """Shows `state` (filled by the driver) and events. Use as a context manager.

    state keys: study, total, done (counts by status), best, teacher (texts), warnings (list of texts),
    running (list of rows), slots (of `host_state.hosts_of`), and those of `outlook.Outlook`. log: gets
    each event and error, also of a quiet view.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.log: Callable[[str], None] = lambda text: None
        self.console = make_console()
        self.interactive = self.console.is_interactive and not quiet
        self.quiet = quiet
        self.began = time.monotonic()
        self.state: dict[str, Any] = {}
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
            redirect_stderr=is_terminal(sys.stderr),  # else it has a place of its own
        )
        live.start()
        self._live = live

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Draw the live view no more; events and errors are still shown."""
        if self._live is not None:
            self._shown("draw the live view", self._live.stop, None)
            self._live = None

    @property
    def elapsed(self) -> float:
        """Seconds since this view was made."""
        return time.monotonic() - self.began

    def event(self, text: str, style: str = "") -> None:
        """Something happened: a line with the seconds since the start. style: a status, or one of rich."""
        self.log(text)
        self._show_event(text, style)

    def _show_event(self, text: str, style: str = "") -> None:
        if not self.quiet:
            style = COLOURS.get(style, style)
            self._shown("show an event", partial(self._print, text, style), None)

    def _print(self, text: str, style: str) -> None:
        stamp, text = f"[{self.elapsed:6.1f} s]", one_line(text)
        with self._lock:
            if self._live is not None:
                self._live.console.print(self._stamped(f"{stamp} ", text, style))
            else:
                print(f"{stamp} {text}", flush=True)

    def _stamped(self, stamp: str, text: str, style: str) -> Text:
        """The event, with the lines after its first one indented below it."""
        room = self.console.width - len(stamp)
        indent = "\n" + " " * len(stamp)
        if room < 2 * len(stamp):
            room, indent = self.console.width, "\n"
        lines = Text(text, style=style).wrap(self.console, max(room, 1))
        return Text(stamp, style="dim").append(Text(indent, style="not dim").join(lines))

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
        self._show_event("; ".join(word for word in words if word))

    def _ended(self) -> int:
        done = self.state.get("done", {})
        return sum(n for status, n in done.items() if status not in ("running", "paused"))

    def error(self, text: str) -> None:
        """A line on standard error, shown in every mode; nowhere if that is closed."""
        self.log(text)
        with suppress(OSError, ValueError):
            print(clean(text), file=sys.stderr, flush=True)

    def _render(self) -> "_Lines":
        # Drawn also where an event is printed, in the thread of the search.
        return self._shown("draw the live view", self._draw, _Lines([]))

    def _draw(self) -> "_Lines":
        """All of it down to segments, so that nothing is left to fail in rich's own thread."""
        state = dict(self.state)
        width, height = self.console.width, self.console.height
        above = self._lines([head_line(state, self._ended(), self.elapsed), *standing_lines(state)])
        picture = height >= TALL and width >= WIDE
        below = self._lines(outlook_lines(state, picture))
        room = height - len(above) - len(below) - 2  # the header, and the cursor's line
        hosts = read_hosts(state.get("slots"))
        slots = host_lines(hosts, width, min(room - LEAST_ROWS, max(height // HOST_SHARE, 1)))
        rows = running_lines(state.get("running") or [], width, max(room - len(slots), LEAST_ROWS))
        return _Lines([*above, *self._lines(rows), *self._lines(slots), *below])

    def _lines(self, texts: Iterable[Text]) -> list[list[Segment]]:
        options = self.console.options.update(height=None)
        return [
            line for text in texts for line in self.console.render_lines(text, options, pad=False)
        ]


def head_line(state: Mapping[str, Any], ended: int, seconds: float | None = None) -> Text:
    """`second_order  3/32 trials  2 completed  1 pruned  1:23`."""
    head = Text(f"{state.get('study', '')}  ", style="bold")
    head.append(f"{ended}/{state.get('total', '?')} trials", style="bold cyan")
    for status, count in (state.get("done") or {}).items():
        if count and status != "running":
            head.append(f"  {count} {status}", style=COLOURS.get(status, ""))
    if seconds is not None:
        head.append(f"  {clock(seconds)}", style="dim")
    return head


class _Lines:
    """Lines that are laid out already."""

    def __init__(self, lines: list[list[Segment]]) -> None:
        self._content = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        for line in self._content:
            yield from line
            yield Segment.line()
