"""Pairs whose end time s is drawn first."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from meanflow_tune.time_samplers.base import TimeSamplerSettings
from meanflow_tune.time_samplers.beta import beta_cdf, beta_quantile, uniform_below_cdf


class EndFirst(TimeSamplerSettings):
    """The end s from Beta(a, b), then the start t uniform in [0, s].

    a > b favours ends near the data, time 1; Beta(2, 1) gives uniform pairs.
    """

    kind: Literal["end_first"] = "end_first"
    a: float = Field(1.0, gt=0.0, le=100.0)
    b: float = Field(1.0, gt=0.0, le=100.0)

    def marginal_cdf(self, which: Literal["t", "s"], x: Tensor) -> Tensor:
        distribution = beta_cdf if which == "s" else uniform_below_cdf
        return distribution(self.a, self.b, x.double())

    def _pairs(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        s = beta_quantile(self.a, self.b, uniform[:, 0])
        return uniform[:, 1] * s, s
