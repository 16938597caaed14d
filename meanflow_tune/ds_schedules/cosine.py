"""Half a cosine from one ρ to another."""

import math
from typing import Literal

from meanflow_tune.ds_schedules.base import ProgressSchedule, Ratio


class Cosine(ProgressSchedule):
    """ρ = w start + (1 - w) end with w = (1 + cos(π progress)) / 2."""

    kind: Literal["cosine"] = "cosine"
    start: Ratio = 0.5
    end: Ratio = 0.01

    def at(self, progress: float) -> float:
        left = 0.5 * (1.0 + math.cos(math.pi * progress))
        return left * self.start + (1.0 - left) * self.end
