"""A probability flow with a closed form, against which the mathematics is tested in float64.

Noise is N(0, I) at time 0 and data N(m, σ² I) at time 1, so that x_t is N(t m, γ(t)² I) with
γ(t)² = (1 - t)² + σ² t², and along a trajectory x_t - t m is proportional to γ(t).
"""

import torch
from torch import Tensor, nn

from meanflow_tune.core.types import VelocityJet, expand_as


class GaussianFlow(nn.Module):
    """The exact average velocity u(x, t, s) of the flow to N(mean, std² I), as a module.

    mean: [*D]. Nothing divides by s - t, so that all is exact at t = s too. With c = 1 + σ²:
    u = m + R (x - t m),  R = (γ_s / γ_t - 1) / (s - t) = N / M,
    N = c (t + s) - 2,  M = γ_t (γ_s + γ_t).
    """

    mean: Tensor

    def __init__(self, mean: Tensor, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.curvature = 1.0 + std * std  # c

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        """u(x, t, s): x [B, *D], t and s [B], to [B, *D]; the label changes nothing."""
        start, end = expand_as(t, x), expand_as(s, x)
        top = self.curvature * (start + end) - 2.0
        bottom = self._scale(start) * (self._scale(end) + self._scale(start))
        return self.mean + top / bottom * (x - start * self.mean)

    def velocity(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """v(x, t) = m + (γ' / γ) (x - t m): x [B, *D], t [B], to [B, *D]."""
        time = expand_as(t, x)
        rate = self._slope(time) / self._scale(time)
        return self.mean + rate * (x - time * self.mean)

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s = s m + (γ_s / γ_t) (x_t - t m): the end of the trajectory through x at t."""
        start, end = expand_as(t, x), expand_as(s, x)
        growth = self._scale(end) / self._scale(start)
        return end * self.mean + growth * (x - start * self.mean)

    def jet(self, x: Tensor, t: Tensor, s: Tensor) -> VelocityJet:
        """u, ∂_s u, D u, D ∂_s u by differentiating R M = N; D (x - t m) = (γ' / γ) (x - t m)."""
        start, end = expand_as(t, x), expand_as(s, x)
        scale_t, scale_s = self._scale(start), self._scale(end)
        slope_t, slope_s = self._slope(start), self._slope(end)
        m = scale_t * (scale_s + scale_t)
        m_s = scale_t * slope_s
        m_t = slope_t * (scale_s + 2.0 * scale_t)
        m_st = slope_t * slope_s
        r = (self.curvature * (start + end) - 2.0) / m
        r_s = (self.curvature - r * m_s) / m
        r_t = (self.curvature - r * m_t) / m
        r_st = -(r_t * m_s + r_s * m_t + r * m_st) / m
        rate = slope_t / scale_t
        offset = x - start * self.mean
        return VelocityJet(
            u=self.mean + r * offset,
            d_s=r_s * offset,
            d_t=(r_t + r * rate) * offset,
            d_t_d_s=(r_st + r_s * rate) * offset,
        )

    def velocity_second_derivative(self, x: Tensor, t: Tensor) -> Tensor:
        """D D v along the trajectory, (γ''' / γ) (x - t m), for the small-gap expansions."""
        time = expand_as(t, x)
        scale, slope = self._scale(time), self._slope(time)
        second = (self.curvature - slope * slope) / scale
        third = -3.0 * slope * second / scale
        return third / scale * (x - time * self.mean)

    def _scale(self, time: Tensor) -> Tensor:
        """γ(time)."""
        return torch.sqrt(1.0 + time * (self.curvature * time - 2.0))

    def _slope(self, time: Tensor) -> Tensor:
        """γ'(time)."""
        return (self.curvature * time - 1.0) / self._scale(time)


def gaussian_flow(dimensions: tuple[int, ...] = (3,), std: float = 0.4) -> GaussianFlow:
    """A GaussianFlow in float64 with a fixed mean whose entries all differ."""
    count = int(torch.Size(dimensions).numel())
    mean = torch.linspace(-1.2, 1.7, count, dtype=torch.float64).reshape(dimensions)
    return GaussianFlow(mean, std)


def flow_batch(
    flow: GaussianFlow, batch: int = 16, smallest_gap: float = 0.05, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """x_t [B, *D] on trajectories of `flow`, and times t, s [B] with s - t >= smallest_gap."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(2, batch, generator=generator, dtype=torch.float64)
    t = draws[0] * (1.0 - smallest_gap)
    s = t + smallest_gap + draws[1] * (1.0 - smallest_gap - t)
    x_0 = torch.randn(batch, *flow.mean.shape, generator=generator, dtype=torch.float64)
    return flow.flow(x_0, torch.zeros_like(t), t), t, s
