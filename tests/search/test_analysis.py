"""The leaderboard and the confirmation on other seeds."""

from typing import Any

import pytest

from meanflow_tune.records import Report, Status, TrialRecord
from meanflow_tune.search.analysis import confirm_table, leaderboard


def record(
    number: int,
    status: Status,
    value: float | None,
    images: int = 100,
    baseline: str | None = None,
    seed: int = 0,
    **metrics: float,
) -> TrialRecord:
    report = Report(images=images, metrics={"gap@1": value or 0.0, **metrics}, cost={}, time=0.0)
    return TrialRecord(
        study="s",
        number=number,
        status=status,
        params={},
        config={"seed": seed},
        value=value,
        baseline=baseline,
        reports=() if value is None else (report,),
        reason="",
        attempt=0,
        folder="",
        started=None,
        ended=None,
    )


def test_leaderboard_order() -> None:
    records = [
        record(0, "completed", 0.3, baseline="plain"),
        record(1, "pruned", 0.05, images=20),
        record(2, "completed", 0.2),
        record(3, "pruned", 0.4, images=50),
        record(4, "diverged", 0.01, images=50),
        record(5, "running", None),
        record(6, "completed", 0.2),
        record(7, "pruned", 0.04, images=20),
    ]
    table = leaderboard(records)
    assert [line.number for line in table] == [2, 6, 0, 3, 7, 1]
    assert [line.rank for line in table] == [1, 2, 3, 4, 5, 6]
    assert table[2].baseline == "plain"
    assert [line.number for line in leaderboard(records, "maximize")] == [0, 2, 6, 3, 1, 7]


def repeats(name: str | None, values: dict[int, float], first: int) -> list[Any]:
    return [
        record(first + i, "completed", v, baseline=name and f"{name}#{i}", seed=seed, **{"b@2": v})
        for i, (seed, v) in enumerate(values.items())
    ]


def test_differences_are_paired_by_seed() -> None:
    records = [
        *repeats("best", {1: 1.0, 2: 2.0, 3: 3.0}, 0),
        *repeats("plain", {3: 3.3, 1: 1.1, 2: 2.5, 9: 70.0}, 10),
    ]
    first, second = confirm_table(records)
    assert (first.metric, second.metric, first.baseline) == ("gap@1", "b@2", "plain")
    assert first.differences == pytest.approx({1: -0.1, 2: -0.5, 3: -0.3})
    assert first.mean == pytest.approx(-0.3)
    assert first.standard_error == pytest.approx(0.2 / 3**0.5)
    assert first.baseline_mean == pytest.approx(2.3)
    assert first.best_mean == pytest.approx(2.0)
    assert first.relative == pytest.approx(-0.3 / 2.3)


def test_what_does_not_enter_the_confirmation() -> None:
    best = repeats(None, {1: 1.0}, 0)
    plain = repeats("plain", {1: 1.5}, 10)
    failed = record(20, "failed", 9.0, baseline="plain#9", seed=2)
    other = record(21, "completed", 9.0, baseline="other#0", seed=5)
    table = confirm_table([*best, *plain, failed, other])
    assert {line.baseline for line in table} == {"plain"}
    assert table[0].differences == pytest.approx({1: -0.5})
    assert table[0].standard_error is None
    assert confirm_table(best) == []
    with pytest.raises(ValueError, match="two repeats of 'plain' have the seed 1"):
        confirm_table([*best, *plain, *plain])
    with_loss = [
        record(0, "completed", 1.0, **{"loss/total": 3.0}),
        record(1, "completed", 2.0, baseline="plain", **{"loss/total": 4.0}),
    ]
    assert [line.metric for line in confirm_table(with_loss)] == ["gap@1"]
