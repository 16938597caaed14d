"""Simulated slots: they speak as real ranks do, and the table says what saturates."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.overhead import scaling
from benchmarks.overhead.roles import uses
from benchmarks.overhead.scaling import Step, climb, quantile, scaling_table, step
from benchmarks.overhead.spoken_slots import SpokenSlots
from meanflow_tune.cluster.broker import Broker
from scripts.benchmark import main

CONFIG = {
    "budget": {"images": 1000, "rungs": [0.5, 1.0]},
    "optimizer": {"learning_rate": 3e-3},
    "weighting": {},
    "time_sampler": {"diagonal_share": 0.5},
}
FIGURES = Step(
    100,
    seconds=10.0,
    verdicts=[0.1] * 190 + [0.5] * 10,
    beats=[0.01] * 100,
    idle=1.0,
    load=2.0,
    busy={"driver": 0.2, "relays": 0.1, "broker": 0.25, "slots": 0.3, "ray": 0.1},
    waited={"driver": 0.3, "relays": 0.0, "broker": 0.1, "slots": 0.0, "ray": 0.0},
    mib={"driver": 200.0, "relays": 100.0, "broker": 80.0, "slots": 90.0, "ray": 300.0},
)


async def search(slots: int, jobs: int, decide: Callable[[int], bool]) -> tuple[Any, Any]:
    """All jobs on spoken slots; returns the slots and the outcome of each job."""
    broker = Broker()
    spoken = SpokenSlots([f"slot-{k}" for k in range(slots)], 0.02)

    def send(method: Callable[..., Awaitable[Any]], *arguments: Any) -> Awaitable[Any]:
        return asyncio.ensure_future(method(broker, *arguments))

    running = asyncio.ensure_future(spoken.run(send))
    outcomes = {}
    for number in range(jobs):
        await broker.submit({"number": number, "attempt": 0, "config": CONFIG})

    async def follow(number: int) -> None:
        seen = 0
        while number not in outcomes:
            for event in await broker.events(number, seen):
                seen += 1
                if event["kind"] == "end":
                    outcomes[number] = event["outcome"]["status"]
                else:
                    await broker.decide(number, event["report"]["images"], decide(number))

    await asyncio.gather(*(follow(number) for number in range(jobs)))
    await broker.close()
    await running
    return spoken, outcomes


def test_slots_run_jobs_as_ranks_do() -> None:
    spoken, outcomes = asyncio.run(search(3, 7, lambda number: number != 4))
    assert outcomes == {n: "completed" if n != 4 else "pruned" for n in range(7)}
    verdicts, beats = spoken.take_figures()
    assert len(verdicts) == 6 * 2 + 1
    assert all(wait >= 0.0 for wait in verdicts)
    assert len(beats) >= 3
    assert spoken.take_figures() == ([], [])


def test_quantile() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert quantile([1.0], 1.0) == 1.0
    assert str(quantile([], 0.5)) == "nan"


def test_what_saturates() -> None:
    assert not FIGURES.saturated
    assert FIGURES.busiest == "broker"
    assert FIGURES.reach == 400
    assert replace(FIGURES, verdicts=[0.1] * 100).saturated  # half of the reports that are due
    late = replace(FIGURES, verdicts=[0.1] * 190 + [2.0] * 10)
    assert late.saturated
    assert "none of these" in late.cause()
    full = replace(late, busy=late.busy | {"driver": 0.9})
    assert full.cause() == "the driver fills its processor (90 %)"
    assert "no processor is idle" in replace(late, idle=0.0).cause()
    assert "broker's threads waited for one for 10 %" in replace(late, idle=0.0).cause()


def test_table() -> None:
    more = replace(FIGURES, slots=200, mib={k: x + 50.0 for k, x in FIGURES.mib.items()})
    text = scaling_table([FIGURES, more, Step(400, note="broke off: no word")])
    assert (
        "MiB per slot from 100 to 200 slots: driver 0.50, relays 0.50, broker 0.50, ray 0.50"
        in text
    )
    assert "at 100 slots, the broker would fill one processor at about 400 slots" in text
    assert "saturated at 400 slots: broke off: no word" in text
    line = "100 20.0 20.0 0.10 0.50 0.50 0.01 20 10 25 200 100 80 1.00 2.0"
    assert " ".join(text.splitlines()[2].split()) == line
    assert "not saturated" in scaling_table([FIGURES])


def test_slots_are_added_until_one_step_saturates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(slots: int, seconds: float, folder: Path) -> Step:
        assert folder.is_dir()
        return replace(FIGURES, slots=slots, verdicts=[0.1] * 400)

    monkeypatch.setattr(scaling, "step", measured)
    found = climb(tmp_path, (50, 100, 200, 400, 800), 10.0, lambda line: None)
    assert [one.slots for one in found] == [50, 100, 200, 400]
    assert [one.saturated for one in found] == [False, False, False, True]


def test_use_of_a_process_by_role() -> None:
    import os

    found = uses(os.getpid())
    assert found["driver"].mib > 1.0
    assert found["driver"].seconds > 0.0
    assert found["broker"].mib == 0.0


def test_options(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--slots", "0"], ["--seconds", "0"], ["--slots", "x"]):
        with pytest.raises(SystemExit):
            main(["search", *wrong])
    assert "--slots" in capsys.readouterr().err


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_step_of_real_calls(tmp_path: Path) -> None:
    """Eight slots: the real driver, Ray Tune and broker."""
    found = step(8, 6.0, tmp_path)
    assert found.note == ""
    assert found.verdicts
    assert found.beats
    assert found.rate > 0.0
    for role in ("driver", "relays", "broker"):
        assert found.busy[role] > 0.0
        assert found.mib[role] > 10.0
    assert str(8) in scaling_table([found])
