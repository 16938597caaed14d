"""A small smooth network in float64, no flow map: limits and gradients on it are not zero."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.jets import Jet
from meanflow_tune.core.paths import linear_path
from meanflow_tune.core.types import PathSample, TimePair
from meanflow_tune.losses import LossMix
from meanflow_tune.weightings import Adaptive
from tests.support.tiny_run import tiny_config

DIMENSIONS = 3


@dataclass(frozen=True)
class Pass:
    """One evaluation of a network: how many components it carries, 1 without derivatives."""

    components: int
    rows: int


def pass_of(*inputs: Any) -> Pass:
    """The pass of a network with these inputs, as the network sees it from within."""
    jets = [each for each in inputs if isinstance(each, Jet)]
    rows = [each.shape[0] for each in inputs]
    return Pass(len(jets[0].parts) if jets else 1, rows[0])


class Smooth(nn.Module):
    """u = tanh((x, t, s) A + a) B + b. `passes` are those made so far."""

    def __init__(self, seed: int = 3, width: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.inner, self.shift = draw(width, DIMENSIONS + 2), draw(width)
        self.outer, self.bias = draw(DIMENSIONS, width), draw(DIMENSIONS)
        self.passes: list[Pass] = []

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        self.passes.append(pass_of(x, t, s))
        inputs = torch.cat([x, t[:, None], s[:, None]], dim=1)
        wave = torch.tanh(nn.functional.linear(inputs, self.inner, self.shift))
        return nn.functional.linear(wave, self.outer, self.bias) / 3.0


def field(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    """A smooth velocity that depends on all of its arguments."""
    return torch.sin(x + t[:, None]) + 0.5 * x.flip(1)


def smooth_path(batch: int = 8, diagonal: int = 0, seed: int = 11) -> PathSample:
    """A training batch whose first `diagonal` rows have t = s, and the last one s = 1."""
    generator = torch.Generator().manual_seed(seed)
    x_0, x_1 = torch.randn(2, batch, DIMENSIONS, generator=generator, dtype=torch.float64)
    t = 0.6 * torch.rand(batch, generator=generator, dtype=torch.float64)
    s = t + 0.1 + 0.25 * torch.rand(batch, generator=generator, dtype=torch.float64)
    s[-1] = 1.0
    s[:diagonal] = t[:diagonal]
    return linear_path(x_0, x_1, TimePair(t, s), None)


def squared(losses: LossMix, **changes: Any) -> TrialConfig:
    """A configuration with these losses under a plain squared error."""
    settings = {"weighting": Adaptive(power=0.0, epsilon=1e-3), "losses": losses}
    return tiny_config(**(settings | changes))


def gradient(module: nn.Module) -> Tensor:
    """The gradients of all parameters as one vector."""
    found = [p.grad for p in module.parameters()]
    assert all(g is not None for g in found)
    return torch.cat([g.flatten() for g in found if g is not None])
