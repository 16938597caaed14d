"""A smooth step from one ρ to another."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from meanflow_tune.ds_schedules.base import ProgressSchedule, Ratio

Progress = Annotated[float, Field(ge=0.0, le=1.0)]


class Sigmoid(ProgressSchedule):
    """ρ = (1 - w) start + w end with w = σ(temperature (p - 1/2)), p = (progress - begin) / (until - begin).

    p stays within [0, 1], so that the step happens between the progresses `begin` and `until`, and w
    is stretched to go from 0 to 1 there. The larger the temperature, the sharper the step. Below
    `snap` w is 0, and above 1 - snap it is 1; 0 is no snapping.

    The schedule of α-Flow (arXiv 2510.20771): temperature 25 and snap 5e-3, from α = ρ = 1. It does
    not stretch, which changes w by less than 4e-6 at that temperature, and ends at α = 0 by a
    derivative, which is the loss `backward` here.
    """

    kind: Literal["sigmoid"] = "sigmoid"
    start: Ratio = 0.5
    end: Ratio = 0.01
    temperature: float = Field(25.0, gt=0.0, le=1000.0)
    begin: Progress = 0.0
    until: Progress = 1.0
    snap: float = Field(0.0, ge=0.0, le=0.5)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.begin < self.until:
            raise ValueError(f"`begin < until` must hold, but got ({self.begin=}, {self.until=}).")
        return self

    def at(self, progress: float) -> float:
        position = min(1.0, max(0.0, (progress - self.begin) / (self.until - self.begin)))
        # σ(z) = (1 + tanh(z / 2)) / 2, and the stretch divides by the value of tanh at the ends.
        edge = math.tanh(0.25 * self.temperature)
        right = 0.5 * (1.0 + math.tanh(0.5 * self.temperature * (position - 0.5)) / edge)
        if right < self.snap:
            right = 0.0
        elif right > 1.0 - self.snap:
            right = 1.0
        return (1.0 - right) * self.start + right * self.end
