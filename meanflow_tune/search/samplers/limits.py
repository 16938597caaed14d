"""Whether a sampler can do a search, and which parameters it leaves to chance; known before Ray starts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FixedTrial

from meanflow_tune.search.samplers import cmaes
from meanflow_tune.search.samplers.factory import SamplerKind

DRAWS = 24
Distributions = dict[str, BaseDistribution]


def check_sampler(
    kind: SamplerKind,
    suggest: Callable[[Any], Any],
    objectives: int,
    baselines: Sequence[Mapping[str, Any]],
    draws: int = DRAWS,
) -> tuple[str, ...]:
    """The parameters that the sampler draws independently of all others and of the results.

    suggest: the space's. baselines: their parameters, in the order in which they run.
    draws: blind draws that show which parameters every trial has.

    GP, CMA-ES and NSGA-II model what every trial has, QMC spreads what trial 0 has, CMA-ES only
    numbers; TPE models everything, and a blind sampler nothing, which needs no warning.

    Raises:
        ValueError: the sampler cannot do it; one line that names --sampler and the remedy.
    """
    if kind == "cmaes":
        if objectives > 1:
            raise ValueError(
                f"--sampler cmaes: it takes one objective, but the search has {objectives}; take "
                "tpe, gp or nsgaii, or combine them into one, such as "
                "geometric_mean(teacher_gap@1,teacher_gap@4)."
            )
        if not cmaes.is_installed():
            raise ValueError(
                "--sampler cmaes: the Python package cmaes is not installed; install it (pip "
                "install -c constraints.txt cmaes), or take another sampler, such as tpe."
            )
    if kind in ("tpe", "random"):
        return ()
    asked = [_fixed(suggest, params) for params in baselines]
    asked += [_drawn(suggest, seed) for seed in range(draws)]
    every = dict.fromkeys(
        name
        for distributions in asked
        for name, distribution in distributions.items()
        if not distribution.single()
    )
    shared = asked[0]
    if kind != "qmc" or not baselines:
        for distributions in asked[1:]:
            shared = {
                name: distribution
                for name, distribution in shared.items()
                if distributions.get(name) == distribution
            }
    if kind == "cmaes":
        shared = {
            name: distribution
            for name, distribution in shared.items()
            if not isinstance(distribution, CategoricalDistribution)
        }
    independent = tuple(name for name in every if name not in shared)
    if every and len(independent) == len(every):
        raise ValueError(
            f"--sampler {kind}: it models only {'numbers' if kind == 'cmaes' else 'parameters'} that "
            "every trial has, and this space has none; take tpe, or a space without conditions, such "
            "as second_order_flat."
        )
    return independent


def independent_note(kind: SamplerKind, independent: Sequence[str]) -> str | None:
    """One line for the start of a search; None where nothing is left to chance."""
    if not independent:
        return None
    return (
        f"sampler {kind} models what every trial has; these are drawn independently of results: "
        f"{', '.join(independent)}"
    )


def _fixed(suggest: Callable[[Any], Any], params: Mapping[str, Any]) -> Distributions:
    trial = FixedTrial(dict(params))
    suggest(trial)
    return trial.distributions


def _drawn(suggest: Callable[[Any], Any], seed: int) -> Distributions:
    study = optuna.create_study(storage=InMemoryStorage(), sampler=RandomSampler(seed=seed))
    trial = study.ask()
    suggest(trial)
    return trial.distributions
