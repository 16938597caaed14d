"""Base of the distributions of (t, s): the diagonal share, sorted pairs and beta draws.

Noise is at time 0 and data at time 1. Distributions are drawn by inversion, in float64 on the generator's
device, so that each member is a quantile and a distribution function.
"""

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from meanflow_tune.core.types import TimePair
from meanflow_tune.settings import Member


class TimeSamplerSettings(Member):
    """Base of the family: a distribution of pairs 0 <= t <= s <= 1.

    diagonal_share: the share of a batch with t = s, where a loss is flow matching.
    """

    diagonal_share: float = Field(0.25, ge=0.0, le=1.0)

    def sample(self, n: int, generator: Generator, device: torch.device | str = "cpu") -> TimePair:
        """n pairs in random order, float32 [n] on `device`; all draws come from `generator`.

        Exactly diagonal_share · n of them, rounded half up, have t = s; that time is the start or
        the end of a pair, with equal chances. Raises ValueError for n < 0.
        """
        if n < 0:
            raise ValueError(f"`n >= 0` must hold, but got ({n=}).")
        t, s = self._pairs(n, generator)
        diagonal = int(self.diagonal_share * n + 0.5)
        rows = torch.randperm(n, generator=generator, device=generator.device)[:diagonal]
        at_start = uniforms(diagonal, generator) < 0.5
        both = torch.where(at_start, t[rows], s[rows])
        t = t.index_copy(0, rows, both).float()
        s = s.index_copy(0, rows, both).float()
        return TimePair(t.to(device), s.to(device))

    @abstractmethod
    def marginal_cdf(self, which: Literal["t", "s"], x: Tensor) -> Tensor:
        """P(t <= x) or P(s <= x) off the diagonal, for x in [0, 1]: float64 of any shape."""

    @abstractmethod
    def _pairs(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """n pairs (t, s) off the diagonal, float64 [n] each, independent of one another."""


class SortedPairs(TimeSamplerSettings):
    """Two independent draws of one distribution: t is the smaller, s the larger."""

    def marginal_cdf(self, which: Literal["t", "s"], x: Tensor) -> Tensor:
        single = self.cdf(x)
        return single.square() if which == "s" else 1.0 - (1.0 - single).square()

    def _pairs(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        draws = self.quantile(uniforms(2 * n, generator)).reshape(2, n)
        return draws.amin(dim=0), draws.amax(dim=0)

    @abstractmethod
    def quantile(self, q: Tensor) -> Tensor:
        """The time in [0, 1] below which a single draw falls with probability q; float64."""

    @abstractmethod
    def cdf(self, x: Tensor) -> Tensor:
        """The probability that a single draw is at most x in [0, 1]; float64."""


def uniforms(n: int, generator: Generator) -> Tensor:
    """n independent draws, uniform in [0, 1), float64 on the generator's device."""
    return torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)


def beta_quantile(a: float, b: float, q: Tensor) -> Tensor:
    """The inverse of `beta_cdf`: q float64 in [0, 1], to times in [0, 1]."""
    from scipy.special import betaincinv

    return torch.as_tensor(betaincinv(a, b, q.cpu().numpy()), device=q.device)


def beta_cdf(a: float, b: float, x: Tensor) -> Tensor:
    """P(X <= x) for X ~ Beta(a, b): x float64 in [0, 1]."""
    from scipy.special import betainc

    return torch.as_tensor(betainc(a, b, x.cpu().numpy()), device=x.device)


def uniform_below_cdf(a: float, b: float, x: Tensor) -> Tensor:
    """P(U L <= x) for U uniform in [0, 1] and a length L ~ Beta(a, b): x float64 in [0, 1].

    It is E[min(1, x / L)] = x + x ∫ P(L <= l) / l² dl over x < l < 1, integrated by parts, since
    the mean of 1 / L is infinite for a <= 1. On y = log l / log x in [0, 1] nothing is lost near 0.
    """
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(64)
    where = torch.as_tensor(0.5 * (nodes + 1.0), device=x.device)
    weight = torch.as_tensor(0.5 * weights, device=x.device)
    inside = x.clamp(1e-300, 1.0).unsqueeze(-1)
    log_x = inside.log()
    lengths = torch.exp(log_x * where)
    integral = (-log_x * beta_cdf(a, b, lengths) * torch.exp(log_x * (1.0 - where))) @ weight
    return torch.where(x <= 0.0, 0.0, (x + integral).clamp(0.0, 1.0))
