"""Which checkpoints and samples of ended trials stay on disk: `--keep-checkpoints`, `--keep-samples`.

Trials that run or are paused keep everything, since they resume from it; so do those that the answer and the
sheet of samples are made of.
"""

import bisect
import logging
import shutil
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import islice
from pathlib import Path

from meanflow_tune.driver.search_tracking import needed
from meanflow_tune.plan.findings import Findings
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import TrialRecord
from meanflow_tune.remote.study_copy import delete_stored
from meanflow_tune.report.result_files import model_of
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.training.checkpoints import keep_newest

UNENDED = ("running", "paused")
ALONE = 100  # trials whose weights are in their checkpoints alone, looked at again after each end
LEADING = 2  # best proposed trials that may still become those of the answer, besides the baselines

log = logging.getLogger(__name__)


class Retention:
    """Removes what is not kept. fence: raises when another driver owns the study; called before removing."""

    def __init__(
        self, request: SearchRequest, objectives: Objectives, fence: Callable[[], None]
    ) -> None:
        self._request, self._objectives, self._fence = request, objectives, fence
        # Folder of a trial -> how many checkpoints it may still have.
        self._left: dict[str, int] = {}

    def of_stage(self, changed: Callable[[], Iterable[TrialRecord]]) -> Callable[[], None]:
        """A function for the end of each trial of a stage: removes checkpoints that no later trial can make
        worth keeping. changed: the records that changed since its last call, and no others are read."""
        stage = _Stage()
        return lambda: self._trial_ended(stage, changed())

    def _trial_ended(self, stage: "_Stage", changed: Iterable[TrialRecord]) -> None:
        if self._request.keep_checkpoints == "all":
            return
        single = self._objectives.single
        for record in changed:
            stage.put(record, single is not None and single.direction == "maximize")
        numbers = [number for _, number in stage.order[: self._request.best_checkpoints or 0]]
        kept: Container[int]
        if single is None or self._request.repeats:  # which lead is known at the end only
            leading, kept = [], stage.completed
        else:
            proposed = (number for _, number in stage.order if number not in stage.baselines)
            leading = list(islice(proposed, LEADING))
            kept = {*leading, *stage.baselines}
        best = [stage.completed[number] for number in numbers]
        due = [*stage.due.values(), *(r for n, r in stage.held.items() if n not in stage.due)]
        self._remove(due, kept, best)
        alone = (r for r in due if r.status == "completed" and self._left.get(r.folder) == 1)
        stage.held = {record.number: record for record in islice(alone, ALONE)}
        stage.held |= {number: stage.completed[number] for number in (*leading, *numbers)}
        stage.due.clear()

    def search_ended(self, findings: Findings) -> None:
        """Remove everything that is not kept, now that the leader is known."""
        kept = needed(findings)
        self._remove(findings.records, kept, findings.order)
        self._remove(findings.confirmed, set(), ())
        self._remove_samples(findings, kept)

    def _remove(
        self, records: Iterable[TrialRecord], kept: Container[int], order: Sequence[TrialRecord]
    ) -> None:
        """Checkpoints of ended trials but `kept`. order: completed trials, the best first."""
        count = self._request.best_checkpoints
        best = set() if count is None else {record.number for record in order[:count]}
        for record in records:
            if record.status in UNENDED or record.number in kept or not record.folder:
                continue
            left = 1 if count is None or record.number in best or _is_last_copy(record) else 0
            if self._request.keep_checkpoints != "all" and self._left.get(record.folder, 2) > left:
                self._left[record.folder] = left
                self._fence()
                for folder in _checkpoint_folders(Path(record.folder)):
                    keep_newest(folder, left)

    def _remove_samples(self, findings: Findings, kept: set[int]) -> None:
        count = self._request.best_samples
        if count is None:
            return
        kept = kept | {record.number for record in findings.order[:count]}
        others = [r for r in findings.records if r.number not in kept and r.status not in UNENDED]
        # The comparison is drawn from the confirmation runs of the trials of the answer.
        others += [r for r in findings.confirmed if int(r.params["candidate"]) not in kept]
        for record in others:
            folder = Path(record.folder) / "samples"
            if record.folder and folder.is_dir():
                self._fence()
                try:
                    shutil.rmtree(folder)
                    delete_stored(folder)
                except OSError as error:
                    log.warning("the samples %s stay: %s", folder, error.strerror or error)


class _Stage:
    """What is known of the trials of a stage.

    due: changed and not looked at yet; held: those that may lose what is kept of them, by what other trials
    do; completed, order: completed trials, in the order of their values, the best first; baselines: those
    that completed.
    """

    def __init__(self) -> None:
        self.due: dict[int, TrialRecord] = {}
        self.held: dict[int, TrialRecord] = {}
        self.completed: dict[int, TrialRecord] = {}
        self.order: list[tuple[float, int]] = []
        self.baselines: set[int] = set()

    def put(self, record: TrialRecord, maximize: bool) -> None:
        """Add a record that is new or has changed."""
        self.due[record.number] = record
        if record.status != "completed" or record.number in self.completed:
            return
        self.completed[record.number] = record
        if record.baseline is not None:
            self.baselines.add(record.number)
        if record.value is not None:
            bisect.insort(self.order, (-record.value if maximize else record.value, record.number))


def _is_last_copy(record: TrialRecord) -> bool:
    """Whether the weights of a completed trial are in its checkpoints alone."""
    return record.status == "completed" and model_of(record) is None


def _checkpoint_folders(trial: Path) -> list[Path]:
    """Of a trial and of its repeats on further seeds."""
    return [trial / "checkpoints", *sorted(trial.glob("repeats/*/checkpoints"))]
