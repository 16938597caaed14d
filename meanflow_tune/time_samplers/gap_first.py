"""Pairs whose gap s - t is drawn first."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from meanflow_tune.time_samplers.base import TimeSamplerSettings
from meanflow_tune.time_samplers.beta import beta_quantile, uniform_below_cdf


class GapFirst(TimeSamplerSettings):
    """The gap s - t from Beta(a, b), then t uniform in [0, 1 - gap].

    a > b favours the long jumps of few-step generation; Beta(1, 2) gives uniform pairs.
    """

    kind: Literal["gap_first"] = "gap_first"
    a: float = Field(1.0, gt=0.0, le=100.0)
    b: float = Field(1.0, gt=0.0, le=100.0)

    def marginal_cdf(self, which: Literal["t", "s"], x: Tensor) -> Tensor:
        # t = U (1 - gap), and 1 - s has the distribution of t.
        at = x.double() if which == "t" else 1.0 - x.double()
        below = uniform_below_cdf(self.b, self.a, at)
        return below if which == "t" else 1.0 - below

    def _pairs(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        gap = beta_quantile(self.a, self.b, uniform[:, 0])
        t = uniform[:, 1] * (1.0 - gap)
        return t, t + gap
