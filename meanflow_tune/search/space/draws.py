"""Draws of a search space without a study: one call of its `suggest`, and what it asked for."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FixedTrial

from meanflow_tune.search.errors import SpaceError, fault_text
from meanflow_tune.search.space.checked_trial import AnyTrial as AnyTrial
from meanflow_tune.search.space.checked_trial import checked

Suggest: TypeAlias = Callable[[AnyTrial], Any]


@dataclass(frozen=True)
class Draw:
    """One call of suggest. config: what it returned; params, distributions: in the order of asking."""

    config: Any
    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]


def draw(suggest: Suggest, trial: AnyTrial) -> Draw:
    """Call suggest. Raises SpaceError with the parameters where that fails."""
    try:
        config = suggest(checked(trial))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever code of a space may raise, also SystemExit
        raise SpaceError(f"with the parameters {trial.params}: {fault_text(error)}") from error
    return Draw(config, dict(trial.params), dict(trial.distributions))


def draw_fixed(suggest: Suggest, params: Mapping[str, Any]) -> Draw:
    """The draw with all parameters given, as a baseline has them."""
    return draw(suggest, FixedTrial(dict(params)))


def draw_random(suggest: Suggest, seed: int) -> Draw:
    """A random draw, a function of `seed`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), sampler=sampler)
    return draw(suggest, study.ask())


class EdgeTrial(FixedTrial):
    """A trial that draws its numbers at an end of their range with a chance of `edge_chance`."""

    def __init__(self, source: random.Random, edge_chance: float) -> None:
        super().__init__({})
        self._source, self._edge_chance = source, edge_chance

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._params:
            self._params[name] = self._draw(distribution)
        return super()._suggest(name, distribution)

    def _draw(self, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return self._source.choice(distribution.choices)
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high, step = distribution.low, distribution.high, distribution.step
        if self._source.random() < self._edge_chance:
            return self._source.choice((low, high))
        part = self._source.random()
        value = low * (high / low) ** part if distribution.log else low + (high - low) * part
        if step is not None:
            value = low + round((value - low) / step) * step
        return min(max(value, low), high)
