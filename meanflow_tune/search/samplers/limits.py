"""Which searches a sampler supports, and which parameters it draws independently of results."""

from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution

from meanflow_tune.search.samplers import cmaes
from meanflow_tune.search.samplers.factory import SamplerKind

Asked = Mapping[str, BaseDistribution]


def check_sampler(
    kind: SamplerKind, objectives: int, baselines: Sequence[Asked], drawn: Sequence[Asked]
) -> tuple[str, ...]:
    """The parameters that the sampler draws independently of all others and of the results.

    objectives: how many; baselines: what each asks for, in the order in which they run; drawn: the
    same of random draws, which show the parameters that every trial has.

    GP, CMA-ES and NSGA-II model the parameters that every trial has, CMA-ES only numbers; QMC spreads
    those of trial 0; TPE models all, and a random sampler none, which needs no note.

    Raises:
        ValueError: the sampler does not support the search; one line with --sampler and the remedy.
    """
    if kind == "cmaes":
        if objectives > 1:
            raise ValueError(
                f"--sampler cmaes: it supports one objective, but the search has {objectives}; use "
                "tpe, gp or nsgaii, or combine them into one, such as "
                "geometric_mean(teacher_gap@1,teacher_gap@4)."
            )
        if not cmaes.is_installed():
            raise ValueError(
                "--sampler cmaes: the Python package cmaes is not installed; install it (pip "
                "install -c constraints.txt cmaes), or use another sampler, such as tpe."
            )
    if kind in ("tpe", "random"):
        return ()
    asked = [*baselines, *drawn]
    every = dict.fromkeys(
        name
        for distributions in asked
        for name, distribution in distributions.items()
        if not distribution.single()
    )
    others = [] if kind == "qmc" and baselines else asked[1:]
    shared = {
        name
        for name, distribution in asked[0].items()
        if all(distributions.get(name) == distribution for distributions in others)
        and not (kind == "cmaes" and isinstance(distribution, CategoricalDistribution))
    }
    independent = tuple(name for name in every if name not in shared)
    if every and len(independent) == len(every):
        raise ValueError(
            f"--sampler {kind}: it models only {'numbers' if kind == 'cmaes' else 'parameters'} that "
            "every trial has, and this space has none; use tpe, or a space without conditions, such "
            "as second_order_flat."
        )
    return independent


def independent_note(kind: SamplerKind, independent: Sequence[str]) -> str | None:
    """A note for the start of a search; None where no parameter is drawn independently."""
    if not independent:
        return None
    return (
        f"sampler {kind} models what every trial has; these are drawn independently of results: "
        f"{', '.join(independent)}"
    )
