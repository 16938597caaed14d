"""Waiting for hosts that hold a trial, without Ray running."""

from types import SimpleNamespace
from typing import Any

import pytest

from meanflow_tune.cluster.layout import Layout
from meanflow_tune.cluster.slots import capacity
from meanflow_tune.cluster.slots.capacity import Capacity, await_room


def plan(most: dict[str, float]) -> Layout:
    return Layout(1, 2, 1.0, 0.0)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each pause, which none takes; the clock counts them."""
    pauses: list[float] = []
    clock = SimpleNamespace(sleep=pauses.append, monotonic=lambda: sum(pauses))
    monkeypatch.setattr(capacity, "time", clock)
    return pauses


def growing(*cpus: float) -> Any:
    """A cluster that has so many processors whenever it is asked, the last number for ever."""
    left = list(cpus)
    return lambda: Capacity({"CPU": left.pop(0) if len(left) > 1 else left[0]}, False)


STAYS: Any = SimpleNamespace(requested=False)


def test_hosts_that_join_in_time_are_waited_for(slept: list[float]) -> None:
    said: list[str] = []
    found = await_room(plan, 60.0, STAYS, said.append, growing(0.0, 1.0, 1.0, 2.0))
    assert found.most == {"CPU": 2.0}
    assert len(slept) == 3
    assert said == [
        "waiting up to 60 s for hosts that hold 1 trial at once, 2 ranks each with 1 CPU"
    ]


@pytest.mark.parametrize("seconds", [0.0, 5.0])
def test_the_wait_ends(seconds: float, slept: list[float]) -> None:
    found = await_room(plan, seconds, STAYS, lambda text: None, growing(1.0))
    assert found.most == {"CPU": 1.0}
    assert sum(slept) == seconds


def test_room_at_once_says_nothing(slept: list[float]) -> None:
    said: list[str] = []
    await_room(plan, 60.0, STAYS, said.append, growing(4.0))
    assert (said, slept) == ([], [])


def test_a_stop_ends_the_wait(slept: list[float]) -> None:
    stop: Any = SimpleNamespace(requested=True)
    with pytest.raises(KeyboardInterrupt):
        await_room(plan, 60.0, stop, lambda text: None, growing(0.0))
    assert slept == []
