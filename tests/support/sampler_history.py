"""Histories for samplers, and asks as the ledger makes them."""

from collections.abc import Callable, Sequence
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from meanflow_tune.search.samplers.factory import SAMPLER_KINDS, SamplerKind, make_sampler

# A Gaussian process takes a second per ask.
SLOW_GP_KINDS = [
    pytest.param(kind, marks=pytest.mark.slow) if kind == "gp" else kind for kind in SAMPLER_KINDS
]

STARTUP = 5
UNIT = FloatDistribution(0.0, 1.0)
LAWS: dict[str, BaseDistribution] = {"x": UNIT, "y": UNIT}


def xy(trial: Trial) -> dict[str, Any]:
    return {name: trial.suggest_float(name, 0.0, 1.0) for name in ("x", "y")}


def grid(i: int) -> dict[str, float]:
    """The i-th of a sequence of points that fill the square."""
    return {"x": (i * 0.37) % 1.0, "y": (i * 0.61) % 1.0}


def made(
    params: dict[str, Any],
    values: Sequence[float] | None = None,
    state: TrialState = TrialState.COMPLETE,
    rungs: dict[int, float] | None = None,
    constraints: dict[str, float] | None = None,
    distributions: dict[str, BaseDistribution] = LAWS,
    attrs: dict[str, Any] | None = None,
    user: dict[str, Any] | None = None,
) -> FrozenTrial:
    """A trial that was told."""
    limits = {f"constraints:{key}": value for key, value in (constraints or {}).items()}
    return create_trial(
        state=state,
        params=params,
        distributions={name: distributions[name] for name in params},
        values=values,
        intermediate_values=rungs,
        system_attrs={**(attrs or {}), **limits},
        user_attrs=user,
    )


def study_of(trials: Sequence[FrozenTrial], objectives: int = 1) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["minimize"] * objectives, storage=InMemoryStorage(), sampler=RandomSampler()
    )
    study.add_trials(trials)
    return study


def finished(count: int) -> list[FrozenTrial]:
    """A history of completed trials."""
    points = [grid(i) for i in range(count)]
    return [made(p, [(p["x"] - 0.3) ** 2 + p["y"]]) for p in points]


def answer(
    study: optuna.Study,
    number: int,
    kind: SamplerKind,
    seed: int,
    suggest: Callable[[Trial], dict[str, Any]] = xy,
    storage: BaseStorage | None = None,
) -> dict[str, Any]:
    """The parameters of running trial `number`, asked for as the ledger does."""
    again = optuna.load_study(
        study_name=study.study_name,
        storage=storage or study._storage,
        sampler=make_sampler(kind, seed, number, STARTUP),
    )
    return suggest(Trial(again, study.trials[number]._trial_id))


def ask(
    study: optuna.Study,
    kind: SamplerKind,
    seed: int,
    suggest: Callable[[Trial], dict[str, Any]] = xy,
    fixed: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The parameters of a new trial, which stays running."""
    if fixed:
        study.enqueue_trial(fixed)
    return answer(study, study.ask().number, kind, seed, suggest)


def search(study: optuna.Study, kind: SamplerKind, seed: int, count: int) -> list[dict[str, Any]]:
    """Ask and tell one after another; a third is pruned at a rung, one in seven is infeasible."""
    drawn = []
    for _ in range(count):
        params = ask(study, kind, seed)
        number = len(study.trials) - 1
        trial = Trial(study, study.trials[number]._trial_id)
        value = (params["x"] - 0.3) ** 2 + params["y"]
        trial.report(value + 0.1, 10)
        bad = number % 7 == 3
        trial.set_constraint("diverged", float(bad))
        if bad or number % 3 == 1:
            study.tell(number, state=TrialState.PRUNED)
        else:
            study.tell(number, value)
        drawn.append(params)
    return drawn
