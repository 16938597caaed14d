"""Interquartile means with bootstrap intervals over repetitions, after Agarwal et al., "Deep
Reinforcement Learning at the Edge of the Statistical Precipice", 2021 (arXiv 2108.13264).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import trim_mean

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic over repetitions, and the ends of its percentile bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Of two searches, repetition by repetition: differences of regret, below 0 where the first wins.

    mean, iqm: of the differences; wins: share of repetitions that the first wins, ties counted half.
    """

    mean: Estimate
    iqm: Estimate
    wins: float

    @property
    def decision(self) -> str:
        """By the interval of the mean: "ahead", "behind" or "cannot be told apart"."""
        if self.mean.high < 0.0:
            return "ahead"
        return "behind" if self.mean.low > 0.0 else "cannot be told apart"


def interquartile_mean(values: ArrayLike) -> np.ndarray:
    """Mean of the middle half, over the first axis; a quarter (rounded down) is cut at each end."""
    return np.asarray(trim_mean(np.asarray(values, dtype=float), 0.25, axis=0))


def estimate_iqm(values: ArrayLike, seed: int = 0) -> list[Estimate]:
    """Interquartile mean of each column of values[repetition, point]."""
    data = np.asarray(values, dtype=float)
    drawn = _resampled(len(data), seed)
    with np.errstate(invalid="ignore"):
        samples = np.stack([interquartile_mean(column[drawn].T) for column in data.T], axis=1)
        return _estimates(interquartile_mean(data), samples)


def compare(first: ArrayLike, second: ArrayLike, seed: int = 0) -> Comparison:
    """The paired comparison of regrets[repetition] of two searches.

    Raises:
        ValueError: their numbers of repetitions differ, or a regret is not finite.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} repetitions cannot be paired")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(
            "some repetition completed no trial in its budget; give a larger budget with --trials"
        )
    difference = a - b
    drawn = difference[_resampled(len(difference), seed)]
    (mean,) = _estimates(np.array([difference.mean()]), drawn.mean(axis=1)[:, None])
    (iqm,) = _estimates(
        np.array([interquartile_mean(difference)]), interquartile_mean(drawn.T)[:, None]
    )
    wins = float(np.mean(difference < 0) + 0.5 * np.mean(difference == 0))
    return Comparison(mean, iqm, wins)


def best_so_far(
    completed: Sequence[tuple[float, float]], times: ArrayLike, minimize: bool
) -> np.ndarray:
    """The best value among those completed by each of the ascending times; NaN before the first."""
    found = np.full(len(np.atleast_1d(np.asarray(times))), np.nan)
    for i, time in enumerate(np.atleast_1d(np.asarray(times, dtype=float))):
        values = [value for ended, value in completed if ended <= time]
        if values:
            found[i] = min(values) if minimize else max(values)
    return found


def _resampled(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))


def _estimates(values: np.ndarray, samples: np.ndarray) -> list[Estimate]:
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(samples, (tail, 1.0 - tail), axis=0)
    return [
        Estimate(float(v), float(a), float(b)) for v, a, b in zip(values, low, high, strict=True)
    ]
