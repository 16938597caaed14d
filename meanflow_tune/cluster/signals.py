"""Signals: Ctrl-C in the driver, and the notice that a worker's host is going away.

The first Ctrl-C asks for a stop at a safe point, the second stops at once. SIGTERM to a worker, which a
spot instance sends before it goes, has its job saved and continued elsewhere. Python runs signal
handlers in the main thread only, and Ray Train runs `serve_slot` in another one; so a callback of the
worker group sets the worker's handler by a task, which Ray runs there.
"""

import signal
import threading
from types import FrameType
from typing import Any, Protocol

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(Protocol):
    """Something that may ask a search to stop: a signal, or a budget that is used up."""

    @property
    def requested(self) -> bool: ...


class AnyOf:
    """Requested once one of several is."""

    def __init__(self, *stops: Stop) -> None:
        self._stops = stops

    @property
    def requested(self) -> bool:
        return any(stop.requested for stop in self._stops)


class Interrupt:
    """While entered (in the main thread, after `ray.init`), SIGINT and SIGTERM set `requested`.

    A second signal raises KeyboardInterrupt. Ray's own processes block SIGINT, so a Ctrl-C in a
    terminal, which reaches the whole process group, ends none of them before this says so.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self) -> None:
        """What the first signal does."""
        self._event.set()

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not set from Python cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.request()


_given, _serving = threading.Event(), threading.Event()
_before: Any = None


def notice_given() -> bool:
    """Whether this process was told to leave."""
    return _given.is_set()


def wait_for_notice(seconds: float) -> None:
    """Sleep, but wake up early for the first notice."""
    if _given.is_set():
        threading.Event().wait(seconds)
    else:
        _given.wait(seconds)


def set_serving(busy: bool) -> None:
    """Say whether there is a job to save; without one a notice ends the process at once."""
    _serving.set() if busy else _serving.clear()


def listen_for_notice() -> None:
    """Take SIGTERM as a notice; the second one does what the first did before. In the main thread."""
    global _before
    _before = signal.signal(signal.SIGTERM, _handle_notice)


def _handle_notice(number: int, frame: FrameType | None) -> None:
    if _serving.is_set() and not _given.is_set():
        _given.set()
    elif callable(_before):
        _before(number, frame)
    else:
        raise SystemExit(1)
