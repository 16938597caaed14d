"""The records of a stage for its status, kept up to date by those that changed."""

from collections.abc import Collection

from meanflow_tune.records import TrialRecord
from meanflow_tune.report.outlook import best_so_far
from meanflow_tune.report.state.trial_choice import TrialChoice
from meanflow_tune.search.store.trials import best_record
from meanflow_tune.search.study.ledger import Ledger


class StageRecords:
    """choice: of the trials to be shown."""

    def __init__(self, ledger: Ledger) -> None:
        self._feed = ledger.record_feed()
        self._single = ledger.objectives.single
        self.choice = TrialChoice(ledger.objectives.directions)
        # The best proposed one of the completed trials, and the baselines, which are few.
        self._leaders: list[TrialRecord] = []

    @property
    def count(self) -> int:
        return self._feed.count

    def all(self) -> list[TrialRecord]:
        """As of the last `update`, by number."""
        return self._feed.all()

    def update(self) -> None:
        """Take in what changed."""
        changed = self._feed.update()
        self.choice.update(changed)
        if self._single is None or not changed:
            return
        leaders = {record.number: record for record in (*self._leaders, *changed)}
        found = [record for record in leaders.values() if record.status == "completed"]
        proposed = best_record(found, self._single.direction, baseline=False)
        baselines = [record for record in found if record.baseline is not None]
        self._leaders = [*baselines, *([proposed] if proposed is not None else [])]

    @property
    def leader(self) -> TrialRecord | None:
        """The best completed trial by a single objective."""
        return best_record(self._leaders, self._single.direction) if self._single else None

    def best(self, references: Collection[str]) -> str:
        """The best trials so far, in words; "" with several objectives. references: names of baselines."""
        if self._single is None:
            return ""
        return best_so_far(self._leaders, self._single.direction, references)
