"""The order of trials for one and several objectives, and the final table on fresh seeds."""

from dataclasses import replace

import pytest

from meanflow_tune.records import Status, TrialRecord
from meanflow_tune.search.analysis.ranking import (
    columns,
    describe_difference,
    final_table,
    front,
    rank_trials,
)
from meanflow_tune.search.objectives import Objectives, SearchObjective
from tests.support.records import record

GAP = Objectives.parse("gap@1")
BOTH = Objectives.parse("gap@1,cost")


def test_completed_trials_are_ordered_by_value_then_by_number() -> None:
    records = [
        record(0, "completed", 0.3, baseline="plain"),
        record(1, "pruned", 0.05, images=20),
        record(2, "completed", 0.2),
        record(4, "diverged", 0.01, images=50),
        record(5, "running", None),
        record(6, "completed", 0.2),
    ]
    assert [one.number for one in rank_trials(records, GAP)] == [2, 6, 0]
    highest = Objectives.of(SearchObjective.parse("gap@1", "maximize"))
    assert [one.number for one in rank_trials(records, highest)] == [0, 2, 6]


def costly(number: int, gap: float, seconds: float, status: Status = "completed") -> TrialRecord:
    made = record(number, status, gap)
    report = replace(made.reports[0], cost={"cpu_seconds": seconds})
    return replace(made, reports=(report,), value=None, values=(gap, seconds))


def test_several_objectives_are_ordered_by_front_then_by_distance_to_the_ideal() -> None:
    """Front: (0, 8), (2, 2), (8, 0), spread 8 each; (2, 2) is nearest to (0, 0)."""
    corner, middle, other = costly(0, 0.0, 8.0), costly(1, 2.0, 2.0), costly(2, 8.0, 0.0)
    behind, worst = costly(3, 2.5, 2.5), costly(4, 9.0, 9.0)
    unfinished = costly(5, 0.0, 0.0, "pruned")
    records = [corner, middle, other, behind, worst, unfinished]
    assert [r.number for r in rank_trials(records, BOTH)] == [1, 0, 2, 3, 4]
    assert [r.number for r in front(records, BOTH)] == [0, 1, 2]


def test_the_scale_of_an_objective_does_not_choose_the_trial() -> None:
    points = [(0.0, 8.0), (2.0, 2.0), (8.0, 0.0), (1.0, 5.0)]
    plain = [costly(n, gap, seconds) for n, (gap, seconds) in enumerate(points)]
    scaled = [costly(n, gap, 1e6 * seconds) for n, (gap, seconds) in enumerate(points)]
    assert [r.number for r in rank_trials(plain, BOTH)] == [
        r.number for r in rank_trials(scaled, BOTH)
    ]


def test_a_front_of_one_value_in_an_objective_has_a_scale() -> None:
    same = [costly(0, 1.0, 5.0), costly(1, 1.0, 5.0), costly(2, 2.0, 5.0)]
    assert [r.number for r in rank_trials(same, BOTH)] == [0, 1, 2]
    assert rank_trials([], BOTH) == ()


def test_columns_show_every_objective_and_what_it_is_made_of() -> None:
    one = Objectives.parse("mean(gap@1,gap@4)")
    assert list(columns(one)) == ["objective", "gap@1", "gap@4"]
    assert list(columns(GAP)) == ["gap@1"]
    several = Objectives.parse("mean(gap@1,gap@4),gap@1,cost")
    assert list(columns(several)) == ["mean(gap@1,gap@4)", "gap@1", "gap@4", "cost"]


def runs(values: dict[int, float], first: int = 0) -> list[TrialRecord]:
    """seed -> value, as completed trials."""
    return [record(first + i, "completed", v, seed=s) for i, (s, v) in enumerate(values.items())]


def test_differences_are_paired_by_seed() -> None:
    plain = runs({3: 3.3, 1: 1.1, 2: 2.5, 9: 70.0})
    reference, row = final_table({"plain": plain, "new": runs({1: 1.0, 2: 2.0, 3: 3.0})}, GAP)
    assert (reference.name, reference.against) == ("plain", {})
    assert reference.seeds == (1, 2, 3, 9)
    assert reference.means["gap@1"].mean == pytest.approx((3.3 + 1.1 + 2.5 + 70.0) / 4)
    difference = row.against["gap@1"]
    assert difference.count == 3
    assert difference.mean == pytest.approx(-0.3)
    assert (difference.low, difference.high) == pytest.approx((-0.5, -0.1))
    assert row.relative["gap@1"] == pytest.approx(-0.3 / 2.3)
    assert describe_difference(difference, "minimize") == "better"
    assert describe_difference(difference, "maximize") == "worse"


def test_what_the_interval_holds_is_undecided() -> None:
    sides = {"plain": runs({1: 1.0, 2: 2.0}), "new": runs({1: 0.5, 2: 2.1})}
    difference = final_table(sides, GAP)[1].against["gap@1"]
    assert difference.mean < 0
    assert describe_difference(difference, "minimize") == "undecided"
    one = final_table({"plain": runs({1: 1.0}), "new": runs({1: 0.5})}, GAP)[1].against["gap@1"]
    assert describe_difference(one, "minimize") == "undecided", "one seed decides nothing"


def test_what_does_not_enter_the_final_table() -> None:
    failed = record(20, "failed", 9.0, seed=2)
    other = record(21, "completed", 9.0, seed=5)
    table = final_table({"plain": runs({1: 1.5}), "apart": [other], "none": [failed]}, GAP)
    assert [row.name for row in table] == ["plain", "apart"]
    assert table[1].against == {}, "no seed in common"
    with pytest.raises(ValueError, match="two runs of 'plain' have the seed 1"):
        final_table({"plain": [*runs({1: 1.0}), *runs({1: 1.0}, 1)]}, GAP)
    assert final_table({}, GAP) == []
