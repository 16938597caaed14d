"""Which checkpoints and samples of ended trials stay on disk: `--keep-checkpoints`, `--keep-samples`.

Trials that run or are paused keep everything, since they resume from it; so do those that the answer and the
sheet of samples are made of.
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
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

    def trial_ended(self, records: Sequence[TrialRecord]) -> None:
        """Remove checkpoints that no later trial can make worth keeping. records: of all trials."""
        if self._request.keep_checkpoints == "all":
            return
        completed = [record for record in records if record.status == "completed"]
        best = self._best(completed)
        if best is None or self._request.repeats:  # which lead is known at the end only
            kept = {record.number for record in completed}
        else:
            leading = [record for record in best if record.baseline is None][:LEADING]
            baselines = [record for record in completed if record.baseline is not None]
            kept = {record.number for record in (*leading, *baselines)}
        self._remove(records, kept, best or completed)

    def search_ended(self, findings: Findings) -> None:
        """Remove everything that is not kept, now that the leader is known."""
        kept = needed(findings)
        self._remove(findings.records, kept, findings.order)
        self._remove(findings.confirmed, set(), ())
        self._remove_samples(findings, kept)

    def _best(self, completed: Sequence[TrialRecord]) -> list[TrialRecord] | None:
        """Completed trials, the best first; None for several objectives, which have no order."""
        single = self._objectives.single
        if single is None:
            return None
        known = [record for record in completed if record.value is not None]
        return sorted(known, key=lambda r: r.value or 0.0, reverse=single.direction == "maximize")

    def _remove(
        self, records: Iterable[TrialRecord], kept: set[int], order: Sequence[TrialRecord]
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


def _is_last_copy(record: TrialRecord) -> bool:
    """Whether the weights of a completed trial are in its checkpoints alone."""
    return record.status == "completed" and model_of(record) is None


def _checkpoint_folders(trial: Path) -> list[Path]:
    """Of a trial and of its repeats on further seeds."""
    return [trial / "checkpoints", *sorted(trial.glob("repeats/*/checkpoints"))]
