"""An einops mixer, a gated recurrent scan, experts, a Fourier operator and pair distances, in small."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.core.networks_of_others.parts import Condition, GatedUnits


class EinopsMixer(nn.Module):
    """A mixer whose every movement of axes is written with einops."""

    shape = (2, 4, 4)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.einops = pytest.importorskip("einops")
        layers = pytest.importorskip("einops.layers.torch")
        self.condition = Condition(width)
        self.patches = layers.Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2)
        self.first, self.last = nn.Linear(8, width), nn.Linear(width, 8)
        self.norm = nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 5))
        self.channels = GatedUnits(width, 8)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        e = self.einops
        c = e.rearrange(self.condition(t, s, label), "b c -> b 1 c")
        h, packed = e.pack([self.first(self.patches(x)), c], "b * c")
        h = h + e.rearrange(
            self.tokens(e.rearrange(self.norm(h), "b n c -> b c n")), "b c n -> b n c"
        )
        h = h + self.channels(self.norm(h) * e.repeat(c, "b 1 c -> b n c", n=5))
        pooled = e.reduce(h, "b n c -> b c", "mean")
        h = e.unpack(h, packed, "b * c")[0] + e.einsum(
            pooled, pooled, c, "b c, b d, b n d -> b n c"
        )
        return e.rearrange(self.last(h), "b (h w) (p q c) -> b c (h p) (w q)", h=2, p=2, q=2)  # type: ignore[no-any-return]


class GatedScan(nn.Module):
    """A selective state space: steps and gates depend on the input, states are scanned one by one."""

    shape = (5, 4)

    def __init__(self, width: int = 6, states: int = 3) -> None:
        super().__init__()
        self.condition = Condition(width)
        self.first, self.last = nn.Linear(4, 2 * width), nn.Linear(width, 4)
        self.mix = nn.Conv1d(width, width, 3, padding=2, groups=width)
        self.made = nn.Linear(width, width + 2 * states)
        self.log_rates = nn.Parameter(torch.zeros(width, states))
        self.direct = nn.Parameter(torch.ones(width))
        self.states = states

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        h, gate = self.first(x).chunk(2, dim=-1)
        h = h + self.condition(t, s, label)[:, None, :]
        length = h.shape[1]
        h = F.silu(self.mix(h.transpose(1, 2))[..., :length].transpose(1, 2))
        step, into, out = self.made(h).split([h.shape[2], self.states, self.states], dim=-1)
        step = F.softplus(step)
        decay = torch.exp(step.unsqueeze(-1) * -torch.exp(self.log_rates))
        drive = torch.einsum("bld,bln,bld->bldn", step, into, h)
        state = h.new_zeros(h.shape[0], h.shape[2], self.states)
        seen = []
        for i in range(length):
            state = decay[:, i] * state + drive[:, i]
            seen.append(torch.einsum("bdn,bn->bd", state, out[:, i]))
        y = torch.stack(seen, dim=1) + h * self.direct
        result: Tensor = self.last(y * F.silu(gate))
        return result


class Experts(nn.Module):
    """Each token is sent to the two best of four experts, whose outputs are summed by index_add_."""

    shape = (4, 4)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.condition = Condition(width)
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 4)
        self.router = nn.Linear(width, 4, bias=False)
        self.experts = nn.ModuleList(GatedUnits(width, 8) for _ in range(4))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        h = self.first(x) + self.condition(t, s, label).unsqueeze(1)
        tokens = h.reshape(-1, h.shape[-1])
        weights, chosen = torch.topk(self.router(tokens).softmax(dim=-1), 2, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        out = torch.zeros_like(tokens)
        for i, expert in enumerate(self.experts):
            rows, slots = torch.where(chosen == i)
            out.index_add_(0, rows, expert(tokens[rows]) * weights[rows, slots, None])
        result: Tensor = self.last(h + out.view(h.shape))
        return result


class FourierOperator(nn.Module):
    """A Fourier neural operator: products with complex weights between two transforms."""

    shape = (2, 4, 4)

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.condition = Condition(width)
        self.first, self.last = nn.Conv2d(2, width, 1), nn.Conv2d(width, 2, 1)
        self.weight = nn.Parameter(torch.zeros(width, width, 4, 3, 2))
        self.local = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        h = self.first(x) + self.condition(t, s, label)[:, :, None, None]
        waves = torch.fft.rfft2(h, norm="ortho")
        waves = torch.einsum("bihw,iohw->bohw", waves, torch.view_as_complex(self.weight))
        h = F.gelu(torch.fft.irfft2(waves, s=h.shape[-2:], norm="ortho") + self.local(h))
        out: Tensor = self.last(h)
        return out


class PairDistances(nn.Module):
    """Points moved by functions of their distances, which are 0 between a point and itself (EGNN's)."""

    shape = (4, 3)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.condition = Condition(width)
        self.edge = nn.Sequential(nn.Linear(width + 2, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor) -> Tensor:
        away = x[:, :, None] - x[:, None]
        distance = torch.linalg.vector_norm(away, dim=-1, keepdim=True)
        alike = F.cosine_similarity(x[:, :, None], x[:, None], dim=-1).unsqueeze(-1)
        c = self.condition(t, s, label)[:, None, None].expand(-1, 4, 4, -1)
        push = self.edge(torch.cat([c, distance, alike], dim=-1))
        out: Tensor = x + (away / (distance + 1.0) * push).sum(dim=2)
        return out * F.normalize(out, dim=-1).std(dim=(1, 2), keepdim=True)


NETWORKS = (EinopsMixer, GatedScan, Experts, FourierOperator, PairDistances)
