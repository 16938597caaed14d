"""How far trials will come, how long that takes, and how many fit into a time. Pure arithmetic.

What is not known beforehand is taken to be exchangeable: each new value at a rung is equally likely
to take any place among those that are there. The expectations below are exact under it, whatever
the law of the values. Rungs that agree with each other break it a little from the second rung on,
and so does the median rule, which compares with means over earlier rungs.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from meanflow_tune.records import TrialRecord
from meanflow_tune.search.pruning.rules import Rungs

PRIOR = 4.0  # trials that the expected share of a rung counts for beside those seen there


@dataclass(frozen=True)
class Work:
    """Something to train. images: seen by it; evaluations: rungs at which it is measured; trials: starts."""

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
    """Seconds of one slot: an image of training, an evaluation with its checkpoint, a trial's start."""

    image: float
    evaluation: float = 0.0
    start: float = 0.0

    def seconds(self, work: Work) -> float:
        """Of one slot, for all of `work`."""
        return (
            work.images * self.image + work.evaluations * self.evaluation + work.trials * self.start
        )


def passing_share(rule: Rungs, count: int, skipped: int = 0) -> float:
    """The expected share of `count` values, in the order of arrival, that go on at a rung.

    skipped: that many first ones are left out of the mean, but are peers of the others. With
    promotion a value goes on as soon as it is among the best, even if that is at a later arrival.

    Of i values, one with b better ones is as likely as any other to be passed by the next: the next
    one is better with probability (b + 1) / (i + 1). Backwards from the last arrival this gives the
    chance of never being among the best.
    """
    if count <= skipped:
        return 1.0
    went = 0.0
    never = np.ones(count + 1)  # after the last arrival nothing happens any more
    for arrived in range(count, skipped, -1):
        better = np.arange(arrived)
        if rule.pauses:
            chance = (better + 1.0) / (arrived + 1.0)
            never = chance * never[1 : arrived + 1] + (1.0 - chance) * never[:arrived]
        else:
            never = np.ones(arrived)
        # Half a place, of the median rule, is a chance of one half.
        never = never * (1.0 - np.clip(_kept(rule, arrived) - better, 0.0, 1.0))
        went += 1.0 - float(never.mean())
    return went / (count - skipped)


def _kept(rule: Rungs, count: int) -> float:
    """Of `count` values at a rung, how many go on; under the median rule in expectation."""
    asha = rule.kind == "asha"
    if count < max(rule.min_peers, math.ceil(rule.reduction) if asha else 2):
        return float(count)
    return float(rule.survivor_count(count)) if asha else count / 2


@dataclass(frozen=True)
class Ladder:
    """A search before it runs. images: at each rung, ascending, the last the whole budget.

    rule: None where nothing stops; trials: in all, of which the baselines come first; repeats: whole
    runs on further seeds that the best at the last rung make.
    """

    images: tuple[int, ...]
    rule: Rungs | None
    trials: int
    baselines: int = 0
    repeats: int = 0

    @property
    def brackets(self) -> int:
        return self.rule.brackets if self.rule is not None else 1

    def judges(self, rung: int, bracket: int) -> bool:
        """Whether a trial of a bracket, no baseline and not protected, can be stopped at a rung."""
        if self.rule is None or rung >= len(self.images) - 1:
            return False
        if self.images[rung] < self.rule.grace:
            return False
        return sum(images >= self.rule.grace for images in self.images[:rung]) >= bracket

    @cached_property
    def passing(self) -> list[list[float]]:
        """[bracket][rung]: the expected share of the trials that can be stopped, which go on."""
        return [self._bracket(bracket)[0] for bracket in range(self.brackets)]

    @cached_property
    def reach(self) -> list[float]:
        """The expected number of trials that come to each rung; the first number is all of them."""
        each = [self._bracket(bracket)[1] for bracket in range(self.brackets)]
        return [math.fsum(numbers) for numbers in zip(*each, strict=True)]

    @cached_property
    def repeated(self) -> float:
        """The expected number of trials that make repeats: the best at the last rung, on arrival."""
        if not self.repeats:
            return 0.0
        reduction = self.rule.reduction if self.rule is not None else 2.0
        rule = Rungs(reduction=reduction, min_peers=1, promotion=False)
        return self.reach[-1] * _between(rule, self.reach[-1], 0)

    @property
    def work(self) -> Work:
        """What the search is expected to train."""
        lengths = [after - before for before, after in pairwise((0, *self.images))]
        images = math.fsum(n * length for n, length in zip(self.reach, lengths, strict=True))
        again = self.repeats * self.repeated
        return Work(
            images + again * self.images[-1], math.fsum(self.reach) + again, self.trials + again
        )

    def _bracket(self, bracket: int) -> tuple[list[float], list[float]]:
        """Shares that pass each rung, and numbers that come there, of one bracket's own trials."""
        numbers = range(bracket, self.trials, self.brackets)
        first = sum(number < self.baselines for number in numbers)
        protected = self.rule.protect if self.rule is not None else 0.0
        free = first + protected * (len(numbers) - first)
        judged = (1.0 - protected) * (len(numbers) - first)
        shares, reach = [], []
        for rung in range(len(self.images)):
            reach.append(free + judged)
            share = 1.0
            if self.rule is not None and self.judges(rung, bracket):
                share = _between(self.rule, free + judged, first)
            shares.append(share)
            judged *= share
        return shares, reach


def _between(rule: Rungs, count: float, skipped: int) -> float:
    """`passing_share` of an expected count, between the whole numbers next to it."""
    low = math.floor(count)
    below = passing_share(rule, low, skipped)
    if count == low:
        return below
    return below + (count - low) * (passing_share(rule, low + 1, skipped) - below)


def wall_seconds(work: Work, pace: Pace, slots: int, longest: Work | None = None) -> float:
    """Time of `work` on `slots`, evenly filled, but no less than its longest part takes alone."""
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
    """The pace of the trials of a study; None before the first rung of the first trial.

    An evaluation, with its checkpoint and the wait for the decision, is the time between two reports
    less that of the training; a start is what passes before training but for the first evaluation.
    Both are medians, so that neither a pause nor the making of a teacher counts.
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
    """What happened at a rung so far. came: trials that reported there; stopped: ended or paused there.

    judged: those of them that could be stopped; passed: those of these that went on.
    """

    came: int = 0
    stopped: int = 0
    judged: int = 0
    passed: int = 0


def count_at_rungs(records: Sequence[TrialRecord], ladder: Ladder) -> list[RungCounts]:
    """What happened at each rung but the last."""
    found = []
    have = [
        (record, [report.images for report in record.reports])
        for record in records
        if record.reports
    ]
    for rung, images in enumerate(ladder.images[:-1]):
        came = stopped = judged = passed = 0
        judging = {bracket for bracket in range(ladder.brackets) if ladder.judges(rung, bracket)}
        for record, reported in have:
            if images not in reported:
                continue
            ended = record.status in ("pruned", "paused") and reported[-1] == images
            came, stopped = came + 1, stopped + ended
            if record.bracket in judging and not _is_free(record):
                judged, passed = judged + 1, passed + (not ended)
        found.append(RungCounts(came, stopped, judged, passed))
    return found


def _is_free(record: TrialRecord) -> bool:
    return record.protected or record.baseline is not None


def remaining_work(
    records: Sequence[TrialRecord], ladder: Ladder, progress: Mapping[int, int] | None = None
) -> tuple[Work, Work]:
    """What is left of a search in expectation, and the longest single part of it.

    progress: images seen by running trials, where they are ahead of their last report. The share
    that passes a rung is what was seen there together with the expected share, weighed as PRIOR
    trials. Paused trials count as far as places among the best are still to come.
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
        parts += [self._new(n) for n in range(len(self.records), self.ladder.trials)]
        total = sum(parts, Work(0.0, 0.0, 0.0))
        longest = max(parts, key=lambda part: part.images, default=Work(0.0, 0.0, 0.0))
        return total, longest

    @cached_property
    def _seen(self) -> list[RungCounts]:
        return count_at_rungs(self.records, self.ladder)

    def _at(self, record: TrialRecord) -> int:
        reported = record.reports[-1].images if record.reports else 0
        return max(self.progress.get(record.number, 0), reported)

    def _share(self, rung: int, bracket: int) -> float:
        """The share that passes a rung, of trials that can be stopped there."""
        if not self.ladder.judges(rung, bracket):
            return 1.0
        seen = self._seen[rung]
        expected = self.ladder.passing[bracket][rung]
        return (PRIOR * expected + seen.passed) / (PRIOR + seen.judged)

    def _path(self, at: int, bracket: int, free: bool) -> Work:
        """From `at` images on, in expectation; many paused trials have the same way before them."""
        way = at, bracket, free
        if way not in self._paths:
            self._paths[way] = self._compute_path(*way)
        return self._paths[way]

    @cached_property
    def _paths(self) -> dict[tuple[int, int, bool], Work]:
        return {}

    def _compute_path(self, at: int, bracket: int, free: bool) -> Work:
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
        """Its way on, times the places that will still be free among the paused of its rung."""
        at = self._at(record)
        rung = self.ladder.images.index(at) if at in self.ladder.images else -1
        rule = self.ladder.rule
        if rule is None or not 0 <= rung < len(self._seen):
            return Work(0.0, 0.0, 0.0)
        seen = self._seen[rung]
        kept = _kept(rule, math.floor(self.ladder.reach[rung]))
        chance = min(max(kept - (seen.came - seen.stopped), 0.0) / max(seen.stopped, 1), 1.0)
        return self._ahead(record, at).times(chance)

    def _new(self, number: int) -> Work:
        bracket = number % self.ladder.brackets
        left = self.ladder.baselines - self._baselines
        free, mixed = self._from_start[bracket]
        return free if number - len(self.records) < left else mixed

    @cached_property
    def _baselines(self) -> int:
        return sum(record.baseline is not None for record in self.records)

    @cached_property
    def _from_start(self) -> list[tuple[Work, Work]]:
        """[bracket]: the whole way of a baseline, and of a trial that may be protected or judged."""
        start = Work(0.0, 0.0, 1.0)
        share = self.ladder.rule.protect if self.ladder.rule is not None else 0.0
        ways = []
        for bracket in range(self.ladder.brackets):
            free, judged = (self._path(0, bracket, free) for free in (True, False))
            ways.append((start + free, start + free.times(share) + judged.times(1.0 - share)))
        return ways
