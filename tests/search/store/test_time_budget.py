"""The time budget: counted over all drivers, durable, by a clock that no one can set."""

import threading
from pathlib import Path

import pytest

from meanflow_tune.search.errors import LeaseLost, StorageError
from meanflow_tune.search.store import time_budget as module
from meanflow_tune.search.store.time_budget import CLOCK_NAME, TimeBudget
from tests.support.studies import allow


class Hands:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(folder: Path, epoch: int, hands: Hands, budget: float | None = 100.0) -> TimeBudget:
    return TimeBudget(folder, epoch, allow, budget, now=hands)


def test_time_adds_up_over_drivers_and_only_while_one_is_at_work(tmp_path: Path) -> None:
    hands = Hands()
    first = make(tmp_path, 1, hands)
    hands.now += 500  # not begun
    for _ in range(2):
        with first:
            hands.now += 30
        hands.now += 7
    assert first.left == 40
    second = make(tmp_path, 2, hands)
    assert (second.spent, second.requested) == (60, False)
    with second:
        hands.now += 39
        assert not second.requested
        hands.now += 1
        assert second.requested
    third = make(tmp_path, 3, hands)
    assert (third.left, third.requested) == (0, True)
    larger = make(tmp_path, 4, hands, budget=250)
    assert (larger.left, larger.requested) == (150, False)


def test_without_a_budget_time_is_counted_for_a_later_one(tmp_path: Path) -> None:
    hands = Hands()
    with make(tmp_path, 1, hands, budget=None) as clock:
        hands.now += 50
        assert (clock.left, clock.requested) == (None, False)
    assert make(tmp_path, 2, hands).left == 50


def test_a_kill_loses_no_more_than_since_the_last_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    hands, wrote = Hands(), threading.Event()

    def fence() -> None:
        wrote.set()

    clock = TimeBudget(tmp_path, 1, fence, None, now=hands)
    with clock:
        hands.now += 20
        for _ in range(3):  # the write that was under way may be of before
            wrote.clear()
            assert wrote.wait(60)
        seen = make(tmp_path, 2, hands).spent  # what a driver finds after a kill right now
    assert seen == 20


def test_the_end_is_said_once_while_trials_still_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.001)
    hands, said, told = Hands(), [], threading.Event()

    def say(text: str) -> None:
        said.append(text)
        told.set()

    with TimeBudget(tmp_path, 1, allow, 10.0, say, now=hands):
        hands.now += 11
        assert told.wait(60)
    assert len(said) == 1
    assert "larger --time-budget" in said[0]


def test_a_driver_that_lost_its_lease_writes_nothing(tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseLost("taken over")

    hands = Hands()
    with TimeBudget(tmp_path, 1, lost, None, now=hands):
        hands.now += 20
    assert not (tmp_path / CLOCK_NAME).exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    for text in ("{", "[1]", '{"1": "x"}', "[" * 100_000):
        (tmp_path / CLOCK_NAME).write_text(text)
        with pytest.raises(StorageError, match=r"clock.json is not readable.*from zero"):
            make(tmp_path, 1, Hands())


@pytest.mark.parametrize("damage", ["text", "null", "folder"])
def test_a_damaged_file_ends_no_search_without_a_budget(tmp_path: Path, damage: str) -> None:
    """Nothing depends on the count then; it is kept, and begins anew."""
    path, said = tmp_path / CLOCK_NAME, list[str]()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_text({"text": "{", "null": "null"}[damage])
    hands = Hands()
    with TimeBudget(tmp_path, 1, allow, None, said.append, now=hands) as clock:
        assert clock.spent == 0.0
        hands.now += 5.0
    (kept,) = tmp_path.glob("clock.json.damaged-*")
    (line,) = said
    assert "clock.json is not readable" in line
    assert line.endswith(f"it is kept as {kept.name}, and the count begins at zero")
    assert make(tmp_path, 2, hands).spent == 5.0
