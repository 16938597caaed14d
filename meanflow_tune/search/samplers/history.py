"""What samplers see of a study: paused trials as pruned, and not the trial that they are asked for.

A paused trial stays RUNNING in the study, since it may be promoted; TPE's constant liar would be
repelled by it for ever, and its rungs would teach nothing. Optuna's samplers read trials through
the storage only, so a storage that passes everything on and answers these reads differently is all
that they need. Finished trials are passed on as they are, never copied.
"""

import copy
import math
from collections.abc import Container
from weakref import WeakKeyDictionary

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.search.store.proxy import StorageProxy
from meanflow_tune.search.store.trials import TrialCache, paused_at

_CONSTRAINT = "constraints:"  # where Optuna keeps a constraint: this prefix and its key

# Each ask has a view of its own, and most trials of a search are paused: copies are kept across asks.
_COPIES: WeakKeyDictionary[BaseStorage, TrialCache[FrozenTrial]] = WeakKeyDictionary()


def sampler_view(
    storage: BaseStorage, asking: int | None = None, align_constraints: bool = False
) -> "SamplerView":
    """A view of a storage for samplers; every write goes through to it.

    asking: id of the trial that is being asked for; it is left out of the list of trials.
    align_constraints: give all completed trials the same constraints in the same order, those that
    one of them violates; one that a trial lacks is satisfied (0).
    """
    return SamplerView(storage, asking, align_constraints)


class SamplerView(StorageProxy):
    """See `sampler_view`."""

    def __init__(self, storage: BaseStorage, asking: int | None, align_constraints: bool) -> None:
        super().__init__(storage)
        self._asking = asking
        self._align_constraints = align_constraints

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return _shown(self._inner.get_trial(trial_id))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        shown = _COPIES.setdefault(self._inner, TrialCache(_shown))
        trials = [
            shown(trial) if trial.state == TrialState.RUNNING else trial
            for trial in self._inner.get_all_trials(study_id, deepcopy=False)
            if trial._trial_id != self._asking
        ]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        if self._align_constraints:
            trials = _aligned(trials)
        return copy.deepcopy(trials) if deepcopy else trials


def _shown(trial: FrozenTrial) -> FrozenTrial:
    """A paused trial as `Study.tell` would leave it pruned; any other as it is."""
    if paused_at(trial) is None:
        return trial
    shown = copy.copy(trial)
    shown.state = TrialState.PRUNED
    step = trial.last_step
    if step is not None and not math.isnan(trial.intermediate_values[step]):
        shown.values = [trial.intermediate_values[step]]
    return shown


def _aligned(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Completed trials with the same constraints in the same order, and no idle ones.

    GP raises where trials set unequal numbers of them, takes them by their order, and fits a model
    to each, even to one that every trial satisfies: with two of those an ask took 2.5 times longer.
    """
    found = {
        trial.number: {
            key: value for key, value in trial.system_attrs.items() if key.startswith(_CONSTRAINT)
        }
        for trial in trials
        if trial.state == TrialState.COMPLETE
    }
    violated = {key for limits in found.values() for key, value in limits.items() if value > 0.0}
    keys = sorted(violated)
    return [
        _with_constraints(trial, keys) if list(found.get(trial.number, keys)) != keys else trial
        for trial in trials
    ]


def _with_constraints(trial: FrozenTrial, keys: list[str]) -> FrozenTrial:
    other = {k: v for k, v in trial.system_attrs.items() if not k.startswith(_CONSTRAINT)}
    shown = copy.copy(trial)
    shown.system_attrs = other | {key: trial.system_attrs.get(key, 0.0) for key in keys}
    return shown
