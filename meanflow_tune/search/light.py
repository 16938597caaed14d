"""A study as TPE reads it, the same answers at half the cost, or less in a large study.

An ask in a space with conditions reads every trial some 15 times, once for each group of parameters,
and through properties that parse attributes. Here trials are read once an ask, what TPE asks of them
are plain attributes, and one that has not changed since the last ask is not made light anew.
`tests/search/test_light.py` compares its suggestions with those without.
"""

import itertools
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import sampler as tpe
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.search.sampler_view import SamplerView
from meanflow_tune.search.view import Kept


class LightTrial(FrozenTrial):
    """A finished trial whose attributes are plain.

    It holds what TPE makes use of: of the constraints those that are violated, and of the values at
    rungs the last one. For TPE only; it is never written anywhere.
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
        self.rows: dict[int, tuple[float, ...] | None] = {}  # see `LightTPE`


_LIGHT: WeakKeyDictionary[BaseStorage, Kept[FrozenTrial]] = WeakKeyDictionary()  # across asks
_GROUPS: dict[tuple[tuple[str, BaseDistribution], ...], int] = {}  # a short name for each
_NAMES = itertools.count()


class LightTPE(TPESampler):
    """TPE that turns the parameters of a finished trial into numbers once for each group of them."""

    def _get_internal_repr(
        self,
        trials: list[FrozenTrial],
        search_space: dict[str, BaseDistribution],
        study: Study,
    ) -> dict[str, NDArray[Any]]:
        group = _GROUPS.setdefault(tuple(search_space.items()), next(_NAMES))
        found = []
        for trial in trials:
            if isinstance(trial, LightTrial):
                if group not in trial.rows:
                    trial.rows[group] = _row(trial.params, search_space)
                row = trial.rows[group]
            else:
                row = _row(self._get_params(trial, study), search_space)
            if row is not None:
                found.append(row)
        return {name: np.asarray([row[i] for row in found]) for i, name in enumerate(search_space)}


def _row(
    params: Mapping[str, Any], search_space: Mapping[str, BaseDistribution]
) -> tuple[float, ...] | None:
    """Optuna's numbers for the parameters of a group; None for a trial that lacks one of them."""
    if not search_space.keys() <= params.keys():
        return None
    return tuple(law.to_internal_repr(params[name]) for name, law in search_space.items())


class LightView(SamplerView):
    """A sampler's view of a storage, for one ask: trials are read when they are first asked for.

    laws_only: of the trials of one state that have the same parameters only the first, which is all
    that the decomposition of a space into groups depends on.
    """

    def __init__(self, storage: BaseStorage, asking: int | None, laws_only: bool = False) -> None:
        super().__init__(storage, asking, align_constraints=False)
        self._laws_only = laws_only
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
        trials = super().get_all_trials(study_id, deepcopy=False)
        if self._laws_only:
            first: dict[Any, FrozenTrial] = {}
            for trial in trials:
                first.setdefault((trial.state, frozenset(trial.distributions)), trial)
            return list(first.values())
        light = _LIGHT.setdefault(self._inner, Kept[FrozenTrial](LightTrial))
        return [light(trial) if trial.state.is_finished() else trial for trial in trials]


@contextmanager
def split_once() -> Iterator[None]:
    """Within one ask TPE divides the trials into good and others once, not for each group anew.

    The division is the same for all groups. It is a function of Optuna's module; where a later version
    has it no more, nothing is saved and nothing else changes.
    """
    divide = getattr(tpe, "_split_trials", None)
    if divide is None:
        yield
        return
    known: dict[Any, Any] = {}

    def once(study: Any, trials: list[FrozenTrial], n_below: int) -> Any:
        key = n_below, tuple(map(id, trials))
        if key not in known:
            known[key] = trials, divide(study, trials, n_below)  # kept, so that no id is used again
        return known[key][1]

    tpe._split_trials = once
    try:
        yield
    finally:
        tpe._split_trials = divide
