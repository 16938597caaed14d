"""Samplers without a state of their own: a suggestion is a function of seed, number and study.

A kill in the middle of an ask therefore changes nothing: the parameters that were already stored
are read back, and the others are drawn again from the same seeds. No hook needs to be called:
`before_trial` and `after_trial` do nothing in any of these. docs/samplers.md says what each learns.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.search.samplers.cmaes import ReplayedCmaEs
from meanflow_tune.search.samplers.history import sampler_view
from meanflow_tune.search.samplers.tpe import FINISHED, CachedTPE, CachedView
from meanflow_tune.search.seeds import draw_seed

SamplerKind = Literal["tpe", "gp", "cmaes", "nsgaii", "qmc", "random"]
SAMPLER_KINDS: tuple[SamplerKind, ...] = get_args(SamplerKind)
MODELLING: tuple[SamplerKind, ...] = ("tpe", "gp", "cmaes", "nsgaii")  # they learn from results

# Parents of NSGA-II: Optuna's 50 would select nothing in a search of that many trainings.
POPULATION = 20


def make_sampler(kind: SamplerKind, seed: int, number: int, startup_trials: int) -> BaseSampler:
    """The sampler for one ask, of trial `number`; it is not used again.

    startup_trials: completed and pruned trials, baselines included, before one of MODELLING models
    anything; until then, parameters are drawn independently and blindly.

    Raises:
        ValueError: kind is unknown.
    """
    with _suppress_output():
        return _make(kind, seed, number, startup_trials)


def _make(kind: SamplerKind, seed: int, number: int, startup_trials: int) -> BaseSampler:
    draw = draw_seed(seed, number, "relative")
    if kind == "random":
        return _SeededSampler(_random(draw), _random, seed, number)
    if kind == "qmc":
        return _SeededSampler(NumberedQMC(seed, number), _random, seed, number)
    if kind == "tpe":
        relative = _tpe(draw, startup_trials)
        return _SeededTPE(
            relative, lambda one: _tpe(one, startup_trials), seed, number, startup_trials
        )
    if kind == "gp":
        # One completed trial is what it cannot do without; startup trials are counted by _SeededSampler.
        gp = GPSampler(seed=draw, n_startup_trials=1, warn_independent_sampling=False)
        return _SeededSampler(gp, _random, seed, number, startup_trials, align_constraints=True)
    if kind == "nsgaii":
        return _SeededSampler(SteadyNSGAII(draw), _random, seed, number, startup_trials)
    if kind == "cmaes":
        return _SeededSampler(ReplayedCmaEs(draw), _random, seed, number, startup_trials)
    raise ValueError(f"sampler {kind!r} is unknown; choose one of {', '.join(SAMPLER_KINDS)}")


class _SeededSampler(BaseSampler):
    """One ask of trial `number`.

    relative: draws what is modelled together. independent: a sampler for one other parameter, from
    the seed of its name. Both see the study without the trial that they are asked for: GP would
    take what an earlier, killed ask stored of it for a running trial, and answer differently.
    """

    def __init__(
        self,
        relative: BaseSampler,
        independent: Callable[[int], BaseSampler],
        seed: int,
        number: int,
        startup_trials: int = 0,
        align_constraints: bool = False,
    ) -> None:
        self._relative = relative
        self._independent = independent
        self._seed = seed
        self._number = number
        self._startup_trials = startup_trials
        self._align_constraints = align_constraints
        self._history: Study | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        history = self._without(study, trial)
        if self._startup_trials:
            finished = history.get_trials(deepcopy=False, states=FINISHED)
            if len(finished) < self._startup_trials:
                return {}
        with _suppress_output():
            return self._relative.infer_relative_search_space(history, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        with _suppress_output():
            return self._relative.sample_relative(self._without(study, trial), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        history = self._without(study, trial)
        with _suppress_output():
            sampler = self._independent(draw_seed(self._seed, self._number, f"param/{param_name}"))
            return sampler.sample_independent(history, trial, param_name, param_distribution)

    def _without(self, study: Study, trial: FrozenTrial) -> Study:
        if self._history is None:
            view = self._view(study._storage, trial)
            self._history = optuna.load_study(
                study_name=study.study_name, storage=view, sampler=self._relative
            )
        return self._history

    def _view(self, storage: BaseStorage, trial: FrozenTrial) -> BaseStorage:
        return sampler_view(storage, trial._trial_id, self._align_constraints)


class _SeededTPE(_SeededSampler):
    """An ask of TPE, which reads a large study quickly (see `light`)."""

    def _view(self, storage: BaseStorage, trial: FrozenTrial) -> BaseStorage:
        return CachedView(storage, trial._trial_id)


class NumberedQMC(QMCSampler):
    """Scrambled Sobol points over the parameters of trial 0; the point's index is the trial number.

    Optuna counts points in the study, so that a repeated ask would get another one, and takes the
    search space from whichever trial finished first; both depend on more than seed and number.
    """

    def __init__(self, seed: int, number: int) -> None:
        super().__init__(
            qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False
        )
        self._number = number

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._number == 0:
            return {}
        first = study.get_trials(deepcopy=False)[0]
        names = sorted(
            name for name, distribution in first.distributions.items() if not distribution.single()
        )
        return {name: first.distributions[name] for name in names}

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._number


class SteadyNSGAII(NSGAIISampler):
    """NSGA-II in its steady-state form: the parents are the elite of all completed trials.

    Optuna numbers generations in the trials that it proposed itself, so that baselines, startup
    trials of another sampler and imported trials never become parents, and a generation waits for
    its slowest trial. Here the parents follow from the completed trials alone.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(population_size=POPULATION, seed=seed)

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        return 1

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        if generation == 0:
            return []
        parents = self.select_parent(study, generation)
        return parents if len(parents) > 1 else []  # a crossover takes two


def _random(seed: int) -> RandomSampler:
    return RandomSampler(seed=seed)


def _tpe(seed: int, startup_trials: int) -> TPESampler:
    return CachedTPE(
        seed=seed,
        n_startup_trials=startup_trials,
        multivariate=True,
        group=True,
        constant_liar=True,
    )


@contextmanager
def _suppress_output() -> Iterator[None]:
    """Keep from the terminal what samplers say about themselves: that they are experimental, that
    a parameter is drawn independently (the plan says which), that GP has converged, or why it is slow.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
