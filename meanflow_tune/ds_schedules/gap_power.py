"""A ρ that grows with the gap."""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from meanflow_tune.ds_schedules.base import DsScheduleSettings, Ratio


class GapPower(DsScheduleSettings):
    """ρ = smallest + (scale - smallest) gap^power: `smallest` at gap 0, `scale` at gap 1."""

    kind: Literal["gap_power"] = "gap_power"
    scale: Ratio = 0.5
    power: float = Field(1.0, gt=0.0, le=10.0)
    smallest: Ratio = 0.001

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.smallest > self.scale:
            raise ValueError(
                f"`smallest <= scale` must hold, but got ({self.smallest=}, {self.scale=})."
            )
        return self

    def _ratio(self, progress: float, gap: Tensor) -> Tensor:
        return self.smallest + (self.scale - self.smallest) * gap.pow(self.power)
