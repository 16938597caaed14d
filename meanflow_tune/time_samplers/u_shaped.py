"""Times with a U-shaped density, and sorted pairs of them."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from meanflow_tune.time_samplers.base import Distribution, SingleTime, SortedPairs


class _UShaped(Distribution):
    a: float = Field(4.0, gt=0.0, le=20.0)
    lowest: float = Field(0.5, ge=0.0, le=1.0)

    def quantile(self, q: Tensor) -> Tensor:
        low, high = self._ends
        inside = self.lowest + torch.asinh(low + (high - low) * q) / self.a
        return inside.clamp(0.0, 1.0)  # rounding may pass an end by one bit

    def cdf(self, x: Tensor) -> Tensor:
        low, high = self._ends
        return (torch.sinh(self.a * (x.double() - self.lowest)) - low) / (high - low)

    @property
    def _ends(self) -> tuple[float, float]:
        """The integral of the density, up to a factor, from `lowest` to time 0 and to time 1."""
        return math.sinh(-self.a * self.lowest), math.sinh(self.a * (1.0 - self.lowest))


class UShaped(_UShaped, SingleTime):
    """A time with density ∝ e^{a (t - c)} + e^{-a (t - c)}, lowest at c = lowest.

    From "Improving the Training of Rectified Flows" (arXiv 2405.20320), with a = 4. Its code adds
    e^{at} and e^{a (1 - t)}: this is c = 1/2, symmetric, both ends alike. Its text has e^{au} + e^{-au}
    for u in [0, 1], which read literally is c = 0 in its time, noise at 1, and favours the noise: here
    c = 1. c = 0 favours the data.
    """

    kind: Literal["u_shaped"] = "u_shaped"


class UShapedPairs(_UShaped, SortedPairs):
    """The smaller and the larger of two times from `UShaped`."""

    kind: Literal["u_shaped"] = "u_shaped"
