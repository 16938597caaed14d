"""The one place where trials (Ray Tune), slots (Ray Train) and the driver meet.

`Broker` is plain asyncio, so that it can be tested without Ray; `broker_handle` makes it an actor. The
processes of a slot name their *incarnation*, new with each start: calls of an older one are answered
`stale` and change nothing.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from meanflow_tune.cluster.faults import FaultLog
from meanflow_tune.cluster.job_queue import MAX_RETRIES, JobQueue, Retries
from meanflow_tune.cluster.slot_records import STATES, Slot
from meanflow_tune.records import Outcome


class Broker:
    """Jobs in, reports and outcomes out, decisions back.

    max_retries: how often a job is restarted from one checkpoint after its processes died, before it has
    failed: a trial of days outlives any number of lost hosts.
    back_off, longest_back_off: seconds before the first retry of a job, doubled with each, and their
    limit; slots take other jobs meanwhile.
    lost_after: seconds of silence after which a slot's job goes to another slot.
    stall_after: seconds without a report or tick after which a slot's processes are ended.
    clock: seconds that only grow; now: unix seconds, for records of faults.
    """

    def __init__(
        self,
        max_retries: int = MAX_RETRIES,
        lost_after: float = 60.0,
        stall_after: float = 1800.0,
        back_off: float = 1.0,
        longest_back_off: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._retries = Retries(max_retries, back_off, longest_back_off)
        self._lost_after, self._stall_after = lost_after, stall_after
        self._clock = clock
        self._jobs = JobQueue(self._retries, clock)
        self._slots: dict[str, Slot] = {}
        self._unusable: dict[str, str] = {}
        self._faults = FaultLog(now)
        self._stopping = self._closed = False
        self._round = 1  # of this search: a slot may hear of its stop only during the next
        self._changed = asyncio.Condition()

    # ---- the trial's side -----------------------------------------------------------------

    async def submit(self, job: dict[str, Any]) -> None:
        """Queue a job. Idempotent by number and attempt.

        A later attempt is a new delivery: a trial that was paused at a rung and is resumed.
        """
        if self._jobs.add(job):
            if self._stopping:
                self._jobs.hand_back_all()
            await self._notify()

    async def events(self, number: int, after: int, wait: float = 30.0) -> list[dict[str, Any]]:
        """Events of a job from index `after`; waits up to `wait` seconds for the first."""
        delivery = self._jobs[number]
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
        self._slots[slot] = Slot(
            slot,
            incarnation,
            now,
            starts=old.starts + 1 if old else 1,
            state="ready",
            hosts=old.hosts if old else [],
        )
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
                self._faults.leaving(state)
                return {"kind": "leave"}
            delivery = self._jobs.take()
            if delivery is not None:
                job = dict(delivery.job)
                state.take(job["number"], self._clock())
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
                    or self._jobs.has_due()
                ),
                min([left, *self._jobs.until_due()]),
            )

    async def beat(
        self,
        slot: str,
        incarnation: str,
        leaving: bool = False,
        rank: int = 0,
        use: dict[str, Any] | None = None,
        progress: tuple[int, dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """A heartbeat. stopping: the round whose jobs must end at a safe point, 0 for none; stopped_job:
        the round and number of the slot's job if it alone must, else None; die: end the process now.

        leaving: the process was told that its host is going away, so its slot's job stops as well.
        use: what the rank takes of its host (`ProcessUse`); progress: a job's number and its live
        progress, which also shows that it is not stuck.
        """
        if self._stale(slot, incarnation):
            stopping = self._round if self._stopping else 0
            return {"stopping": stopping, "stopped_job": None, "die": True}
        state = self._slots[slot]
        state.heard(rank, use or {}, self._clock())
        if progress is not None and progress[0] == state.number:
            state.moved = self._clock()
            self._jobs[progress[0]].progressed(progress[1])
        if leaving and not state.leaving:
            state.leaving = True
            await self._notify()
        number = state.number
        alone = number is not None and self._jobs[number].stopping
        return {
            "stopping": self._round if self._stopping or state.leaving else 0,
            "stopped_job": (self._round, number) if alone else None,
            "die": False,
        }

    async def report(
        self, slot: str, incarnation: str, number: int, report: dict[str, Any]
    ) -> bool:
        """Hand a rung's report to the driver and wait for its decision: True to continue.

        A rung that was decided before (the job was restarted below it) is answered at once. The end
        of a repeat has as many images as that of the trial's own run, and is another report.
        """
        if not self._holds(slot, incarnation, number):
            return False
        delivery, rung = self._jobs[number], _rung(report)
        if rung not in {_rung(e["report"]) for e in delivery.events if e["kind"] == "report"}:
            delivery.events.append({"kind": "report", "report": report})
            delivery.reported(int(report["images"]))
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
                self._jobs[number].explain("its host was going away")
                self._requeue(state)
            else:
                state.number = None
                self._jobs[number].end(Outcome(**outcome))
            await self._notify()

    async def fault(self, slot: str, incarnation: str, number: int, cause: str) -> None:
        """Why a job was cut short; the slot will ask for it again."""
        if self._holds(slot, incarnation, number):
            self._jobs[number].explain(cause)

    async def damage(
        self, slot: str, incarnation: str, number: int, cause: str, action: str
    ) -> None:
        """A job found a damaged file, and what it does about it; the job continues."""
        if self._holds(slot, incarnation, number):
            self._faults.add(slot, self._slots[slot].host, cause, action, number)

    async def slot_state(
        self, slot: str, state: str, detail: str = "", hosts: list[str] | None = None
    ) -> None:
        """What supervises a slot says how it is (see `SlotState`).

        detail: for what it waits, or why and when it restarts; hosts: of its ranks, where known. Of a
        slot that waits, restarts or has ended no process is left: its job is retried at once.
        """
        if state not in STATES:
            raise ValueError(f"`state in {STATES}` must hold, but got ({state=})")
        known = self._slots.setdefault(slot, Slot(slot, "", self._clock()))
        known.state, known.detail, known.since = state, detail, self._clock()
        if hosts is not None:
            known.hosts = list(hosts)
        if state in ("waiting", "restarting", "ended"):
            known.discarded = True
            if known.number is not None:
                self._requeue(known)
        await self._notify()

    async def slot_fault(self, slot: str, host: str, cause: str, action: str) -> None:
        """A slot's processes ended or could not start; action: what the slot does, as in `restarts in 2 s`.

        One record with what becomes of the slot's job; none where the broker itself ended them.
        """
        state = self._slots.setdefault(slot, Slot(slot, "", self._clock()))
        action = f"the slot {action}"
        if state.ending:
            state.ending = False
        elif state.number is None or state.told:
            self._faults.add(slot, host or state.host, cause, action)
        else:
            self._jobs[state.number].explain(cause)
            self._tell(state, action, host)

    async def unusable(self, slot: str, cause: str) -> None:
        """A slot can run no job at all: its code cannot be imported."""
        self._unusable[slot] = cause

    # ---- the driver's side ----------------------------------------------------------------

    async def decide(self, number: int, images: int, go_on: bool, repeat: int = 0) -> None:
        """The driver's answer to a report."""
        self._jobs[number].decisions[repeat, images] = go_on
        await self._notify()

    async def begin_search(self) -> None:
        """Drop ended jobs before those of another study come, whose numbers start at 0 again.

        A stop of the previous search (its time budget) does not hold for this one.
        """
        self._jobs.drop_ended()
        self._round += 1
        self._stopping = self._closed

    async def stop_all(self) -> None:
        """Ask every job to end at a safe point, and hand back those that have not started."""
        self._stopping = True
        self._jobs.hand_back_all()
        await self._notify()

    async def stop_job(self, number: int) -> None:
        """Ask one job to end at a safe point, and hand it back if no slot has taken it. Idempotent."""
        delivery = self._jobs.get(number)
        if delivery is None or delivery.ended:  # not submitted yet: the driver asks again
            return
        delivery.stopping = True
        self._jobs.hand_back(number, "stopped before it started")
        await self._notify()

    async def close(self) -> None:
        """No more jobs, and no wait for those that run: slots end as soon as they can."""
        self._closed = True
        await self.stop_all()

    async def snapshot(self, faults_taken: int = 0) -> dict[str, Any]:
        """The state, for the driver's loop; also discards silent and stuck slots.

        faults: records of faults from index `faults_taken` on, which then have reached the driver.
        """
        self._discard_slots()
        await self._notify()
        now = self._clock()
        return {
            **self._jobs.to_dict(),
            "slots": {n: s.to_dict(now, self._lost_after) for n, s in self._slots.items()},
            "faults": self._faults.after(faults_taken),
            "unusable": dict(self._unusable),
        }

    # ---- inside ---------------------------------------------------------------------------

    def _discard_slots(self) -> None:
        now = self._clock()
        for name, state in self._slots.items():
            if state.discarded or not state.incarnation:
                continue
            silence = state.silence(now)
            if state.number is None:
                if silence > self._lost_after and not self._closed:
                    self._faults.silent(state, silence)
                continue
            delivery = self._jobs[state.number]
            if silence > self._lost_after:
                delivery.explain(f"slot {name} was silent for {silence:.0f} s")
                # Another slot takes the job; if this one comes back, it is stale.
                state.discarded = state.ending = True
                self._requeue(state)
            elif now - state.moved > self._stall_after:
                delivery.explain(f"no progress for {now - state.moved:.0f} s")
                state.discarded = state.ending = True
                self._tell(state, "its processes are ended")

    def _requeue(self, state: Slot) -> None:
        """Queue the unfinished job of a slot for a retry; end it if there were too many."""
        assert state.number is not None
        if not state.told:
            self._tell(state)
        number, delivery = state.number, self._jobs[state.number]
        state.number, state.told = None, state.leaving
        state.ending = state.ending or state.leaving
        if self._stopping or delivery.stopping:
            delivery.end(Outcome("running", f"interrupted; {delivery.cause}"))
        else:  # a host that goes away is not the job's fault
            self._jobs.retry(number, counted=not state.leaving)

    def _tell(self, state: Slot, action: str = "", host: str = "") -> None:
        """Record that a slot cannot finish its job, and what `_requeue` makes of that."""
        assert state.number is not None
        delivery = self._jobs[state.number]
        remedy = self._retries.remedy(delivery, state.leaving, self._stopping)
        self._faults.cut_short(state, delivery, f"{action}; {remedy}" if action else remedy, host)

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
