"""Early stopping as pure functions of stored values."""

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from meanflow_tune.records import Decision
from meanflow_tune.search.objectives import Direction
from meanflow_tune.search.pruning.standings import RungResult, Standings, Values
from meanflow_tune.search.seeds import draw_seed
from meanflow_tune.settings import Settings


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
        others = (result for result in results if result.number != number)
        return self.decide_among(Standings(directions, others), own, directions[0])

    def decide_among(
        self, standings: Standings, own: RungResult, direction: Direction = "minimize"
    ) -> Decision:
        """The same. standings: of the bracket, with or without `own`; direction: of the first objective."""
        if self.kind == "median":
            return self._against_median(standings, own, direction)
        place, count = standings.place(own)
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
        standings = Standings(directions, results)
        waiting = sorted(standings.order_key(number) for number in paused if number in standings)
        return self.promote_from(standings, waiting)

    def promote_from(
        self, standings: Standings, waiting: Sequence[tuple[float, int]]
    ) -> tuple[int, str] | None:
        """The same. waiting: the paused trials as of `Standings.order_key`, sorted."""
        count = len(standings)
        if count < self.needed:
            return None
        keep = self.survivor_count(count)
        found = standings.best(waiting)
        if found is None or found[1] >= keep:
            return None
        return found[0], f"place {found[1] + 1} of {count}, {_continuing(keep)}"

    def _against_median(
        self, standings: Standings, own: RungResult, direction: Direction
    ) -> Decision:
        sign = 1.0 if direction == "minimize" else -1.0
        best = sign * min(sign * values[0] for values in own.history)
        median, others = standings.median_mean(own.number)
        if median is None or others + 1 < self.needed:
            return Decision(True, f"nothing is stopped before {self.needed} values")
        own_best = "" if best == own.values[0] else f"best value so far {best:.6g}, "
        text = f"{own_best}median of the others' means {median:.6g}"
        return Decision(sign * best <= sign * median, text)


def _continuing(keep: int) -> str:
    return "the best continues" if keep == 1 else f"the best {keep} continue"


def show(values: Values) -> str:
    """0.0712, or (0.0712, 3.1) for several objectives."""
    listed = ", ".join(f"{value:.6g}" for value in values)
    return listed if len(values) == 1 else f"({listed})"
