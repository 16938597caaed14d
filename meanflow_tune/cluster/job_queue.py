"""Jobs that wait for a slot, and how often and when those are restarted that one could not finish."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meanflow_tune.records import Outcome

MAX_RETRIES = 3


@dataclass
class Delivery:
    """A job and all that is known of it. events: for the driver, in order.

    stopping: it alone must end at a safe point; saved: images of its newest checkpoint, and `kept` of the
    one that it was last restarted from; retries: restarts in a row from that one;
    submitted: the attempt that the driver handed out, from which retries count on; due: when the job
    may be restarted, by the broker's clock; explained: `cause` is that of the newest attempt.
    """

    job: dict[str, Any]
    submitted: int
    events: list[dict[str, Any]] = field(default_factory=list)
    decisions: dict[tuple[int, int], bool] = field(default_factory=dict)  # by repeat and images
    progress: dict[str, Any] = field(default_factory=dict)
    saved: int = 0
    kept: int = 0
    retries: int = 0
    cause: str = "its processes ended"
    explained: bool = False
    due: float = 0.0
    stopping: bool = False
    ended: bool = False

    def progressed(self, progress: dict[str, Any]) -> None:
        """Its ranks continue; `saved`, where they say it, counts the images that a restart keeps."""
        self.progress = dict(progress)
        self.saved = int(progress.get("saved", self.saved))

    def reported(self, images: int) -> None:
        """A rung, whose checkpoint was written before the report."""
        self.saved = images
        self.progress = self.progress | {"images": max(images, self.progress.get("images", 0))}

    def explain(self, cause: str) -> None:
        """Why its newest attempt is cut short."""
        self.cause, self.explained = cause, True

    def end(self, outcome: Outcome) -> None:
        """The driver hears it as the last event; the first end counts."""
        if not self.ended:
            self.ended = True
            self.events.append({"kind": "end", "outcome": outcome.to_dict()})

    @property
    def started(self) -> bool:
        """Whether it waits for a retry, not for its first start."""
        return self.job["attempt"] > self.submitted

    @property
    def fruitless(self) -> int:
        """Restarts since its newest checkpoint."""
        return self.retries if self.saved <= self.kept else 0

    @property
    def lost(self) -> int:
        """Images since the newest checkpoint."""
        return max(0, int(self.progress.get("images", 0)) - self.saved)


@dataclass(frozen=True)
class Retries:
    """limit: restarts of a job from one checkpoint before it has failed; first_pause, longest_pause:
    seconds before the first one, doubled with each, and their limit."""

    limit: int
    first_pause: float
    longest_pause: float

    def pause(self, retry: int) -> float:
        """Seconds before the `retry`-th one, counted from 1."""
        return min(self.first_pause * 2.0 ** (retry - 1), self.longest_pause)

    def remedy(self, delivery: Delivery, leaving: bool, stopping: bool) -> str:
        """What becomes of a job that its slot cannot finish, for a user.

        leaving: the slot's host is going away; stopping: the whole search stops.
        """
        if delivery.stopping:
            return "the trial was to stop and is not restarted"
        start = f"from {delivery.saved:,} images" if delivery.saved else "from the start"
        if stopping:
            return f"the next run of the command resumes the trial {start}"
        where = f"the trial restarts {start} on the next free slot"
        if leaving:
            return f"{where} (counts as no attempt)"
        tried = delivery.fruitless + 1
        if tried > self.limit:
            return f"the trial is given up after {tried} attempts without a new checkpoint"
        return f"{where} in {self.pause(tried):.0f} s (attempt {tried + 1} of {self.limit + 1})"


class JobQueue:
    """All jobs of a search by their number, and the order in which they are handed out."""

    def __init__(self, retries: Retries, clock: Callable[[], float]) -> None:
        self._retries, self._clock = retries, clock
        self._waiting: deque[int] = deque()
        self._deliveries: dict[int, Delivery] = {}

    def __getitem__(self, number: int) -> Delivery:
        return self._deliveries[number]

    def get(self, number: int) -> Delivery | None:
        """None for a job that was not submitted."""
        return self._deliveries.get(number)

    def add(self, job: dict[str, Any]) -> bool:
        """Queue a job; False where this attempt of it is known."""
        known = self._deliveries.get(job["number"])
        if known is not None and known.submitted >= job["attempt"]:
            return False
        self._deliveries[job["number"]] = Delivery(dict(job), job["attempt"])
        self._waiting.append(job["number"])
        return True

    def take(self) -> Delivery | None:
        """The next job that may start now, no longer queued."""
        number = next((n for n in self._waiting if self._is_due(n)), None)
        if number is None:
            return None
        self._waiting.remove(number)
        delivery = self._deliveries[number]
        delivery.explained = False
        return delivery

    def has_due(self) -> bool:
        """Whether `take` finds one."""
        return any(self._is_due(number) for number in self._waiting)

    def until_due(self) -> list[float]:
        """Seconds until each queued job may start."""
        return [self._deliveries[n].due - self._clock() for n in self._waiting]

    def retry(self, number: int, counted: bool) -> None:
        """Queue a job again that its slot could not finish; end it if that happened too often.

        counted: as an attempt.
        """
        delivery = self._deliveries[number]
        if counted:
            delivery.retries, delivery.kept = delivery.fruitless + 1, delivery.saved
            if delivery.retries > self._retries.limit:
                reason = f"crashed {delivery.retries} times: {delivery.cause}"
                delivery.end(Outcome("failed", reason))
                return
            delivery.due = self._clock() + self._retries.pause(delivery.retries)
        delivery.job["attempt"] += 1
        delivery.progress = {"phase": f"waiting for a retry: {delivery.cause}"}
        self._waiting.appendleft(number)

    def hand_back(self, number: int, before: str) -> None:
        """End a queued job that no slot has taken, to be resumed later. before: why, if it never ran."""
        if number in self._waiting:
            self._waiting.remove(number)
            delivery = self._deliveries[number]
            cause = f"interrupted; {delivery.cause}" if delivery.started else before
            delivery.end(Outcome("running", cause))

    def hand_back_all(self) -> None:
        """`hand_back` of all queued jobs, since the search stops."""
        for number in list(self._waiting):
            self.hand_back(number, "interrupted before it started")

    def drop_ended(self) -> None:
        """Forget the jobs that have ended."""
        self._deliveries = {n: d for n, d in self._deliveries.items() if not d.ended}

    def to_dict(self) -> dict[str, Any]:
        """For the driver: what is queued, when retries are due, and progress."""
        now = self._clock()
        return {
            "queued": list(self._waiting),
            "retries": {
                n: {"due_s": max(0.0, d.due - now), "cause": d.cause}
                for n, d in ((n, self._deliveries[n]) for n in self._waiting)
                if d.started
            },
            "progress": {n: d.progress for n, d in self._deliveries.items() if not d.ended},
        }

    def _is_due(self, number: int) -> bool:
        return self._deliveries[number].due <= self._clock()
