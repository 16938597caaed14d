"""Ctrl-C: the first asks for a stop at a safe point, the second stops at once."""

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
