"""Verdicts at rungs, and the number that a search minimises."""

import math

import pytest
from pydantic import ValidationError

from meanflow_tune.search.objective import SearchObjective
from meanflow_tune.search.rungs import Rungs


def passed(values: list[float], rungs: Rungs, direction: str = "minimize") -> list[float]:
    return [v for v in values if rungs.decide(values, v, direction=direction).go_on]  # type: ignore[arg-type]


def test_the_best_share_goes_on() -> None:
    values = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6]
    assert sorted(passed(values, Rungs(reduction=3))) == [0.1, 0.2, 0.3]
    assert sorted(passed(values, Rungs(reduction=4))) == [0.1, 0.2]
    assert sorted(passed(values, Rungs(reduction=3), "maximize")) == [0.7, 0.8, 0.9]


def test_few_values_ties_and_protection() -> None:
    assert passed([0.1, 0.2], Rungs(reduction=3)) == [0.1, 0.2]
    assert passed([0.1, 0.2, 0.3], Rungs(reduction=3, min_peers=4)) == [0.1, 0.2, 0.3]
    assert passed([0.1, 0.2, 0.3], Rungs(reduction=3)) == [0.1]
    assert passed([0.1, 0.1, 0.3], Rungs(reduction=3)) == [0.1, 0.1]
    assert passed([0.1, 0.2, 0.3], Rungs(reduction=2.5)) == [0.1]
    assert Rungs().decide([0.1, 0.2, 0.3], 0.3, protected=True).go_on


def test_reasons_have_numbers() -> None:
    verdict = Rungs(reduction=3).decide([0.1, 0.2, 0.3], 0.2)
    assert verdict.reason == "place 2 of 3 at this rung with 0.2; only the best 1 go on"


def test_rungs_refuse() -> None:
    with pytest.raises(ValueError, match=r"own value 0\.5"):
        Rungs().decide([0.1, 0.2], 0.5)
    for bad in ({"reduction": 1.0}, {"min_peers": 0}, {"grace": 1}):
        with pytest.raises(ValidationError):
            Rungs(**bad)  # type: ignore[arg-type]


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
        ("max(a@1,b@1)", "known are geometric_mean and mean"),
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


def test_better() -> None:
    assert SearchObjective().better(0.1, 0.2)
    assert not SearchObjective(direction="maximize").better(0.1, 0.2)
    assert not SearchObjective().better(0.1, 0.1)
