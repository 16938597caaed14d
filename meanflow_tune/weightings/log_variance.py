"""A learned log-variance of the residual at (t, s) (Kendall et al., 2018; Karras et al., 2024)."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from meanflow_tune.weightings.base import WeightingModule, WeightingSettings


class LogVariance(WeightingSettings):
    """The loss r² / exp(w) + w with w(t, s) a small network, trained jointly.

    At its optimum exp(w) is the mean r² at (t, s), so that every (t, s) weighs alike. w is 0 at the
    start. width: of the one hidden layer.
    """

    kind: Literal["log_variance"] = "log_variance"
    width: Annotated[int, Field(ge=1, le=1024)] = 32

    def build(self, generator: Generator) -> WeightingModule:
        return LogVarianceNetwork(self.width, generator)


class LogVarianceNetwork(WeightingModule):
    """w(t, s) = out · silu(hidden · (2t - 1, 2s - 1) + shift) + bias."""

    def __init__(self, width: int, generator: Generator) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.randn(width, 2, generator=generator))
        self.shift = nn.Parameter(torch.randn(width, generator=generator))
        self.out = nn.Parameter(torch.zeros(1, width))
        self.bias = nn.Parameter(torch.zeros(1))

    def log_variance(self, t: Tensor, s: Tensor) -> Tensor:
        """w [B] at t and s [B]."""
        times = torch.stack([t, s], dim=1).to(self.hidden.dtype) * 2.0 - 1.0
        wave = nn.functional.silu(nn.functional.linear(times, self.hidden, self.shift))
        return nn.functional.linear(wave, self.out, self.bias).squeeze(1)

    def forward(self, residual: Tensor, mean_square: Tensor, t: Tensor, s: Tensor) -> Tensor:
        w = self.log_variance(t, s).to(mean_square.dtype)
        return mean_square * torch.exp(-w) + w
