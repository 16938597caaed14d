"""Pairs whose end keeps a random factor of the start's distance from the data."""

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from meanflow_tune.time_samplers.base import AnySingleTime, SingleTime, TimeSamplerSettings
from meanflow_tune.time_samplers.uniform import Uniform


class FactorPairs(TimeSamplerSettings):
    """The start t from `start`, then 1 - s = (1 - t) q with an independent factor q in [0, 1]."""

    start: AnySingleTime = Uniform()

    @property
    @abstractmethod
    def _factor(self) -> SingleTime:
        """The distribution of q."""

    def marginal_cdf(self, which: Literal["t", "s"], x: Tensor) -> Tensor:
        if which == "t":
            return self.start.cdf(x)
        return product_at_least(self.start, self._factor, 1.0 - x.double())

    def _pairs(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        t, q = self.start.quantile(uniform[:, 0]), self._factor.quantile(uniform[:, 1])
        # 1 - (1 - t) q, written so that rounding cannot put it below t.
        return t, t + (1.0 - t) * (1.0 - q)


class Product(FactorPairs):
    """The start t from `start`, then 1 - s = (1 - t) q with q from `factor`.

    In the papers' time, noise at 1, it is r = t q. A small q favours ends near the data. With a
    uniform factor it is `Nested`.
    """

    kind: Literal["product"] = "product"
    factor: AnySingleTime = Uniform()

    @property
    def _factor(self) -> SingleTime:
        return self.factor


def product_at_least(start: SingleTime, factor: SingleTime, y: Tensor) -> Tensor:
    """P((1 - T) Q >= y) for independent T ~ start and Q ~ factor: y float64 in [0, 1], any shape.

    A sum where one of them is discrete, exact; else the mean of P(Q >= y / (1 - T)) over T <= 1 - y.
    """
    at, ones = y.unsqueeze(-1), torch.ones((), dtype=y.dtype, device=y.device)
    if (atoms := factor.atoms()) is not None:
        factors, chances = (a.to(y.device) for a in atoms)
        below = start.cdf((1.0 - at / factors).clamp(0.0, 1.0))
        total = (torch.where(at <= factors, below, 0.0) * chances).sum(-1)
    elif (atoms := start.atoms()) is not None:
        rest, chances = 1.0 - atoms[0].to(y.device), atoms[1].to(y.device)
        above = 1.0 - factor.cdf((at / rest).clamp(0.0, 1.0))
        total = (torch.where(at <= rest, above, 0.0) * chances).sum(-1)
    else:
        within = start.cdf(1.0 - at)
        nodes, weights = (a.to(y.device) for a in _tanh_sinh())
        rest = 1.0 - start.quantile(within * nodes)
        above = 1.0 - factor.cdf((at / rest).clamp(0.0, 1.0))
        total = within.squeeze(-1) * (above @ weights)
    return torch.where(y <= 0.0, ones, total.clamp(0.0, 1.0))


def _tanh_sinh(count: int = 64, step: float = 0.05) -> tuple[Tensor, Tensor]:
    """2 · count + 1 nodes and weights of an integral over [0, 1] that may be singular at both ends."""
    u = step * torch.arange(-count, count + 1, dtype=torch.float64)
    nodes = torch.sigmoid(math.pi * torch.sinh(u))
    weights = step * math.pi * torch.cosh(u) * nodes * (1.0 - nodes)
    return nodes, weights / weights.sum()
