"""Early stopping as pure functions of stored values."""

import bisect
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from meanflow_tune.records import Decision
from meanflow_tune.search.objectives import Direction
from meanflow_tune.search.pareto import places
from meanflow_tune.search.seeds import draw_seed
from meanflow_tune.settings import Settings

Values = tuple[float, ...]


@dataclass(frozen=True)
class RungResult:
    """A trial at a rung: its number, and its objectives at its rungs up to this one."""

    number: int
    history: tuple[Values, ...]

    @property
    def values(self) -> Values:
        return self.history[-1]


class Rungs(Settings):
    """When trials stop early.

    asha: at every rung the best 1/reduction of the trials of a bracket continue (Li et al., "A System
    for Massively Parallel Hyperparameter Tuning", 2020). With promotion the others are paused, and
    continue once they are among the best, as in the paper; without promotion they end.
    median: a trial ends when its best value so far is worse than the median of the others' means up to
    this rung (Golovin et al., "Google Vizier", 2017).

    min_peers: with fewer values than this at a rung, every trial continues; grace: images before which
    nothing stops; brackets: the k-th, counted from 0, skips the first k rungs after the grace, and
    compares only its own trials; protect: share of proposed trials that are never stopped, so that
    not only survivors show whether a rung predicts the end.
    """

    kind: Literal["asha", "median"]
    reduction: float = Field(gt=1.0)
    min_peers: int = Field(default=3, ge=1)
    grace: int = Field(ge=0)
    brackets: int = Field(ge=1)
    promotion: bool
    protect: float = Field(ge=0.0, le=1.0)

    @classmethod
    def best_share(cls, reduction: float) -> "Rungs":
        """At a single rung the best 1/reduction of all trials continue, from the first one on."""
        return cls(
            kind="asha",
            reduction=reduction,
            min_peers=1,
            grace=0,
            brackets=1,
            promotion=False,
            protect=0.0,
        )

    @property
    def pauses(self) -> bool:
        """Whether a stopped trial is only paused."""
        return self.kind == "asha" and self.promotion

    @property
    def needed(self) -> int:
        """With fewer values than this at a rung, nothing stops there."""
        return max(self.min_peers, math.ceil(self.reduction) if self.kind == "asha" else 2)

    def check(self, directions: Sequence[Direction]) -> None:
        """Raise ValueError where the rule does not support this number of objectives."""
        if self.kind == "median" and len(directions) > 1:
            raise ValueError(
                f"--scheduler median: its rule supports one objective, but there are"
                f" {len(directions)}; use asha or none"
            )

    def bracket(self, number: int) -> int:
        """The bracket of a trial; brackets alternate."""
        return number % self.brackets

    def is_protected(self, seed: int, number: int) -> bool:
        """Whether a proposed trial is drawn to be never stopped, from search seed and number."""
        return draw_seed(seed, number, "protect") < self.protect * 2**32

    def decide(
        self,
        results: Sequence[RungResult],
        number: int,
        directions: Sequence[Direction] = ("minimize",),
    ) -> Decision:
        """The decision on trial `number`. results: one per trial of the bracket, its own included.

        Ties continue. Several objectives are ranked by non-dominated fronts, and within a front by
        crowding distance (Deb et al., NSGA-II, 2002).

        Raises:
            ValueError: the trial has no result.
        """
        own = next((result for result in results if result.number == number), None)
        if own is None:
            raise ValueError(f"results must contain the trial's own, but trial {number} has none")
        count = len(results)
        if self.kind == "median":
            return self._against_median(results, own, directions)
        place = _places(results, directions)[results.index(own)]
        text = f"place {place + 1} of {count}"
        if count < self.needed:
            return Decision(True, f"{text}; nothing is stopped before {self.needed} values")
        keep = self.survivor_count(count)
        if place < keep:
            return Decision(True, f"{text}; {_continuing(keep)}")
        return Decision(False, f"{text}; only {_continuing(keep)}")

    def survivor_count(self, count: int) -> int:
        """How many of `count` trials at a rung continue."""
        return max(1, math.floor(count / self.reduction))

    def find_promotion(
        self,
        results: Sequence[RungResult],
        paused: Sequence[int],
        directions: Sequence[Direction] = ("minimize",),
    ) -> tuple[int, str] | None:
        """The best of the `paused` trials of a rung that is now among those that continue, and why."""
        if not paused or len(results) < self.needed:
            return None
        keep = self.survivor_count(len(results))
        waiting = set(paused)
        found = [
            (place, result)
            for place, result in zip(_places(results, directions), results, strict=True)
            if result.number in waiting and place < keep
        ]
        if not found:
            return None
        place, result = min(found, key=lambda entry: (entry[0], entry[1].number))
        return result.number, f"place {place + 1} of {len(results)}, {_continuing(keep)}"

    def _against_median(
        self, results: Sequence[RungResult], own: RungResult, directions: Sequence[Direction]
    ) -> Decision:
        sign = 1.0 if directions[0] == "minimize" else -1.0
        best = sign * min(sign * values[0] for values in own.history)
        means = [
            math.fsum(values[0] for values in result.history) / len(result.history)
            for result in results
            if result.number != own.number
        ]
        if len(means) + 1 < self.needed:
            return Decision(True, f"nothing is stopped before {self.needed} values")
        median = statistics.median(means)
        own_best = "" if best == own.values[0] else f"best value so far {best:.6g}, "
        text = f"{own_best}median of the others' means {median:.6g}"
        return Decision(sign * best <= sign * median, text)


def _places(results: Sequence[RungResult], directions: Sequence[Direction]) -> list[int]:
    """How many results are better than each; with one objective equal values share a place."""
    if len(directions) > 1:
        return places([result.values for result in results], directions)
    sign = 1.0 if directions[0] == "minimize" else -1.0
    values = [sign * result.values[0] for result in results]
    ordered = sorted(values)
    return [bisect.bisect_left(ordered, value) for value in values]


def _continuing(keep: int) -> str:
    return "the best continues" if keep == 1 else f"the best {keep} continue"


def show(values: Values) -> str:
    """0.0712, or (0.0712, 3.1) for several objectives."""
    listed = ", ".join(f"{value:.6g}" for value in values)
    return listed if len(values) == 1 else f"({listed})"
