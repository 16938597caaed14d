"""Times from Beta(a, b), and sorted pairs of them."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from meanflow_tune.time_samplers.base import Distribution, SingleTime, SortedPairs


class _Beta(Distribution):
    a: float = Field(1.0, gt=0.0, le=100.0)
    b: float = Field(1.0, gt=0.0, le=100.0)

    def quantile(self, q: Tensor) -> Tensor:
        return beta_quantile(self.a, self.b, q)

    def cdf(self, x: Tensor) -> Tensor:
        return beta_cdf(self.a, self.b, x.double())


class Beta(_Beta, SingleTime):
    """A time from Beta(a, b); a > b favours the data, time 1."""

    kind: Literal["beta"] = "beta"


class BetaPairs(_Beta, SortedPairs):
    """The smaller and the larger of two times from Beta(a, b); a > b favours the data, time 1."""

    kind: Literal["beta"] = "beta"


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
