"""A constant ρ = ds / (s - t)."""

from typing import Literal

from meanflow_tune.ds_schedules.base import ProgressSchedule, Ratio


class Constant(ProgressSchedule):
    """ρ = value throughout; 1/2 is the shortcut form of tri-consistency."""

    kind: Literal["constant"] = "constant"
    # Not called `ratio`, which is the method.
    value: Ratio = 0.5

    def at(self, progress: float) -> float:
        return self.value
