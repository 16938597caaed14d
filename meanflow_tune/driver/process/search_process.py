"""A search on a joined cluster runs in a child process, so that it can end, or restart, whatever Ray does.

Ray's core may end a process at any moment after the head of its cluster has ended, by `_exit` or an abort,
and a process that was joined to a lost cluster cannot join another one. The parent imports neither Ray nor
torch.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any, NoReturn

from meanflow_tune.plan.request import EXIT_UNUSABLE

_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Ending:
    """How a search ended. error: what the user was told; lost: why its cluster is lost, "" if it is not."""

    status: int
    error: str = ""
    lost: str = ""


Tell = Callable[[Ending], None]


def run_in_child(search: Callable[[Tell], int]) -> Ending:
    """Run `search` in a child process, which is given a function that reports its ending; the first counts.

    In the child this does not return, but raises SystemExit. A child that ends without a report was ended
    by Ray, or by a signal: then this process ends by the same one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _end_with(parent)
        _search(search, writing)
    os.close(writing)
    with _Forwarding(child), os.fdopen(reading, encoding="utf-8") as reports:
        said = reports.read()  # until the child has ended
        _, code = os.waitpid(child, 0)
    if said:
        return Ending(**json.loads(said.splitlines()[0]))
    number = os.WTERMSIG(code) if os.WIFSIGNALED(code) else 0
    if number == signal.SIGKILL:
        os.kill(parent, number)
    return Ending(
        EXIT_UNUSABLE, lost="the connection to the Ray cluster broke, and Ray ended the search"
    )


def _search(search: Callable[[Tell], int], writing: int) -> NoReturn:
    from meanflow_tune.cluster.connection.session import end_process

    def report(ending: Ending) -> None:
        os.write(writing, (json.dumps(asdict(ending)) + "\n").encode())

    end_process(search(report))


def _end_with(parent: int) -> None:
    """End this process when its parent does, also by `kill -9`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(EXIT_UNUSABLE)


class _Forwarding:
    """Signals to this process go to the child, which takes those that it gets twice at once as one."""

    def __init__(self, child: int) -> None:
        self._child = child
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._before = {s: signal.signal(s, self._forward) for s in _FORWARDED}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(self._child, number)
