"""Reading and writing one study in a storage, one fenced line at a time."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from meanflow_tune.records import INFEASIBLE, Outcome
from meanflow_tune.search.errors import StudyChanged
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.store.changes import StudyTrials
from meanflow_tune.search.store.storage import StudyJournal
from meanflow_tune.search.store.trials import (
    BASELINE,
    IMPORTED,
    OUTCOME,
    STOPPED,
    current_name,
    stored_reports,
    stored_values,
)

OBJECTIVE = "objective"
FIXED = "fixed_params"  # system attribute with the parameters of an enqueued trial
STOPPED_BY_USER = Outcome("pruned", "stopped by the user")

_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
    "out_of_memory": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class StudyWriter:
    """The ledger's access to its study. fence: raises when the lease is lost.

    name: of the study; stored: Optuna's name for its current generation.

    Raises:
        StudyChanged: the study was made for other objectives.
    """

    def __init__(
        self, storage: BaseStorage, name: str, objectives: Objectives, fence: Callable[[], None]
    ) -> None:
        self.storage, self.name, self.objectives = storage, name, objectives
        self._fence = fence
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._fence()
        self.stored = current_name(storage, name)
        self._study = self._open()
        self._id = storage.get_study_id_from_name(self.stored)
        # Trials are imported before a study is opened for a search, and never after.
        self._imported = {t.number for t in self.all_trials() if IMPORTED in t.user_attrs}

    def check(self) -> None:
        """Raise LeaseLost unless this driver still holds the lease."""
        self._fence()

    def batch(self) -> AbstractContextManager[None]:
        """One sync for all lines written in the block, where the storage supports it."""
        storage = self.storage
        return storage.batch() if isinstance(storage, StudyJournal) else nullcontext()

    def all_trials(self) -> list[FrozenTrial]:
        """All trials, imported ones included; not copied, so do not change them."""
        return self.storage.get_all_trials(self._id, deepcopy=False)

    def trials(self) -> list[FrozenTrial]:
        """All trials that are not imported; not copied, so do not change them."""
        trials, imported = self.all_trials(), self._imported
        return [t for t in trials if t.number not in imported] if imported else trials

    def trial_id(self, number: int) -> int:
        """Optuna's id of a trial. Raises ValueError where the study has no such number."""
        try:
            return self.storage.get_trial_id_from_study_id_trial_number(self._id, number)
        except KeyError:
            raise ValueError(f"study {self.name} has no trial {number}") from None

    def trial(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(self.trial_id(number))

    def feed(self) -> StudyTrials:
        """All trials, imported ones included, for one reader that learns what changed."""
        return StudyTrials(self.storage, self._id)

    def ask(self, waiting: int | None) -> int:
        """Start an enqueued trial, or (None) a new one; returns its number. No parameter is drawn yet."""
        if waiting is not None:
            self.start(waiting)
            return waiting
        self._fence()
        return self.storage.get_trial(self.storage.create_new_trial(self._id)).number

    def enqueue(self, params: Mapping[str, Any], attrs: Mapping[str, Any]) -> None:
        """Enqueue a trial with fixed parameters."""
        self._fence()
        self._study.enqueue_trial(dict(params), user_attrs=dict(attrs))

    def start(self, number: int) -> None:
        """Take a waiting trial out of the queue."""
        self._fence()
        self.storage.set_trial_state_values(self.trial_id(number), TrialState.RUNNING)

    def set_attr(self, number: int, key: str, value: Any) -> None:
        """One line: a user attribute of a trial."""
        self._fence()
        self.storage.set_trial_user_attr(self.trial_id(number), key, value)

    def set_intermediate(self, number: int, images: int, values: tuple[float, ...]) -> None:
        """One line: the value at a rung, which Optuna stores for a single objective only."""
        if len(values) == 1:
            self._fence()
            self.storage.set_trial_intermediate_value(self.trial_id(number), images, values[0])

    def tell(self, number: int) -> None:
        """Tell Optuna the stored outcome of a running trial; each step may have been done before.

        Every trial gets the same constraints, since some samplers refuse studies where they differ: 0,
        or the violation of an infeasible trial.
        """
        frozen = self.trial(number)
        outcome = Outcome(**frozen.user_attrs[OUTCOME])
        trial = Trial(self._study, self.trial_id(number))
        for status in INFEASIBLE:
            if status not in trial.constraints:
                broken = outcome.status == status
                self._fence()
                trial.set_constraint(status, (outcome.violation or 1.0) if broken else 0.0)
        values = None
        if outcome.status == "completed":
            values = stored_values(list(stored_reports(frozen).values())[-1])
        self._fence()
        self._study.tell(number, values, state=_STATES[outcome.status])

    def _open(self) -> optuna.Study:
        directions = list(self.objectives.directions)
        try:
            study = optuna.load_study(study_name=self.stored, storage=self.storage)
        except KeyError:
            study = optuna.create_study(
                study_name=self.stored, storage=self.storage, directions=directions
            )
        made_for = study.user_attrs.get(OBJECTIVE)
        asked = [str(self.objectives), *directions]
        if made_for is None:
            study.set_user_attr(OBJECTIVE, asked)
        elif made_for != asked:
            raise StudyChanged(
                f"study {self.name} has the objective {' '.join(made_for)}, not {' '.join(asked)};"
                " values of both cannot be compared: give the search another study name, or add"
                " --accept-changes to recompute them"
            )
        return study


def check_baselines(
    trials: Iterable[FrozenTrial], baselines: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise StudyChanged where a baseline was made with other parameters than it has now."""
    for trial in trials:
        name = trial.user_attrs.get(BASELINE, "")
        now = baselines.get(name)
        if now is not None and now != (was := trial.system_attrs.get(FIXED)):
            raise StudyChanged(
                f"baseline {name!r} is trial {trial.number} with the parameters {was}, but the"
                f" space now gives {now}; rename the baseline or the study, or add --accept-changes"
            )


def settled_outcome(trial: FrozenTrial, outcome: Outcome) -> Outcome:
    """The outcome that counts: a trial that a user stopped does not wait for a retry or a promotion."""
    ends = outcome.status in ("running", "pruned") or (
        outcome.status == "failed" and not outcome.deterministic
    )
    return STOPPED_BY_USER if ends and STOPPED in trial.user_attrs else outcome


def plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON data, which is what later readers of the study see."""
    data = config.to_dict() if hasattr(config, "to_dict") else config
    plain = json.loads(json.dumps(data, allow_nan=False))
    if not isinstance(plain, dict):
        raise TypeError(
            f"suggest must return a dict, or an object with to_dict, not {type(config).__name__}"
        )
    return plain
