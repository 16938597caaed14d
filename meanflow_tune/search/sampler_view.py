"""What samplers see of a study: paused trials as pruned, and not the trial that they are asked for.

A paused trial stays RUNNING in the study, since it may be promoted; TPE's constant liar would be
repelled by it for ever, and its rungs would teach nothing. Optuna's samplers read trials through
the storage only, so a storage that passes everything on and answers these reads differently is all
that they need. Finished trials are passed on as they are, never copied.
"""

import copy
import math
from collections.abc import Container, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.search.view import paused_at

_CONSTRAINT = "constraints:"  # where Optuna keeps a constraint: this prefix and its key


def sampler_view(
    storage: BaseStorage, asking: int | None = None, align_constraints: bool = False
) -> "SamplerView":
    """A view of a storage for samplers; every write goes through to it.

    asking: id of the trial that is being asked for; it is left out of the list of trials.
    align_constraints: give all completed trials the same constraints in the same order, those that
    one of them violates; one that a trial lacks is satisfied (0).
    """
    return SamplerView(storage, asking, align_constraints)


class SamplerView(BaseStorage):
    """See `sampler_view`."""

    def __init__(self, storage: BaseStorage, asking: int | None, align_constraints: bool) -> None:
        self._storage = storage
        self._asking = asking
        self._align_constraints = align_constraints

    # What is seen differently.

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return _shown(self._storage.get_trial(trial_id))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        trials = [
            _shown(trial) if trial.state == TrialState.RUNNING else trial
            for trial in self._storage.get_all_trials(study_id, deepcopy=False)
            if trial._trial_id != self._asking
        ]
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        if self._align_constraints:
            trials = _aligned(trials)
        return copy.deepcopy(trials) if deepcopy else trials

    # What is passed on.

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        return self._storage.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self._storage.delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._storage.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._storage.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._storage.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._storage.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._storage.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        return self._storage.get_all_studies()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        return self._storage.create_new_trial(study_id, template_trial)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        self._storage.set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        return self._storage.set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self._storage.set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._storage.set_trial_system_attr(trial_id, key, value)

    def remove_session(self) -> None:
        self._storage.remove_session()


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
