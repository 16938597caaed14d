"""Importance and bounds: a parameter that decides, one that does not, and best values at an end."""

import random
from typing import Any

import pytest

from meanflow_tune.records import Report, TrialRecord
from meanflow_tune.search.analysis import influence as module
from meanflow_tune.search.analysis.influence import comparable_rung, influence
from meanflow_tune.search.objectives import Objectives, SearchObjective
from tests.support.records import build_record

GAP = Objectives.parse("gap@1")
MOST = SearchObjective(metrics=("gap@1",), direction="maximize")
PAIR = Objectives.parse("gap@1,cost")


def suggest(trial: Any) -> dict[str, Any]:
    decides = trial.suggest_float("decides", 1e-4, 1.0, log=True)
    trial.suggest_float("idle", 0.0, 1.0)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    if kind == "b":
        trial.suggest_int("inner", 1, 9)
    return {"decides": decides}


def trial_record(
    number: int, params: dict[str, Any], *gaps: float, cost: float = 0.0
) -> TrialRecord:
    reports = [
        Report(10 * (k + 1), {"gap@1": gap}, {"cpu_seconds": cost}, 0.0)
        for k, gap in enumerate(gaps)
    ]
    values = tuple((gap,) if not cost else (gap, cost) for gap in gaps)
    return build_record(number, "completed", *reports, params=params, rung_values=values)


def drawn(count: int, source: random.Random) -> list[dict[str, Any]]:
    rows = []
    for _ in range(count):
        params: dict[str, Any] = {
            "decides": 10 ** source.uniform(-4.0, 0.0),
            "idle": source.random(),
            "kind": source.choice("ab"),
        }
        if params["kind"] == "b":
            params["inner"] = source.randint(1, 9)
        rows.append(params)
    return rows


def test_the_parameter_that_decides_is_first_and_its_end_is_named() -> None:
    rows = drawn(80, random.Random(0))
    records = [trial_record(n, row, row["decides"]) for n, row in enumerate(rows)]
    found = influence(records, GAP, suggest)
    assert found is not None
    assert (found.images, found.count) == (10, 80)
    assert next(iter(found.importances)) == "decides"
    assert found.importances["decides"] > 0.5
    assert sum(found.importances.values()) == pytest.approx(1.0)
    (edge, *_) = found.boundaries
    assert (edge.name, edge.at, edge.bound) == ("decides", "low", 1e-4)
    assert edge.typical < 1e-3
    assert "idle" not in [one.name for one in found.boundaries]


def test_a_maximised_objective_has_its_best_at_the_other_end() -> None:
    rows = drawn(60, random.Random(1))
    records = [trial_record(n, row, row["decides"]) for n, row in enumerate(rows)]
    found = influence(records, Objectives.of(MOST), suggest)
    assert found is not None
    assert [(b.name, b.at) for b in found.boundaries if b.name == "decides"] == [
        ("decides", "high")
    ]


def test_several_objectives_are_ranked_by_their_fronts() -> None:
    rows = drawn(40, random.Random(2))
    records = [
        trial_record(n, row, row["decides"], cost=1.0 + row["decides"])
        for n, row in enumerate(rows)
    ]
    found = influence(records, PAIR, suggest)
    assert found is not None
    assert next(iter(found.importances)) == "decides"


def test_trials_are_compared_at_a_rung_that_most_of_them_reached() -> None:
    rows = drawn(20, random.Random(3))
    most = [trial_record(n, row, 1.0, 0.5) for n, row in enumerate(rows[:15])]
    few = [trial_record(15 + n, row, 1.0) for n, row in enumerate(rows[15:])]
    assert comparable_rung([*most, *few]) == 20
    assert comparable_rung([*most[:10], *few]) == 10
    assert comparable_rung([]) is None


def test_too_few_trials_and_those_of_an_earlier_space_say_nothing() -> None:
    rows = drawn(16, random.Random(4))
    records = [trial_record(n, row, row["decides"]) for n, row in enumerate(rows)]
    assert influence(records, GAP, suggest) is not None
    assert influence(records[:15], GAP, suggest) is None
    strange = [trial_record(n, {"other": 1.0}, 1.0) for n in range(20)]
    assert influence(strange, GAP, suggest) is None


def test_of_very_many_trials_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 50)
    asked = 0

    def counted(trial: Any) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return suggest(trial)

    rows = drawn(120, random.Random(0))
    records = [trial_record(n, row, row["decides"]) for n, row in enumerate(rows)]
    found = influence(records, GAP, counted)
    assert found is not None
    assert found.count == asked == 40
    assert next(iter(found.importances)) == "decides"
