"""Samplers without a state of their own: a suggestion is a function of seed, number and history.

A kill in the middle of an ask therefore changes nothing: the parameters that were already stored
are read back, and the others are drawn again from the same seeds.
"""

import hashlib
import warnings
from collections.abc import Callable
from typing import Any, Literal

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

SamplerKind = Literal["tpe", "gp", "cmaes", "nsgaii", "qmc", "random"]
SAMPLER_KINDS: tuple[SamplerKind, ...] = ("tpe", "random", "qmc")


def draw_seed(seed: int, number: int, purpose: str) -> int:
    """A 32-bit seed (what NumPy's RandomState takes) from search seed, trial number and purpose."""
    text = f"{seed}/{number}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")


class ReseededSampler(BaseSampler):
    """One ask of trial `number`: every draw gets a fresh sampler, seeded by what is drawn."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, number: int) -> None:
        self._make = make
        self._seed = seed
        self._number = number
        self._relative = make(draw_seed(seed, number, "relative"))

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._relative.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._relative.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = self._make(draw_seed(self._seed, self._number, f"param/{param_name}"))
        return sampler.sample_independent(study, trial, param_name, param_distribution)


class NumberedQMC(QMCSampler):
    """Scrambled Sobol points over the parameters of trial 0; the point's index is the trial number.

    Optuna counts points in the study, so that a repeated ask would get another one, and takes the
    search space from whichever trial finished first; both depend on more than seed and number.
    """

    def __init__(self, seed: int, number: int, independent: BaseSampler) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(
                qmc_type="sobol",
                scramble=True,
                seed=seed,
                independent_sampler=independent,
                warn_independent_sampling=False,
            )
        self._number = number

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._number == 0:
            return {}
        first = study.get_trials(deepcopy=False)[0]
        names = sorted(name for name, law in first.distributions.items() if not law.single())
        return {name: first.distributions[name] for name in names}

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._number


def make_sampler(kind: SamplerKind, seed: int, number: int, startup_trials: int) -> BaseSampler:
    """The sampler for one ask, of trial `number`; it is not used again.

    kind: "tpe" (random for the first startup_trials finished trials), "random" or "qmc".

    Raises:
        ValueError: kind is unknown.
    """
    if kind == "random":
        return ReseededSampler(lambda draw: RandomSampler(seed=draw), seed, number)
    if kind == "tpe":
        return ReseededSampler(lambda draw: _tpe(draw, startup_trials), seed, number)
    if kind == "qmc":
        independent = ReseededSampler(lambda draw: RandomSampler(seed=draw), seed, number)
        return NumberedQMC(seed, number, independent)
    raise ValueError(f"sampler {kind!r} is unknown; choose one of {', '.join(SAMPLER_KINDS)}")


def _tpe(seed: int, startup_trials: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            seed=seed,
            n_startup_trials=startup_trials,
            multivariate=True,
            group=True,
            constant_liar=True,
        )
