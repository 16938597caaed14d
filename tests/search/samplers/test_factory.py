"""Samplers: a suggestion depends on seed, trial number, name and study, and on nothing else."""

import logging
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from meanflow_tune.search.samplers.factory import SAMPLER_KINDS, SamplerKind, make_sampler
from meanflow_tune.search.store.storage import open_storage
from tests.support.sampler_history import (
    SLOW_GP_KINDS,
    STARTUP,
    answer,
    ask,
    finished,
    grid,
    made,
    search,
    study_of,
)

MODELLING = [kind for kind in SAMPLER_KINDS if kind not in ("random", "qmc")]
SLOW_GP = [pytest.param("gp", marks=pytest.mark.slow) if k == "gp" else k for k in MODELLING]


class Killed(BaseException):
    """What a kill is to code that it falls in: nothing after it runs."""


class Mortal(InMemoryStorage):
    """A storage in memory that dies before its write number `life` of a trial's data."""

    def __init__(self) -> None:
        super().__init__()
        self.life: float = float("inf")

    def _write(self) -> None:
        self.life -= 1
        if self.life < 0:
            raise Killed

    def set_trial_param(self, *args: Any) -> None:
        self._write()
        super().set_trial_param(*args)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write()
        super().set_trial_system_attr(trial_id, key, value)


def named(names: str) -> Any:
    return lambda trial: {name: trial.suggest_float(name, 0, 1) for name in names}


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
@pytest.mark.parametrize("count", [0, 3, 12])
def test_the_same_ask_twice(kind: SamplerKind, count: int) -> None:
    first = ask(study_of(finished(count)), kind, 4, named("xyz"))
    assert ask(study_of(finished(count)), kind, 4, named("xyz")) == first
    assert ask(study_of(finished(count)), kind, 5, named("xyz")) != first


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
@pytest.mark.parametrize("count", [0, 12])
def test_the_order_of_the_questions_does_not_matter(kind: SamplerKind, count: int) -> None:
    forth = ask(study_of(finished(count)), kind, 4, named("xyz"))
    assert ask(study_of(finished(count)), kind, 4, named("zyx")) == forth


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
def test_parameters_and_trials_get_different_draws(kind: SamplerKind) -> None:
    study = study_of([])
    draws = [value for _ in range(6) for value in ask(study, kind, 4, named("abc")).values()]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
def test_a_kill_at_any_write_of_an_ask_changes_nothing(kind: SamplerKind) -> None:
    """A trap: Optuna gives other draws after a kill in the middle of an ask.

    With one seed an ask that is repeated can give two parameters the same draw, GP takes the killed
    ask for another, running trial, and CMA-ES and NSGA-II store their state between the draws.
    """
    count = STARTUP + 6 if kind == "cmaes" else STARTUP + 1  # at a step of CMA-ES
    history = study_of([])
    search(history, kind, 4, count)
    storage = Mortal()
    optuna.create_study(storage=storage, study_name="s").add_trials(history.trials)

    def fresh() -> optuna.Study:
        storage.delete_study(storage.get_study_id_from_name("s"))
        storage.life = float("inf")
        study = optuna.create_study(storage=storage, study_name="s")
        study.add_trials(history.trials)
        study.ask()
        return study

    undisturbed = answer(fresh(), count, kind, 4)
    kills = 0
    while True:
        study = fresh()
        storage.life = kills
        try:
            answer(study, count, kind, 4)
            break
        except Killed:
            kills += 1
        storage.life = float("inf")
        assert answer(study, count, kind, 4) == undisturbed, f"killed at write {kills}"
    assert kills >= 2  # both parameters, and what the sampler stores


@pytest.mark.parametrize("kind", SLOW_GP_KINDS)
def test_a_resume_gives_the_same_suggestions(kind: SamplerKind, tmp_path: Path) -> None:
    """From the journal alone, at every trial anew, as a driver that is killed after each."""
    count = 18 if kind == "cmaes" else STARTUP + 3
    straight = search(study_of([]), kind, 2, count)
    path = tmp_path / "study.journal"
    optuna.create_study(storage=open_storage(path, lambda: None), study_name="s")
    resumed = []
    for _ in range(count):
        study = optuna.load_study(study_name="s", storage=open_storage(path, lambda: None))
        resumed += search(study, kind, 2, 1)
    assert resumed == straight


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
def test_startup_trials_are_finished_trials(kind: SamplerKind) -> None:
    """Completed and pruned ones count for every modelling sampler, failed ones for none.

    Before enough have finished, they all draw what the blind sampler draws.
    """
    pruned = [made(grid(i), state=TrialState.PRUNED, rungs={1: grid(i)["y"]}) for i in range(2)]
    failed = [made(grid(i), state=TrialState.FAIL) for i in range(3)]
    one_too_few = [*pruned, *finished(STARTUP - 3), *failed]
    enough = [*pruned, *finished(STARTUP - 2), *failed[1:]]
    assert len(enough) == len(one_too_few)
    blind = ask(study_of(enough), "random", 4)
    assert (ask(study_of(one_too_few), kind, 4) == blind) == (kind != "qmc")
    assert (ask(study_of(enough), kind, 4) == blind) == (kind == "random")


@pytest.mark.parametrize("kind", MODELLING)
def test_models_learn(kind: SamplerKind) -> None:
    """The objective grows with y; blind draws would give 0.5, and NSGA-II redraws half of all."""
    seeds = range(4) if kind == "gp" else range(24)
    draws = [ask(study_of(finished(40)), kind, seed)["y"] for seed in seeds]
    assert sum(draws) / len(draws) < (0.4 if kind == "nsgaii" else 0.3)


@pytest.mark.parametrize("kind", SLOW_GP)
def test_models_find_the_best_third(kind: SamplerKind) -> None:
    study = study_of([])
    search(study, kind, 1, 24 if kind == "gp" else 60)
    ys = [trial.params["y"] for trial in study.trials[-8:]]
    assert sum(ys) / len(ys) < 1 / 3


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
def test_nothing_reaches_the_terminal(
    kind: SamplerKind,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Neither a warning of Python (ExperimentalWarning, FutureWarning) nor one of Optuna's log."""

    def noisy(*args: Any) -> dict[str, Any]:
        optuna.logging.get_logger("optuna").warning("The package is unavailable")
        warnings.warn("invalid value", RuntimeWarning, stacklevel=1)
        return stock(*args)

    stock = RandomSampler.sample_independent  # called by every sampler but TPE
    monkeypatch.setattr(RandomSampler, "sample_independent", noisy)
    optuna.logging.enable_propagation()
    try:
        with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
            warnings.simplefilter("error")
            study = study_of([])
            search(study, kind, 3, STARTUP + 1)
            ask(study, kind, 3, named("xyz"))
    finally:
        optuna.logging.disable_propagation()
    assert not caplog.records
    assert capfd.readouterr().err == ""


def test_qmc_covers_every_sixteenth_once() -> None:
    study = study_of(finished(1))  # it gives the search space; 15 points follow a net's first
    draws = [ask(study, "qmc", 3) for _ in range(15)]
    for name in "xy":
        cells = [int(16 * draw[name]) for draw in draws]
        assert len(set(cells)) == 15


def test_gp_takes_trials_with_unequal_constraints() -> None:
    """A trap: GP raises unless every trial sets the same constraint keys, and goes by their order."""

    def history(*limits: dict[str, float]) -> optuna.Study:
        told = finished(STARTUP + 1)
        for trial, limit in zip(told, [*limits] * len(told), strict=False):
            trial.system_attrs = {f"constraints:{key}": value for key, value in limit.items()}
        return study_of(told)

    both = {"a": -1.0, "b": 1.0}
    uneven = history({}, both, {"a": -1.0})
    uneven.sampler = optuna.samplers.GPSampler(seed=0, n_startup_trials=1)
    with pytest.raises(ValueError, match="number of constraints must be the same"):
        uneven.ask().suggest_float("x", 0, 1)
    uneven = history({}, both, {"a": -1.0})
    filled = history({"a": 0.0, "b": 0.0}, both, {"a": -1.0, "b": 0.0})
    assert ask(uneven, "gp", 1) == ask(filled, "gp", 1)
    turned = history(both, {"b": 1.0, "a": -1.0})
    assert ask(turned, "gp", 1) == ask(history(both, both), "gp", 1)


def test_nsgaii_takes_baselines_and_imported_trials_as_parents() -> None:
    """A trap: Optuna's takes only trials that it numbered itself, so that these teach it nothing."""
    same = {"x": 0.123, "y": 0.877}
    study = study_of([made(same, [0.0])] * 30)
    drawn = [ask(study, "nsgaii", seed) for seed in range(10)]
    kept = [value for params in drawn for name, value in params.items() if value == same[name]]
    assert len(kept) > 5  # half of all values mutate
    stock = study_of([made(same, [0.0])] * 30)
    stock.sampler = optuna.samplers.NSGAIISampler(seed=0)
    assert stock.ask().suggest_float("x", 0, 1) != same["x"]


def test_tpe_with_several_objectives_refuses_intermediate_values() -> None:
    """A trap: they must not be stored in such a study, or TPE raises at the next ask."""
    stored = [made(grid(i), state=TrialState.PRUNED, rungs={10: 0.5}) for i in range(8)]
    with pytest.raises(RuntimeError, match="single direction"):
        ask(study_of(stored, objectives=2), "tpe", 0)
    kept_out = [made(grid(i), state=TrialState.PRUNED) for i in range(8)]
    ask(study_of(kept_out, objectives=2), "tpe", 0)


def test_unknown_kind() -> None:
    known = ", ".join(SAMPLER_KINDS)
    with pytest.raises(ValueError, match=f"'best' is unknown; choose one of {known}"):
        make_sampler("best", 0, 0, 10)  # type: ignore[arg-type]
