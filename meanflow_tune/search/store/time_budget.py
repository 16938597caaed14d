"""The working time of all drivers of a search, which `--time-budget` limits.

In a file next to the study, since a line every few seconds for a week would fill the journal. A kill
loses at most the seconds since the last write.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from meanflow_tune.checksums import put_aside
from meanflow_tune.files import read_small, write_atomic
from meanflow_tune.search.errors import LeaseLost, StorageError

CLOCK_NAME = "clock.json"
WRITE_SECONDS = 10.0
LARGEST = 2**24  # bytes of clock.json


class TimeBudget:
    """A context manager, entered while the search runs. Seconds of the monotonic clock.

    epoch: the lease's, so that each driver has its own entry; fence: called before a write; budget:
    total seconds, None for no limit; say: called once, when the budget is used up.
    """

    def __init__(
        self,
        folder: Path,
        epoch: int,
        fence: Callable[[], None],
        budget: float | None,
        say: Callable[[str], None] = lambda text: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = Path(folder) / CLOCK_NAME
        self._epoch, self._fence, self._budget, self._say = epoch, fence, budget, say
        self._now = now
        self._spent = self._earlier()
        self._before = sum(self._spent.values())
        self._finished = 0.0
        self._start: float | None = None
        self._done = threading.Event()
        self._lock = threading.Lock()

    def _earlier(self) -> dict[str, float]:
        """What earlier drivers spent. Raises StorageError where a budget depends on a damaged file."""
        try:
            return _read(self._path)
        except StorageError as error:
            if self._budget is not None:
                raise StorageError(
                    f"{error}; remove it to count the time budget from zero"
                ) from error
            self._fence()
            self._say(
                f"{error}; it is kept as {put_aside(self._path).name}, and the count begins at zero"
            )
            return {}

    @property
    def spent(self) -> float:
        """Seconds of all drivers so far."""
        running = 0.0 if self._start is None else self._now() - self._start
        return self._before + self._finished + running

    @property
    def note(self) -> str:
        """What a user is told of a search that the budget ended; empty while some is left."""
        if not self.requested:
            return ""
        return (
            f"The time budget ended the search after {self.spent:.0f} s of work; a larger --time-budget"
            " resumes it."
        )

    @property
    def left(self) -> float | None:
        """Seconds left in the budget, at least 0; None without a budget."""
        return None if self._budget is None else max(0.0, self._budget - self.spent)

    @property
    def requested(self) -> bool:
        """Whether the budget is used up, so that the search must stop (a `Stop` of the cluster)."""
        return self.left == 0.0

    def __enter__(self) -> "TimeBudget":
        self._done.clear()
        self._start = self._now()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        assert self._start is not None
        self._finished, self._start = self._finished + self._now() - self._start, None
        self.write()

    def write(self) -> None:
        """Store the time spent. A full disk and a lost lease are left to the study's own writes."""
        with self._lock:
            entry = {str(self._epoch): round(self.spent - self._before, 3)}
            try:
                self._fence()
                write_atomic(self._path, json.dumps(self._spent | entry, indent=1) + "\n")
            except (OSError, LeaseLost):
                return

    def _run(self) -> None:
        announced = False
        while True:
            left = self.left
            pause = WRITE_SECONDS if left is None or left == 0.0 else min(WRITE_SECONDS, left)
            if self._done.wait(pause):
                return
            self.write()
            if self.requested and not announced:
                announced = True
                self._say(
                    "the time budget is used up; running trials stop at their next safe point, and"
                    " continue with a larger --time-budget"
                )


def _read(path: Path) -> dict[str, float]:
    try:
        data = json.loads(read_small(path, LARGEST))
        return {str(epoch): float(seconds) for epoch, seconds in data.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError, IsADirectoryError, RecursionError) as error:
        raise StorageError(f"{path} is not readable ({error})") from error
