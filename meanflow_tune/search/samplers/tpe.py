"""TPE for studies of many trials: Optuna's suggestions at a fraction of the cost.

In a space with conditions Optuna's TPE treats some 15 groups of parameters one after another, and for
each group reads every trial, through properties that parse attributes, splits the trials into good
ones and others, and converts their parameters to numbers. Here an ask reads the trials that changed and
splits once those that are modelled (`ModelledTrials`: in a large study not all), trials have plain
attributes, and the numbers of unchanged trials are kept for the next ask. Proposals and densities are
Optuna's own. tests/search/samplers/test_tpe.py compares the suggestions.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast
from weakref import WeakKeyDictionary, proxy

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import _truncnorm
from optuna.samplers._tpe import sampler as tpe
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.search.samplers.history import SamplerView
from meanflow_tune.search.samplers.modelled import CachedTrial, ModelledTrials

KEPT_LOGARITHMS = 2**16


def _keep_more_logarithms() -> None:
    """Let Optuna keep more logarithms of the normal distribution's integral, which recur from ask to ask.

    They are most of an ask: each takes microseconds, and Optuna keeps 1,000, fewer than one ask needs in a
    study of hundreds of trials.
    """
    for name in ("_ndtr_single", "_log_ndtr_single"):
        function = getattr(_truncnorm, name)
        if function.cache_parameters()["maxsize"] < KEPT_LOGARITHMS:
            setattr(_truncnorm, name, lru_cache(KEPT_LOGARITHMS)(function.__wrapped__))


_keep_more_logarithms()


class _Table:
    """The parameters of one group as Optuna's numbers, one column per trial, kept across asks."""

    def __init__(self, group: Mapping[str, BaseDistribution]) -> None:
        self._group = dict(group)
        self._serials = np.zeros(0, dtype=np.int64)  # of the trial in each column
        self._has = np.zeros(0, dtype=bool)
        self._values = np.zeros((len(group), 0))

    def rows(self, trials: "_TrialGroup") -> dict[str, NDArray[Any]]:
        """Name -> numbers of those of `trials` that have all the parameters, in their order."""
        columns = trials.numbers
        self._make_room(columns)
        for index in np.flatnonzero(self._serials[columns] != trials.serials):
            self._enter(columns[index], trials.serials[index], trials.params(int(index)))
        columns = columns[self._has[columns]]
        return {name: self._values[row, columns] for row, name in enumerate(self._group)}

    def _enter(self, column: int, serial: int, params: Mapping[str, Any]) -> None:
        self._serials[column] = serial
        self._has[column] = self._group.keys() <= params.keys()
        if self._has[column]:
            self._values[:, column] = [
                distribution.to_internal_repr(params[name])
                for name, distribution in self._group.items()
            ]

    def _make_room(self, columns: NDArray[np.int64]) -> None:
        more = 1 + max(columns, default=-1) - len(self._serials)
        if more > 0:
            more += len(self._serials)
            self._serials = np.pad(self._serials, (0, more))
            self._has = np.pad(self._has, (0, more))
            self._values = np.pad(self._values, ((0, 0), (0, more)))


class _TrialGroup:
    """The good trials of TPE's split, or the others, by number."""

    def __init__(self, trials: Sequence[FrozenTrial], sampler: "CachedTPE", study: Study) -> None:
        self.trials = cast("Sequence[CachedTrial]", trials)
        self.numbers = np.array([trial.number for trial in self.trials], dtype=np.int64)
        self.serials = np.array([trial.serial for trial in self.trials], dtype=np.int64)
        self._sampler, self._study = sampler, study

    def params(self, index: int) -> dict[str, Any]:
        """Of a running trial also those that are drawn but not asked for yet."""
        return self._sampler._get_params(self.trials[index], self._study)


class _Cache:
    """What asks in one study keep for the next ones."""

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self.trials = ModelledTrials(storage, study_id)
        self.tables: dict[tuple[Any, ...], _Table] = {}
        self.decomposed: tuple[Any, dict[str, BaseDistribution], Any] | None = None


_CACHES: WeakKeyDictionary[BaseStorage, dict[int, _Cache]] = WeakKeyDictionary()


class CachedTPE(TPESampler):
    """Optuna's multivariate TPE with groups, for one ask of a study whose storage is a `CachedView`."""

    _groups: tuple[_TrialGroup, _TrialGroup] | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The groups follow from the first trial with each set of parameters, and rarely change."""
        cache = cast(CachedView, study._storage).cache(study._study_id)
        first = cache.trials.first_of_each_shape()
        key = [(each.shape, each.number) for each in first]
        if cache.decomposed is None or cache.decomposed[0] != key:
            study._thread_local.cached_all_trials = list(first)
            space = super().infer_relative_search_space(study, trial)
            study._thread_local.cached_all_trials = None
            cache.decomposed = key, space, self._search_space_group
        _, space, self._search_space_group = cache.decomposed
        return dict(space)

    def _sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # SeededSampler has checked that there are enough trials.
        return self._sample(study, trial, search_space) if search_space else {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        view = cast(CachedView, study._storage)
        if view.count_finished(study._study_id) < self._n_startup_trials:
            return self._random_sampler.sample_independent(
                study, trial, param_name, param_distribution
            )
        return self._sample(study, trial, {param_name: param_distribution})[param_name]

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposal from the density of the good trials with the largest ratio to the density of
        the others (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011).
        """
        if self._groups is None:
            self._groups = self._split(study, trial)
        good, others = (
            self._build_parzen_estimator(study, search_space, cast(Any, side), handle_below)
            for side, handle_below in zip(self._groups, (True, False), strict=True)
        )
        proposals = good.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(proposals, self._compute_acquisition_func(proposals, good, others))
        return {
            name: distribution.to_external_repr(best[name])
            for name, distribution in search_space.items()
        }

    def _split(self, study: Study, trial: FrozenTrial) -> tuple[_TrialGroup, _TrialGroup]:
        """The good trials and the others, the same for all groups of parameters."""
        cache = cast(CachedView, study._storage).cache(study._study_id)
        trials: list[FrozenTrial] = [t for t in cache.trials.all() if t.number != trial.number]
        finished = sum(each.state != TrialState.RUNNING for each in trials)
        several = len(study.directions) > 1
        gamma = tpe.default_gamma_multiobjective if several else tpe.default_gamma
        good, others = tpe._split_trials(study, trials, gamma(finished))
        return _TrialGroup(good, self, study), _TrialGroup(others, self, study)

    def _get_internal_repr(
        self, trials: Any, search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, NDArray[Any]]:
        tables = cast(CachedView, study._storage).cache(study._study_id).tables
        group = tuple(search_space.items())
        if group not in tables:
            tables[group] = _Table(search_space)
        return tables[group].rows(trials)


class CachedView(SamplerView):
    """A sampler's view of a storage for one ask, which reads what changed since the last ask, once."""

    def __init__(self, storage: BaseStorage, asking: int | None = None) -> None:
        super().__init__(storage, asking)
        self._caches: dict[int, _Cache] = {}

    def cache(self, study_id: int) -> _Cache:
        """Of a study, as it was at the first call."""
        found = self._caches.get(study_id)
        if found is None:
            caches = _CACHES.setdefault(self._inner, {})
            if study_id not in caches:
                # A reference of the cache to its storage would keep both for ever.
                caches[study_id] = _Cache(proxy(self._inner), study_id)
            found = self._caches[study_id] = caches[study_id]
            found.trials.update()
        return found

    def count_finished(self, study_id: int) -> int:
        return self.cache(study_id).trials.finished
