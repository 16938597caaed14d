"""Standard output and error of a command that outlives its terminal.

A search takes hours, and its terminal or pipe may go away earlier (`| head`, a closed window, a lost
connection). Then what is printed goes nowhere, and the command runs on, as with nohup; what matters is in
its folder.
"""

import argparse
import contextlib
import errno
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

from meanflow_tune.plan.request import EXIT_USAGE, UserError
from meanflow_tune.report.characters import FALLBACK, clean
from meanflow_tune.urls import hide_password

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# The reader is gone for good; anything else, such as a full disk, may pass.
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET)


class _Hiding(io.TextIOWrapper):
    """Hides passwords of URLs, also those in a traceback or in a log of a library."""

    def write(self, text: str, /) -> int:
        super().write(hide_password(text))
        return len(text)


class _Steady(io.FileIO):
    """A descriptor whose writes do not fail: what cannot be written is dropped."""

    def write(self, data: "ReadableBuffer", /) -> int:
        size = memoryview(data).nbytes
        try:
            written = super().write(data)
        except OSError as error:
            if error.errno in _GONE:
                _to_nowhere(self.fileno())
            return size
        return size if written is None else written  # None: it would block


def steady_output() -> None:
    """Make this process's output survive its reader, and characters that its encoding lacks.

    For the start of a process, before it opens files: a closed descriptor (`>&-`) would be given to the
    next one, into which others then print.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _to_nowhere(descriptor)
    sys.stdout = _steady(sys.stdout, 1)
    sys.stderr = _steady(sys.stderr, 2)


def outlive_terminal() -> None:
    """Ignore SIGHUP, here and in processes started from here; Ctrl-C and SIGTERM still stop."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def say(text: str) -> None:
    """A message on standard error."""
    with contextlib.suppress(OSError, ValueError):
        print(clean(text), file=sys.stderr, flush=True)


def _steady(stream: TextIO | None, descriptor: int) -> TextIO:
    """A stream like `stream` on the descriptor; a stream that is no descriptor's stays."""
    if stream is not None:
        try:
            if stream.fileno() != descriptor:
                return stream
            stream.flush()
        except (OSError, ValueError):
            return stream
    terminal = os.isatty(descriptor)
    buffer = io.BufferedWriter(_Steady(descriptor, "w", closefd=False))
    return _Hiding(
        buffer,
        encoding=stream.encoding if stream is not None else "utf-8",
        errors=FALLBACK if descriptor == 1 else "backslashreplace",
        line_buffering=terminal or descriptor == 2,
    )


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


class OneLineParser(argparse.ArgumentParser):
    """Its errors are one line, like all others; `--help` is what lists the options."""

    def error(self, message: str) -> NoReturn:
        self.exit(
            EXIT_USAGE, f"{self.prog}: error: {UserError(message)} (--help lists the options)\n"
        )
