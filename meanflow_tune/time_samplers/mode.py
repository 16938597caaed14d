"""Times from Stable Diffusion 3's mode sampling, a bump with heavy tails, and sorted pairs of them."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from meanflow_tune.time_samplers.base import Distribution, SingleTime, SortedPairs


class _Mode(Distribution):
    # Beyond these the map is not monotone: its slope is 1 + m - (π/2) m sin(πq).
    scale: float = Field(1.29, ge=-1.0, le=2.0 / (math.pi - 2.0))

    def quantile(self, q: Tensor) -> Tensor:
        # The formula at 1 - q, so that it rises in q; rounding may pass an end by one bit.
        rising = q + self.scale * (q - torch.sin(0.5 * math.pi * q).square())
        return rising.clamp(0.0, 1.0)

    def cdf(self, x: Tensor) -> Tensor:
        target = x.double()
        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(60):  # halvings: beyond the last bit of float64
            middle = 0.5 * (low + high)
            below = self.quantile(middle) <= target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high


class Mode(_Mode, SingleTime):
    """A time 1 - q - m (cos²(πq/2) - 1 + q), q uniform, m = scale.

    Stable Diffusion 3's "mode sampling with heavy tails" (arXiv 2403.03206, section 3.1), symmetric
    about 1/2. scale > 0 favours the middle, scale < 0 both ends, 0 is uniform.
    """

    kind: Literal["mode"] = "mode"


class ModePairs(_Mode, SortedPairs):
    """The smaller and the larger of two times from `Mode`."""

    kind: Literal["mode"] = "mode"
