"""What several of the networks are made of: embeddings of times and labels, modulation."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def wave_features(t: Tensor, width: int, fastest: float = 4.0) -> Tensor:
    """cos and sin of t [B] at frequencies that fall geometrically, [B, width]."""
    half = width // 2
    steps = torch.arange(half, dtype=t.dtype, device=t.device) / half
    angles = t[:, None] * fastest * torch.exp(-math.log(20.0) * steps)[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Condition(nn.Module):
    """One vector [B, width] of both times and the label."""

    def __init__(self, width: int, classes: int = 5) -> None:
        super().__init__()
        self.width = width
        self.of_t = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.of_gap = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.of_label = nn.Embedding(classes, width)

    def forward(self, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        times = self.of_t(wave_features(t, self.width))
        return times + self.of_gap(wave_features(s - t, self.width)) + self.of_label(label)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x [B, N, C] with shift and scale [B, C]."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class GatedUnits(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(width, 2 * inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.both(x).chunk(2, dim=-1)
        out: Tensor = self.out(F.silu(gate) * value)
        return out
