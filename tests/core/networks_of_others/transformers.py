"""Transformers after DiT, SiT, U-ViT, SD3, Sana and rotary designs, rewritten in small."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.core.networks_of_others.parts import Condition, GatedUnits, modulated


class AdaptiveBlock(nn.Module):
    """DiT's: norms without weights, modulated and gated by the condition."""

    def __init__(self, width: int, heads: int, gated: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, 1e-6, False) for _ in range(2))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp: nn.Module = GatedUnits(width, 2 * width)
        if not gated:
            self.mlp = nn.Sequential(
                nn.Linear(width, 2 * width), nn.GELU("tanh"), nn.Linear(2 * width, width)
            )
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def attention(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (
            self.qkv(x)
            .reshape(b, n, 3, self.heads, c // self.heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        out: Tensor = self.proj(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        )
        return out

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(c).chunk(6, dim=1)
        x = x + gate.unsqueeze(1) * self.attention(modulated(self.norms[0](x), shift, scale))
        return x + gate_2.unsqueeze(1) * self.mlp(modulated(self.norms[1](x), shift_2, scale_2))


class DiT(nn.Module):
    """Patches by a convolution, two adaptive blocks, patches back by einsum."""

    shape = (2, 4, 4)

    def __init__(self, width: int = 8, gated: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, width, 2, 2)
        self.position = nn.Parameter(torch.zeros(1, 4, width))
        self.condition = Condition(width)
        self.blocks = nn.ModuleList(AdaptiveBlock(width, 2, gated) for _ in range(2))
        self.norm = nn.LayerNorm(width, 1e-6, False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.last = nn.Linear(width, 8)

    def images(self, x: Tensor) -> Tensor:
        x = x.reshape(shape=(x.shape[0], 2, 2, 2, 2, 2))
        x = torch.einsum("nhwpqc->nchpwq", x)
        return x.reshape(shape=(x.shape[0], 2, 4, 4))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2) + self.position
        c = self.condition(t, s, label)
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.modulation(c).chunk(2, dim=1)
        return self.images(self.last(modulated(self.norm(h), shift, scale)))


class SiT(DiT):
    """DiT with gated units, and the spellings of view and permute by name."""

    def __init__(self) -> None:
        super().__init__(gated=True)

    def images(self, x: Tensor) -> Tensor:
        x = x.view(size=(x.shape[0], 2, 2, 2, 2, 2)).permute(dims=(0, 5, 1, 3, 2, 4))
        return x.contiguous().view(size=(-1, 2, 4, 4)).swapaxes(axis0=2, axis1=3)


class UViT(nn.Module):
    """Times and label as tokens, long skips by concatenation, a last convolution."""

    shape = (2, 4, 4)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, width, 2, 2)
        self.times = nn.Linear(2, width)
        self.label = nn.Embedding(5, width)
        self.position = nn.Parameter(torch.zeros(1, 6, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 16, 0.0, F.gelu, batch_first=True, norm_first=True)
            for _ in range(3)
        )
        self.skip = nn.Linear(2 * width, width)
        self.norm, self.decoder = nn.LayerNorm(width), nn.Linear(width, 8)
        self.last = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).permute(0, 2, 1)
        times = self.times(torch.stack([t, s], dim=-1)).unsqueeze(dim=1)
        h = torch.cat((times, self.label(label).unsqueeze(1), tokens), dim=1) + self.position
        kept = h = self.layers[0](h)
        h = self.layers[1](h)
        h = self.layers[2](self.skip(torch.cat([h, kept], dim=-1)))
        pixels = self.decoder(self.norm(h))[:, 2:].transpose(1, 2).reshape(len(x), 8, 2, 2)
        out: Tensor = self.last(F.pixel_shuffle(pixels, 2))
        return out


class JointAttention(nn.Module):
    """SD3's: two streams with weights of their own attend to both, with RMS norms of queries and keys."""

    shape = (4, 4)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.condition = Condition(width)
        self.text = nn.Embedding(5, 3 * width)
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 4)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.norms = nn.ModuleList(nn.RMSNorm(width // 2, 1e-6) for _ in range(4))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.modulation = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        b = x.size(0)
        c = self.condition(t, s, label)
        shift, scale, shift_text, scale_text = self.modulation(F.silu(c)).chunk(4, -1)
        streams = [self.first(x), self.text(label).view(b, 3, -1)]
        inputs = [
            modulated(F.layer_norm(h, (h.size(-1),)), *by)
            for h, by in zip(streams, ((shift, scale), (shift_text, scale_text)), strict=True)
        ]
        each = [
            layer(h).unflatten(-1, (3, 2, -1)).unbind(2)
            for layer, h in zip(self.qkv, inputs, strict=True)
        ]
        q = torch.cat([self.norms[2 * i](e[0]) for i, e in enumerate(each)], dim=1)
        k = torch.cat([self.norms[2 * i + 1](e[1]) for i, e in enumerate(each)], dim=1)
        v = torch.cat([e[2] for e in each], dim=1)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        )
        image, text = mixed.transpose(1, 2).flatten(2).split([4, 3], dim=1)
        h = streams[0] + self.out[0](image) + self.out[1](text).mean(dim=1, keepdim=True)
        out: Tensor = self.last(h)
        return out


class LinearAttention(nn.Module):
    """Sana's: attention without softmax, by products of keys and values, and a gated convolution."""

    shape = (2, 4, 4)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.condition = Condition(width)
        self.first, self.last = nn.Conv2d(2, width, 1), nn.Conv2d(width, 2, 1)
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.inverted = nn.Conv2d(width, 4 * width, 1)
        self.depth = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        self.point = nn.Conv2d(2 * width, width, 1, bias=False)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        h = self.first(x) + self.condition(t, s, label)[..., None, None]
        q, k, v = self.qkv(h).flatten(2).unflatten(1, (3, 2, -1)).unbind(1)  # [B, heads, C, N]
        q, k = F.softplus(q), F.softplus(k)
        v = F.pad(v, (0, 0, 0, 1), mode="constant", value=1.0)  # a row of ones sums the weights
        both = torch.matmul(torch.matmul(v, k.transpose(-1, -2)), q)
        attended = both[:, :, :-1] / (both[:, :, -1:] + 1e-15)
        h = h + attended.flatten(1, 2).reshape(h.shape)
        value, gate = torch.chunk(self.depth(F.silu(self.inverted(h))), 2, dim=1)
        out: Tensor = self.last(h + self.point(value * F.silu(gate)))
        return out


class ComplexRotary(nn.Module):
    """Queries and keys turned by complex numbers, once by places and once by angles that depend on t."""

    shape = (4, 4)

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.condition = Condition(width)
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 4)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, width)
        self.rate = nn.Parameter(torch.ones(2))
        self.norm = nn.RMSNorm(width, eps=1e-5)

    def turned(self, x: Tensor, by: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * by).flatten(3).type_as(x)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        b, n, _ = x.shape
        h = self.first(x) + self.condition(t, s, label)[:, None]
        y = self.norm(h)
        q = self.q(y).view(b, n, self.heads, -1)
        k, v = self.kv(y).view(b, n, 1, -1).chunk(2, -1)  # one head of keys for all
        places = torch.outer(torch.arange(n, dtype=x.dtype), 0.3 ** torch.arange(2, dtype=x.dtype))
        fixed = torch.polar(torch.ones_like(places), places)[None, :, None]
        angles = torch.einsum("b,n,f->bnf", t * s, torch.arange(n, dtype=x.dtype), self.rate)
        moving = torch.polar(torch.ones_like(angles) + 0.1 * angles, angles).unsqueeze(2)
        q, k = self.turned(q, fixed * moving), self.turned(k, fixed)
        k, v = (z.expand(-1, -1, self.heads, -1) for z in (k, v))
        out = F.scaled_dot_product_attention(
            *(z.transpose(1, 2) for z in (q, k, v)), is_causal=True
        )
        result: Tensor = self.last(h + out.transpose(1, 2).reshape(b, n, -1))
        return result


NETWORKS = (DiT, SiT, UViT, JointAttention, LinearAttention, ComplexRotary)
