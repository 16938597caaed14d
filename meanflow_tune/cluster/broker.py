"""The one place where trials (Ray Tune), slots (Ray Train) and the driver meet.

`Broker` is plain asyncio, so that it can be tested without Ray; `broker_handle` makes it an actor. The
processes of a slot name their *incarnation*, new with each start: calls of an older one are answered
`stale` and change nothing.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meanflow_tune.records import Outcome

MAX_RETRIES = 3


@dataclass
class _Delivery:
    """A job and all that is known of it. events: for the driver, in order.

    stopping: it alone must end at a safe point;
    submitted: the attempt that the driver handed out, from which retries count on; due: when the job
    may be restarted, by the broker's clock.
    """

    job: dict[str, Any]
    submitted: int
    events: list[dict[str, Any]] = field(default_factory=list)
    decisions: dict[tuple[int, int], bool] = field(default_factory=dict)  # by repeat and images
    progress: dict[str, Any] = field(default_factory=dict)
    retries: int = 0
    cause: str = "its processes ended"
    due: float = 0.0
    stopping: bool = False
    ended: bool = False


@dataclass
class _Slot:
    """seen: when one of its processes last called; moved: when its job last made progress (seconds).

    discarded: its processes must end. leaving: the host of one of them is going away.
    """

    incarnation: str
    number: int | None
    seen: float
    moved: float
    discarded: bool = False
    leaving: bool = False
    starts: int = 1


class Broker:
    """Jobs in, reports and outcomes out, decisions back.

    max_retries: how often a job is restarted after its processes died, before it has failed.
    back_off, longest_back_off: seconds before the first retry of a job, doubled with each, and their
    limit; slots take other jobs meanwhile.
    lost_after: seconds of silence after which a slot's job goes to another slot.
    stall_after: seconds without a report or tick after which a slot's processes are ended.
    """

    def __init__(
        self,
        max_retries: int = MAX_RETRIES,
        lost_after: float = 60.0,
        stall_after: float = 1800.0,
        back_off: float = 1.0,
        longest_back_off: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_retries = max_retries
        self._lost_after, self._stall_after = lost_after, stall_after
        self._back_off, self._longest_back_off = back_off, longest_back_off
        self._clock = clock
        self._queue: deque[int] = deque()
        self._deliveries: dict[int, _Delivery] = {}
        self._slots: dict[str, _Slot] = {}
        self._unusable: dict[str, str] = {}
        self._stopping = self._closed = False
        self._round = 1  # of this search: a slot may hear of its stop only during the next
        self._changed = asyncio.Condition()

    # ---- the trial's side -----------------------------------------------------------------

    async def submit(self, job: dict[str, Any]) -> None:
        """Queue a job. Idempotent by number and attempt.

        A later attempt is a new delivery: a trial that was paused at a rung and is resumed.
        """
        known = self._deliveries.get(job["number"])
        if known is not None and known.submitted >= job["attempt"]:
            return
        self._deliveries[job["number"]] = _Delivery(dict(job), job["attempt"])
        if self._stopping:
            self._end(job["number"], Outcome("running", "interrupted before it started"))
        else:
            self._queue.append(job["number"])
        await self._notify()

    async def events(self, number: int, after: int, wait: float = 30.0) -> list[dict[str, Any]]:
        """Events of a job from index `after`; waits up to `wait` seconds for the first."""
        delivery = self._deliveries[number]
        await self._wait(lambda: len(delivery.events) > after, wait)
        return delivery.events[after:]

    # ---- the slot's side ------------------------------------------------------------------

    async def register(self, slot: str, incarnation: str) -> None:
        """A slot's processes have started; its earlier ones are stale from now on.

        A job that those left unfinished waits for its retry, by any slot.
        """
        now, old = self._clock(), self._slots.get(slot)
        if old is not None and old.number is not None:
            self._requeue(old)
        starts = old.starts + 1 if old else 1
        self._slots[slot] = _Slot(incarnation, None, now, now, starts=starts)
        await self._notify()

    async def next_job(self, slot: str, incarnation: str, wait: float = 10.0) -> dict[str, Any]:
        """kind: job (with `job` and `round`), wait (ask again), close (end normally), or stale or leave
        (end at once).

        A job that this slot has left unfinished is handed out again, after its back-off.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            state = self._slots[slot]
            if self._stale(slot, incarnation):
                return {"kind": "stale"}
            if state.number is not None:
                self._requeue(state)
            if state.leaving:
                return {"kind": "leave"}
            number = next((n for n in self._queue if self._is_due(n)), None)
            if number is not None:
                self._queue.remove(number)
                state.number, state.moved = number, self._clock()
                job = dict(self._deliveries[number].job)
                return {"kind": "job", "job": job, "round": self._round}
            if self._closed:
                return {"kind": "close"}
            left = deadline - loop.time()
            if left <= 0:
                return {"kind": "wait"}
            await self._wait(
                lambda: (
                    self._closed
                    or self._stale(slot, incarnation)
                    or self._slots[slot].leaving
                    or any(self._is_due(n) for n in self._queue)
                ),
                min([left, *(self._deliveries[n].due - self._clock() for n in self._queue)]),
            )

    async def beat(self, slot: str, incarnation: str, leaving: bool = False) -> dict[str, Any]:
        """A heartbeat. stopping: the round whose jobs must end at a safe point, 0 for none; stopped_job:
        the round and number of the slot's job if it alone must, else None; die: end the process now.

        leaving: the process was told that its host is going away, so its slot's job stops as well.
        """
        if self._stale(slot, incarnation):
            stopping = self._round if self._stopping else 0
            return {"stopping": stopping, "stopped_job": None, "die": True}
        state = self._slots[slot]
        state.seen = self._clock()
        if leaving and not state.leaving:
            state.leaving = True
            await self._notify()
        number = state.number
        alone = number is not None and self._deliveries[number].stopping
        return {
            "stopping": self._round if self._stopping or state.leaving else 0,
            "stopped_job": (self._round, number) if alone else None,
            "die": False,
        }

    async def tick(
        self, slot: str, incarnation: str, number: int, progress: dict[str, Any]
    ) -> None:
        """Live progress of a job, which also shows that it is not stuck."""
        if self._holds(slot, incarnation, number):
            self._slots[slot].moved = self._clock()
            self._deliveries[number].progress = dict(progress)

    async def report(
        self, slot: str, incarnation: str, number: int, report: dict[str, Any]
    ) -> bool:
        """Hand a rung's report to the driver and wait for its decision: True to continue.

        A rung that was decided before (the job was restarted below it) is answered at once. The end
        of a repeat has as many images as that of the trial's own run, and is another report.
        """
        if not self._holds(slot, incarnation, number):
            return False
        delivery, rung = self._deliveries[number], _rung(report)
        if rung not in {_rung(e["report"]) for e in delivery.events if e["kind"] == "report"}:
            delivery.events.append({"kind": "report", "report": report})
            await self._notify()
        while rung not in delivery.decisions:
            self._slots[slot].moved = self._clock()
            await self._wait(
                lambda: (
                    rung in delivery.decisions or self._closed or self._stale(slot, incarnation)
                ),
                30.0,
            )
            if not self._holds(slot, incarnation, number) or self._closed:
                return False
        return delivery.decisions[rung]

    async def done(self, slot: str, incarnation: str, number: int, outcome: dict[str, Any]) -> None:
        """A job has ended with an `Outcome`.

        Status `running` without a stop of the search: its host is going away, so it is restarted.
        """
        if self._holds(slot, incarnation, number):
            state = self._slots[slot]
            if outcome["status"] == "running" and state.leaving and not self._stopping:
                self._deliveries[number].cause = "its host was going away"
                self._requeue(state)
            else:
                state.number = None
                self._end(number, Outcome(**outcome))
            await self._notify()

    async def fault(self, slot: str, incarnation: str, number: int, cause: str) -> None:
        """Why a job was cut short; the slot will ask for it again."""
        if self._holds(slot, incarnation, number):
            self._deliveries[number].cause = cause

    async def unusable(self, slot: str, cause: str) -> None:
        """A slot can run no job at all: its code cannot be imported."""
        self._unusable[slot] = cause

    # ---- the driver's side ----------------------------------------------------------------

    async def decide(self, number: int, images: int, go_on: bool, repeat: int = 0) -> None:
        """The driver's answer to a report."""
        self._deliveries[number].decisions[repeat, images] = go_on
        await self._notify()

    async def begin_search(self) -> None:
        """Drop ended jobs before those of another study come, whose numbers start at 0 again.

        A stop of the previous search (its time budget) does not hold for this one.
        """
        self._deliveries = {n: d for n, d in self._deliveries.items() if not d.ended}
        self._round += 1
        self._stopping = self._closed

    async def stop_all(self) -> None:
        """Ask every job to end at a safe point, and hand back those that have not started."""
        self._stopping = True
        while self._queue:
            number = self._queue.popleft()
            delivery = self._deliveries[number]
            started = delivery.retries or delivery.due
            cause = f"; {delivery.cause}" if started else " before it started"
            self._end(number, Outcome("running", f"interrupted{cause}"))
        await self._notify()

    async def stop_job(self, number: int) -> None:
        """Ask one job to end at a safe point, and hand it back if no slot has taken it. Idempotent."""
        delivery = self._deliveries.get(number)
        if delivery is None or delivery.ended:  # not submitted yet: the driver asks again
            return
        delivery.stopping = True
        if number in self._queue:
            self._queue.remove(number)
            self._end(number, Outcome("running", "stopped before it started"))
        await self._notify()

    async def close(self) -> None:
        """No more jobs, and no wait for those that run: slots end as soon as they can."""
        self._closed = True
        await self.stop_all()

    async def snapshot(self) -> dict[str, Any]:
        """The state, for the driver's loop; also discards silent and stuck slots."""
        self._discard_slots()
        await self._notify()
        now = self._clock()
        return {
            "queued": list(self._queue),
            "slots": {
                name: {
                    "number": s.number,
                    "silent_s": now - s.seen,
                    "starts": s.starts,
                    "lost": s.discarded or now - s.seen > self._lost_after,
                }
                for name, s in self._slots.items()
            },
            "unusable": dict(self._unusable),
            "progress": {n: d.progress for n, d in self._deliveries.items() if not d.ended},
        }

    # ---- inside ---------------------------------------------------------------------------

    def _discard_slots(self) -> None:
        now = self._clock()
        for name, state in self._slots.items():
            if state.number is None or state.discarded:
                continue
            delivery = self._deliveries[state.number]
            if now - state.seen > self._lost_after:
                delivery.cause = f"slot {name} was silent for {now - state.seen:.0f} s"
                # Another slot takes the job; if this one comes back, it is stale.
                state.discarded = True
                self._requeue(state)
            elif now - state.moved > self._stall_after:
                delivery.cause = f"no progress for {now - state.moved:.0f} s"
                state.discarded = True

    def _requeue(self, state: _Slot) -> None:
        """Queue the unfinished job of a slot for a retry; end it if there were too many."""
        assert state.number is not None
        number, delivery = state.number, self._deliveries[state.number]
        state.number = None
        if self._stopping or delivery.stopping:
            self._end(number, Outcome("running", f"interrupted; {delivery.cause}"))
            return
        if not state.leaving:  # a host that goes away is not the job's fault
            delivery.retries += 1
            if delivery.retries > self._max_retries:
                reason = f"crashed {delivery.retries} times: {delivery.cause}"
                self._end(number, Outcome("failed", reason))
                return
            pause = self._back_off * 2.0 ** (delivery.retries - 1)
            delivery.due = self._clock() + min(pause, self._longest_back_off)
        delivery.job["attempt"] += 1
        delivery.progress = {"phase": f"waiting for a retry: {delivery.cause}"}
        self._queue.appendleft(number)

    def _is_due(self, number: int) -> bool:
        return self._deliveries[number].due <= self._clock()

    def _end(self, number: int, outcome: Outcome) -> None:
        delivery = self._deliveries[number]
        if not delivery.ended:
            delivery.ended = True
            delivery.events.append({"kind": "end", "outcome": outcome.to_dict()})

    def _stale(self, slot: str, incarnation: str) -> bool:
        state = self._slots.get(slot)
        return state is None or state.incarnation != incarnation or state.discarded

    def _holds(self, slot: str, incarnation: str, number: int) -> bool:
        return not self._stale(slot, incarnation) and self._slots[slot].number == number

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(condition)


def _rung(report: dict[str, Any]) -> tuple[int, int]:
    """What tells reports of a job apart: the repeat (0: the trial's own run) and the images."""
    return int(report.get("repeat", 0)), int(report["images"])
