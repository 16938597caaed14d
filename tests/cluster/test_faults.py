"""Every fault is one record, with what it cost and what is done about it; none is lost or doubled."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from meanflow_tune.cluster.broker import Broker
from meanflow_tune.cluster.faults import CAUSE_LENGTH, FaultLog, one_cause


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 5))


async def busy(broker: Broker, slot: str = "a", number: int = 7) -> None:
    """A slot with two ranks on two hosts trains: 4,096 images are saved, 5,120 seen."""
    await broker.register(slot, f"{slot}1")
    await broker.submit({"number": number, "attempt": 0})
    assert (await broker.next_job(slot, f"{slot}1"))["kind"] == "job"
    progress = {"phase": "train", "images": 5120, "saved": 4096}
    for rank, host in enumerate(("hostA", "hostB")):
        told = None if rank else (number, progress)
        await broker.beat(slot, f"{slot}1", False, rank, {"host": host}, told)


async def faults(broker: Broker, taken: int = 0) -> list[dict[str, Any]]:
    found = (await broker.snapshot(taken))["faults"]
    assert isinstance(found, list)
    return found


RESTARTS = "the trial restarts from 4,096 images on the next free slot in 1 s (attempt 2 of 4)"


def test_a_rank_that_ended_and_the_next_start_of_its_slot_are_one_fault() -> None:
    async def scene() -> None:
        broker = Broker(clock=Clock(), now=lambda: 1e9)
        await busy(broker)
        await broker.fault("a", "a1", 7, "rank 0: RuntimeError: Connection closed\nby peer")
        await broker.register("a", "a2")
        assert await faults(broker) == [
            {
                "index": 0,
                "time": 1e9,
                "slot": "a",
                "host": "hostA, hostB",
                "number": 7,
                "lost": 1024,
                "cause": "rank 0: RuntimeError: Connection closed by peer",
                "action": RESTARTS,
            }
        ]

    run(scene())


def test_what_a_supervisor_says_is_one_fault_with_what_becomes_of_the_job() -> None:
    """Its cause is better than that of a peer, which sees a closed connection only."""

    async def scene() -> None:
        broker = Broker(clock=Clock())
        await busy(broker)
        await broker.fault("a", "a1", 7, "rank 0: Connection closed by peer")
        await broker.slot_fault("a", "hostB", "rank 1: killed", "restarts in 2 s")
        await broker.slot_state("a", "restarting", "rank 1: killed", ["hostA"])
        await broker.register("a", "a2")
        (fault,) = await faults(broker)
        assert (fault["host"], fault["number"], fault["lost"]) == ("hostB", 7, 1024)
        assert fault["cause"] == "rank 1: killed"
        assert fault["action"] == f"the slot restarts in 2 s; {RESTARTS}"
        # A further failure of the start, with no job: another fault.
        await broker.slot_fault("a", "hostB", "no free CPU", "tries again in 4 s")
        (_, later) = await faults(broker)
        assert (later["number"], later["lost"], later["cause"]) == (None, 0, "no free CPU")

    run(scene())


@pytest.mark.parametrize("state", ["waiting", "restarting", "ended"])
def test_the_job_of_a_slot_without_processes_goes_to_another_at_once(state: str) -> None:
    async def scene() -> None:
        clock = Clock()
        broker = Broker(clock=clock)
        await busy(broker)
        await broker.register("b", "b1")
        await broker.slot_state("a", state, "1 CPU on any host")
        clock.now = 1.0
        assert (await broker.next_job("b", "b1"))["job"]["attempt"] == 1
        assert (await broker.beat("a", "a1"))["die"], "what is left of it must not train on"
        slot = (await broker.snapshot())["slots"]["a"]
        assert (slot["state"], slot["detail"]) == (state, "1 CPU on any host")
        await broker.register("a", "a2")
        assert (await broker.snapshot())["slots"]["a"]["state"] == "ready"
        assert len(await faults(broker)) == 1

    run(scene())


def test_a_damaged_file_is_a_fault_of_a_job_that_continues() -> None:
    async def scene() -> None:
        broker = Broker(clock=Clock(), now=lambda: 1e9)
        await busy(broker)
        await broker.damage("a", "old", 7, "x is damaged", "it is made again")
        assert await faults(broker) == [], "processes that were replaced"
        await broker.damage("a", "a1", 7, "x is damaged", "it is made again")
        (found,) = await faults(broker)
        assert (found["host"], found["number"], found["lost"]) == ("hostA, hostB", 7, 0)
        assert (found["cause"], found["action"]) == ("x is damaged", "it is made again")
        assert await broker.report("a", "a1", 8, {"images": 1}) is False
        await broker.decide(7, 5120, True)
        assert await broker.report("a", "a1", 7, {"images": 5120, "repeat": 0})

    run(scene())


def test_a_slot_is_known_before_its_processes_are() -> None:
    async def scene() -> None:
        clock = Clock()
        broker = Broker(clock=clock)
        await broker.slot_state("a", "starting", hosts=["hostA"])
        clock.now = 5.0
        slot = (await broker.snapshot())["slots"]["a"]
        assert (slot["state"], slot["state_s"], slot["hosts"]) == ("starting", 5.0, ["hostA"])
        assert (slot["number"], slot["starts"], slot["lost"]) == (None, 0, False)
        await broker.register("a", "a1")
        slot = (await broker.snapshot())["slots"]["a"]
        assert (slot["state"], slot["starts"], slot["hosts"]) == ("ready", 1, ["hostA"])
        with pytest.raises(ValueError, match="asleep"):
            await broker.slot_state("a", "asleep")

    run(scene())


def test_the_last_attempt_is_given_up() -> None:
    async def scene() -> None:
        clock = Clock()
        broker = Broker(max_retries=1, clock=clock)
        await busy(broker)
        await broker.register("a", "a2")
        clock.now = 1.0
        await broker.next_job("a", "a2")
        await broker.register("a", "a3")
        first, second = await faults(broker)
        assert first["cause"] == "its processes ended"
        assert first["action"].endswith("(attempt 2 of 2)")
        given_up = "the trial is given up after 2 attempts without a new checkpoint"
        assert (second["action"], second["lost"]) == (given_up, 0)

    run(scene())


@pytest.mark.parametrize("both", [True, False])
def test_silence_of_one_rank_is_that_of_its_slot_and_names_its_host(both: bool) -> None:
    """A link that is cut leaves the other rank in a collective, beating on."""

    async def scene() -> None:
        clock = Clock()
        broker = Broker(lost_after=60.0, clock=clock)
        await busy(broker)
        for clock.now in (30.0, 61.0):
            if not both:
                await broker.beat("a", "a1", False, 0, {"host": "hostA"})
        for _ in range(2):
            (fault,) = await faults(broker)
        assert fault["host"] == ("hostA, hostB" if both else "hostB")
        assert fault["cause"] == "slot a was silent for 61 s"
        assert (await broker.snapshot())["slots"]["a"]["lost"]
        # Told to end, its processes end: what their supervisor says of that is the same fault.
        await broker.slot_fault("a", "hostA", "rank 0 exited with 1", "restarts in 1 s")
        await broker.slot_state("a", "restarting")
        assert len(await faults(broker)) == 1
        await broker.slot_fault("a", "hostA", "no free CPU", "tries again in 2 s")
        assert len(await faults(broker)) == 2

    run(scene())


def test_a_slot_without_a_job_that_is_silent_is_told_once_each_time() -> None:
    async def scene() -> None:
        clock = Clock()
        broker = Broker(lost_after=60.0, clock=clock)
        await broker.register("a", "a1")
        for start in (0.0, 100.0):
            clock.now = start
            await broker.beat("a", "a1", False, 0, {"host": "hostA"})
            for clock.now in (start + 61.0, start + 70.0):
                await faults(broker)
        (first, _) = await faults(broker)
        assert (first["number"], first["host"], first["lost"]) == (None, "hostA", 0)
        assert first["cause"] == "silent for 61 s"

    run(scene())


def test_a_stuck_job_is_told_when_its_processes_are_ended() -> None:
    async def scene() -> None:
        clock = Clock()
        broker = Broker(stall_after=100.0, lost_after=1e9, clock=clock)
        await busy(broker)
        clock.now = 101.0
        (fault,) = await faults(broker)
        assert fault["cause"] == "no progress for 101 s"
        assert fault["action"] == f"its processes are ended; {RESTARTS}"
        await broker.register("a", "a2")
        assert len(await faults(broker)) == 1

    run(scene())


@pytest.mark.parametrize("saved", [True, False])
def test_a_host_that_goes_away_is_one_fault(saved: bool) -> None:
    async def scene() -> None:
        broker = Broker(clock=Clock())
        await busy(broker)
        await broker.beat("a", "a1", True, 1, {"host": "hostB"})
        if saved:
            await broker.beat(
                "a", "a1", progress=(7, {"phase": "train", "images": 5120, "saved": 5120})
            )
            await broker.done("a", "a1", 7, {"status": "running"})
            assert (await broker.next_job("a", "a1"))["kind"] == "leave"
            await broker.slot_fault("a", "hostB", "a host is going away", "restarts elsewhere")
        await broker.register("a", "a2")
        (fault,) = await faults(broker)
        assert fault["cause"] == ("its host was going away" if saved else "its host went away")
        assert fault["lost"] == (0 if saved else 1024)
        assert fault["action"].endswith("on the next free slot (counts as no attempt)")

    run(scene())


def test_a_slot_without_a_job_that_leaves_is_told_once() -> None:
    async def scene() -> None:
        broker = Broker(clock=Clock())
        await broker.register("a", "a1")
        await broker.beat("a", "a1", True, 0, {"host": "hostA"})
        for _ in range(2):
            assert (await broker.next_job("a", "a1"))["kind"] == "leave"
        await broker.slot_fault("a", "hostA", "a host is going away", "restarts elsewhere")
        (fault,) = await faults(broker)
        assert (fault["host"], fault["cause"]) == ("hostA", "its host is going away")

    run(scene())


def test_a_fault_while_the_search_stops_is_left_to_its_next_run() -> None:
    async def scene() -> None:
        broker = Broker(clock=Clock())
        await busy(broker)
        await broker.stop_all()
        await broker.register("a", "a2")
        (fault,) = await faults(broker)
        assert fault["action"] == "the next run of the command resumes the trial from 4,096 images"

    run(scene())


def test_a_report_was_saved() -> None:
    async def scene() -> None:
        broker = Broker(clock=Clock())
        await busy(broker)
        waiting = asyncio.ensure_future(broker.report("a", "a1", 7, {"images": 8192}))
        await broker.events(7, 0)
        await broker.decide(7, 8192, True)
        await waiting
        await broker.register("a", "a2")
        (fault,) = await faults(broker)
        assert fault["lost"] == 0
        assert fault["action"].startswith("the trial restarts from 8,192 images")

    run(scene())


def test_records_are_handed_out_until_the_driver_has_them() -> None:
    log = FaultLog(now=lambda: 1.0)
    for cause in ("x", "y", "z"):
        log.add("a", "hostA", cause, "")
    for _ in range(2):  # an answer may be lost
        assert [fault["cause"] for fault in log.after(1)] == ["y", "z"]
    # A second driver stage counts from 0 and gets what none has confirmed.
    assert [fault["index"] for fault in log.after(0)] == [1, 2]
    assert log.after(3) == []
    log.add("a", "hostA", "w", "")
    assert [fault["index"] for fault in log.after(3)] == [3]


def test_a_cause_is_one_printable_line() -> None:
    text = (
        "rank 1: \x1b[2J\u202eboom\nTraceback (most recent call last):\n  File x\nKeyError: 'a'\n"
    )
    assert one_cause(text) == "rank 1: [2J boom KeyError: 'a'"
    assert len(one_cause("x" * 5000)) == CAUSE_LENGTH
    assert one_cause("") == ""
