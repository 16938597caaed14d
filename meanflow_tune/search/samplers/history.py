"""The trials that samplers see: paused ones as pruned, and without the trial that is asked for.

A paused trial stays RUNNING in the study, since it may be promoted; TPE's constant liar would avoid it
indefinitely, and its rungs would teach nothing. Optuna's samplers read trials through the storage
only, so a proxy of it changes what they see. Finished trials are never copied.
"""

import copy
import math
from collections.abc import Container
from weakref import WeakKeyDictionary

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.search.store.proxy import StorageProxy
from meanflow_tune.search.store.trials import FINISHED, TrialCache, paused_at

_CONSTRAINT = "constraints:"  # where Optuna keeps a constraint: this prefix and its key

# Each ask has its own view, and most trials of a search are paused, so copies are kept across asks.
PAUSED_COPIES: WeakKeyDictionary[BaseStorage, TrialCache[FrozenTrial]] = WeakKeyDictionary()


class SamplerView(StorageProxy):
    """A view of a storage for samplers; writes go through to the storage.

    asking: id of the trial that is being asked for, which is left out of the list of trials.
    align_constraints: give all completed trials the same constraints in the same order, those that
    one of them violates; one that a trial lacks is satisfied (0).
    """

    def __init__(
        self, storage: BaseStorage, asking: int | None = None, align_constraints: bool = False
    ) -> None:
        super().__init__(storage)
        self._asking, self._align_constraints = asking, align_constraints

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return shown(self._inner.get_trial(trial_id))

    def count_finished(self, study_id: int) -> int:
        """How many trials samplers can learn from."""
        return len(self.get_all_trials(study_id, deepcopy=False, states=FINISHED))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        copies = PAUSED_COPIES.setdefault(self._inner, TrialCache(shown))
        trials = [
            copies(trial) if trial.state == TrialState.RUNNING else trial
            for trial in self._inner.get_all_trials(study_id, deepcopy=False)
            if trial._trial_id != self._asking
        ]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        if self._align_constraints:
            trials = _aligned(trials)
        return copy.deepcopy(trials) if deepcopy else trials


def shown(trial: FrozenTrial) -> FrozenTrial:
    """A paused trial as `Study.tell` would store it when pruned; any other trial unchanged."""
    if paused_at(trial) is None:
        return trial
    pruned = copy.copy(trial)
    pruned.state = TrialState.PRUNED
    step = trial.last_step
    if step is not None and not math.isnan(trial.intermediate_values[step]):
        pruned.values = [trial.intermediate_values[step]]
    return pruned


def _aligned(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Completed trials with the same constraints in the same order, without those always satisfied.

    GP raises where trials have unequal numbers of constraints, matches them by order, and fits a model
    to each, even if every trial satisfies it: two of those make an ask take 2.5 times longer.
    """
    found = {
        trial.number: {
            key: value for key, value in trial.system_attrs.items() if key.startswith(_CONSTRAINT)
        }
        for trial in trials
        if trial.state == TrialState.COMPLETE
    }
    keys = sorted(
        {key for limits in found.values() for key, value in limits.items() if value > 0.0}
    )
    return [
        _with_constraints(trial, keys) if list(found.get(trial.number, keys)) != keys else trial
        for trial in trials
    ]


def _with_constraints(trial: FrozenTrial, keys: list[str]) -> FrozenTrial:
    other = {k: v for k, v in trial.system_attrs.items() if not k.startswith(_CONSTRAINT)}
    shown = copy.copy(trial)
    shown.system_attrs = other | {key: trial.system_attrs.get(key, 0.0) for key in keys}
    return shown
