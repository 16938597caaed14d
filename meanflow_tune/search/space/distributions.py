"""The parameters of a space as Optuna sees them, and which stored values still fit them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FixedTrial, FrozenTrial, Trial

from meanflow_tune.search.errors import SpaceError, one_line
from meanflow_tune.search.space.load import NamedErrors

DRAWS = 512
Distributions = Mapping[str, tuple[BaseDistribution, ...]]


def draw_distributions(
    suggest: Callable[[Any], Any], baselines: Mapping[str, Mapping[str, Any]], draws: int = DRAWS
) -> Distributions:
    """parameter -> its distributions (several where they depend on a condition), from random draws.

    Raises:
        SpaceError: a draw failed, or one name has two distributions that Optuna holds incompatible.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(), sampler=optuna.samplers.RandomSampler(seed=0)
    )
    found: dict[str, dict[BaseDistribution, None]] = {}
    trials: list[Any] = [FixedTrial(dict(params)) for params in baselines.values()]
    for trial in [*trials, *(study.ask() for _ in range(draws))]:
        try:
            suggest(NamedErrors(trial))
        except Exception as error:  # whatever code of a space may raise
            raise SpaceError(f"with the parameters {trial.params}: {one_line(error)}") from error
        for name, distribution in trial.distributions.items():
            found.setdefault(name, {})[distribution] = None
    return {name: tuple(distributions) for name, distributions in found.items()}


def conflicts(trials: Iterable[FrozenTrial], distributions: Distributions) -> dict[str, str]:
    """parameter -> why Optuna refuses its new law in a study that holds these trials."""
    stored: dict[str, dict[BaseDistribution, None]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            stored.setdefault(name, {})[distribution] = None
    found: dict[str, str] = {}
    for name, new in distributions.items():
        for old in stored.get(name, ()):
            for distribution in new:
                try:
                    check_distribution_compatibility(old, distribution)
                except ValueError:
                    found[name] = f"{name} was {describe(old)} and is {describe(distribution)}"
    return found


@dataclass(frozen=True)
class ParamFit:
    """A trial's parameters in another space. left_out: those that it has no place for."""

    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    left_out: dict[str, Any] = field(default_factory=dict)


def fit(params: Mapping[str, Any], distributions: Distributions) -> ParamFit:
    """Parameters of a trial (`all_params`) under the distributions of another space."""
    fitted = ParamFit()
    for name, value in params.items():
        distribution = next(
            (
                distribution
                for distribution in distributions.get(name, ())
                if holds(distribution, value)
            ),
            None,
        )
        if distribution is None:
            fitted.left_out[name] = value
        else:
            fitted.params[name] = _typed(distribution, value)
            fitted.distributions[name] = distribution
    return fitted


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a parameter with this law can have this value; 3.0 is a whole number, True is none."""
    if isinstance(distribution, CategoricalDistribution):
        return any(type(one) is type(value) and one == value for one in distribution.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(distribution, IntDistribution) and value != int(value):
        return False
    return distribution._contains(float(value))


def describe(distribution: BaseDistribution) -> str:
    """A distribution in a few words, for messages."""
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = "whole" if isinstance(distribution, IntDistribution) else "real"
    scale = " on a logarithmic scale" if distribution.log else ""
    return f"{kind} in [{distribution.low:g}, {distribution.high:g}]{scale}"


def _typed(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, IntDistribution):
        return int(value)
    return float(value) if isinstance(distribution, FloatDistribution) else value


def freeze(suggest: Callable[[Trial], Any], params: Mapping[str, Any]) -> Any:
    """What a space gives for parameters that are all fixed."""
    return suggest(FixedTrial(dict(params)))  # type: ignore[arg-type]


def is_refused_distribution(error: Exception) -> bool:
    """Whether Optuna refuses another law under a known name (`check_distribution_compatibility`)."""
    return isinstance(error, ValueError) and any(
        text in str(error)
        for text in (
            "different distribution kind",
            "different log configuration",
            "does not support dynamic value space",
        )
    )
