"""Statistics over seeds: means with an interval, and the order of trials by paired differences.

A difference is *paired*: both trials were trained on the same seed, so that effects of the seed on both
cancel. A single seed has no interval.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from meanflow_tune.records import TrialRecord
from meanflow_tune.search.objectives import SearchObjective, measures

LEVEL = 0.95
# With fewer seeds, a bootstrap interval covers less than its nominal level.
SEEDS_FOR_LEVEL = 6
# Up to this many values all resamples are enumerated (C(2n - 1, n): 6,435 for 8), not drawn.
EXACT = 8
DRAWS = 10_000
# Trials without repeats that may lead by their own seed; the others come after all of these.
CONTENDERS = 20
NEAR = 1e-9  # relative difference below which rounding may decide

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with an interval. low, high: None for a single value.

    confidence: upper limit of the probability that the interval contains the true mean. No resample
    leaves the range of the values, which contains the centre of a symmetric distribution with
    probability 1 - 2^(1-n).
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
    """The differences trial - other on each seed that both have."""

    trial: int
    other: int
    differences: dict[str, float]
    interval: Interval

    @property
    def undecided(self) -> bool:
        """Whether the interval contains 0, or there is a single seed."""
        return not self.interval.excludes_zero


@dataclass(frozen=True)
class Ranking:
    """order: completed trials, the leader first; undecided: comparisons of the leader with trials that
    share more than one seed with it, where the interval contains 0."""

    order: tuple[TrialRecord, ...]
    undecided: tuple[PairedComparison, ...]


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The expanded percentile interval of the mean (Hesterberg, "What Teachers Should Know About the
    Bootstrap", The American Statistician 69, 2015, section 5.3).

    The percentile interval is too narrow by sqrt((n-1)/n) and by the normal in place of Student's t
    distribution; its quantiles are therefore taken at Phi(-sqrt(n/(n-1)) t). Up to 4 values that is
    the range.

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

    Equal keys of two trials stand for equal seeds; all k-th repeats of a search share one seed.
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
    mine, theirs = scores(trial, objective), scores(other, objective)
    differences = {seed: mine[seed] - theirs[seed] for seed in mine if seed in theirs}
    if not differences:
        return None
    found = interval(list(differences.values()))
    return PairedComparison(trial.number, other.number, differences, found)


def rank_by_differences(records: Iterable[TrialRecord], objective: SearchObjective) -> Ranking:
    """The order of the completed trials.

    A pair is decided by the mean of its differences over common seeds: all seeds for two trials with
    repeats, the own seed where one has none. The order is by pairs won, then by the mean over all
    seeds of the trial, then by number.
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

    table = _Wins([known[record.number] for record in contenders], sign)

    def place(record: TrialRecord) -> tuple[int, float, int]:
        mine = known[record.number]
        won = table.of(mine)
        return -won, sign * math.fsum(mine.values()) / len(mine), record.number

    order = (*sorted(contenders, key=place), *rest)
    first = order[0]
    repeats = [record for record in order[1:] if len(known[record.number]) > 1]
    comparisons = (compare(first, record, objective) for record in repeats)
    undecided = (c for c in comparisons if c is not None and c.interval.count > 1 and c.undecided)
    return Ranking(order, tuple(undecided))


class _Wins:
    """How many of the given trials one is better than, without looking at each.

    Trials that were measured on equal seeds are sorted by their mean over those that they share with a
    trial, so that only those whose mean is nearly that trial's are compared one by one.
    """

    def __init__(self, scores_of: Sequence[Mapping[str, float]], sign: float) -> None:
        self._sign = sign
        self._alike: dict[frozenset[str], list[Mapping[str, float]]] = {}
        for one in scores_of:
            self._alike.setdefault(frozenset(one), []).append(one)
        self._sorted: dict[tuple[frozenset[str], frozenset[str]], _Sorted] = {}

    def of(self, mine: Mapping[str, float]) -> int:
        """Of the others; `mine` does not win against itself."""
        return sum(self._against(mine, seeds) for seeds in self._alike)

    def _against(self, mine: Mapping[str, float], seeds: frozenset[str]) -> int:
        common = seeds.intersection(mine)
        key = seeds, common
        if key not in self._sorted:
            self._sorted[key] = _Sorted.of(self._alike[seeds], common, self._sign)
        others = self._sorted[key]
        mean = _mean(mine, common, self._sign)
        near = NEAR * max(abs(mean), others.largest)
        first, last = (
            bisect_left(others.means, mean - near),
            bisect_right(others.means, mean + near),
        )
        close = others.trials[first:last]
        won = sum(_mean_difference(mine, one, self._sign) < 0 for one in close)
        return len(others.means) - last + won


@dataclass(frozen=True)
class _Sorted:
    """Ascending means with their trials; largest: magnitude of a score."""

    means: list[float]
    trials: list[Mapping[str, float]]
    largest: float

    @classmethod
    def of(
        cls, trials: list[Mapping[str, float]], common: frozenset[str], sign: float
    ) -> "_Sorted":
        ranked = sorted(((_mean(one, common, sign), k) for k, one in enumerate(trials)))
        largest = max(abs(value) for one in trials for value in one.values())
        return cls([mean for mean, _ in ranked], [trials[k] for _, k in ranked], largest)


def _mean(values: Mapping[str, float], seeds: frozenset[str], sign: float) -> float:
    """Over `seeds`, or over all where there are none."""
    chosen = [values[seed] for seed in seeds] or list(values.values())
    return sign * math.fsum(chosen) / len(chosen)


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
