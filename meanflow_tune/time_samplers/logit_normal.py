"""Sorted pairs of logit-normal times, σ(mean + std z)."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from meanflow_tune.time_samplers.base import SortedPairs


class LogitNormalPairs(SortedPairs):
    """The smaller and the larger of two times σ(mean + std z), z normal, σ the logistic function.

    A positive mean favours the data's end, time 1. Papers put the data at time 0, so that their
    mean of -0.4 (MeanFlow, arXiv 2505.13447) is +0.4 here: 1 - σ(z) = σ(-z).
    """

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = Field(0.4, ge=-10.0, le=10.0)
    std: float = Field(1.0, gt=0.0, le=10.0)

    def quantile(self, q: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(q))

    def cdf(self, x: Tensor) -> Tensor:
        score: Tensor = (torch.logit(x.double()) - self.mean) / self.std
        return 0.5 * torch.erfc(-score / math.sqrt(2.0))
