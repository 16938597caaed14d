"""A straight line from one ρ to another."""

from typing import Literal

from meanflow_tune.ds_schedules.base import ProgressSchedule, Ratio


class Linear(ProgressSchedule):
    """ρ = (1 - progress) start + progress end."""

    kind: Literal["linear"] = "linear"
    start: Ratio = 0.5
    end: Ratio = 0.01

    def at(self, progress: float) -> float:
        return (1.0 - progress) * self.start + progress * self.end
