"""Which trials of a large study a screen shows: those that run, the best, the newest, and failures."""

import bisect
from collections.abc import Iterable, Sequence

from meanflow_tune.records import TrialRecord
from meanflow_tune.report.state.trial_rows import StudyState, TrialRow
from meanflow_tune.search.objectives import Direction
from meanflow_tune.search.pareto import non_dominated
from meanflow_tune.search.sorted_lists import discard

SCREEN = 24  # trials; a study of as many is shown whole
RUNNING, BEST, NEWEST, BROKEN = 8, 5, 8, 3  # of a larger one
NAMED = 8  # paused and running trials whose numbers are kept


class TrialChoice:
    """The trials of a study, sorted so that those to be shown are found without reading all of them.

    directions: of the objectives. With several, a trial that completes is compared with their front.
    """

    def __init__(self, directions: Sequence[Direction]) -> None:
        self._directions = directions
        self._records: dict[int, TrialRecord] = {}
        self._by_status: dict[str, list[int]] = {}  # numbers, ascending
        self._ended: list[tuple[float, int]] = []
        self._best: list[
            tuple[float, int]
        ] = []  # the best first; with several objectives the front

    def update(self, changed: Iterable[TrialRecord]) -> None:
        """Take in records that are new or changed."""
        for record in changed:
            before = self._records.get(record.number)
            if before is not None:
                discard(self._by_status[before.status], record.number)
                discard(self._ended, _end_of(before))
                self._forget_best(before)
            self._records[record.number] = record
            bisect.insort(self._by_status.setdefault(record.status, []), record.number)
            if record.status not in ("running", "paused"):
                bisect.insort(self._ended, _end_of(record))
            if record.status == "completed" and len(record.values) == len(self._directions):
                self._add_best(record)

    @property
    def done(self) -> dict[str, int]:
        """Counts by status."""
        return {status: len(numbers) for status, numbers in self._by_status.items() if numbers}

    def state(self, everything: bool = False) -> StudyState:
        """everything: all trials, however many."""
        if everything or len(self._records) <= SCREEN:
            shown = sorted(self._records)
        else:
            shown = sorted(self._chosen())
        paused, running = (
            tuple(self._by_status.get(status, ())[:NAMED]) for status in ("paused", "running")
        )
        rows = tuple(TrialRow.make(self._records[number]) for number in shown)
        return StudyState(len(self._records), self.done, rows, paused, running)

    def _chosen(self) -> set[int]:
        failed, memory = (
            self._by_status.get(of, [])[-BROKEN:] for of in ("failed", "out_of_memory")
        )
        return {
            *self._by_status.get("running", ())[-RUNNING:],
            *(number for _, number in self._best[:BEST]),
            *(number for _, number in self._ended[-NEWEST:]),
            *sorted([*failed, *memory])[-BROKEN:],
        }

    def _add_best(self, record: TrialRecord) -> None:
        if len(self._directions) == 1:
            bisect.insort(self._best, self._key(record))
            return
        front = [*(number for _, number in self._best), record.number]
        self._best = self._front(sorted(front))

    def _forget_best(self, record: TrialRecord) -> None:
        if len(self._directions) == 1:
            if record.values:
                discard(self._best, self._key(record))
        elif (0.0, record.number) in self._best:  # a completed trial that is completed again
            done = self._by_status.get("completed", [])
            self._best = self._front([number for number in done if number != record.number])

    def _front(self, numbers: Sequence[int]) -> list[tuple[float, int]]:
        if not numbers:
            return []
        points = [self._records[number].values for number in numbers]
        best = non_dominated(points, self._directions)
        return [(0.0, number) for number, on in zip(numbers, best, strict=True) if on]

    def _key(self, record: TrialRecord) -> tuple[float, int]:
        sign = 1.0 if self._directions[0] == "minimize" else -1.0
        return sign * record.values[0], record.number


def study_state(
    records: Iterable[TrialRecord], directions: Sequence[Direction], everything: bool = False
) -> StudyState:
    """Of all trials at once."""
    choice = TrialChoice(directions)
    choice.update(records)
    return choice.state(everything)


def _end_of(record: TrialRecord) -> tuple[float, int]:
    return record.ended or 0.0, record.number
