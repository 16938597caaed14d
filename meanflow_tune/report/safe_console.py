"""The console that everything is shown on, and tables that fit it.

Text is never read as markup or emoji codes and cannot steer the terminal, because much of it comes from
outside: errors, names, paths. Styles are given as rich's Text, or by `style=`.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from meanflow_tune.report.characters import clean, in_ascii, shows_ascii_only

PIPE_WIDTH = 110  # a pipe or a file has no width of its own
NARROWEST = 20
TEXT_WIDTH = 12  # a column of text may be folded down to this


class SafeConsole(Console):
    """Takes text as it is. plain: show ASCII only."""

    def __init__(self, plain: bool = False, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)
        self._plain = plain

    @property
    def encoding(self) -> str:
        """Rich draws boxes and bars with ASCII where this is no UTF."""
        return "ascii" if self._plain else "utf-8"

    def render_str(self, text: str, **options: Any) -> Text:
        text = clean(text)
        return super().render_str(in_ascii(text) if self._plain else text, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The last place that all text passes, also that of Text objects; widths stay what they are."""
        for segment in super().render(renderable, options):
            if segment.control or (segment.text.isascii() and segment.text.isprintable()):
                yield segment
                continue
            text = clean(segment.text)
            yield segment._replace(text=in_ascii(text, one_cell=True) if self._plain else text)

    def on_broken_pipe(self) -> None:
        """The reader has left, as in `| head -1`: the rest goes nowhere. Rich would end the process."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def make_console(file: IO[str] | None = None, width: int | None = None) -> SafeConsole:
    """Of standard output, or of a file. Without a terminal it is COLUMNS wide, or PIPE_WIDTH."""
    stream = file if file is not None else sys.stdout
    terminal = is_terminal(stream)
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
    plain = not encoding.startswith("utf") or (file is None and shows_ascii_only(terminal=terminal))
    return SafeConsole(
        plain,
        file=file,
        width=width or _width(terminal),
        force_interactive=None if terminal else False,
    )


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether a stream, which may be closed, is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def _width(terminal: bool) -> int | None:
    """None: whatever the terminal has at the moment."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return max(int(columns), NARROWEST)
    if not terminal:
        return PIPE_WIDTH
    # Rich takes any dumb terminal for 80 columns.
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or None if dumb else None
    return None


class AdaptiveTable(Table):
    """A table whose numbers are never folded or cut. Where they do not fit, each row becomes a list."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._needed(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
        else:
            yield from self._stacked(console)

    def _needed(self, console: Console, options: ConsoleOptions) -> int:
        roomy = options.update_width(10_000)
        needed = 0
        for column in self.columns:
            cells = [column.header, *column.cells]
            widths = [Measurement.get(console, roomy, cell).maximum for cell in cells]
            widest = max(widths, default=0)
            needed += widest if column.no_wrap else min(widest, TEXT_WIDTH)
        return needed + self._extra_width + sum(self.padding[1::2]) * (len(self.columns) - 1)

    def _stacked(self, console: Console) -> Iterable[RenderableType]:
        titles = [_line(console, column.header) for column in self.columns]
        columns: Sequence[Column] = self.columns
        for cells in zip(*(list(column.cells) for column in columns), strict=True):
            words = [_line(console, cell) for cell in cells]
            yield Text(words[0], style="bold")
            for title, word in zip(titles[1:], words[1:], strict=True):
                if word:
                    yield Text(f"  {title}: {word}" if title else f"  {word}")


def _line(console: Console, cell: RenderableType) -> str:
    text = console.render_str(cell) if isinstance(cell, str) else cell
    return " ".join(str(text).split())
