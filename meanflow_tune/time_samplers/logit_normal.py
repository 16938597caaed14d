"""Logit-normal times σ(mean + std z), and sorted pairs of them."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from meanflow_tune.time_samplers.base import Distribution, SingleTime, SortedPairs


class _LogitNormal(Distribution):
    mean: float = Field(0.4, ge=-10.0, le=10.0)
    std: float = Field(1.0, gt=0.0, le=10.0)

    def quantile(self, q: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(q))

    def cdf(self, x: Tensor) -> Tensor:
        score: Tensor = (torch.logit(x.double()) - self.mean) / self.std
        return 0.5 * torch.erfc(-score / math.sqrt(2.0))


class LogitNormal(_LogitNormal, SingleTime):
    """A time σ(mean + std z), z normal, σ the logistic function (Stable Diffusion 3, arXiv 2403.03206).

    A positive mean favours the data's end, time 1. Papers put the data at time 0, so that their
    mean of -0.4 (MeanFlow, arXiv 2505.13447) is +0.4 here: 1 - σ(z) = σ(-z).
    """

    kind: Literal["logit_normal"] = "logit_normal"


class LogitNormalPairs(_LogitNormal, SortedPairs):
    """The smaller and the larger of two logit-normal times; the mean's sign is as in `LogitNormal`.

    MeanFlow (arXiv 2505.13447): mean 0.4, std 1 on ImageNet; mean 2, std 2 on CIFAR-10, where it is
    the sampler "v0" of py-meanflow. In the papers' time the means are negative.
    """

    kind: Literal["logit_normal"] = "logit_normal"
