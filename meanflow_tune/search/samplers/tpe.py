"""TPE on a study of many trials: the same suggestions at a fraction of the cost.

In a space with conditions Optuna's TPE treats some 15 groups of parameters one after another, and for
each of them reads every trial, through properties that parse attributes, divides the trials into good
and others, and turns their parameters into numbers. Here an ask reads and divides them once; what it
asks of a trial are plain attributes, and numbers of a trial that has not changed are kept for the next
ask. Proposals and densities are Optuna's own. `tests/search/test_light.py` compares the suggestions
with those without.
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
from meanflow_tune.search.store.trials import TrialCache

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_PEERS = (*FINISHED, TrialState.RUNNING)  # what the constant liar takes account of
_SERIALS = itertools.count(1)
_SHAPES: dict[frozenset[str], frozenset[str]] = {}  # one object each, so that comparing is quick


class CachedTrial(FrozenTrial):
    """A trial whose attributes are plain.

    It holds what TPE makes use of: of the constraints those that are violated, and of the values at
    rungs the last one. For TPE only; it is never written anywhere.

    serial: no other has the same, so that a changed trial is told from what it was; shape: the names
    of its parameters.
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
    """The parameters of one group as Optuna's numbers, a column a trial, kept across asks."""

    def __init__(self, group: Mapping[str, BaseDistribution]) -> None:
        self._group = dict(group)
        self._serials = np.zeros(0, dtype=np.int64)  # of the trial that a column is of
        self._has = np.zeros(0, dtype=bool)
        self._values = np.zeros((len(group), 0))

    def rows(self, peers: "_Peers") -> dict[str, NDArray[Any]]:
        """Name -> numbers of those of `peers` that have all the parameters, in their order."""
        columns = peers.numbers
        self._make_room(columns)
        for index in np.flatnonzero(self._serials[columns] != peers.serials):
            self._enter(columns[index], peers.serials[index], peers.params(int(index)))
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


class _Peers:
    """Trials of one side of TPE's division, in order of their numbers."""

    def __init__(self, trials: Sequence[FrozenTrial], sampler: "CachedTPE", study: Study) -> None:
        self.trials = cast("Sequence[CachedTrial]", trials)
        self.numbers = np.array([trial.number for trial in self.trials], dtype=np.int64)
        self.serials = np.array([trial.serial for trial in self.trials], dtype=np.int64)
        self._sampler, self._study = sampler, study

    def params(self, index: int) -> dict[str, Any]:
        """Of a running trial also those that are drawn, but not asked for yet."""
        return self._sampler._get_params(self.trials[index], self._study)


class _Memory:
    """What asks in one storage keep for the next one."""

    def __init__(self) -> None:
        self.light: TrialCache[FrozenTrial] = TrialCache(CachedTrial)
        self.tables: dict[tuple[Any, ...], _Table] = {}
        self.decomposed: tuple[Any, dict[str, BaseDistribution], Any] | None = None


_MEMORIES: WeakKeyDictionary[BaseStorage, _Memory] = WeakKeyDictionary()


class CachedTPE(TPESampler):
    """Optuna's multivariate TPE with groups, for one ask of a study whose storage is a `CachedView`."""

    _sides: tuple[_Peers, _Peers] | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The groups follow from the first trial with each set of parameters, and change seldom."""
        view = cast(CachedView, study._storage)
        first: dict[frozenset[str], FrozenTrial] = {}
        for each in view.get_all_trials(study._study_id, False, FINISHED):
            first.setdefault(cast(CachedTrial, each).shape, each)
        key = study._study_id, [(shape, each.number) for shape, each in first.items()]
        memory = view.memory
        if memory.decomposed is None or memory.decomposed[0] != key:
            study._thread_local.cached_all_trials = list(first.values())
            space = super().infer_relative_search_space(study, trial)
            study._thread_local.cached_all_trials = None
            memory.decomposed = key, space, self._search_space_group
        _, space, self._search_space_group = memory.decomposed
        return dict(space)

    def _sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # That there are enough trials has been seen before any group is drawn.
        return self._sample(study, trial, search_space) if search_space else {}

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Of proposals from the density of the good trials, the one with the largest ratio to the
        density of the others (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011).
        """
        if self._sides is None:
            self._sides = self._divide(study, trial)
        good, others = (
            self._build_parzen_estimator(study, search_space, cast(Any, side), handle_below)
            for side, handle_below in zip(self._sides, (True, False), strict=True)
        )
        proposals = good.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(proposals, self._compute_acquisition_func(proposals, good, others))
        return {
            name: distribution.to_external_repr(best[name])
            for name, distribution in search_space.items()
        }

    def _divide(self, study: Study, trial: FrozenTrial) -> tuple[_Peers, _Peers]:
        """The good trials and the others, which are the same for all groups."""
        trials = study._storage.get_all_trials(study._study_id, False, _PEERS)
        trials = [each for each in trials if each.number != trial.number]
        finished = sum(each.state != TrialState.RUNNING for each in trials)
        several = len(study.directions) > 1
        gamma = tpe.default_gamma_multiobjective if several else tpe.default_gamma
        good, others = tpe._split_trials(study, trials, gamma(finished))
        return _Peers(good, self, study), _Peers(others, self, study)

    def _get_internal_repr(
        self, trials: Any, search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, NDArray[Any]]:
        tables = cast(CachedView, study._storage).memory.tables
        group = tuple(search_space.items())
        if group not in tables:
            tables[group] = _Table(search_space)
        return tables[group].rows(trials)


class CachedView(SamplerView):
    """A sampler's view of a storage, for one ask: trials are read when they are first asked for."""

    def __init__(self, storage: BaseStorage, asking: int | None) -> None:
        super().__init__(storage, asking, align_constraints=False)
        self.memory = _MEMORIES.setdefault(storage, _Memory())
        self._trials: dict[int, list[FrozenTrial]] = {}

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        if deepcopy:
            return super().get_all_trials(study_id, deepcopy, states)
        if study_id not in self._trials:
            self._trials[study_id] = self._read(study_id)
        trials = self._trials[study_id]
        return trials if states is None else [trial for trial in trials if trial.state in states]

    def _read(self, study_id: int) -> list[FrozenTrial]:
        return self.memory.light.each(super().get_all_trials(study_id, deepcopy=False))
