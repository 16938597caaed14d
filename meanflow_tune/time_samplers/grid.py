"""Times on an even grid."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from meanflow_tune.time_samplers.base import AnySingleTime, SingleTime
from meanflow_tune.time_samplers.uniform import Uniform

_FLOAT32 = 2.0**-24  # relative rounding error: a float32 time k/N counts as k/N


class Grid(SingleTime):
    """A time from `base`, rounded to the nearest of k / intervals, k = 0 ... intervals.

    Both ends are on the grid; their cells have half the width of the others. The distribution
    function is a step function.
    """

    kind: Literal["grid"] = "grid"
    base: AnySingleTime = Uniform()
    intervals: int = Field(128, ge=1, le=10_000)

    def quantile(self, q: Tensor) -> Tensor:
        return torch.floor(self.intervals * self.base.quantile(q) + 0.5) / self.intervals

    def cdf(self, x: Tensor) -> Tensor:
        cell = torch.floor(self.intervals * x.double() * (1.0 + 2.0 * _FLOAT32))
        return self.base.cdf(((cell + 0.5) / self.intervals).clamp(max=1.0))

    def atoms(self) -> tuple[Tensor, Tensor]:
        times = torch.arange(self.intervals + 1, dtype=torch.float64) / self.intervals
        return times, self.cdf(times).diff(prepend=times.new_zeros(1))
