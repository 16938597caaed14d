"""A smooth step from one ρ to another in the middle of training."""

import math
from typing import Literal

from pydantic import Field

from meanflow_tune.ds_schedules.base import ProgressSchedule, Ratio


class Sigmoid(ProgressSchedule):
    """ρ = (1 - w) start + w end with w = σ(temperature (progress - 1/2)).

    w is stretched to go from 0 to 1. The larger the temperature, the sharper the step.
    """

    kind: Literal["sigmoid"] = "sigmoid"
    start: Ratio = 0.5
    end: Ratio = 0.01
    temperature: float = Field(25.0, gt=0.0, le=1000.0)

    def at(self, progress: float) -> float:
        # σ(z) = (1 + tanh(z / 2)) / 2, and the stretch divides by the value of tanh at the ends.
        edge = math.tanh(0.25 * self.temperature)
        right = 0.5 * (1.0 + math.tanh(0.5 * self.temperature * (progress - 0.5)) / edge)
        return (1.0 - right) * self.start + right * self.end
