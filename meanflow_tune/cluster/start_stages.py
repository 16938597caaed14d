"""How long a search takes until its first report, by stage: what `-v` prints."""

import time
from collections.abc import Callable, Mapping
from typing import Any


class StartStages:
    """say: gets a line when a stage is reached for the first time, with the seconds since the first one."""

    def __init__(
        self,
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._clock = say, clock
        self._began: float | None = None
        self._last = 0.0
        self._seen: set[str] = set()

    def reached(self, stage: str) -> None:
        """A stage ends; the first one begins the count. Said once: not for the confirmation, too."""
        if stage in self._seen:
            return
        self._seen.add(stage)
        now = self._clock()
        if self._began is None:
            self._began = self._last = now
        self._say(f"start: {stage} after {now - self._began:.1f} s (+{now - self._last:.1f} s)")
        self._last = now

    def tick(self, snapshot: Mapping[str, Any]) -> None:
        """snapshot: the broker's, about once a second."""
        if self._began is None:
            return
        if any(slot.get("starts") for slot in snapshot.get("slots", {}).values()):
            self.reached("ranks have met")
        if any(now.get("phase") == "train" for now in snapshot["progress"].values()):
            self.reached("a trial trains")
