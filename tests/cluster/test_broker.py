"""The broker without Ray: who gets a job, who is believed, and what is lost by a death."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from meanflow_tune.cluster.broker import Broker


class TimeBudget:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def job(number: int, attempt: int = 0) -> dict[str, Any]:
    return {"number": number, "attempt": attempt, "config": {}}


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 5))


async def ended(broker: Broker, number: int) -> list[dict[str, Any]]:
    events = await broker.events(number, 0, 0.01)
    return [e["outcome"] for e in events if e["kind"] == "end"]


COMPLETED = {"status": "completed", "reason": "", "deterministic": False, "violation": 0.0}
RUNNING = COMPLETED | {"status": "running"}


def test_a_job_goes_out_once_and_ends_once() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "a1")
        await broker.register("b", "b1")
        await broker.submit(job(0))
        await broker.submit(job(0))
        assert (await broker.next_job("a", "a1"))["job"]["number"] == 0
        assert (await broker.next_job("b", "b1", 0.01))["kind"] == "wait"
        await broker.done("a", "a1", 0, COMPLETED)
        await broker.done("a", "a1", 0, COMPLETED)
        await broker.submit(job(0))
        assert await ended(broker, 0) == [COMPLETED]
        assert (await broker.next_job("a", "a1", 0.01))["kind"] == "wait"

    run(scene())


def test_a_later_attempt_of_an_ended_job_runs_again() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "a1")
        await broker.submit(job(0))
        await broker.next_job("a", "a1")
        await broker.done("a", "a1", 0, COMPLETED)
        await broker.submit(job(0, attempt=1))
        assert (await broker.next_job("a", "a1"))["job"]["attempt"] == 1

    run(scene())


def test_a_trial_that_goes_on_after_a_pause_runs_however_often_it_was_retried_before() -> None:
    """The study counts hand-outs, the broker its retries too; the old end must not be heard again."""

    async def scene() -> None:
        clock = TimeBudget()
        broker = Broker(clock=clock)
        await broker.submit(job(0))
        for start in range(4):
            await broker.register("a", f"a{start}")
            clock.now += 10.0
            await broker.next_job("a", f"a{start}")
        await broker.done("a", "a3", 0, COMPLETED | {"status": "pruned"})
        await broker.submit(job(0, attempt=1))
        assert await broker.events(0, 0, 0.01) == []
        assert (await broker.next_job("a", "a3"))["kind"] == "job"

    run(scene())


def test_a_report_waits_for_the_driver_and_a_known_rung_does_not() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "a1")
        await broker.submit(job(0))
        await broker.next_job("a", "a1")
        report = asyncio.ensure_future(broker.report("a", "a1", 0, {"images": 100}))
        assert [e["kind"] for e in await broker.events(0, 0)] == ["report"]
        assert not report.done()
        await broker.decide(0, 100, False)
        assert await report is False
        await broker.register("a", "a2")
        await broker.next_job("a", "a2")
        assert await broker.report("a", "a2", 0, {"images": 100}) is False
        assert len(await broker.events(0, 0)) == 1

    run(scene())


def test_the_end_of_a_repeat_is_not_taken_for_the_last_rung() -> None:
    """Both have the same images: without the repeat in its key the second would never be told."""

    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "a1")
        await broker.submit(job(0))
        await broker.next_job("a", "a1")
        for repeat, go_on in enumerate((True, True, False)):
            report = {"images": 100, "repeat": repeat}
            waiting = asyncio.ensure_future(broker.report("a", "a1", 0, report))
            events = await broker.events(0, repeat)
            assert [event["report"]["repeat"] for event in events] == [repeat]
            assert not waiting.done()
            await broker.decide(0, 100, go_on, repeat)
            assert await waiting is go_on
        # Begun again after a kill, the job tells all of it once more, and is answered at once.
        answers = [
            await broker.report("a", "a1", 0, {"images": 100, "repeat": k}) for k in range(3)
        ]
        assert answers == [True, True, False]
        assert len(await broker.events(0, 0)) == 3

    run(scene())


def test_a_broken_off_job_begins_again_after_a_growing_pause_until_the_limit() -> None:
    """Stock Ray Tune retries at once, and its retries multiply with those of Ray Train."""

    async def scene() -> None:
        clock = TimeBudget()
        broker = Broker(max_retries=4, back_off=1.0, longest_back_off=4.0, clock=clock)
        await broker.submit(job(7))
        await broker.register("a", "a0")
        assert (await broker.next_job("a", "a0"))["job"]["attempt"] == 0
        for attempt, pause in enumerate([1.0, 2.0, 4.0, 4.0], start=1):
            await broker.fault("a", f"a{attempt - 1}", 7, "rank 1: gone")
            await broker.register("a", f"a{attempt}")
            clock.now += pause - 0.01
            assert (await broker.next_job("a", f"a{attempt}", 0.01))["kind"] == "wait"
            clock.now += 0.01
            order = await broker.next_job("a", f"a{attempt}")
            assert order["job"]["attempt"] == attempt
        assert await ended(broker, 7) == []
        await broker.register("a", "a5")
        clock.now += 100.0
        assert (await broker.next_job("a", "a5", 0.01))["kind"] == "wait"
        (outcome,) = await ended(broker, 7)
        assert outcome["status"] == "failed"
        assert not outcome["deterministic"]
        assert "crashed 5 times: rank 1: gone" in outcome["reason"]

    run(scene())


def test_a_job_that_saves_something_between_its_faults_is_restarted_without_limit() -> None:
    async def scene() -> None:
        broker = Broker(max_retries=1, back_off=0.0)
        await broker.submit(job(7))
        for attempt in range(6):
            me = "a", f"a{attempt}"
            await broker.register(*me)
            assert (await broker.next_job(*me))["job"]["attempt"] == attempt
            saved = 100 * min(4, attempt)  # the last attempts save nothing new
            await broker.beat(*me, progress=(7, {"images": saved + 50, "saved": saved}))
        await broker.register("a", "gone")
        (outcome,) = await ended(broker, 7)
        assert outcome["status"] == "failed"
        assert "crashed 2 times" in outcome["reason"]

    run(scene())


def test_a_slot_takes_other_jobs_while_one_waits_for_its_retry() -> None:
    async def scene() -> None:
        clock = TimeBudget()
        broker = Broker(back_off=10.0, clock=clock)
        await broker.register("a", "a1")
        for number in (0, 1, 2):
            await broker.submit(job(number))
        assert (await broker.next_job("a", "a1"))["job"]["number"] == 0
        await broker.fault("a", "a1", 0, "rank 0: ConnectionResetError")
        # The same processes ask for the next one: the fault ended none of them.
        assert (await broker.next_job("a", "a1"))["job"]["number"] == 1
        progress = (await broker.snapshot())["progress"]
        assert "ConnectionResetError" in progress[0]["phase"]
        await broker.done("a", "a1", 1, COMPLETED)
        clock.now = 10.0
        order = (await broker.next_job("a", "a1"))["job"]
        assert (order["number"], order["attempt"]) == (0, 1), "before those that have not begun"

    run(scene())


def test_a_pause_ends_by_itself() -> None:
    async def scene() -> None:
        broker = Broker(back_off=0.05)
        await broker.submit(job(0))
        await broker.register("a", "a1")
        await broker.next_job("a", "a1")
        assert (await broker.next_job("a", "a1"))["job"]["attempt"] == 1

    run(scene())


def test_a_host_that_gives_notice_costs_no_retry() -> None:
    """SIGTERM with notice (spot instances): saved, restarted elsewhere, never counted."""

    async def scene() -> None:
        broker = Broker(max_retries=0)
        await broker.register("a", "a1")
        await broker.register("b", "b1")
        await broker.submit(job(0))
        await broker.next_job("a", "a1")
        assert await broker.beat("a", "a1", True) == {
            "stopping": True,
            "stopped_job": None,
            "die": False,
        }
        assert not (await broker.beat("b", "b1"))["stopping"]
        await broker.done("a", "a1", 0, RUNNING | {"reason": "interrupted"})
        assert await ended(broker, 0) == []
        assert (await broker.next_job("a", "a1"))["kind"] == "leave"
        assert (await broker.next_job("b", "b1"))["job"]["attempt"] == 1
        # This one is killed before it could save; a new group of processes is as good as any.
        await broker.beat("b", "b1", True)
        await broker.register("b", "b2")
        assert not (await broker.beat("b", "b2"))["stopping"]
        assert (await broker.next_job("b", "b2"))["job"]["attempt"] == 2
        await broker.done("b", "b2", 0, COMPLETED)
        assert await ended(broker, 0) == [COMPLETED]

    run(scene())


def test_an_idle_slot_leaves_at_once() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "a1")
        waiting = asyncio.ensure_future(broker.next_job("a", "a1"))
        await asyncio.sleep(0)
        await broker.beat("a", "a1", True)
        assert (await waiting)["kind"] == "leave"

    run(scene())


def test_how_badly_a_trial_failed_reaches_the_driver() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "a1")
        await broker.submit(job(0))
        await broker.next_job("a", "a1")
        short = {"status": "out_of_memory", "reason": "too large", "violation": 0.5}
        await broker.done("a", "a1", 0, short)
        assert await ended(broker, 0) == [short | {"deterministic": False}]

    run(scene())


def test_processes_of_an_earlier_start_are_not_believed() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "old")
        waiting = asyncio.ensure_future(broker.next_job("a", "old"))
        await asyncio.sleep(0)
        await broker.register("a", "new")
        assert (await waiting)["kind"] == "stale"
        await broker.submit(job(0))
        await broker.next_job("a", "new")
        await broker.done("a", "old", 0, COMPLETED)
        assert await broker.report("a", "old", 0, {"images": 1}) is False
        assert (await broker.beat("a", "old"))["die"]
        assert not (await broker.beat("a", "new"))["die"]
        assert await broker.events(0, 0, 0.01) == []

    run(scene())


def test_the_job_of_a_silent_slot_goes_to_another() -> None:
    async def scene() -> None:
        clock = TimeBudget()
        broker = Broker(lost_after=60.0, clock=clock)
        await broker.register("a", "a1")
        await broker.submit(job(0))
        await broker.next_job("a", "a1")
        clock.now = 59.0
        await broker.register("b", "b1")
        assert (await broker.snapshot())["queued"] == []
        clock.now = 61.0
        assert (await broker.snapshot())["queued"] == [0]
        clock.now = 62.0
        assert (await broker.next_job("b", "b1"))["job"]["attempt"] == 1
        await broker.done("a", "a1", 0, COMPLETED)
        assert (await broker.next_job("a", "a1"))["kind"] == "stale"
        assert await ended(broker, 0) == []

    run(scene())


@pytest.mark.parametrize("ticks", [True, False])
def test_a_job_without_progress_discards_its_processes(ticks: bool) -> None:
    async def scene() -> None:
        clock = TimeBudget()
        broker = Broker(stall_after=100.0, clock=clock)
        await broker.register("a", "a1")
        await broker.submit(job(0))
        await broker.next_job("a", "a1")
        for clock.now in (50.0, 101.0):
            await broker.beat("a", "a1", progress=(0, {"images": 1}) if ticks else None)
            await broker.snapshot()
        assert (await broker.beat("a", "a1"))["die"] is not ticks

    run(scene())


def test_stopping_gives_back_what_has_not_begun() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "a1")
        await broker.submit(job(0))
        await broker.submit(job(1))
        await broker.next_job("a", "a1")
        await broker.stop_all()
        await broker.submit(job(2))
        assert (await broker.beat("a", "a1"))["stopping"]
        assert [o["status"] for n in (1, 2) for o in await ended(broker, n)] == ["running"] * 2
        assert await ended(broker, 0) == []
        # Its processes die before they could stop: it is not restarted.
        await broker.register("a", "a2")
        assert (await broker.next_job("a", "a2", 0.01))["kind"] == "wait"
        assert [o["status"] for o in await ended(broker, 0)] == ["running"]

    run(scene())


def test_close_leaves_no_report_waiting() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "a1")
        await broker.submit(job(0))
        await broker.next_job("a", "a1")
        report = asyncio.ensure_future(broker.report("a", "a1", 0, {"images": 100}))
        await broker.events(0, 0)
        await broker.close()
        assert await report is False

    run(scene())


def test_slots_end_after_close() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "a1")
        waiting = asyncio.ensure_future(broker.next_job("a", "a1"))
        await asyncio.sleep(0)
        await broker.close()
        assert (await waiting)["kind"] == "close"

    run(scene())


def test_a_stop_holds_for_one_search_only() -> None:
    """The time budget stops the search; its confirmation runs in the same slots right after."""

    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "a1")
        await broker.submit(job(0))
        first = await broker.next_job("a", "a1")
        await broker.stop_all()
        heard = (await broker.beat("a", "a1"))["stopping"]
        assert heard >= first["round"]
        await broker.done("a", "a1", 0, {"status": "running", "reason": "interrupted"})
        await broker.begin_search()
        await broker.submit(job(0))
        second = await broker.next_job("a", "a1")
        assert second["kind"] == "job"
        # What the slot heard before still stands there until its next beat, and must not stop this.
        assert heard < second["round"]
        assert not (await broker.beat("a", "a1"))["stopping"]
        await broker.stop_all()
        assert (await broker.beat("a", "a1"))["stopping"] == second["round"]

    run(scene())


def test_a_closed_broker_keeps_stopping() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.register("a", "a1")
        await broker.close()
        await broker.begin_search()
        assert (await broker.beat("a", "a1"))["stopping"]

    run(scene())


def test_one_job_is_asked_to_stop_and_no_other() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.stop_job(0)  # not submitted yet: the driver asks again
        for slot in ("a", "b"):
            await broker.register(slot, f"{slot}1")
        for number in range(3):
            await broker.submit(job(number))
        await broker.next_job("a", "a1")
        await broker.next_job("b", "b1")
        await broker.stop_job(0)
        assert await broker.beat("a", "a1") == {
            "stopping": 0,
            "stopped_job": (1, 0),
            "die": False,
        }
        assert (await broker.beat("b", "b1"))["stopped_job"] is None
        await broker.done("a", "a1", 0, RUNNING | {"reason": "interrupted"})
        assert [one["status"] for one in await ended(broker, 0)] == ["running"]
        # The next job of the slot is another one.
        assert (await broker.next_job("a", "a1"))["job"]["number"] == 2
        assert (await broker.beat("a", "a1"))["stopped_job"] is None
        # One that crashes while it is asked to stop is not retried.
        await broker.stop_job(2)
        assert (await broker.next_job("a", "a1", wait=0.0))["kind"] == "wait"
        assert [one["status"] for one in await ended(broker, 2)] == ["running"]

    run(scene())


def test_a_queued_job_that_is_asked_to_stop_never_starts() -> None:
    async def scene() -> None:
        broker = Broker()
        await broker.submit(job(0))
        await broker.stop_job(0)
        await broker.stop_job(0)
        assert [one["status"] for one in await ended(broker, 0)] == ["running"]
        await broker.register("a", "a1")
        assert (await broker.next_job("a", "a1", wait=0.0))["kind"] == "wait"

    run(scene())
