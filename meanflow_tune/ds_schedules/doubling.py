"""A number of intervals that doubles in stages of equal length."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from meanflow_tune.ds_schedules.base import ProgressSchedule


class Doubling(ProgressSchedule):
    """ρ = 1 / N, with N = start_intervals · 2^stage, at most end_intervals.

    The discretisation of improved consistency training (arXiv 2310.14189): as many stages as it
    takes to reach end_intervals, each for the same share of the budget.
    """

    kind: Literal["doubling"] = "doubling"
    start_intervals: int = Field(10, ge=1, le=1_000_000)
    end_intervals: int = Field(1280, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.start_intervals > self.end_intervals:
            raise ValueError(
                "`start_intervals <= end_intervals` must hold, "
                f"but got ({self.start_intervals=}, {self.end_intervals=})."
            )
        return self

    def at(self, progress: float) -> float:
        doublings = math.ceil(math.log2(self.end_intervals / self.start_intervals))
        stage = min(doublings, int(progress * (doublings + 1)))
        return 1.0 / min(self.start_intervals << stage, self.end_intervals)
