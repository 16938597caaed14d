"""Exponential decay of ρ."""

from typing import Literal

from meanflow_tune.ds_schedules.base import ProgressSchedule, Ratio


class Exponential(ProgressSchedule):
    """ρ = start (end / start)^progress; related work goes from 0.1 to 0.002 on ImageNet."""

    kind: Literal["exponential"] = "exponential"
    start: Ratio = 0.1
    end: Ratio = 0.002

    def at(self, progress: float) -> float:
        return float(self.start ** (1.0 - progress) * self.end**progress)
