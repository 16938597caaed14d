"""Samplers: a suggestion depends on seed, trial number, name and history, and on nothing else."""

from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

from meanflow_tune.search.samplers import SAMPLER_KINDS, SamplerKind, make_sampler


def study_of(count: int) -> optuna.Study:
    """A finished history of `count` trials over x and y."""
    study = optuna.create_study()
    for i in range(count):
        x, y = (i * 0.37) % 1, (i * 0.61) % 1
        study.add_trial(
            optuna.create_trial(
                params={"x": x, "y": y},
                distributions={n: FloatDistribution(0, 1) for n in ("x", "y")},
                value=(x - 0.3) ** 2 + y,
            )
        )
    return study


def ask(study: optuna.Study, kind: SamplerKind, seed: int, names: str) -> dict[str, Any]:
    number = len(study.trials)
    study.sampler = make_sampler(kind, seed, number, startup_trials=5)
    trial = study.ask()
    return {name: trial.suggest_float(name, 0, 1) for name in names}


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
@pytest.mark.parametrize("count", [0, 3, 12])
def test_the_same_ask_twice(kind: SamplerKind, count: int) -> None:
    first = ask(study_of(count), kind, 4, "xyz")
    assert ask(study_of(count), kind, 4, "xyz") == first
    assert ask(study_of(count), kind, 5, "xyz") != first


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
@pytest.mark.parametrize("count", [0, 12])
def test_the_order_of_the_questions_does_not_matter(kind: SamplerKind, count: int) -> None:
    assert ask(study_of(count), kind, 4, "zyx") == ask(study_of(count), kind, 4, "xyz")


@pytest.mark.parametrize("kind", SAMPLER_KINDS)
def test_parameters_and_trials_get_different_draws(kind: SamplerKind) -> None:
    study = study_of(0)
    draws = [value for _ in range(6) for value in ask(study, kind, 4, "abc").values()]
    assert len(set(draws)) == len(draws)


def test_tpe_learns() -> None:
    draws = [ask(study_of(40), "tpe", seed, "xy")["y"] for seed in range(20)]
    assert sum(draws) / 20 < 0.3  # the objective grows with y; blind draws would give 0.5


def test_qmc_covers_every_sixteenth_once() -> None:
    study = study_of(1)  # trial 0 gives the search space; 15 points follow the first of a Sobol net
    draws = [ask(study, "qmc", 3, "xy") for _ in range(15)]
    for name in "xy":
        cells = [int(16 * draw[name]) for draw in draws]
        assert len(set(cells)) == 15


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="'best' is unknown; choose one of tpe, random, qmc"):
        make_sampler("best", 0, 0, 10)  # type: ignore[arg-type]
