"""Which completed trials failed to train, although their objective is finite."""

import pytest

from meanflow_tune.search.analysis.plausibility import (
    Implausible,
    Limits,
    explain,
    find_implausible,
    marks,
)
from meanflow_tune.search.objectives import Objectives, SearchObjective
from tests.support.records import record

GAP = Objectives.parse("gap@1")
EULER = "the teacher's own Euler steps"


def judged(
    values: list[float], limits: Limits | None = None, objectives: Objectives = GAP
) -> dict[str, tuple[int, ...]]:
    records = [record(n, "completed", value, cost=5.0) for n, value in enumerate(values)]
    return {
        one.than: one.trials
        for one in find_implausible(records, objectives, lambda _: limits or {})
    }


def test_worse_than_the_teachers_euler_steps() -> None:
    limits = {EULER: {"gap@1": 0.5}, "noise": {"gap@1": 0.1}}
    assert judged([0.4, 0.5, 0.51, 8.6e7], limits) == {EULER: (2, 3)}


def test_worse_than_noise_where_there_is_no_teacher() -> None:
    limits = {EULER: {"other@1": 0.1}, "noise": {"gap@1": 0.6}}
    assert judged([0.4, 0.7], limits) == {"noise": (1,)}


def test_beyond_all_others_where_there_is_nothing_to_compare_with() -> None:
    assert judged([0.3, 0.2, 0.4, 8.6e7]) == {"100 times the median of all": (3,)}
    assert judged([0.3, 0.2, 8.6e7]) == {}, "a median of three says little"
    assert judged([0.3, 0.2, 0.4, 30.0]) == {}


def test_a_limit_that_lacks_a_metric_of_the_objective_is_none() -> None:
    both = Objectives.parse("mean(gap@1,gap@2)")
    records = [record(0, "completed", 5.0, **{"gap@2": 5.0})]
    assert find_implausible(records, both, lambda _: {EULER: {"gap@1": 0.1}}) == ()
    (found,) = find_implausible(records, both, lambda _: {EULER: {"gap@1": 0.1, "gap@2": 9.0}})
    assert found == Implausible((0,), EULER, "mean(gap@1,gap@2)")


def test_cost_is_no_quality_and_a_maximised_objective_has_another_direction() -> None:
    cost = Objectives.parse("gap@1,cost")
    records = [record(n, "completed", 0.1, cost=0.0) for n in range(4)]
    assert find_implausible(records, cost, lambda _: {}) == ()
    highest = Objectives.of(SearchObjective(metrics=("gap@1",), direction="maximize"))
    assert judged([0.4, 0.6], {EULER: {"gap@1": 0.5}}, highest) == {EULER: (0,)}
    assert judged([0.3, 0.2, 0.4, 8.6e7], None, highest) == {}


def test_only_completed_trials_are_judged() -> None:
    records = [record(0, "pruned", 9.0), record(1, "diverged", None), record(2, "completed", 9.0)]
    (found,) = find_implausible(records, GAP, lambda _: {EULER: {"gap@1": 0.5}})
    assert found.trials == (2,)


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ((3,), "1 completed trial is worse than noise, so its training failed: trial 3."),
        ((3, 9), "2 completed trials are worse than noise, so their training failed: trials 3, 9."),
        (tuple(range(15)), "9, 10, 11 and 3 more."),
    ],
)
def test_it_is_said_in_one_sentence(trials: tuple[int, ...], said: str) -> None:
    found = [Implausible(trials, "noise", "gap@1")]
    (line,) = explain(found, None)
    assert line.endswith(said)
    line, warning = explain(found, trials[0], several=True)
    assert " worse by gap@1 than noise" in line
    assert warning.startswith(f"warning: the leader, trial {trials[0]}, is one of them")
    assert explain([], 0) == []


def test_marks_name_every_objective_that_a_trial_fails() -> None:
    found = [Implausible((3, 9), EULER, "gap@1"), Implausible((3,), "noise", "far@1")]
    assert marks(found) == {
        3: f"worse than {EULER} by gap@1; worse than noise by far@1",
        9: f"worse than {EULER} by gap@1",
    }
