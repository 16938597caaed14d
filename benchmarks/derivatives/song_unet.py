"""A U-Net after Song et al. (2021, DDPM++), as MeanFlow's CIFAR-10 recipe has it, written for this benchmark.

Group norms and plain products in attention: `torch.func.jvp` is right through both.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SongUNet(nn.Module):
    """u(x [B, C, H, W], t [B], s [B], label) -> [B, C, H, W]; the label is not used.

    multipliers: of `channels` per level, the full resolution first; attention: levels whose last block on the
    way down, and all blocks on the way up, are followed by self-attention.
    """

    def __init__(
        self,
        images: int,
        channels: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
    ) -> None:
        super().__init__()
        width, self.features = 4 * channels, channels
        self.condition = nn.Sequential(
            nn.Linear(2 * channels, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.first = nn.Conv2d(images, channels, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept, now = [channels], channels
        for level, multiplier in enumerate(multipliers):
            if level > 0:
                self.down.append(Block(now, now, width, resample="down"))
                kept.append(now)
            for _ in range(blocks):
                self.down.append(Block(now, multiplier * channels, width, level in attention))
                now = multiplier * channels
                kept.append(now)
        self.middle = nn.ModuleList([Block(now, now, width, True), Block(now, now, width)])
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                inputs = now + kept.pop()
                self.up.append(Block(inputs, multiplier * channels, width, level in attention))
                now = multiplier * channels
            if level > 0:
                self.up.append(Block(now, now, width, resample="up"))
        self.norm, self.last = _norm(now), nn.Conv2d(now, images, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        half = self.features // 2
        frequency = torch.exp(-math.log(1e4) * torch.arange(half, device=x.device) / half)
        angles = torch.cat([time[:, None] * frequency for time in (t, s - t)], dim=1)
        condition = self.condition(torch.cat([angles.cos(), angles.sin()], dim=1))
        h = self.first(x)
        kept = [h]
        for block in self.down:
            h = block(h, condition)
            kept.append(h)
        for block in self.middle:
            h = block(h, condition)
        for block in self.up:
            h = block(h if block.resample == "up" else torch.cat([h, kept.pop()], 1), condition)
        out: Tensor = self.last(F.silu(self.norm(h)))
        return out


class Block(nn.Module):
    """Two convolutions with a shift and a scale from the condition, and perhaps attention over pixels."""

    def __init__(
        self, inputs: int, outputs: int, width: int, attends: bool = False, resample: str = ""
    ) -> None:
        super().__init__()
        self.resample = resample
        self.first_norm, self.first = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(width, 2 * outputs)
        self.second_norm, self.second = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.attends = attends
        if attends:
            self.third_norm, self.qkv = _norm(outputs), nn.Conv2d(outputs, 3 * outputs, 1)
            self.project = nn.Conv2d(outputs, outputs, 1)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        y = self.first(self._resampled(F.silu(self.first_norm(h))))
        scale, shift = self.affine(condition)[:, :, None, None].chunk(2, dim=1)
        y = self.second(F.silu(self.second_norm(y) * (scale + 1) + shift))
        h = (self.skip(self._resampled(h)) + y) * 0.5**0.5
        if self.attends:
            q, k, v = self.qkv(self.third_norm(h)).flatten(2).chunk(3, dim=1)
            weight = torch.einsum("bcq,bck->bqk", q, k / q.shape[1] ** 0.5).softmax(dim=2)
            mixed = torch.einsum("bqk,bck->bcq", weight, v).reshape(h.shape)
            h = (h + self.project(mixed)) * 0.5**0.5
        return h

    def _resampled(self, h: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(h, 2)
        return F.interpolate(h, scale_factor=2.0) if self.resample == "up" else h


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-5)
