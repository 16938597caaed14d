"""CMA-ES replayed from the study: which steps are made, from which trials, and what is stored."""

import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from meanflow_tune.search.samplers.cmaes import RECORD, population_size, rank_key
from tests.support.sampler_history import (
    LAWS,
    STARTUP,
    ask,
    finished,
    grid,
    made,
    study_of,
)

SIZE = 6  # of a generation in two dimensions


class Recorder:
    """Stands in for `cmaes.CMA` where it is told from what its state would follow."""

    made: list["Recorder"] = []

    def __init__(self, mean: NDArray[Any], seed: int, population_size: int, **others: Any) -> None:
        self.mean, self.seed, self.population_size, self.others = (
            mean,
            seed,
            population_size,
            others,
        )
        self.steps: list[list[list[float]]] = []
        Recorder.made.append(self)

    def tell(self, solutions: list[tuple[NDArray[Any], float]]) -> None:
        assert len(solutions) == self.population_size
        ranked = sorted(solutions, key=lambda solution: solution[1])
        self.steps.append([point.tolist() for point, _ in ranked])

    def ask(self) -> NDArray[Any]:
        return np.random.RandomState(self.seed).rand(len(self.mean))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setitem(sys.modules, "cmaes", SimpleNamespace(CMA=Recorder))
    Recorder.made.clear()
    return Recorder


def tell(study: optuna.Study, number: int, value: float) -> None:
    study.tell(number, value)


def record(study: optuna.Study, number: int) -> dict[str, Any]:
    stored: dict[str, Any] = study.trials[number].system_attrs[RECORD]
    return {key: value for key, value in stored.items() if key != "space"}


def test_population_size() -> None:
    """Equation 48 of Hansen's tutorial, with the values of its table for 2, 10 and 20 dimensions."""
    assert [population_size(n) for n in (1, 2, 10, 20)] == [4, 6, 10, 12]


def test_generations(recorder: type[Recorder]) -> None:
    """It starts at the best finished trial, and makes a step from each full generation, ranked."""
    history = finished(STARTUP)
    best = min(range(STARTUP), key=lambda i: history[i].value or math.inf)
    study = study_of(history)
    for i in range(SIZE):
        ask(study, "cmaes", 0)
        assert recorder.made[-1].steps == []
        tell(study, STARTUP + i, float((i * 5) % SIZE))
    first = [STARTUP + i for i in range(SIZE)]
    assert record(study, first[0]) == {"generation": 0, "start": best}
    assert [record(study, n) for n in first[1:]] == [{"generation": 0}] * (SIZE - 1)
    ask(study, "cmaes", 0)
    ranked = sorted(first, key=lambda n: study.trials[n].value or 0.0)
    assert ranked != first
    assert record(study, STARTUP + SIZE) == {"generation": 1, "told": ranked}
    points = [[study.trials[n].params[name] for name in "xy"] for n in ranked]
    (step,) = recorder.made[-1].steps
    assert np.allclose(step, points, rtol=0.0, atol=1e-12)
    assert recorder.made[-1].mean == pytest.approx([grid(best)[name] for name in "xy"])
    ask(study, "cmaes", 0)  # the next one takes the step over
    assert record(study, STARTUP + SIZE + 1) == {"generation": 1}
    assert recorder.made[-1].steps == recorder.made[-2].steps
    assert recorder.made[-1].seed != recorder.made[-2].seed


def test_trials_that_end_late_are_left_out(recorder: type[Recorder]) -> None:
    """With parallel trials a generation goes on once enough have ended; failed ones are not told."""
    study = study_of(finished(STARTUP))
    for _ in range(SIZE + 3):
        ask(study, "cmaes", 0)
    late, failed = STARTUP + 1, STARTUP + 2
    study.tell(failed, state=TrialState.FAIL)
    for number in range(STARTUP, STARTUP + SIZE + 3):
        if number not in (late, failed):
            tell(study, number, float(number))
    ask(study, "cmaes", 0)
    told = record(study, STARTUP + SIZE + 3)["told"]
    assert len(told) == SIZE
    assert not {late, failed} & set(told)
    tell(study, late, -1.0)
    before = recorder.made[-1].steps
    ask(study, "cmaes", 0)
    assert recorder.made[-1].steps == before, "a step that was made is not made otherwise later"


def test_ranks_of_trials_without_comparable_values(recorder: type[Recorder]) -> None:
    """A trap: Optuna's CMA-ES leaves pruned trials out and ignores constraints; here they rank last."""
    study = study_of(finished(STARTUP))
    outcomes: list[tuple[float | None, dict[int, float], float]] = [
        (None, {10: 0.1}, 2.0),  # infeasible, by much
        (9.0, {10: 9.0, 20: 9.0}, 0.0),
        (None, {10: 0.2}, 0.0),
        (None, {10: 0.3, 20: 0.5}, 0.0),
        (1.0, {10: 1.0, 20: 1.0}, 0.5),  # infeasible, by little, however good
        (8.0, {10: 8.0, 20: 8.0}, 0.0),
    ]
    for value, rungs, violation in outcomes:
        ask(study, "cmaes", 0)
        trial = Trial(study, study.trials[-1]._trial_id)
        for images, rung in rungs.items():
            trial.report(rung, images)
        trial.set_constraint("diverged", violation)
        if value is None:
            study.tell(trial.number, state=TrialState.PRUNED)
        else:
            study.tell(trial.number, value)
    ask(study, "cmaes", 0)
    order = [number - STARTUP for number in record(study, STARTUP + SIZE)["told"]]
    assert order == [5, 1, 3, 2, 4, 0]


def test_rank_key_when_maximizing() -> None:
    good, bad = made(grid(0), [2.0]), made(grid(1), [1.0])
    keys = [rank_key(trial, StudyDirection.MAXIMIZE) for trial in (good, bad)]
    assert keys[0] < keys[1]
    nan = made(grid(0), state=TrialState.PRUNED, rungs={10: math.nan})
    poor = made(grid(0), state=TrialState.PRUNED, rungs={10: -1e9})
    none = made(grid(0), state=TrialState.PRUNED)
    keys = [rank_key(trial, StudyDirection.MAXIMIZE) for trial in (poor, nan, none)]
    assert keys == sorted(keys)
    assert len(set(keys)) == 3


def test_another_space_starts_again(recorder: type[Recorder]) -> None:
    """Optuna's sampler gives up for good where the number of dimensions changes."""
    study = study_of(finished(STARTUP))
    for _ in range(SIZE):
        ask(study, "cmaes", 0)
        tell(study, len(study.trials) - 1, 1.0)
    wide = FloatDistribution(0.0, 2.0)
    distributions: dict[str, BaseDistribution] = {"x": LAWS["x"], "y": wide}
    study.add_trial(made(grid(1), [0.0], distributions=distributions))
    ask(study, "cmaes", 0)
    stored = study.trials[-1].system_attrs[RECORD]
    assert (stored["generation"], stored["start"]) == (0, len(study.trials) - 2)
    assert (
        len(recorder.made[-1].mean) == 1
    )  # y has two distributions, so that only x is in every trial


def test_categorical_parameters_are_left_to_chance(recorder: type[Recorder]) -> None:
    distributions: dict[str, BaseDistribution] = {**LAWS, "k": CategoricalDistribution(["a", "b"])}
    study = study_of(
        [made({**grid(i), "k": "a"}, [0.0], distributions=distributions) for i in range(STARTUP)]
    )

    def suggest(trial: Trial) -> dict[str, Any]:
        numbers = {name: trial.suggest_float(name, 0.0, 1.0) for name in "xy"}
        return {**numbers, "k": trial.suggest_categorical("k", ["a", "b"])}

    drawn = {ask(study, "cmaes", seed, suggest)["k"] for seed in range(12)}
    assert drawn == {"a", "b"}
    assert {len(made.mean) for made in recorder.made} == {2}


def test_nothing_stored_is_a_pickle(recorder: type[Recorder]) -> None:
    """A trap: Optuna's CMA-ES pickles its state into the study, and unpickles what it finds there."""
    study = study_of(finished(STARTUP))
    for _ in range(SIZE + 1):
        ask(study, "cmaes", 0)
        tell(study, len(study.trials) - 1, 1.0)
    keys = {key for trial in study.trials for key in trial.system_attrs}
    assert keys == {RECORD}
    longest = max(len(str(t.system_attrs[RECORD])) for t in study.trials[STARTUP:])
    assert longest < 2046  # what a database takes


def test_the_package_finds_a_minimum() -> None:
    study = study_of(finished(STARTUP))
    for _ in range(150):
        params = ask(study, "cmaes", 3)
        value = (params["x"] - 0.7) ** 2 + 10.0 * (params["y"] - 0.2) ** 2
        tell(study, len(study.trials) - 1, value)
    assert study.best_value < 1e-3  # 150 blind draws leave 7e-3 on average
