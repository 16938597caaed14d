"""Configurations of a space without a search: its baselines, and random draws to check and to show."""

from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FixedTrial, Trial

from meanflow_tune.search.errors import SpaceError
from meanflow_tune.search.space.load import NamedErrors, Space


def draw_baseline(space: Space, name: str) -> Any:
    """The configuration of a baseline, all of whose parameters are fixed."""
    return space.suggest(FixedTrial(space.baselines[name]))  # type: ignore[arg-type]


def draw_random(suggest: Callable[[Trial], Any], seed: int) -> Any:
    """The configuration of one random draw, a function of `seed`. Raises SpaceError where it fails."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), sampler=sampler)
    trial = study.ask()
    try:
        return suggest(NamedErrors(trial))  # type: ignore[arg-type]
    except Exception as error:  # whatever code of a space may raise
        raise SpaceError(f"with the parameters {trial.params}: {error}") from error
