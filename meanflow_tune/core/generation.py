"""Generation by a few jumps of the average velocity, x_s = x_t + (s - t) u(x_t, t, s)."""

import torch
from torch import Tensor

from meanflow_tune.core.types import AverageVelocity


def generate(student: AverageVelocity, x_0: Tensor, label: Tensor | None, nfe: int) -> Tensor:
    """x_1 [B, *D] from noise x_0 by `nfe` jumps x_s = x_t + (s - t) u(x_t, t, s) of equal length.

    Raises ValueError for nfe < 1. Gradients flow if they are enabled.
    """
    if nfe < 1:
        raise ValueError(f"`nfe >= 1` must hold, but got ({nfe=}).")
    x = x_0
    t = torch.zeros(x_0.shape[:1], dtype=x_0.dtype, device=x_0.device)
    for index in range(1, nfe + 1):
        s = torch.full_like(t, index / nfe)
        x = x + student(x, t, s, label) / nfe
        t = s
    return x
