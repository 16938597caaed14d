"""SIGTERM to a rank, as a spot instance sends before it goes: its job is saved and begun elsewhere.

Python runs signal handlers in the main thread only, and Ray Train runs `serve_slot` in another one; so
a callback of the worker group (in slots.py) sets the handler by a task, which Ray runs there.
"""

import signal
import threading
from types import FrameType
from typing import Any

_given, _serving = threading.Event(), threading.Event()
_before: Any = None


def given() -> bool:
    """Whether this process was told to leave."""
    return _given.is_set()


def wait(seconds: float) -> None:
    """Sleep, but wake up early for the first notice."""
    if _given.is_set():
        threading.Event().wait(seconds)
    else:
        _given.wait(seconds)


def serving(busy: bool) -> None:
    """Say whether there is a job to save; without one a notice ends the process at once."""
    _serving.set() if busy else _serving.clear()


def listen() -> None:
    """Take SIGTERM as a notice; the second one does what the first did before. In the main thread."""
    global _before
    _before = signal.signal(signal.SIGTERM, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    if _serving.is_set() and not _given.is_set():
        _given.set()
    elif callable(_before):
        _before(number, frame)
    else:
        raise SystemExit(1)
