"""A residual multi-layer perceptron on flattened samples, fast on one processor core."""

import math
from typing import Literal

from pydantic import Field
from torch import Generator, Tensor, nn

from meanflow_tune.models.base import Conditioning, NetworkSettings, linear, modulation


class MLP(NetworkSettings):
    """Residual blocks LayerNorm -> scale and shift by (t, s, label) -> Linear -> SiLU -> Linear.

    A last norm and linear layer give u, plus a multiple of x that depends on (t, s, label).

    width: of the residual stream and of the blocks; time_features: sines and cosines per time (even);
    max_frequency: the highest, in radians per unit time; condition_width: of the embedded times
    and label; dropout: probability of a hidden number of a block to be zero in training.
    """

    kind: Literal["mlp"] = "mlp"
    width: int = Field(256, ge=8, le=8192)
    blocks: int = Field(3, ge=1, le=64)
    time_features: int = Field(32, ge=4, le=512, multiple_of=2)
    max_frequency: float = Field(4.0, gt=1.0, le=1000.0)
    condition_width: int = Field(64, ge=8, le=4096)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)

    def build(self, shape: tuple[int, ...], classes: int | None, generator: Generator) -> nn.Module:
        return MLPNetwork(self, shape, classes, generator)


class MLPNetwork(nn.Module):
    """u(x [B, *D], t [B], s [B], label [B] | None) -> [B, *D]."""

    def __init__(
        self, settings: MLP, shape: tuple[int, ...], classes: int | None, generator: Generator
    ) -> None:
        super().__init__()
        width, blocks = settings.width, settings.blocks
        size = math.prod(shape)
        self.condition = Conditioning(
            settings.time_features,
            settings.max_frequency,
            settings.condition_width,
            classes,
            generator,
        )
        # All scales and shifts, and the weight of x in u, by one matrix product.
        scales = (blocks + 1) * width
        self.modulation = modulation(
            settings.condition_width, 2 * scales + 1, ones=scales, generator=generator
        )
        self.sizes = [width] * (2 * blocks + 2) + [1]
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.first = linear(size, width, generator)
        self.up = nn.ModuleList(linear(width, width, generator) for _ in range(blocks))
        self.down = nn.ModuleList(
            linear(width, width, generator, gain=blocks**-0.5) for _ in range(blocks)
        )
        self.last = linear(width, size, generator, gain=0.1)
        self.dropout = nn.Dropout(settings.dropout) if settings.dropout > 0.0 else nn.Identity()

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        parts = self.modulation(self.condition(t, s, label)).split(self.sizes, dim=1)
        count = len(self.up) + 1
        scales, shifts, weight = parts[:count], parts[count:-1], parts[-1]
        flat = x.reshape(x.shape[0], -1)
        h = self.first(flat)
        for up, down, scale, shift in zip(self.up, self.down, scales, shifts, strict=False):
            h = h + down(self.dropout(nn.functional.silu(up(self.norm(h) * scale + shift))))
        # The norm drops the size of x; the true u of a Gaussian is a multiple of x plus a shift.
        u: Tensor = self.last(self.norm(h) * scales[-1] + shifts[-1]) + weight * flat
        return u.reshape(x.shape)
