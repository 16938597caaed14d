"""Fidelity audit: does the value at an early rung predict the final value of a trial?

Only completed trials can show it. Those that passed the rungs are a selected sample, in which the early
value correlates less with the final one than among all; so trials that are never stopped (baselines
and protected trials) are used alone where there are enough of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meanflow_tune.records import TrialRecord
from meanflow_tune.search.objectives import SearchObjective, measures

# With fewer trials the interval of a rank correlation is nearly the whole range.
FEWEST = 8
# Only the newest, since every pair is compared.
MOST = 1000
# Below this, fewer than 65 % of all pairs of trials have the same order early and at the end.
PREDICTS = 0.3
DRAWS = 1000
LEVEL = 0.95

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RungAudit:
    """One rung but the last. correlation: Kendall's tau-b between the value there and the final value
    over `count` trials, with a bootstrap interval; None for too few trials or equal values.
    unselected: over trials that are never stopped only.
    """

    images: int
    count: int
    unselected: bool
    correlation: float | None
    low: float | None
    high: float | None

    @property
    def predicts(self) -> bool | None:
        """Whether decisions at this rung are better than chance; None where that is unknown."""
        return None if self.correlation is None else self.correlation >= PREDICTS


@dataclass(frozen=True)
class Audit:
    """objective: whose rungs are audited; selected: whether the search has stopped any trial."""

    objective: str
    rungs: tuple[RungAudit, ...]
    selected: bool

    @property
    def advice(self) -> str | None:
        """The remedy where the first rung does not predict; None where it does, or where it is unknown."""
        if not self.rungs or self.rungs[0].predicts is not False:
            return None
        first = self.rungs[0]
        good = next((rung.images for rung in self.rungs if rung.predicts), None)
        remedy = (
            f"raise --grace to {good}, the first rung that predicts, or lower --reduction"
            if good is not None
            else "no rung predicts it: use --scheduler none, or a --reduction near 1"
        )
        return (
            f"the rung at {first.images:,} images hardly tells how trials end (rank correlation "
            f"{first.correlation:+.2f}), so trials are stopped there by luck: {remedy}"
        )


def audit(records: Iterable[TrialRecord], objective: SearchObjective, seed: int = 0) -> Audit:
    """Compare the values at each rung with the final ones of completed trials."""
    every = list(records)
    done = [r for r in every if r.status == "completed" and len(r.reports) > 1][-MOST:]
    free = [r for r in done if r.protected or r.baseline is not None]
    selected = any(record.status in ("pruned", "paused") for record in every)
    rungs = sorted({report.images for record in done for report in record.reports[:-1]})
    found = []
    for images in rungs:
        pairs = _pairs(done, images, objective)
        unselected = _pairs(free, images, objective)
        alone = selected and len(unselected) >= FEWEST
        chosen = unselected if alone else pairs
        tau, low, high = kendall(chosen, seed)
        found.append(RungAudit(images, len(chosen), alone or not selected, tau, low, high))
    return Audit(str(objective), tuple(found), selected)


def kendall(
    pairs: Sequence[tuple[float, float]], seed: int = 0
) -> tuple[float | None, float | None, float | None]:
    """Kendall's tau-b (Kendall, "The Treatment of Ties in Ranking Problems", Biometrika 33, 1945) and
    its bootstrap percentile interval over the pairs; all None for too few or equal values."""
    if len(pairs) < FEWEST:
        return None, None, None
    x, y = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    signs = [np.sign(side[:, None] - side[None, :]) for side in (x, y)]
    products = (signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))
    (tau,) = _tau(np.ones((1, len(x))), products)
    if not np.isfinite(tau):
        return None, None, None
    draws = np.random.default_rng(seed).multinomial(len(x), np.full(len(x), 1 / len(x)), size=DRAWS)
    drawn = _tau(draws.astype(np.float64), products)
    low, high = np.quantile(drawn[np.isfinite(drawn)], ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(tau), float(low), float(high)


def _tau(counts: Floats, products: Sequence[Floats]) -> Floats:
    """tau-b of samples in which trial i is drawn counts[k, i] times: [K]; NaN where all are equal."""
    agree, left, right = (((counts @ matrix) * counts).sum(axis=1) for matrix in products)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(agree / np.sqrt(left * right))


def _pairs(
    records: Iterable[TrialRecord], images: int, objective: SearchObjective
) -> list[tuple[float, float]]:
    """(value at the rung, final value) of each trial that reported there before its end."""
    found = []
    for record in records:
        early = next((r for r in record.reports[:-1] if r.images == images), None)
        if early is not None:
            last = record.reports[-1]
            found.append((objective.value(measures(early)), objective.value(measures(last))))
    return found
