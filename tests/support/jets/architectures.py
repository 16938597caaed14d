"""Networks u(x, t, s, label) of the kinds that people bring, written with stock modules of torch only."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint


class Times(nn.Module):
    """[B, width] from sines of both times, and an embedded label."""

    def __init__(self, width: int, classes: int = 5) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.linspace(0.5, 3.0, 8))
        self.net = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes, width)

    def forward(self, t: Tensor, s: Tensor, label: Tensor | None) -> Tensor:
        a, b = t[:, None] * self.frequencies, (s - t).unsqueeze(1) * self.frequencies
        c = self.net(torch.cat([a.sin(), torch.cos(a), torch.sin(b), b.cos()], dim=-1))
        return c if label is None else c + self.label(label)


class StockEncoder(nn.Module):
    """Tokens [B, 5, 3] through nn.TransformerEncoder, perhaps with padding, and a token of the times."""

    shape = (5, 3)

    def __init__(self, norm_first: bool, padded: bool = False, width: int = 16) -> None:
        super().__init__()
        self.padded = padded
        self.times = Times(width)
        self.inner = nn.Linear(3, width)
        layer = nn.TransformerEncoderLayer(
            *(width, 2, 24, 0.0, F.gelu), batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(
            layer, 2, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.outer = nn.Linear(width, 3)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        h = torch.cat([self.times(t, s, label)[:, None], self.inner(x)], dim=1)
        padding = None
        if self.padded:
            padding = torch.zeros(h.shape[:2], dtype=torch.bool)
            padding[1::2, -1] = True
        return self.outer(self.encoder(h, src_key_padding_mask=padding)[:, 1:])


class UNet(nn.Module):
    """Images [B, 2, 8, 8]: strided and transposed convolutions, group norm, skips, attention below."""

    shape = (2, 8, 8)

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.GroupNorm(2, inputs), nn.GroupNorm(4, outputs)])
            self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
            self.last = nn.Conv2d(outputs, outputs, 3, padding=1)
            self.film = nn.Linear(12, 2 * outputs)
            self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

        def forward(self, h: Tensor, c: Tensor) -> Tensor:
            scale, shift = self.film(c)[..., None, None].chunk(2, dim=1)
            y = self.first(F.silu(self.norms[0](h)))
            y = self.norms[1](y) * (scale + 1) + shift
            return self.skip(h) + self.last(F.silu(y))

    def __init__(self) -> None:
        super().__init__()
        self.times = Times(12)
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.down = nn.ModuleList([self.Block(8, 8), self.Block(8, 16)])
        self.shrink = nn.ModuleList([nn.Conv2d(c, c, 3, 2, 1) for c in (8, 16)])
        self.middle = self.Block(16, 16)
        self.norm = nn.GroupNorm(4, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up = nn.ModuleList([self.Block(32, 8), self.Block(16, 8)])
        self.grow = nn.ConvTranspose2d(16, 16, 2, 2)
        self.last = nn.Conv2d(8, 2, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        c = F.silu(self.times(t, s, label))
        h, skips = self.first(x), []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h, c)
            skips.append(h)
            h = shrink(h)
        h = self.middle(h, c)
        tokens = self.norm(h).flatten(2).mT
        h = h + self.attention(tokens, tokens, tokens, need_weights=False)[0].mT.view_as(h)
        h = self.up[0](torch.cat([self.grow(h), skips[1]], dim=1), c)
        h = F.interpolate(h, scale_factor=2, mode="nearest")
        return self.last(self.up[1](torch.cat([h, skips[0]], dim=1), c))


class Mixer(nn.Module):
    """Images [B, 1, 8, 8] as 16 patches: MLPs along tokens and along channels."""

    shape = (1, 8, 8)

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.times = Times(width)
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(5)])
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(n, 16), nn.GELU(), nn.Linear(16, n)) for n in (16, width) * 2
        )
        self.outer = nn.Linear(width, 4)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.patch(x).flatten(2).transpose(1, 2) + self.times(t, s, label).unsqueeze(1)
        for i in (0, 2):
            h = h + self.mlps[i](self.norms[i](h).mT).mT
            h = h + self.mlps[i + 1](self.norms[i + 1](h))
        return F.pixel_shuffle(self.outer(self.norms[4](h)).mT.unflatten(2, (4, 4)), 2)


class ConvNext(nn.Module):
    """Images [B, 2, 6, 6]: depthwise convolution, layer norm channels last, layer scale, FiLM."""

    shape = (2, 6, 6)

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.film = nn.ModuleList([Times(2 * width) for _ in range(2)])
        self.first = nn.Conv2d(2, width, 1)
        self.depthwise = nn.ModuleList(
            nn.Conv2d(width, width, 5, padding=2, groups=width) for _ in range(2)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=1e-6) for _ in range(2)])
        self.up = nn.ModuleList([nn.Linear(width, 3 * width) for _ in range(2)])
        self.down = nn.ModuleList([nn.Linear(3 * width, width) for _ in range(2)])
        self.scale = nn.Parameter(torch.ones(2, width))
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.first(x.to(memory_format=torch.channels_last))
        for i in range(2):
            scale, shift = self.film[i](t, s, label)[:, None, None].tensor_split(2, dim=-1)
            y = self.norms[i](self.depthwise[i](h).permute(0, 2, 3, 1))
            y = self.down[i](F.gelu(self.up[i](torch.addcmul(shift, y, 1 + scale))))
            h = h + (self.scale[i] * y).permute(0, 3, 1, 2)
        return self.last(h)


class FourierFeatures(nn.Module):
    """Vectors [B, 3]: sines of random directions of (x, t, s), then sine layers, normalised at last."""

    shape = (3,)

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.register_buffer("directions", torch.randn(5, 10, generator=_generator()) * 0.8)
        self.hidden = nn.ModuleList([nn.Linear(20, width), nn.Linear(width, width)])
        self.label = nn.Embedding(5, width)
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        phases = torch.tensordot(torch.column_stack([x, t, torch.log1p(s - t)]), self.directions, 1)
        h = torch.hstack((phases.sin(), phases.cos())) * math.sqrt(2)
        h = torch.sin(1.5 * self.hidden[0](h))
        h = h + (0 if label is None else self.label(label))
        h = F.normalize(torch.sin(self.hidden[1](h)), dim=-1) + torch.sinc(h) / torch.cosh(h)
        return self.last(h) * torch.exp2(-torch.linalg.vector_norm(x, dim=-1, keepdim=True) / 4)


class Rotary(nn.Module):
    """Tokens [B, 6, 4]: rotary positions written into halves, RMS norm, QK norm, SwiGLU."""

    shape = (6, 4)

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.times = Times(width)
        self.inner, self.outer = nn.Linear(4, width), nn.Linear(width, 4)
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width, eps=1e-6)])
        self.qk = nn.ModuleList([nn.RMSNorm(width // heads) for _ in range(2)])
        self.qkv, self.mix = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)
        rates = 10.0 ** -torch.arange(0, 1, 2 / (width // heads))
        self.register_buffer("angles", torch.arange(6.0)[:, None] * rates)

    def rotated(self, x: Tensor) -> Tensor:
        even, odd = x[..., ::2], x[..., 1::2]
        out = torch.empty_like(x)
        out[..., ::2] = even * self.angles.cos() - odd * self.angles.sin()
        out[..., 1::2] = even * self.angles.sin() + odd * self.angles.cos()
        return out

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        batch, length, _ = x.size()
        h = self.inner(x) + self.times(t, s, label)[:, None]
        qkv = self.qkv(self.norms[0](h)).split(h.size(-1), dim=-1)
        q, k, v = (y.reshape(batch, length, self.heads, -1).transpose(1, 2) for y in qkv)
        q, k = self.rotated(self.qk[0](q)), self.rotated(self.qk[1](k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.mix(y.transpose(1, 2).contiguous().view(batch, length, -1))
        gate, value = self.up(self.norms[1](h)).chunk(2, -1)
        return self.outer(h + self.down(F.silu(gate).mul_(value)))


class Temporal(nn.Module):
    """Sequences [B, 2, 8]: dilated causal convolutions with weight norm, gated, instance norm."""

    shape = (2, 8)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.times = Times(width)
        self.first = weight_norm(nn.Conv1d(2, width, 1))
        self.convolutions = nn.ModuleList(
            weight_norm(nn.Conv1d(width, 2 * width, 3, dilation=d)) for d in (1, 2)
        )
        self.norms = nn.ModuleList(
            [nn.InstanceNorm1d(width, affine=True), nn.InstanceNorm1d(width)]
        )
        self.last = nn.Conv1d(2 * width, 2, 1)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.first(x) + self.times(t, s, label).unsqueeze_(-1)
        means = h.cumsum(-1) / torch.arange(1, 9, dtype=h.dtype)
        for d, conv, norm in zip((1, 2), self.convolutions, self.norms, strict=True):
            h = h + F.glu(conv(F.pad(norm(h), (2 * d, 0))), dim=1)
        return self.last(torch.cat((h, torch.asinh(means)), dim=-2))


class ConditionalBatchNorm(nn.Module):
    """Images [B, 3, 4, 4]: batch norm at rest, scaled by class and times; pooling."""

    shape = (3, 4, 4)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.times = Times(2 * width)
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        for norm in (self.norm, self.norm2):
            norm.running_mean = torch.linspace(-0.5, 0.5, width)
            norm.running_var = torch.linspace(0.5, 2.0, width)
            norm.eval()

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        scale, shift = self.times(t, s, label).view(len(x), 2, -1, 1, 1).unbind(1)
        h = F.mish(self.norm(self.first(x)) * scale + shift)
        pooled = F.adaptive_avg_pool2d(h, 1).sigmoid()
        h = F.softplus(self.norm2(self.second(h * pooled)) / 2, beta=0.5)
        return self.last(h) + F.logsigmoid(F.avg_pool2d(x, 3, 1, 1))


class Hypernetwork(nn.Module):
    """Vectors [B, 4]: a layer whose weights the times make, nn.Bilinear, spectral norm, einsum."""

    shape = (4,)

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.times = Times(width)
        self.weights = spectral_norm(nn.Linear(width, 4 * width)).eval()
        self.bilinear = nn.Bilinear(width, width, width)
        self.shared = nn.Linear(width, width * width)
        self.last = nn.Linear(width, 4)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        c = self.times(t, s, label).tanh()
        made = torch.sinh(self.weights(c).tanh()).unflatten(-1, (4, -1))
        h = torch.einsum("b i, b i ... -> b ...", x, made)
        h = (
            torch.atan(self.bilinear(h.to(x), c.to(x)))
            + torch.baddbmm(c[:, None], x[:, None], made)[:, 0]
        )
        mean = self.shared(c.mean(0)).view(h.size(1), -1)  # one matrix for the whole batch
        return self.last(F.linear(F.softmax(h, -1), mean) + torch.logsumexp(h, 1, keepdim=True))


class Checkpointed(nn.Module):
    """Vectors [B, 4] through blocks that are computed again in the backward pass."""

    shape = (4,)

    def __init__(self, enabled: bool = True, use_reentrant: bool = False, width: int = 12) -> None:
        super().__init__()
        self.enabled, self.use_reentrant = enabled, use_reentrant
        self.times = Times(width)
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()) for _ in range(2)
        )

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.first(x) + self.times(t, s, label)
        for block in self.blocks:
            again = (
                checkpoint(block, h, use_reentrant=self.use_reentrant) if self.enabled else block(h)
            )
            h = h + again
        return self.last(h)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)
