"""How far trials will come, how long that takes, and how many fit into a time. Pure arithmetic.

What is not known beforehand is taken to be exchangeable: each new value at a rung is equally likely
to take any place among those that are there. The expectations below are exact under it, whatever
the law of the values. Rungs that agree with each other break it a little from the second rung on.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from meanflow_tune.records import TrialRecord

SLACK = 1e-9


@dataclass(frozen=True)
class Terms:
    """How trials are stopped: the settings of `search.rungs`, as far as a forecast needs them.

    needed: values at a rung before anything is stopped there; grace: images before which nothing is;
    protect: the share of proposed trials that are never stopped.
    """

    kind: Literal["asha", "median", "none"] = "asha"
    reduction: float = 2.0
    needed: int = 3
    grace: int = 0
    brackets: int = 1
    promotion: bool = True
    protect: float = 0.1

    def kept(self, count: int) -> float:
        """Of `count` values at a rung, those that go on; under the median rule in expectation."""
        if self.kind == "none" or count < self.needed:
            return float(count)
        if self.kind == "median":
            return count / 2
        return float(max(1, math.floor(count / self.reduction + SLACK)))

    def judges(self, rung: int, images: int, bracket: int) -> bool:
        """Whether a trial of a bracket can be stopped at a rung, that of index `rung`."""
        return self.kind != "none" and images >= self.grace and rung >= bracket


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


def passing_share(terms: Terms, count: int, skipped: int = 0) -> float:
    """The expected share of `count` values, in the order of arrival, that go on at a rung.

    skipped: that many first ones are left out of the mean, but are peers of the others. With
    promotion a value goes on as soon as it is among the kept, even if that is at a later arrival.

    Of i values, one with b better ones is as likely as any other to be passed by the next: the next
    one is better with probability (b + 1) / (i + 1). Backwards from the last arrival this gives the
    chance of never being among the kept.
    """
    if count <= skipped:
        return 1.0
    if terms.kind == "none":
        return 1.0
    later = terms.promotion and terms.kind == "asha"
    went = 0.0
    never = np.ones(count + 1)  # after the last arrival nothing happens any more
    for arrived in range(count, skipped, -1):
        better = np.arange(arrived)
        if later:
            chance = (better + 1.0) / (arrived + 1.0)
            never = chance * never[1 : arrived + 1] + (1.0 - chance) * never[:arrived]
        else:
            never = np.ones(arrived)
        # A fraction of a place, of the median rule, is a chance.
        never = never * (1.0 - np.clip(terms.kept(arrived) - better, 0.0, 1.0))
        went += 1.0 - float(never.mean())
    return went / (count - skipped)


def reach(rungs: Sequence[int], terms: Terms, trials: int, baselines: int = 0) -> list[float]:
    """The expected number of trials that come to each rung; the first number is `trials`.

    rungs: images, ascending, the last one the whole budget. Baselines, which come first, and
    protected trials are never stopped, but are peers of the others.
    """
    proposed = max(trials - baselines, 0)
    free = min(baselines, trials) + terms.protect * proposed
    judged = [(1.0 - terms.protect) * proposed / terms.brackets] * terms.brackets
    found = [float(trials)]
    for rung, images in enumerate(rungs[:-1]):
        share = _share(terms, free + sum(judged), min(baselines, trials))
        judged = [
            number * (share if terms.judges(rung, images, bracket) else 1.0)
            for bracket, number in enumerate(judged)
        ]
        found.append(free + sum(judged))
    return found


def search_work(
    rungs: Sequence[int], terms: Terms, trials: int, baselines: int = 0, repeats: int = 0
) -> Work:
    """What a search of `trials` is expected to train.

    repeats: whole runs on further seeds of each trial that comes to the last rung, measured once.
    """
    numbers = reach(rungs, terms, trials, baselines)
    lengths = [after - before for before, after in zip([0, *rungs], rungs, strict=False)]
    images = sum(number * length for number, length in zip(numbers, lengths, strict=True))
    again = repeats * numbers[-1]
    return Work(images + again * rungs[-1], sum(numbers) + again, trials + again)


def wall_seconds(work: Work, pace: Pace, slots: int, longest: Work | None = None) -> float:
    """Time of `work` on `slots`, evenly filled, but no less than its longest part takes alone."""
    alone = pace.seconds(longest) if longest is not None else 0.0
    return max(pace.seconds(work) / slots, alone)


def trials_within(
    seconds: float,
    rungs: Sequence[int],
    terms: Terms,
    pace: Pace,
    slots: int,
    baselines: int = 0,
    repeats: int = 0,
    limit: int = 2048,
) -> int:
    """The largest number of trials, up to `limit`, whose expected time is within `seconds`."""

    def fits(trials: int) -> bool:
        work = search_work(rungs, terms, trials, baselines, repeats)
        return pace.seconds(work) / slots <= seconds

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

    An evaluation, with its checkpoint and the wait for the verdict, is the time between two reports
    less that of the training; a start is what passes before training but for the first evaluation.
    Both are medians, so that neither a pause nor the making of a teacher counts.
    """
    images = seconds = 0.0
    evaluations, starts = [], []
    for record in records:
        if not record.reports:
            continue
        last, first = record.reports[-1], record.reports[0]
        if "wall_seconds" not in last.cost:
            continue
        images += last.images
        seconds += last.cost["wall_seconds"]
        for before, after in zip(record.reports, record.reports[1:], strict=False):
            trained = after.cost["wall_seconds"] - before.cost["wall_seconds"]
            evaluations.append(max(after.time - before.time - trained, 0.0))
        if record.started is not None:
            starts.append(first.time - record.started - first.cost["wall_seconds"])
    if not images:
        return None
    evaluation = statistics.median(evaluations) if evaluations else 0.0
    start = statistics.median(starts) - evaluation if starts else 0.0
    return Pace(seconds / images, evaluation, max(start, 0.0))


def stopped_at(records: Sequence[TrialRecord]) -> dict[int, tuple[int, int]]:
    """images of a rung -> (trials that ended or paused there, trials that came there)."""
    found: dict[int, tuple[int, int]] = {}
    for record in records:
        for report in record.reports:
            ended = report is record.reports[-1] and record.status in ("pruned", "paused")
            stopped, came = found.get(report.images, (0, 0))
            found[report.images] = (stopped + ended, came + 1)
    return dict(sorted(found.items()))


def remaining_work(
    records: Sequence[TrialRecord],
    progress: dict[int, int],
    rungs: Sequence[int],
    terms: Terms,
    total: int,
    baselines: int = 0,
    repeats: int = 0,
) -> tuple[Work, Work]:
    """What is left of a search in expectation, and the longest single part of it.

    progress: images seen by each running trial, where it is ahead of its last rung. The share that
    passes a rung is the expected one, weighed as PRIOR trials, together with what was seen there.
    """
    expected = reach(rungs, terms, total, baselines)
    seen = stopped_at(
        [r for r in records if r.baseline is None and not r.protected and r.config is not None]
    )
    passes = []
    free = baselines + terms.protect * max(total - baselines, 0)
    for rung, images in enumerate(rungs[:-1]):
        came = expected[rung] - free
        prior = (expected[rung + 1] - free) / came if came > SLACK else 1.0
        stopped, judged = seen.get(images, (0, 0))
        passes.append((PRIOR * prior + judged - stopped) / (PRIOR + judged))

    def ahead(at: int, protected: bool) -> Work:
        left, chance, evaluations, position = 0.0, 1.0, 0.0, at
        for rung, images in enumerate(rungs):
            if images <= at:
                continue
            left += chance * (images - position)
            evaluations += chance
            position = images
            if rung < len(passes) and not protected:
                chance *= passes[rung]
        again = repeats * chance
        return Work(left + again * rungs[-1], evaluations + again, again)

    parts = []
    for record in records:
        if record.status == "running":
            at = max(
                progress.get(record.number, 0), record.reports[-1].images if record.reports else 0
            )
            parts.append(ahead(at, record.protected or record.baseline is not None))
    known = sum(record.baseline is not None for record in records)
    for index in range(max(total - len(records), 0)):
        free_one = index < baselines - known
        one = ahead(0, free_one)
        if not free_one:
            whole = ahead(0, True)
            share = terms.protect
            one = Work(
                share * whole.images + (1 - share) * one.images,
                share * whole.evaluations + (1 - share) * one.evaluations,
                share * whole.trials + (1 - share) * one.trials,
            )
        parts.append(one + Work(0.0, 0.0, 1.0))
    work = sum(parts, Work(0.0, 0.0, 0.0))
    longest = max(parts, key=lambda part: part.images, default=Work(0.0, 0.0, 0.0))
    return work, longest


PRIOR = 4.0


def _share(terms: Terms, count: float, skipped: int) -> float:
    """`passing_share` of an expected count, between the whole numbers next to it."""
    low = math.floor(count)
    below, above = (passing_share(terms, n, skipped) for n in (low, low + 1))
    return below + (count - low) * (above - below)
