"""The distributions of a space's parameters, and which stored values fit them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial

from meanflow_tune.search.space.draws import Suggest, draw_fixed, draw_random

DRAWS = 512
Distributions = Mapping[str, tuple[BaseDistribution, ...]]


def draw_distributions(
    suggest: Suggest, baselines: Mapping[str, Mapping[str, Any]], draws: int = DRAWS
) -> Distributions:
    """parameter -> its distributions (several where they depend on a condition), from random draws.

    Raises SpaceError where a draw fails.
    """
    fixed = [draw_fixed(suggest, params) for params in baselines.values()]
    drawn = [*fixed, *(draw_random(suggest, seed) for seed in range(draws))]
    return _by_name(one.distributions for one in drawn)


def conflicts(trials: Iterable[FrozenTrial], distributions: Distributions) -> dict[str, str]:
    """parameter -> why Optuna refuses its new distribution in a study with these trials."""
    stored = _by_name(trial.distributions for trial in trials)
    found: dict[str, str] = {}
    for name, distributions_now in distributions.items():
        for old, new in product(stored.get(name, ()), distributions_now):
            try:
                check_distribution_compatibility(old, new)
            except ValueError:
                found[name] = f"{name} was {domain_text(old)}, and is {domain_text(new)}"
    return found


def _by_name(asked: Iterable[Mapping[str, BaseDistribution]]) -> Distributions:
    """parameter -> its different distributions, in the order of asking."""
    found: dict[str, dict[BaseDistribution, None]] = {}
    for distributions in asked:
        for name, distribution in distributions.items():
            found.setdefault(name, {})[distribution] = None
    return {name: tuple(distributions) for name, distributions in found.items()}


@dataclass(frozen=True)
class ParamFit:
    """A trial's parameters in another space. left_out: those that do not fit it."""

    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    left_out: dict[str, Any] = field(default_factory=dict)


def fit_params(params: Mapping[str, Any], distributions: Distributions) -> ParamFit:
    """Parameters of a trial (`all_params`) under the distributions of another space."""
    found = ParamFit()
    for name, value in params.items():
        fitting = (d for d in distributions.get(name, ()) if contains(d, value))
        distribution = next(fitting, None)
        if distribution is None:
            found.left_out[name] = value
        else:
            found.params[name] = _typed(distribution, value)
            found.distributions[name] = distribution
    return found


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution can have a value; 3.0 is a whole number, True is no number."""
    if isinstance(distribution, CategoricalDistribution):
        return any(type(one) is type(value) and one == value for one in distribution.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not math.isfinite(value):
        return False
    if isinstance(distribution, IntDistribution) and value != int(value):
        return False
    return distribution._contains(float(value))


def domain_text(distribution: BaseDistribution) -> str:
    """`1e-3 to 0.5, log`, `1 to 3, whole`, `uniform | beta`."""
    if isinstance(distribution, CategoricalDistribution):
        return " | ".join(str(choice) for choice in distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    words = [f"{distribution.low:g} to {distribution.high:g}"]
    if isinstance(distribution, IntDistribution):
        words.append("whole" if distribution.step == 1 else f"whole, step {distribution.step}")
    elif distribution.step is not None:
        words.append(f"step {distribution.step:g}")
    return ", ".join([*words, "log"] if distribution.log else words)


def is_refused_distribution(error: Exception) -> bool:
    """Whether Optuna refused another distribution of a parameter (`check_distribution_compatibility`)."""
    return isinstance(error, ValueError) and any(
        text in str(error)
        for text in (
            "different distribution kind",
            "different log configuration",
            "does not support dynamic value space",
        )
    )


def _typed(distribution: BaseDistribution, value: Any) -> Any:
    if isinstance(distribution, IntDistribution):
        return int(value)
    return float(value) if isinstance(distribution, FloatDistribution) else value
