"""The trials of a study and which of them changed, so that an index of them costs what changed."""

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from meanflow_tune.search.store.storage import StudyJournal


class StudyTrials:
    """The trials of one study of a storage, by number, as of the last `update`.

    A journal names the trials that its new lines changed. Of any other storage all trials are looked at,
    by identity alone: storages never change a trial that they returned, a write replaces the object.
    """

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id
        self._since = 0
        self.trials: list[FrozenTrial] = []

    def update(self) -> list[FrozenTrial]:
        """The trials that are new or changed since the last call, ascending; not copied."""
        changed = self._changed()
        for trial in changed:
            if trial.number < len(self.trials):
                self.trials[trial.number] = trial
            else:
                self.trials.append(trial)
        return changed

    def _changed(self) -> list[FrozenTrial]:
        if isinstance(self._storage, StudyJournal):
            self._since, changed = self._storage.changed_trials(self._study_id, self._since)
            return changed
        now = self._storage.get_all_trials(self._study_id, deepcopy=False)
        known, count = self.trials, len(self.trials)
        return [t for place, t in enumerate(now) if place >= count or t is not known[place]]
