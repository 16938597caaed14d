"""Stateless samplers: a suggestion is a function of seed, trial number and study.

So a kill during an ask changes nothing: parameters that were already stored are read back, and the
others are drawn again from the same seeds. `before_trial` and `after_trial` do nothing in these
samplers and need not be called. docs/samplers.md describes what each of them learns.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeAlias, cast, get_args

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
from meanflow_tune.search.samplers.history import SamplerView
from meanflow_tune.search.samplers.tpe import CachedTPE, CachedView
from meanflow_tune.search.seeds import draw_seed

SamplerKind = Literal["tpe", "gp", "cmaes", "nsgaii", "qmc", "random"]
SAMPLER_KINDS: tuple[SamplerKind, ...] = get_args(SamplerKind)

View: TypeAlias = Callable[[BaseStorage, int], SamplerView]

# Parents of NSGA-II: Optuna's 50 would select nothing in a search of about as many trials.
POPULATION = 20


def make_sampler(kind: SamplerKind, seed: int, number: int, startup_trials: int) -> BaseSampler:
    """The sampler for a single ask, of trial `number`.

    startup_trials: completed and pruned trials, baselines included, before a sampler that learns from
    results models anything; until then, parameters are drawn independently at random.

    Raises:
        ValueError: kind is unknown.
    """
    draw = draw_seed(seed, number, "relative")
    relative: BaseSampler
    view: View = SamplerView
    independent: Callable[[int], BaseSampler] = RandomSampler
    with _suppress_output():
        match kind:
            case "random":
                relative, startup_trials = RandomSampler(draw), 0
            case "qmc":
                relative, startup_trials = NumberedQMC(seed, number), 0
            case "tpe":
                independent = partial(_tpe, startup_trials)
                relative, view = independent(draw), CachedView
            case "gp":
                # It needs one completed trial; SeededSampler counts the startup trials.
                relative = GPSampler(seed=draw, n_startup_trials=1, warn_independent_sampling=False)
                view = partial(SamplerView, align_constraints=True)
            case "nsgaii":
                relative = SteadyNSGAII(draw)
            case "cmaes":
                relative = ReplayedCmaEs(draw)
            case _:
                known = ", ".join(SAMPLER_KINDS)
                raise ValueError(f"sampler {kind!r} is unknown; choose one of {known}")
    return SeededSampler(relative, independent, seed, number, startup_trials, view)


class SeededSampler(BaseSampler):
    """One ask of trial `number`.

    relative: draws the parameters that are modelled together. independent: seed -> sampler of any
    other parameter, with a seed from its name. view: storage and id of the trial -> what both see: the
    study without that trial, since GP would count parameters that a killed ask stored of it as a
    running trial, and answer differently.
    """

    def __init__(
        self,
        relative: BaseSampler,
        independent: Callable[[int], BaseSampler],
        seed: int,
        number: int,
        startup_trials: int,
        view: View,
    ) -> None:
        self._relative, self._independent = relative, independent
        self._seed, self._number = seed, number
        self._startup_trials, self._view = startup_trials, view
        self._history: Study | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        history = self._without(study, trial)
        if self._startup_trials:
            view = cast(SamplerView, history._storage)
            if view.count_finished(history._study_id) < self._startup_trials:
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
            self._history = optuna.load_study(
                study_name=study.study_name,
                storage=self._view(study._storage, trial._trial_id),
                sampler=self._relative,
            )
        return self._history


class NumberedQMC(QMCSampler):
    """Scrambled Sobol points over the parameters of trial 0; the point's index is the trial number.

    Optuna counts points in the study, so that a repeated ask would get another one, and takes the
    search space from the trial that finished first; neither is a function of seed and number.
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
        storage = study._storage
        first = storage.get_trial(
            storage.get_trial_id_from_study_id_trial_number(study._study_id, 0)
        )
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


def _tpe(startup_trials: int, seed: int) -> TPESampler:
    return CachedTPE(
        seed=seed,
        n_startup_trials=startup_trials,
        multivariate=True,
        group=True,
        constant_liar=True,
    )


@contextmanager
def _suppress_output() -> Iterator[None]:
    """Suppress messages of samplers: that they are experimental, that a parameter is drawn
    independently (the plan lists these), that GP has converged, or why it is slow.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
