"""The probability flow to a mixture of Gaussians: its velocity is exact, its average velocity by RK4.

Noise is N(0, I) at time 0 and data Σ π_k N(m_k, σ_k² I) at time 1, so that x_t has the density
Σ π_k N(t m_k, γ_k(t)² I) with γ_k(t)² = (1 - t)² + σ_k² t², and with r_k(x, t) the share of component k

    v(x, t) = Σ r_k v_k,   v_k = m_k + (γ_k' / γ_k) (x - t m_k).

Unlike one Gaussian it is not linear in x.
"""

import torch
from torch import Tensor, nn


class MixtureFlow(nn.Module):
    """u(x, t, s) by `steps` steps of RK4: the mean of the slopes, so that nothing divides by s - t.

    mean [K, D], std [K], share [K].
    """

    mean: Tensor
    std: Tensor
    share: Tensor

    def __init__(self, mean: Tensor, std: Tensor, share: Tensor, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("share", share)

    def velocity(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """v(x, t): x [B, D], t [B], to [B, D]."""
        time = t[:, None]
        square = (1 - time) ** 2 + (self.std * time) ** 2  # γ² [B, K]
        offset = x[:, None] - time[..., None] * self.mean  # [B, K, D]
        log_density = -offset.square().sum(-1) / (2 * square) - x.shape[1] / 2 * square.log()
        share = torch.softmax(log_density + self.share.log(), dim=-1)
        rate = (self.std**2 * time + time - 1) / square  # γ' / γ
        return torch.einsum("bk,bkd->bd", share, self.mean + rate[..., None] * offset)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        """u(x, t, s): x [B, D], t and s [B], to [B, D]."""
        h = (s - t) / self.steps
        step, slopes = h[:, None], torch.zeros_like(x)
        for i in range(self.steps):
            start, middle, end = (torch.lerp(t, s, (i + f) / self.steps) for f in (0, 0.5, 1))
            k1 = self.velocity(x, start)
            k2 = self.velocity(x + step / 2 * k1, middle)
            k3 = self.velocity(x + step / 2 * k2, middle)
            k4 = self.velocity(x + step * k3, end)
            slope = (k1 + 2 * k2 + 2 * k3 + k4) / 6
            x = x + step * slope
            slopes = slopes + slope
        return slopes / self.steps


def mixture_flow(steps: int) -> MixtureFlow:
    """Three components in two dimensions, in float64."""
    mean = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [-0.5, -1.5]], dtype=torch.float64)
    std = torch.tensor([0.5, 0.7, 0.4], dtype=torch.float64)
    share = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    return MixtureFlow(mean, std, share, steps)


def mixture_batch(batch: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x_t [B, 2] on trajectories of the flow, and times t < s [B]."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(2, batch, generator=generator, dtype=torch.float64)
    t = draws[0] * 0.8
    s = t + 0.1 + draws[1] * (0.9 - t)
    x = torch.randn(batch, 2, generator=generator, dtype=torch.float64)
    none = torch.zeros_like(t)
    return x + t[:, None] * mixture_flow(64)(x, none, t), t, s
