"""Base of the schedules: ρ = ds / (s - t) as a pure function of progress and gap."""

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from meanflow_tune.settings import Member

Ratio = Annotated[float, Field(gt=0.0, le=1.0)]


class DsScheduleSettings(Member):
    """Base of the family: the difference step ds of a discrete loss, as a share ρ of the gap."""

    def ratio(self, progress: float, gap: Tensor) -> Tensor:
        """ρ in (0, 1], [B], at `progress` in [0, 1] of the trial's own budget, for gap = s - t [B].

        Raises ValueError if progress is outside [0, 1].
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"`0 <= progress <= 1` must hold, but got ({progress=}).")
        return self._ratio(progress, gap)

    @abstractmethod
    def _ratio(self, progress: float, gap: Tensor) -> Tensor:
        """ρ [B] for a valid progress."""


class ProgressSchedule(DsScheduleSettings):
    """A ρ that is the same for every gap."""

    def _ratio(self, progress: float, gap: Tensor) -> Tensor:
        return torch.full_like(gap, self.at(progress))

    @abstractmethod
    def at(self, progress: float) -> float:
        """ρ in (0, 1] at `progress` in [0, 1]."""
