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
from meanflow_tune.search.spaces import NamedErrors

DRAWS = 512
Laws = Mapping[str, tuple[BaseDistribution, ...]]


def draw_laws(
    suggest: Callable[[Any], Any], baselines: Mapping[str, Mapping[str, Any]], draws: int = DRAWS
) -> Laws:
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
        for name, law in trial.distributions.items():
            found.setdefault(name, {})[law] = None
    return {name: tuple(laws) for name, laws in found.items()}


def conflicts(trials: Iterable[FrozenTrial], laws: Laws) -> dict[str, str]:
    """parameter -> why Optuna refuses its new law in a study that holds these trials."""
    stored: dict[str, dict[BaseDistribution, None]] = {}
    for trial in trials:
        for name, law in trial.distributions.items():
            stored.setdefault(name, {})[law] = None
    found: dict[str, str] = {}
    for name, new in laws.items():
        for old in stored.get(name, ()):
            for law in new:
                try:
                    check_distribution_compatibility(old, law)
                except ValueError:
                    found[name] = f"{name} was {describe(old)} and is {describe(law)}"
    return found


@dataclass(frozen=True)
class Fitted:
    """A trial's parameters in another space. left_out: those that it has no place for."""

    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    left_out: dict[str, Any] = field(default_factory=dict)


def fit(params: Mapping[str, Any], laws: Laws) -> Fitted:
    """Parameters of a trial (`every_param`) under the laws of another space."""
    fitted = Fitted()
    for name, value in params.items():
        law = next((law for law in laws.get(name, ()) if holds(law, value)), None)
        if law is None:
            fitted.left_out[name] = value
        else:
            fitted.params[name] = _typed(law, value)
            fitted.distributions[name] = law
    return fitted


def holds(law: BaseDistribution, value: Any) -> bool:
    """Whether a parameter with this law can have this value; 3.0 is a whole number, True is none."""
    if isinstance(law, CategoricalDistribution):
        return any(type(one) is type(value) and one == value for one in law.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(law, IntDistribution) and value != int(value):
        return False
    return law._contains(float(value))


def describe(law: BaseDistribution) -> str:
    """A distribution in a few words, for messages."""
    if isinstance(law, CategoricalDistribution):
        return f"one of {', '.join(map(str, law.choices))}"
    assert isinstance(law, FloatDistribution | IntDistribution)
    kind = "whole" if isinstance(law, IntDistribution) else "real"
    return f"{kind} in [{law.low:g}, {law.high:g}]{' on a logarithmic scale' if law.log else ''}"


def _typed(law: BaseDistribution, value: Any) -> Any:
    if isinstance(law, IntDistribution):
        return int(value)
    return float(value) if isinstance(law, FloatDistribution) else value


def freeze(suggest: Callable[[Trial], Any], params: Mapping[str, Any]) -> Any:
    """What a space gives for parameters that are all fixed."""
    return suggest(FixedTrial(dict(params)))  # type: ignore[arg-type]


def is_refused_law(error: Exception) -> bool:
    """Whether Optuna refuses another law under a known name (`check_distribution_compatibility`)."""
    return isinstance(error, ValueError) and any(
        text in str(error)
        for text in (
            "different distribution kind",
            "different log configuration",
            "does not support dynamic value space",
        )
    )
