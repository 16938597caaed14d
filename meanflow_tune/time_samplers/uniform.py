"""Sorted pairs of uniform times."""

from typing import Literal

from torch import Tensor

from meanflow_tune.time_samplers.base import SortedPairs


class UniformPairs(SortedPairs):
    """The smaller and the larger of two times, uniform in [0, 1]."""

    kind: Literal["uniform"] = "uniform"

    def quantile(self, q: Tensor) -> Tensor:
        return q

    def cdf(self, x: Tensor) -> Tensor:
        return x.double()
