"""U-Nets after SongUNet, EDM2 and diffusers, rewritten in small."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.core.networks_of_others.parts import Condition


class ScoreBlock(nn.Module):
    """SongUNet's: sums in place, a skip by 1 × 1, the sum divided by √2, attention by einsum."""

    def __init__(self, inner: int, outer: int, width: int, attention: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(2, inner, 1e-6), nn.GroupNorm(2, outer, 1e-6)])
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(inner, outer, 3, padding=1), nn.Conv2d(outer, outer, 3, padding=1)]
        )
        self.affine = nn.Linear(width, outer)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else None
        self.qkv = nn.Conv2d(outer, 3 * outer, 1) if attention else None
        self.proj = nn.Conv2d(outer, outer, 1) if attention else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        kept = x
        x = self.convolutions[0](F.silu(self.norms[0](x)))
        params = self.affine(emb).unsqueeze(2).unsqueeze(3).to(x.dtype)
        x = F.silu(self.norms[1](x.add_(params)))
        x = self.convolutions[1](F.dropout(x, p=0.1, training=self.training))
        x = x.add_(self.skip(kept) if self.skip is not None else kept)
        x = x * math.sqrt(0.5)
        if self.qkv is not None and self.proj is not None:
            q, k, v = self.qkv(x).reshape(len(x), x.shape[1], 3, -1).unbind(2)
            weights = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(k.shape[1])).softmax(dim=2)
            x = self.proj(torch.einsum("nqk,nck->ncq", weights, v).reshape(*x.shape)).add_(x)
            x = x * math.sqrt(0.5)
        return x


class SongUNet(nn.Module):
    """Down by a filtered convolution, up by its transpose, skips by concatenation."""

    shape = (2, 4, 4)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.condition = Condition(width)
        self.first = nn.Conv2d(2, width, 3, padding=1)
        self.down = ScoreBlock(width, width, width)
        self.middle = ScoreBlock(width, 2 * width, width, attention=True)
        self.up = ScoreBlock(3 * width, width, width)
        self.norm, self.last = nn.GroupNorm(2, width), nn.Conv2d(width, 2, 3, padding=1)
        self.register_buffer(
            "filter", torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 3, 3, 1])) / 64
        )

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        emb = F.silu(self.condition(t, s, label))
        wide = self.down(self.first(x), emb)
        kernel = self.filter.expand(wide.shape[1], 1, -1, -1)  # type: ignore[operator]
        low = F.conv2d(wide, kernel, groups=wide.shape[1], stride=2, padding=1)
        low = self.middle(low, emb)
        kernel = 4 * self.filter.tile([low.shape[1], 1, 1, 1])  # type: ignore[operator]
        high = F.conv_transpose2d(low, kernel, groups=low.shape[1], stride=2, padding=1)
        h = self.up(torch.cat([high, wide], dim=1), emb)
        out: Tensor = self.last(F.silu(self.norm(h)))
        return out


def unit(x: Tensor, dim: list[int], eps: float = 1e-4) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float64).to(x.dtype)
    norm = torch.add(eps, norm, alpha=math.sqrt(norm.numel() / x.numel()))
    return x / norm


class MagnitudeConv(nn.Module):
    """A convolution whose weights have unit norm, made anew at each call."""

    def __init__(self, inner: int, outer: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outer, inner, *([size] * 2 if size else [])))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        w = unit(self.weight, list(range(1, self.weight.ndim)))
        w = w * (gain / math.sqrt(w[0].numel()))
        return x @ w.t() if w.ndim == 2 else F.conv2d(x, w, padding=(w.shape[-1] // 2,))


class MagnitudeUNet(nn.Module):
    """EDM2's block: pixel norm, magnitude-preserving SiLU and sums, cosine attention, a learned gain."""

    shape = (2, 4, 4)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.condition = Condition(width)
        self.first = MagnitudeConv(3, width, 3)
        self.pair = nn.ModuleList(MagnitudeConv(width, width, 3) for _ in range(2))
        self.emb = MagnitudeConv(width, width, 0)
        self.gain, self.last_gain = nn.Parameter(torch.ones([])), nn.Parameter(torch.ones([]))
        self.qkv, self.proj = MagnitudeConv(width, 3 * width, 1), MagnitudeConv(width, width, 1)
        self.last = MagnitudeConv(width, 2, 3)

    @staticmethod
    def silu(x: Tensor) -> Tensor:
        return F.silu(x) / 0.596

    @staticmethod
    def sum(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
        return a.lerp(b, t) / math.sqrt((1 - t) ** 2 + t**2)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        emb = self.silu(self.condition(t, s, label))
        x = self.first(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        x = unit(x, [1])
        y = self.pair[0](self.silu(x))
        c = self.emb(emb, gain=self.gain) + 1
        y = self.silu(y * c.unsqueeze(2).unsqueeze(3).to(y.dtype))
        x = self.sum(x, self.pair[1](y), 0.3)
        y = self.qkv(x)
        y = unit(y.reshape(y.shape[0], 2, -1, 3, y.shape[2] * y.shape[3]), [2])
        q, k, v = y.unbind(3)
        w = torch.einsum("nhcq,nhck->nhqk", q, k / math.sqrt(q.shape[2])).softmax(dim=3)
        y = torch.einsum("nhqk,nhck->nhcq", w, v)
        x = self.sum(x, self.proj(y.reshape(*x.shape)), 0.3)
        return self.last(x.clip(-256, 256), gain=self.last_gain)


class CrossBlock(nn.Module):
    """Diffusers' UNet block: a residual block with scale and shift, self and cross attention, GEGLU."""

    shape = (2, 4, 4)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.condition = Condition(width)
        self.context = nn.Embedding(5, 3 * width)
        self.first, self.last = nn.Conv2d(2, width, 3, padding=1), nn.Conv2d(width, 2, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, width, 1e-5) for _ in range(3))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.projection = nn.Linear(width, 2 * width)
        self.layer_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = nn.MultiheadAttention(width, 2, batch_first=True)
        self.cross = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(3))
        self.geglu, self.out = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def attend(self, h: Tensor, context: Tensor) -> Tensor:
        b, n, c = h.shape
        q, k, v = (layer(y) for layer, y in zip(self.cross, (h, context, context), strict=True))
        q, k, v = (
            y.view(b, -1, 2, c // 2).transpose(1, 2).reshape(2 * b, -1, c // 2) for y in (q, k, v)
        )
        scores = torch.baddbmm(
            torch.empty(2 * b, n, k.shape[1], dtype=q.dtype),
            q,
            k.transpose(-1, -2),
            beta=0,
            alpha=0.5,
        )
        mixed = torch.bmm(scores.softmax(dim=-1), v)
        return mixed.reshape(b, 2, n, -1).permute(0, 2, 1, 3).reshape(b, n, c)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        x = self.first(x)
        h = self.convolutions[0](F.silu(self.norms[0](x)))
        scale, shift = torch.chunk(
            self.projection(F.silu(self.condition(t, s, label)))[:, :, None, None], 2, dim=1
        )
        h = x + self.convolutions[1](F.silu(self.norms[1](h) * (1 + scale) + shift))
        batch, channels, height, width = h.shape
        tokens = self.norms[2](h).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        y = self.layer_norms[0](tokens)
        tokens = tokens + self.own(y, y, y, need_weights=False)[0]
        context = self.context(label).reshape(batch, 3, channels)
        tokens = tokens + self.attend(self.layer_norms[1](tokens), context)
        value, gate = self.geglu(self.layer_norms[2](tokens)).chunk(2, dim=-1)
        tokens = tokens + self.out(value * F.gelu(gate))
        h = h + tokens.reshape(batch, height, width, channels).permute(0, 3, 1, 2).contiguous()
        h = F.interpolate(F.avg_pool2d(h, 2), scale_factor=2.0, mode="nearest") + self.convolutions[
            2
        ](h)
        out: Tensor = self.last(h)
        return out


NETWORKS = (SongUNet, MagnitudeUNet, CrossBlock)
