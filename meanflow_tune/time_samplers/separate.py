"""Pairs of two independent times with distributions of their own."""

from typing import Literal

import torch
from torch import Tensor

from meanflow_tune.time_samplers.base import AnySingleTime, TimeSamplerSettings
from meanflow_tune.time_samplers.logit_normal import LogitNormal


class SeparatePairs(TimeSamplerSettings):
    """One time from `start`, one from `end`, independent, and made a pair by `pairing`.

    sorted: t is the smaller, s the larger; the sampler "v0" of py-meanflow, with both logit-normal
    (mean 2, std 2 here).
    end_max: t is the first, and s the larger of both; "v1", with (0.6, 1.6) and (4, 1.6), the default
    here. Its time is reversed: t (-0.6, 1.6), r (-4, 1.6), r = min(t, r). Where the second time is the
    smaller one, s = t: such rows lie on the diagonal in addition to diagonal_share.
    """

    kind: Literal["separate"] = "separate"
    start: AnySingleTime = LogitNormal(mean=0.6, std=1.6)
    end: AnySingleTime = LogitNormal(mean=4.0, std=1.6)
    pairing: Literal["sorted", "end_max"] = "end_max"

    def marginal_cdf(self, which: Literal["t", "s"], x: Tensor) -> Tensor:
        first, second = self.start.cdf(x), self.end.cdf(x)
        if which == "s":
            return first * second
        return first if self.pairing == "end_max" else 1.0 - (1.0 - first) * (1.0 - second)

    def _pairs(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.start.quantile(uniform[:, 0]), self.end.quantile(uniform[:, 1])
        t = first if self.pairing == "end_max" else torch.minimum(first, second)
        return t, torch.maximum(first, second)
