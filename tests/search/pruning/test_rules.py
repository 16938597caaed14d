"""Verdicts at rungs, and the number that a search minimises."""

import math

import pytest
from pydantic import ValidationError

from meanflow_tune.records import Report
from meanflow_tune.search.objectives import Objectives, SearchObjective, measures
from meanflow_tune.search.pruning.rules import Direction, Rungs
from meanflow_tune.search.pruning.standings import RungResult
from tests.support.rungs import make_rungs


def results_of(values: list[float]) -> list[RungResult]:
    return [RungResult(number, ((value,),)) for number, value in enumerate(values)]


def passed(values: list[float], rungs: Rungs, direction: Direction = "minimize") -> list[float]:
    results = results_of(values)
    return [v for n, v in enumerate(values) if rungs.decide(results, n, [direction]).go_on]


def test_the_best_share_goes_on() -> None:
    values = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6]
    assert sorted(passed(values, make_rungs(reduction=3))) == [0.1, 0.2, 0.3]
    assert sorted(passed(values, make_rungs(reduction=4))) == [0.1, 0.2]
    assert sorted(passed(values, make_rungs(reduction=3), "maximize")) == [0.7, 0.8, 0.9]


def test_few_values_and_ties() -> None:
    assert passed([0.1, 0.2], make_rungs(reduction=3)) == [0.1, 0.2]
    assert passed([0.1, 0.2, 0.3], make_rungs(reduction=3, min_peers=4)) == [0.1, 0.2, 0.3]
    assert passed([0.1, 0.2, 0.3], make_rungs(reduction=3)) == [0.1]
    assert passed([0.1, 0.1, 0.3], make_rungs(reduction=3)) == [0.1, 0.1]
    assert passed([0.1, 0.2, 0.3], make_rungs(reduction=2.5)) == [0.1]


def test_reasons_have_numbers() -> None:
    decision = make_rungs(reduction=3).decide(results_of([0.1, 0.2, 0.3]), 1)
    assert decision.reason == "place 2 of 3; only the best continues"


def test_several_objectives_go_by_fronts_then_by_crowding() -> None:
    """Stock Ray with Optuna stops nothing there: Optuna's `Trial.report` refuses."""
    points = [(0.0, 4.0), (1.0, 1.0), (1.1, 1.1), (4.0, 0.0), (5.0, 5.0), (1.05, 0.97)]
    results = [RungResult(number, (point,)) for number, point in enumerate(points)]
    both: list[Direction] = ["minimize", "minimize"]
    decisions = [make_rungs(reduction=2).decide(results, n, both).go_on for n in range(6)]
    # The front is 0, 1, 3 and 5; its ends come first, then 1, which is farther from its neighbours.
    assert decisions == [True, True, False, True, False, False]
    turned: list[Direction] = ["minimize", "maximize"]
    assert make_rungs(reduction=3).decide(results, 4, turned).go_on
    assert not make_rungs(reduction=3).decide(results, 1, turned).go_on


def test_promotion_takes_the_best_that_waits_among_those_that_go_on_by_now() -> None:
    rungs = make_rungs(reduction=2)
    assert rungs.find_promotion(results_of([0.1, 0.2]), [1]) is None  # too few values
    assert rungs.find_promotion(results_of([0.1, 0.2, 0.3]), [1, 2]) is None
    assert rungs.find_promotion(results_of([0.1, 0.2, 0.3, 0.4]), []) is None
    found = rungs.find_promotion(results_of([0.1, 0.3, 0.2, 0.4, 0.5, 0.6]), [1, 2, 3])
    assert found is not None
    assert found == (2, "place 2 of 6, the best 3 continue")


def test_the_median_rule_compares_the_best_so_far_with_the_means_of_the_others() -> None:
    rungs = make_rungs(kind="median")
    others = [
        RungResult(1, ((4.0,), (2.0,))),
        RungResult(2, ((9.0,), (1.0,))),
        RungResult(3, ((1.0,), (3.0,))),
    ]
    # Means 3, 5 and 2; their median is 3.
    ready = RungResult(0, ((9.0,), (3.0,)))
    assert rungs.decide([*others, ready], 0).go_on
    earlier = RungResult(0, ((2.5,), (9.0,)))
    assert rungs.decide([*others, earlier], 0).go_on
    weak = RungResult(0, ((9.0,), (3.1,)))
    decision = rungs.decide([*others, weak], 0)
    assert not decision.go_on
    assert decision.reason == "median of the others' means 3"
    fallen = rungs.decide([*others, RungResult(0, ((3.1,), (9.0,)))], 0)
    assert fallen.reason == "best value so far 3.1, median of the others' means 3"
    assert rungs.decide([*others, weak], 0, ["maximize"]).go_on
    assert rungs.decide([others[0], weak], 0).go_on  # too few
    assert not rungs.pauses
    with pytest.raises(ValueError, match=r"--scheduler median.*asha"):
        rungs.check(["minimize", "minimize"])


def test_protection_is_drawn_by_seed_and_number() -> None:
    rungs = make_rungs(protect=0.25)
    drawn = [rungs.is_protected(3, number) for number in range(4000)]
    assert 900 < sum(drawn) < 1100
    assert drawn == [rungs.is_protected(3, number) for number in range(4000)]
    assert drawn != [rungs.is_protected(4, number) for number in range(4000)]
    assert not any(make_rungs().is_protected(3, number) for number in range(100))
    assert all(make_rungs(protect=1.0).is_protected(3, number) for number in range(100))


def test_trials_take_turns_in_brackets() -> None:
    assert [make_rungs(brackets=3).bracket(number) for number in range(4)] == [0, 1, 2, 0]


def test_rungs_refuse() -> None:
    with pytest.raises(ValueError, match="but trial 5 has none"):
        make_rungs().decide(results_of([0.1, 0.2]), 5)
    for bad in ({"reduction": 1.0}, {"min_peers": 0}, {"grace": -1}, {"brackets": 0}, {"x": 1}):
        with pytest.raises(ValidationError):
            make_rungs(**bad)  # type: ignore[arg-type]


def test_objective_values() -> None:
    metrics = {"a@1": 2.0, "a@2": 8.0, "b@4": 1.0}
    assert SearchObjective.parse("a@2").value(metrics) == 8.0
    assert SearchObjective.parse("geometric_mean(a@1, a@2)").value(metrics) == pytest.approx(4.0)
    assert SearchObjective.parse("mean(a@1,a@2,b@4)").value(metrics) == pytest.approx(11 / 3)
    zero = SearchObjective.parse("geometric_mean(a@1,a@2)").value({"a@1": 0.0, "a@2": 1.0})
    assert zero == 0.0


def test_the_geometric_mean_weighs_relative_changes_alike() -> None:
    objective = SearchObjective.parse("geometric_mean(a@1,b@1)")
    base = objective.value({"a@1": 100.0, "b@1": 0.01})
    assert objective.value({"a@1": 90.0, "b@1": 0.01}) == pytest.approx(base * math.sqrt(0.9))
    assert objective.value({"a@1": 100.0, "b@1": 0.009}) == pytest.approx(base * math.sqrt(0.9))


@pytest.mark.parametrize("text", ["teacher_gap@1", "geometric_mean(a@1,b@2)", "mean(a@1,b@2)"])
def test_text_round_trip(text: str) -> None:
    assert str(SearchObjective.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss@1", "is a training loss"),
        ("loss/backward", "is a training loss"),
        ("teacher_gap", "must be NAME@NFE"),
        ("teacher_gap@0", "must be NAME@NFE"),
        ("max(a@1,b@1)", "known: geometric_mean, mean"),
        ("mean(a@1,a@1)", "must differ"),
        ("mean()", "must be NAME@NFE"),
    ],
)
def test_objective_texts_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchObjective.parse(text)


def test_objective_values_that_are_refused() -> None:
    objective = SearchObjective.parse("geometric_mean(a@1,a@2)")
    with pytest.raises(ValueError, match=r"'a@2' .*not reported; reported were a@1, b@1"):
        objective.value({"b@1": 1.0, "a@1": 1.0})
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="must be finite"):
            objective.value({"a@1": bad, "a@2": 1.0})
    with pytest.raises(ValueError, match="needs metrics >= 0"):
        objective.value({"a@1": -1.0, "a@2": 1.0})


def test_several_objectives_are_read_and_written() -> None:
    text = "teacher_gap@1,geometric_mean(a@1,a@2),cost"
    objectives = Objectives.parse(text)
    assert str(objectives) == text
    assert objectives.directions == ("minimize",) * 3
    assert objectives.metrics == ("teacher_gap@1", "a@1", "a@2")
    assert objectives.single is None
    metrics = {"teacher_gap@1": 0.5, "a@1": 1.0, "a@2": 4.0}
    for cost in ({"cpu_seconds": 3.0}, {"gpu_seconds": 3.0, "cpu_seconds": 9.0}):
        report = Report(images=10, metrics=metrics, cost=cost, time=0.0)
        assert objectives.values(report) == (0.5, pytest.approx(2.0), 3.0)
        assert measures(report)["cost"] == 3.0
    one = Objectives.of(SearchObjective.parse("a@1"))
    assert one.single == SearchObjective.parse("a@1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a@1,a@1", "must differ"),
        ("a@1,loss", "training loss"),
        ("a@1,", "must be NAME@NFE"),
        ("costs", "must be NAME@NFE"),
    ],
)
def test_several_objectives_refuse(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Objectives.parse(text)
