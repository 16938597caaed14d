"""Which trials of a large study a screen shows: those that run, the best, the newest, and failures."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice

from meanflow_tune.records import TrialRecord
from meanflow_tune.report.state.trial_rows import StudyState, TrialRow
from meanflow_tune.search.objectives import Direction
from meanflow_tune.search.pareto import non_dominated

SCREEN = 24  # trials; a study of as many is shown whole
RUNNING, BEST, NEWEST, BROKEN = 8, 5, 8, 3  # of a larger one
NAMED = 8  # paused and running trials whose numbers are kept


def study_state(
    records: Sequence[TrialRecord], directions: Sequence[Direction], everything: bool = False
) -> StudyState:
    """records: ascending; directions: of the objectives; everything: all trials, however many."""
    done: Counter[str] = Counter(record.status for record in records)
    shown = records
    if not everything and len(records) > SCREEN:
        keep = {record.number for record in _chosen(records, directions)}
        shown = [record for record in records if record.number in keep]
    paused, running = (
        tuple(islice((r.number for r in records if r.status == status), NAMED))
        for status in ("paused", "running")
    )
    rows = tuple(TrialRow.make(record) for record in shown)
    return StudyState(len(records), dict(done), rows, paused, running)


def _chosen(records: Sequence[TrialRecord], directions: Sequence[Direction]) -> list[TrialRecord]:
    running = [record for record in records if record.status == "running"]
    ended = [record for record in records if record.status not in ("running", "paused")]
    broken = [record for record in ended if record.status in ("failed", "out_of_memory")]
    newest = sorted(ended, key=lambda r: (r.ended or 0.0, r.number))
    return [
        *running[-RUNNING:],
        *_best(records, directions),
        *newest[-NEWEST:],
        *broken[-BROKEN:],
    ]


def _best(records: Sequence[TrialRecord], directions: Sequence[Direction]) -> list[TrialRecord]:
    """The completed trials with the best values; of several objectives, some of the front."""
    done = [r for r in records if r.status == "completed" and len(r.values) == len(directions)]
    if len(directions) == 1:
        sign = 1.0 if directions[0] == "minimize" else -1.0
        return sorted(done, key=lambda r: (sign * r.values[0], r.number))[:BEST]
    if not done:
        return []
    front = non_dominated([r.values for r in done], directions)
    return [record for record, on in zip(done, front, strict=True) if on][:BEST]
