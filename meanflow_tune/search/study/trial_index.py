"""Where the trials of a study stand, kept up to date by what changed instead of by reading them all."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from meanflow_tune.records import TrialRecord
from meanflow_tune.search.pruning.pruner import Pruner
from meanflow_tune.search.store.changes import StudyTrials
from meanflow_tune.search.store.trials import BASELINE, CONFIG, ENQUEUED, IMPORTED, paused_at

NAMED = (BASELINE, ENQUEUED)  # attributes that name a trial of the space or of a user


class TrialIndex:
    """The trials that are not imported, by where they stand.

    count: of all; waiting, running, paused: numbers; a paused trial is not running. pruner: gets every
    change, too.
    """

    def __init__(self, trials: StudyTrials, pruner: Pruner) -> None:
        self._trials, self._pruner = trials, pruner
        self._numbers: set[int] = set()
        self._names: Mapping[str, set[Any]] = {key: set() for key in NAMED}
        self.waiting: set[int] = set()
        self.running: set[int] = set()
        self.paused: set[int] = set()

    @property
    def count(self) -> int:
        return len(self._numbers)

    def update(self) -> None:
        """Take in what has changed since the last call."""
        changed = [trial for trial in self._trials.update() if IMPORTED not in trial.user_attrs]
        self._pruner.update(changed)
        for trial in changed:
            number, attrs = trial.number, trial.user_attrs
            self._numbers.add(number)
            for among in (self.waiting, self.running, self.paused):
                among.discard(number)
            if trial.state == TrialState.WAITING:
                self.waiting.add(number)
            elif trial.state == TrialState.RUNNING:
                (self.running if paused_at(trial) is None else self.paused).add(number)
            for key, names in self._names.items():
                if key in attrs:
                    names.add(attrs[key])

    def named(self, key: str) -> frozenset[Any]:
        """The values of BASELINE or of ENQUEUED that trials have."""
        return frozenset(self._names[key])


class RecordFeed:
    """The records of all trials that have a configuration, and which of them changed."""

    def __init__(
        self, trials: StudyTrials, make: Callable[[FrozenTrial], TrialRecord], lock: threading.RLock
    ) -> None:
        self._trials, self._make, self._lock = trials, make, lock
        self._records: dict[int, TrialRecord] = {}

    def update(self) -> list[TrialRecord]:
        """The records that are new or changed since the last call, by number."""
        with self._lock:
            changed = [
                self._make(trial)
                for trial in self._trials.update()
                if CONFIG in trial.user_attrs and IMPORTED not in trial.user_attrs
            ]
            last = next(reversed(self._records), -1)
            self._records |= {record.number: record for record in changed}
            if any(record.number < last for record in changed):  # configured after a later one
                self._records = dict(sorted(self._records.items()))
            return changed

    @property
    def count(self) -> int:
        return len(self._records)

    def all(self) -> list[TrialRecord]:
        """All records as of the last `update`, by number."""
        with self._lock:
            return list(self._records.values())
