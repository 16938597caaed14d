"""How far luck goes: means over seeds with an interval, and who leads by paired differences.

A difference is *paired*: both trials were trained on the same seed, so that what the seed does to both
cancels. One seed tells nothing about luck, and has no interval.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from meanflow_tune.records import TrialRecord
from meanflow_tune.search.objectives import SearchObjective, measures

LEVEL = 0.95
# Up to this many values all resamples are counted (C(2n - 1, n): 6,435 for 8) instead of drawn.
EXACT = 8
DRAWS = 10_000
# Trials without repeats that may rank_by_differences by their own seed; the others are behind all of these.
CONTENDERS = 20

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and where the true one lies. low, high: None for a single value.

    confidence: how often such an interval holds the true mean, at most. Of few values no resample
    leaves their range, which holds the centre of a symmetric law in 1 - 2^(1-n) of the cases.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    confidence: float

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class PairedComparison:
    """One trial against another: trial - other on each seed that both have."""

    trial: int
    other: int
    differences: dict[str, float]
    interval: Interval

    @property
    def undecided(self) -> bool:
        """Whether the interval holds 0: the two cannot be told apart. A single seed decides nothing."""
        return not self.interval.excludes_zero


@dataclass(frozen=True)
class Ranking:
    """order: completed trials, the leader first; rivals: contests that the leader has not decided,
    among trials that share more than one seed with it."""

    order: tuple[TrialRecord, ...]
    rivals: tuple[PairedComparison, ...]

    @property
    def leader(self) -> TrialRecord | None:
        return self.order[0] if self.order else None


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The expanded percentile interval of the mean (Hesterberg, "What Teachers Should Know About the
    Bootstrap", The American Statistician 69, 2015, section 5.3).

    The percentile interval is too narrow by sqrt((n-1)/n) and by the normal in place of Student's
    law; its quantiles are therefore taken at Phi(-sqrt(n/(n-1)) t). Up to 4 values that is the range.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    from scipy.special import ndtr, stdtrit

    data = np.asarray(values, dtype=np.float64)
    if data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"values must be finite and at least one, but are {list(values)}")
    count, mean = data.size, math.fsum(values) / data.size
    if count == 1:
        return Interval(mean, None, None, 1, 0.0)
    quantile = stdtrit(count - 1, (1.0 + level) / 2.0)
    tail = float(ndtr(-math.sqrt(count / (count - 1)) * quantile))
    means, weights = _resampled(data)
    low, high = _quantile(means, weights, tail), _quantile(means, weights, 1.0 - tail)
    return Interval(mean, low, high, count, min(level, 1.0 - 2.0 ** (1 - count)))


def scores(record: TrialRecord, objective: SearchObjective) -> dict[str, float]:
    """The objective of a completed trial on each seed: of its own run, and of its repeats.

    Keys tell which seeds are the same for two trials; a search gives the k-th repeats one seed.
    """
    own = f"seed {record.config.get('seed', 0)}"
    found = {own: objective.value(measures(record.reports[-1]))}
    for report in record.repeats:
        found[f"repeat {report.repeat}"] = objective.value(measures(report))
    return found


def compare(
    trial: TrialRecord, other: TrialRecord, objective: SearchObjective
) -> PairedComparison | None:
    """trial - other on their common seeds; None where they have none."""
    return _contest(trial.number, scores(trial, objective), other.number, scores(other, objective))


def rank_by_differences(records: Iterable[TrialRecord], objective: SearchObjective) -> Ranking:
    """Who leads among the completed trials.

    Each pair is decided by the mean of its differences over the seeds that both have: all of them
    between trials with repeats, the own seed where one has none. The order is by the number of pairs
    won, then by the mean over all seeds of the trial, then by its number.
    """
    sign = 1.0 if objective.direction == "minimize" else -1.0
    done = [r for r in records if r.status == "completed" and r.reports]
    known = {record.number: scores(record, objective) for record in done}

    def own(record: TrialRecord) -> tuple[float, int]:
        return sign * next(iter(known[record.number].values())), record.number

    repeated = [record for record in done if len(known[record.number]) > 1]
    single = sorted((r for r in done if len(known[r.number]) == 1), key=own)
    if not repeated:
        return Ranking(tuple(single), ())
    contenders, rest = [*repeated, *single[:CONTENDERS]], single[CONTENDERS:]

    def place(record: TrialRecord) -> tuple[int, float, int]:
        mine = known[record.number]
        won = sum(
            _mean_difference(mine, known[other.number], sign) < 0
            for other in contenders
            if other is not record
        )
        return -won, sign * math.fsum(mine.values()) / len(mine), record.number

    order = (*sorted(contenders, key=place), *rest)
    first = order[0]
    contests = (
        _contest(first.number, known[first.number], other.number, known[other.number])
        for other in order[1:]
        if len(known[other.number]) > 1
    )
    rivals = tuple(c for c in contests if c is not None and c.interval.count > 1 and c.undecided)
    return Ranking(order, rivals)


def _contest(
    trial: int, mine: Mapping[str, float], other: int, theirs: Mapping[str, float]
) -> PairedComparison | None:
    common = [seed for seed in mine if seed in theirs]
    if not common:
        return None
    differences = {seed: mine[seed] - theirs[seed] for seed in common}
    return PairedComparison(trial, other, differences, interval(list(differences.values())))


def _mean_difference(mine: Mapping[str, float], theirs: Mapping[str, float], sign: float) -> float:
    """Mean of mine - theirs, negative where mine is better; on all seeds where none is common."""
    common = [seed for seed in mine if seed in theirs]
    if common:
        return sign * math.fsum(mine[seed] - theirs[seed] for seed in common) / len(common)
    ours, others = (math.fsum(side.values()) / len(side) for side in (mine, theirs))
    return sign * (ours - others)


def _resampled(data: Floats) -> tuple[Floats, Floats]:
    """Means of the resamples of `data` with replacement, ascending, and the share of each."""
    if data.size <= EXACT:
        counts, shares = _multinomial(data.size)
        means = counts @ data / data.size
    else:
        generator = np.random.default_rng(0)
        means = data[generator.integers(data.size, size=(DRAWS, data.size))].mean(axis=1)
        shares = np.full(DRAWS, 1.0 / DRAWS)
    order = np.argsort(means, kind="stable")
    return means[order], shares[order]


@cache
def _multinomial(count: int) -> tuple[Floats, Floats]:
    """How often each of `count` values is drawn: [C(2n - 1, n), n], and each outcome's probability."""
    rows: list[tuple[int, ...]] = [()]
    for place in range(count):
        last = place == count - 1
        rows = [
            (*row, k)
            for row in rows
            for k in ((count - sum(row),) if last else range(count - sum(row) + 1))
        ]
    factorials = [math.factorial(k) for k in range(count + 1)]
    ways = [factorials[count] / math.prod(factorials[k] for k in row) for row in rows]
    return np.array(rows, dtype=np.float64), np.array(ways) / float(count) ** count


def _quantile(means: Floats, shares: Floats, level: float) -> float:
    """The smallest mean below or at which at least `level` of the resamples lie."""
    place = int(np.searchsorted(np.cumsum(shares), level * (1.0 - 1e-12)))
    return float(means[min(place, means.size - 1)])
