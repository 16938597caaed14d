"""Forecasts of how far trials come, how long that takes, and how many fit into a time.

Values are assumed to be exchangeable: a new value at a rung is equally likely to take any place among
those already there. The expectations are exact under this assumption, for any distribution of the
values. It holds only approximately from the second rung on, where rungs agree with each other, and for
the median rule, which compares with means over earlier rungs.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise

import numpy as np

from meanflow_tune.records import TrialRecord
from meanflow_tune.search.pruning.rules import Rungs

EXACT = 4000  # trials at a rung
PRIOR = 4.0  # weight of the expected share at a rung, as a number of observed trials


@dataclass(frozen=True)
class Work:
    """An amount of training: images, evaluations at rungs, and starts of trials."""

    images: float
    evaluations: float
    trials: float

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.images + other.images,
            self.evaluations + other.evaluations,
            self.trials + other.trials,
        )

    def times(self, factor: float) -> "Work":
        return Work(factor * self.images, factor * self.evaluations, factor * self.trials)


@dataclass(frozen=True)
class Pace:
    """Seconds of one slot per image of training, evaluation with its checkpoint, and start of a trial."""

    image: float
    evaluation: float = 0.0
    start: float = 0.0

    def seconds(self, work: Work) -> float:
        """Time of one slot for `work`."""
        return (
            work.images * self.image + work.evaluations * self.evaluation + work.trials * self.start
        )


def passing_share(rule: Rungs, count: int, skipped: int = 0) -> float:
    """The expected share of `count` values, in the order of arrival, that continue at a rung.

    skipped: number of first values that are left out of the mean, but compared with the others. With
    promotion a value continues once it is among the best, possibly at a later arrival.

    After i values, the next one is better than a value with b better ones with probability
    (b + 1) / (i + 1). Backwards from the last arrival this gives the probability of never being among
    the best. That takes a time that grows with the square of the count; above EXACT it is extrapolated
    by the law that the share approaches its limit by, the inverse square root.
    """
    if count <= skipped:
        return 1.0
    if count > EXACT:
        few, many = (passing_share(rule, n, min(skipped, n // 2)) for n in (EXACT // 4, EXACT))
        return many - (few - many) * (1.0 - math.sqrt(EXACT / count))
    passed = 0.0
    never = np.ones(count + 1)  # after the last arrival nothing changes
    for arrived in range(count, skipped, -1):
        better = np.arange(arrived)
        if rule.pauses:
            chance = (better + 1.0) / (arrived + 1.0)
            never = chance * never[1 : arrived + 1] + (1.0 - chance) * never[:arrived]
        else:
            never = np.ones(arrived)
        # Half a place, under the median rule, is a probability of one half.
        never = never * (1.0 - np.clip(_kept(rule, arrived) - better, 0.0, 1.0))
        passed += 1.0 - float(never.mean())
    return passed / (count - skipped)


def _kept(rule: Rungs, count: int) -> float:
    """How many of `count` values at a rung continue; under the median rule, the expectation."""
    if count < rule.needed:
        return float(count)
    return float(rule.survivor_count(count)) if rule.kind == "asha" else count / 2


@dataclass(frozen=True)
class Ladder:
    """The rungs and trials of a search. images: at each rung, ascending; the last is the budget.

    rule: None without early stopping; trials: total, of which the baselines come first; repeats: whole
    runs on further seeds for the best trials at the last rung.
    """

    images: tuple[int, ...]
    rule: Rungs | None
    trials: int
    baselines: int = 0
    repeats: int = 0

    @property
    def brackets(self) -> int:
        return self.rule.brackets if self.rule is not None else 1

    def can_stop(self, rung: int, bracket: int) -> bool:
        """Whether a rung can stop a trial of a bracket that is neither a baseline nor protected."""
        if self.rule is None or rung >= len(self.images) - 1:
            return False
        if self.images[rung] < self.rule.grace:
            return False
        return sum(images >= self.rule.grace for images in self.images[:rung]) >= bracket

    @cached_property
    def passing(self) -> list[list[float]]:
        """[bracket][rung]: the expected share that continues, of the trials that can be stopped."""
        return [self._bracket(bracket)[0] for bracket in range(self.brackets)]

    @cached_property
    def reach(self) -> list[float]:
        """The expected number of trials at each rung; at the first, all of them."""
        each = [self._bracket(bracket)[1] for bracket in range(self.brackets)]
        return [math.fsum(numbers) for numbers in zip(*each, strict=True)]

    @cached_property
    def repeated(self) -> float:
        """The expected number of trials with repeats: the best at the last rung, on arrival."""
        if not self.repeats:
            return 0.0
        reduction = self.rule.reduction if self.rule is not None else 2.0
        rule = Rungs.best_share(reduction)
        return self.reach[-1] * _interpolated_share(rule, self.reach[-1], 0)

    @property
    def work(self) -> Work:
        """The expected work of the search."""
        lengths = [after - before for before, after in pairwise((0, *self.images))]
        images = math.fsum(n * length for n, length in zip(self.reach, lengths, strict=True))
        again = self.repeats * self.repeated
        return Work(
            images + again * self.images[-1], math.fsum(self.reach) + again, self.trials + again
        )

    def _bracket(self, bracket: int) -> tuple[list[float], list[float]]:
        """Of one bracket: the share of trials that continue at each rung, and their number there."""
        numbers = range(bracket, self.trials, self.brackets)
        first = sum(number < self.baselines for number in numbers)
        protected = self.rule.protect if self.rule is not None else 0.0
        free = first + protected * (len(numbers) - first)
        judged = (1.0 - protected) * (len(numbers) - first)
        shares, reach = [], []
        for rung in range(len(self.images)):
            reach.append(free + judged)
            share = 1.0
            if self.rule is not None and self.can_stop(rung, bracket):
                share = _interpolated_share(self.rule, free + judged, first)
            shares.append(share)
            judged *= share
        return shares, reach


def _interpolated_share(rule: Rungs, count: float, skipped: int) -> float:
    """`passing_share` of an expected count, interpolated between whole numbers."""
    low = math.floor(count)
    below = passing_share(rule, low, skipped)
    if count == low:
        return below
    return below + (count - low) * (passing_share(rule, low + 1, skipped) - below)


def wall_seconds(work: Work, pace: Pace, slots: int, longest: Work | None = None) -> float:
    """Time of `work` on evenly filled `slots`, but at least that of its longest part."""
    alone = pace.seconds(longest) if longest is not None else 0.0
    return max(pace.seconds(work) / slots, alone)


def trials_within(seconds: float, ladder: Ladder, pace: Pace, slots: int, limit: int) -> int:
    """The largest number of trials, up to `limit`, whose expected time is within `seconds`."""

    def fits(trials: int) -> bool:
        return pace.seconds(replace(ladder, trials=trials).work) / slots <= seconds

    low, high = 0, 1
    while high < limit and fits(high):
        low, high = high, min(2 * high, limit)
    if fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def measured_pace(records: Sequence[TrialRecord]) -> Pace | None:
    """The pace of the trials of a study; None before the first report.

    An evaluation, with its checkpoint and the wait for the decision, takes the time between two
    reports minus that of training; a start takes the time before the first report minus training and
    one evaluation. Both are medians, so that pauses and the training of a teacher do not count.
    """
    images = seconds = 0.0
    evaluations, starts = [], []
    for record in records:
        reports = [report for report in record.reports if "wall_seconds" in report.cost]
        if not reports:
            continue
        images += reports[-1].images
        seconds += reports[-1].cost["wall_seconds"]
        for before, after in pairwise(reports):
            trained = after.cost["wall_seconds"] - before.cost["wall_seconds"]
            evaluations.append(max(after.time - before.time - trained, 0.0))
        if record.started is not None:
            starts.append(reports[0].time - record.started - reports[0].cost["wall_seconds"])
    if not images:
        return None
    evaluation = statistics.median(evaluations) if evaluations else 0.0
    start = statistics.median(starts) - evaluation if starts else 0.0
    return Pace(seconds / images, evaluation, max(start, 0.0))


@dataclass(frozen=True)
class RungCounts:
    """Trials at a rung so far. reported: all; stopped: those that ended or paused there.

    stoppable: those that the rung could stop; passed: those of these that continued.
    """

    reported: int = 0
    stopped: int = 0
    stoppable: int = 0
    passed: int = 0


def count_at_rungs(records: Sequence[TrialRecord], ladder: Ladder) -> list[RungCounts]:
    """The trials at each rung but the last."""
    found = []
    have = [(record, [report.images for report in record.reports]) for record in records]
    for rung, images in enumerate(ladder.images[:-1]):
        reported = stopped = stoppable = passed = 0
        stopping = {bracket for bracket in range(ladder.brackets) if ladder.can_stop(rung, bracket)}
        for record, rungs in have:
            if images not in rungs:
                continue
            ended = record.status in ("pruned", "paused") and rungs[-1] == images
            reported, stopped = reported + 1, stopped + ended
            if record.bracket in stopping and not _is_free(record):
                stoppable, passed = stoppable + 1, passed + (not ended)
        found.append(RungCounts(reported, stopped, stoppable, passed))
    return found


def _is_free(record: TrialRecord) -> bool:
    return record.protected or record.baseline is not None


def remaining_work(
    records: Sequence[TrialRecord], ladder: Ladder, progress: Mapping[int, int] | None = None
) -> tuple[Work, Work]:
    """The expected remaining work of a search, and its longest single part.

    progress: images seen by running trials since their last report. The share that passes a rung is
    the observed one combined with the expected one, which has the weight of PRIOR trials. Paused
    trials count by the places among the best that are still free.
    """
    return _RemainingWork(records, ladder, dict(progress or {})).work


@dataclass(frozen=True)
class _RemainingWork:
    records: Sequence[TrialRecord]
    ladder: Ladder
    progress: dict[int, int]

    @property
    def work(self) -> tuple[Work, Work]:
        parts = [self._ahead(r, self._at(r)) for r in self.records if r.status == "running"]
        parts += [self._paused(r) for r in self.records if r.status == "paused"]
        baselines = sum(record.baseline is not None for record in self.records)
        first_proposed = len(self.records) + self.ladder.baselines - baselines
        parts += [
            self._whole(number % self.ladder.brackets, number < first_proposed)
            for number in range(len(self.records), self.ladder.trials)
        ]
        total = sum(parts, Work(0.0, 0.0, 0.0))
        longest = max(parts, key=lambda part: part.images, default=Work(0.0, 0.0, 0.0))
        return total, longest

    @cached_property
    def _counts(self) -> list[RungCounts]:
        return count_at_rungs(self.records, self.ladder)

    def _at(self, record: TrialRecord) -> int:
        reported = record.reports[-1].images if record.reports else 0
        return max(self.progress.get(record.number, 0), reported)

    def _share(self, rung: int, bracket: int) -> float:
        """The share of the trials that pass a rung, of those that can be stopped there."""
        if not self.ladder.can_stop(rung, bracket):
            return 1.0
        counts = self._counts[rung]
        expected = self.ladder.passing[bracket][rung]
        return (PRIOR * expected + counts.passed) / (PRIOR + counts.stoppable)

    @cached_property
    def _path(self) -> Callable[[int, int, bool], Work]:
        """`_compute_path`, cached since many paused trials share one."""
        return cache(self._compute_path)

    def _compute_path(self, at: int, bracket: int, free: bool) -> Work:
        """The expected work from `at` images on. free: of a trial that nothing stops."""
        chance, images, evaluations, before = 1.0, 0.0, 0.0, at
        for rung, until in enumerate(self.ladder.images):
            if until <= at:
                continue
            images += chance * (until - before)
            evaluations += chance
            before = until
            chance *= 1.0 if free else self._share(rung, bracket)
        last = self.ladder.reach[-1]
        again = chance * self.ladder.repeats * (self.ladder.repeated / last if last else 0.0)
        return Work(images + again * self.ladder.images[-1], evaluations + again, again)

    def _ahead(self, record: TrialRecord, at: int) -> Work:
        return self._path(at, record.bracket, _is_free(record))

    def _paused(self, record: TrialRecord) -> Work:
        """Its remaining path, times the share of free places among the paused trials of its rung."""
        at = self._at(record)
        rung = self.ladder.images.index(at) if at in self.ladder.images else -1
        rule = self.ladder.rule
        if rule is None or not 0 <= rung < len(self._counts):
            return Work(0.0, 0.0, 0.0)
        counts = self._counts[rung]
        kept = _kept(rule, math.floor(self.ladder.reach[rung]))
        chance = min(
            max(kept - (counts.reported - counts.stopped), 0.0) / max(counts.stopped, 1), 1.0
        )
        return self._ahead(record, at).times(chance)

    def _whole(self, bracket: int, baseline: bool) -> Work:
        """The whole path of a baseline, or of a proposed trial."""
        start, free = Work(0.0, 0.0, 1.0), self._path(0, bracket, True)
        if baseline:
            return start + free
        share = self.ladder.rule.protect if self.ladder.rule is not None else 0.0
        return start + free.times(share) + self._path(0, bracket, False).times(1.0 - share)
