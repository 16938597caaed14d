"""Times from Stable Diffusion 3's CosMap, and sorted pairs of them."""

import math
from typing import Literal

import torch
from torch import Tensor

from meanflow_tune.time_samplers.base import Distribution, SingleTime, SortedPairs


class _CosMap(Distribution):
    def quantile(self, q: Tensor) -> Tensor:
        # tan / (tan + 1), finite also at q = 1.
        angle = 0.5 * math.pi * q
        rise, run = torch.sin(angle), torch.cos(angle)
        return rise / (rise + run)

    def cdf(self, x: Tensor) -> Tensor:
        at = x.double()
        return torch.atan2(at, 1.0 - at) / (0.5 * math.pi)


class CosMap(_CosMap, SingleTime):
    """A time 1 - 1 / (tan(πq/2) + 1), q uniform: density 2 / (π (1 - 2t + 2t²)).

    The log-SNR of a straight path then has the distribution of the cosine schedule's (Stable
    Diffusion 3, arXiv 2403.03206, section 3.1). It favours the middle and is symmetric about 1/2.
    """

    kind: Literal["cosmap"] = "cosmap"


class CosMapPairs(_CosMap, SortedPairs):
    """The smaller and the larger of two times from `CosMap`."""

    kind: Literal["cosmap"] = "cosmap"
