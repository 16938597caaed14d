"""Networks u(x, t, s, label) made of stock modules, and derivatives to compare theirs with."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from meanflow_tune.core.types import VelocityJet, expand_as
from tests.support.jets import architectures
from tests.support.jets.architectures import Times


class Transformer(nn.Module):
    """Tokens [B, 6, 4]: layer norm with weights, attention, tanh GELU, adaptive scale and gate."""

    shape = (6, 4)

    def __init__(self, mask: str = "none", width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.mask, self.heads = mask, heads
        self.times = Times(width)
        self.inner = nn.Linear(4, width)
        self.position = nn.Parameter(torch.randn(1, 6, width))
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )
        self.parts = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(width, 4)
        self.bias = nn.Parameter(torch.randn(heads, 6, 6))

    def attention_mask(self) -> Tensor | None:
        if self.mask == "boolean":  # row 2 may look nowhere
            mask = torch.ones(6, 6, dtype=torch.bool).tril(2)
            mask[2] = False
            return mask
        return self.bias if self.mask == "added" else None

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        b, n, _ = x.shape
        scale, shift, gate, last = self.parts(self.times(t, s, label)).unsqueeze(1).chunk(4, -1)
        h = self.inner(x) + self.position
        y = self.norms[0](h) * (1 + scale) + shift
        qkv = self.qkv(y).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.attention_mask(), is_causal=self.mask == "causal"
        )
        h = h + gate * self.mix(y.transpose(1, 2).flatten(2))
        return self.outer(h + last * self.mlp(self.norms[1](h)))


class ConvNet(nn.Module):
    """Images [B, 2, 6, 6]: convolutions, group norm, pooling, upsampling, a skip by concatenation."""

    shape = (2, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        self.times = Times(8)
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.down = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", groups=2)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.pool = nn.AvgPool2d(2)
        self.act = nn.SiLU(inplace=True)
        self.last = nn.Conv2d(16, 2, 3, padding=1, bias=False)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        c = self.times(t, s, label)[:, :, None, None]
        h = self.act(self.norm(self.first(x)) + c)
        y = self.act(self.down(self.pool(h)) * torch.tanh(c))
        y = F.interpolate(self.pool(self.up(y)), scale_factor=2.0, mode="bilinear")
        y += c
        return self.last(torch.cat([h, y], dim=1))


class GatedMLP(nn.Module):
    """Vectors [B, 5]: RMS norm, softplus and sigmoid gates, division, einsum, a plain feature."""

    shape = (5,)

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.times = Times(width)
        self.first = nn.Linear(5, width)
        self.norm = nn.RMSNorm(width)
        self.gate = nn.Linear(2 * width, 2 * width)
        self.mix = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.last = nn.Linear(width + 1, 5)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        c = self.times(t, s, label)
        h = self.norm(self.first(x))
        a, b = self.gate(torch.cat([h, c], dim=1)).split(h.shape[1], dim=1)
        h = h + F.softplus(a) * torch.sigmoid(b) / (1.5 + c**2).sqrt()
        h = torch.einsum("bi,ij->bj", h, self.mix) + h.mean(1, keepdim=True)
        return self.last(torch.cat([h, torch.ones(len(x), 1, dtype=h.dtype)], dim=1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "transformer": Transformer,
    "causal": lambda: Transformer("causal"),
    "boolean mask": lambda: Transformer("boolean"),
    "added mask": lambda: Transformer("added"),
    "convolutions": ConvNet,
    "gated mlp": GatedMLP,
    "stock encoder, norm first": lambda: architectures.StockEncoder(True, padded=True),
    "stock encoder, norm last, at rest": lambda: architectures.StockEncoder(False).eval(),
    "stock encoder, norm first, at rest": lambda: architectures.StockEncoder(True).eval(),
    "stock encoder, norm last": lambda: architectures.StockEncoder(False, padded=True),
    "u-net": architectures.UNet,
    "mixer": architectures.Mixer,
    "convnext": architectures.ConvNext,
    "fourier features": architectures.FourierFeatures,
    "rotary": architectures.Rotary,
    "temporal": architectures.Temporal,
    "conditional batch norm": architectures.ConditionalBatchNorm,
    "hypernetwork": architectures.Hypernetwork,
    "checkpointed": architectures.Checkpointed,
}


def make(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network whose parameters are drawn from one seed, norms' weights and all biases too."""
    torch.manual_seed(7)  # for what is drawn in addition to parameters, as by spectral norm
    network = NETWORKS[name]().to(dtype)
    generator = Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.5
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * noise)
    return network


def batch(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, t, s, velocity and label of 4 samples."""
    generator = Generator().manual_seed(3)
    x, v = torch.randn(2, 4, *shape, generator=generator, dtype=torch.float64).to(dtype)
    t = (torch.rand(4, generator=generator, dtype=torch.float64) * 0.5).to(dtype)
    s = t + 0.1 + (torch.rand(4, generator=generator, dtype=torch.float64) * 0.4).to(dtype)
    return x, t, s, v, torch.tensor([0, 3, 1, 4])


_STENCIL = ((-3, -1 / 60), (-2, 3 / 20), (-1, -3 / 4), (1, 3 / 4), (2, -3 / 20), (3, 1 / 60))


@torch.no_grad()
def central_differences(
    model: Callable[..., Tensor],
    x: Tensor,
    t: Tensor,
    s: Tensor,
    velocity: Tensor,
    step: float = 2e-3,
    **kwargs: Tensor,
) -> VelocityJet:
    """u, ∂_s u, D u, D ∂_s u by differences of order 6 in both directions; the mixed one is their
    product, so that it relies on no derivative of the engine under test."""

    def u(along: float, end: float) -> Tensor:
        shift = expand_as(torch.full_like(t, along), x)
        return model(x + shift * velocity, t + along, s + end, **kwargs)

    def d_s(along: float) -> Tensor:
        return sum(w / step * u(along, i * step) for i, w in _STENCIL)  # type: ignore[return-value]

    return VelocityJet(
        u=u(0.0, 0.0),
        d_s=d_s(0.0),
        d_t=sum(w / step * u(i * step, 0.0) for i, w in _STENCIL),  # type: ignore[arg-type]
        d_t_d_s=sum(w / step * d_s(i * step) for i, w in _STENCIL),  # type: ignore[arg-type]
    )


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, in units of the largest expected entry."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
