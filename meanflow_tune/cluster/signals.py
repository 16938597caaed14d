"""Signals: Ctrl-C in the driver, and the notice that a worker's host is going away.

The first Ctrl-C asks for a stop at a safe point, the second stops at once. SIGTERM to a worker, which a
spot instance sends before it ends, makes its job save and continue elsewhere. Python runs signal handlers in
the main thread only, and Ray Train runs `run_worker` in another one; so a callback of the worker
group sets the worker's handler by a task, which Ray runs in the main thread.
"""

import math
import signal
import threading
import time
from types import FrameType
from typing import Any, Protocol

# Within so many seconds, a second signal is the first one on another way: `timeout` sends SIGTERM to its
# child and then to the group, wrappers forward a Ctrl-C that the terminal has sent to all.
_TOGETHER = {signal.SIGINT: 0.3, signal.SIGTERM: 2.0}
_taken: dict[int, float] = {}


def _is_new(number: int) -> bool:
    """Whether a signal is not one that has been taken just now."""
    now = time.monotonic()
    new = now - _taken.get(number, -math.inf) > _TOGETHER[signal.Signals(number)]
    if new:
        _taken[number] = now
    return new


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """A handler that raises KeyboardInterrupt."""
    if _is_new(number):
        raise KeyboardInterrupt


class Stop(Protocol):
    """What can ask a search to stop: a signal, or a budget that is used up."""

    @property
    def requested(self) -> bool: ...


class AnyOf:
    """Requested once any of `stops` is."""

    def __init__(self, *stops: Stop) -> None:
        self._stops = stops

    @property
    def requested(self) -> bool:
        return any(stop.requested for stop in self._stops)


class Interrupt:
    """While entered (in the main thread, after `ray.init`), SIGINT and SIGTERM set `requested`.

    A second signal raises KeyboardInterrupt. A Ctrl-C in a terminal reaches the whole process group,
    but ends none of Ray's processes, which block SIGINT.
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
            self._before = {s: signal.signal(s, self._handle) for s in _TOGETHER}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not set from Python cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not _is_new(number):
            return
        if self.requested:
            raise KeyboardInterrupt
        self.request()


_given, _busy = threading.Event(), threading.Event()
_before: Any = None


def notice_given() -> bool:
    """Whether this process was told that its host is going away."""
    return _given.is_set()


def wait_for_notice(seconds: float) -> None:
    """Sleep, but wake up early for the first notice."""
    if _given.is_set():
        threading.Event().wait(seconds)
    else:
        _given.wait(seconds)


def set_busy(busy: bool) -> None:
    """Set whether there is a job to save; without one a notice ends the process at once."""
    _busy.set() if busy else _busy.clear()


def listen_for_notice() -> None:
    """Take SIGTERM as a notice; a second one goes to the previous handler. For the main thread."""
    global _before
    _before = signal.signal(signal.SIGTERM, _handle_notice)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked in a private Ray


def _handle_notice(number: int, frame: FrameType | None) -> None:
    if _busy.is_set() and not _given.is_set():
        _given.set()
    elif callable(_before):
        _before(number, frame)
    else:
        raise SystemExit(1)
