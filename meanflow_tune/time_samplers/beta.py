"""Sorted pairs of Beta(a, b) times."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from meanflow_tune.time_samplers.base import SortedPairs, beta_cdf, beta_quantile


class BetaPairs(SortedPairs):
    """The smaller and the larger of two times from Beta(a, b); a > b favours the data, time 1."""

    kind: Literal["beta"] = "beta"
    a: float = Field(1.0, gt=0.0, le=100.0)
    b: float = Field(1.0, gt=0.0, le=100.0)

    def quantile(self, q: Tensor) -> Tensor:
        return beta_quantile(self.a, self.b, q)

    def cdf(self, x: Tensor) -> Tensor:
        return beta_cdf(self.a, self.b, x)
