"""TPE for studies of many trials: Optuna's suggestions at a fraction of the cost.

In a space with conditions Optuna's TPE treats some 15 groups of parameters one after another, and for
each group reads every trial, through properties that parse attributes, splits the trials into good
ones and others, and converts their parameters to numbers. Here an ask reads and splits them once,
trials have plain attributes, and the numbers of unchanged trials are kept for the next ask. Proposals
and densities are Optuna's own. tests/search/samplers/test_tpe.py compares the suggestions.
"""

import itertools
from collections.abc import Container, Mapping, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import sampler as tpe
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.search.samplers.history import SamplerView
from meanflow_tune.search.store.trials import FINISHED, TrialCache

_MODELLED = (*FINISHED, TrialState.RUNNING)  # RUNNING for the constant liar
_SERIALS = itertools.count(1)
_SHAPES: dict[frozenset[str], frozenset[str]] = {}  # one object each, so that comparing is quick


class CachedTrial(FrozenTrial):
    """A trial with plain attributes instead of properties, for TPE only; it is never stored.

    It holds what TPE uses: the violated constraints only, and the last of the values at rungs.

    serial: unique, so that a changed trial differs from its earlier state; shape: the names of its
    parameters.
    """

    number = 0
    value = None
    values = None
    params = {}
    distributions = {}
    system_attrs = {}  # type: ignore[override]
    constraints = {}

    def __init__(self, trial: FrozenTrial) -> None:
        self.__dict__.update(trial.__dict__)
        self.number = trial.number
        self.values = trial.values
        self.value = self.values[0] if self.values is not None and len(self.values) == 1 else None
        self.params = trial.params
        self.distributions = trial.distributions
        self.system_attrs = trial.system_attrs
        self.constraints = {key: value for key, value in trial.constraints.items() if value > 0}
        step = trial.last_step
        if step is not None:
            self.intermediate_values = {step: trial.intermediate_values[step]}
        self.serial = next(_SERIALS)
        shape = frozenset(self.distributions)
        self.shape = _SHAPES.setdefault(shape, shape)


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
    """What asks in one storage keep for the next ones."""

    def __init__(self) -> None:
        self.trials: TrialCache[FrozenTrial] = TrialCache(CachedTrial)
        self.tables: dict[tuple[Any, ...], _Table] = {}
        self.decomposed: tuple[Any, dict[str, BaseDistribution], Any] | None = None


_CACHES: WeakKeyDictionary[BaseStorage, _Cache] = WeakKeyDictionary()


class CachedTPE(TPESampler):
    """Optuna's multivariate TPE with groups, for one ask of a study whose storage is a `CachedView`."""

    _groups: tuple[_TrialGroup, _TrialGroup] | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The groups follow from the first trial with each set of parameters, and rarely change."""
        view = cast(CachedView, study._storage)
        first: dict[frozenset[str], FrozenTrial] = {}
        for each in view.get_all_trials(study._study_id, False, FINISHED):
            first.setdefault(cast(CachedTrial, each).shape, each)
        key = study._study_id, [(shape, each.number) for shape, each in first.items()]
        cache = view.cache
        if cache.decomposed is None or cache.decomposed[0] != key:
            study._thread_local.cached_all_trials = list(first.values())
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
        trials = study._storage.get_all_trials(study._study_id, False, _MODELLED)
        trials = [each for each in trials if each.number != trial.number]
        finished = sum(each.state != TrialState.RUNNING for each in trials)
        several = len(study.directions) > 1
        gamma = tpe.default_gamma_multiobjective if several else tpe.default_gamma
        good, others = tpe._split_trials(study, trials, gamma(finished))
        return _TrialGroup(good, self, study), _TrialGroup(others, self, study)

    def _get_internal_repr(
        self, trials: Any, search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, NDArray[Any]]:
        tables = cast(CachedView, study._storage).cache.tables
        group = tuple(search_space.items())
        if group not in tables:
            tables[group] = _Table(search_space)
        return tables[group].rows(trials)


class CachedView(SamplerView):
    """A sampler's view of a storage for one ask, which reads the trials once."""

    def __init__(self, storage: BaseStorage, asking: int | None = None) -> None:
        super().__init__(storage, asking)
        self.cache = _CACHES.setdefault(storage, _Cache())
        self._trials: dict[int, list[FrozenTrial]] = {}

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if deepcopy:
            return super().get_all_trials(study_id, deepcopy, states)
        if study_id not in self._trials:
            trials = super().get_all_trials(study_id, deepcopy=False)
            self._trials[study_id] = self.cache.trials.each(trials)
        trials = self._trials[study_id]
        return trials if states is None else [trial for trial in trials if trial.state in states]
