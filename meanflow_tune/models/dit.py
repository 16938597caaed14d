"""A small diffusion transformer on image patches (Peebles and Xie, 2023: adaptive layer norm)."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from meanflow_tune.models.base import Conditioning, NetworkSettings, linear, modulation


class DiT(NetworkSettings):
    """Transformer blocks whose layer norms are scaled, shifted and gated by (t, s, label).

    width: of a token; heads: divides width; patch: edge of a patch, divides height and width of the
    images; mlp_ratio: hidden width over width; time_features and max_frequency (radians per unit
    time): of the sines and cosines of each time.
    """

    compile_pays_after: ClassVar[int | None] = 270

    kind: Literal["dit"] = "dit"
    width: int = Field(64, ge=8, le=8192)
    depth: int = Field(3, ge=1, le=64)
    heads: int = Field(4, ge=1, le=64)
    patch: int = Field(2, ge=1, le=64)
    mlp_ratio: int = Field(4, ge=1, le=8)
    time_features: int = Field(32, ge=4, le=512, multiple_of=2)
    max_frequency: float = Field(4.0, gt=1.0, le=1000.0)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"`heads` must divide `width`, but got (heads={self.heads}, width={self.width})"
            )
        return self

    def build(self, shape: tuple[int, ...], classes: int | None, generator: Generator) -> nn.Module:
        patch = self.patch
        if len(shape) != 3 or shape[1] % patch or shape[2] % patch:
            raise ValueError(
                "DiT needs samples [channels, height, width] with height and width multiples of "
                f"`patch`, but got ({shape=}, {patch=}); change `patch`, or use the model 'mlp'"
            )
        return DiTNetwork(self, (shape[0], shape[1], shape[2]), classes, generator)


class DiTBlock(nn.Module):
    """Self-attention, then two linear layers, on tokens [B, L, width]."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, depth: int, generator: Generator):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = linear(width, 3 * width, generator)
        self.project = linear(width, width, generator, gain=(2 * depth) ** -0.5)
        self.up = linear(width, mlp_ratio * width, generator)
        self.down = linear(mlp_ratio * width, width, generator, gain=(2 * depth) ** -0.5)

    def attend(self, h: Tensor) -> Tensor:
        batch, length, width = h.shape
        heads = self.qkv(h).reshape(batch, length, 3 * self.heads, width // self.heads)
        q, k, v = heads.transpose(1, 2).chunk(3, dim=1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return out

    def forward(self, h: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        """parts: (scale, scale, gate, gate, shift, shift), each [B, 1, width]."""
        h = h + self.attend(self.norm(h) * parts[0] + parts[4]) * parts[2]
        hidden = nn.functional.gelu(self.up(self.norm(h) * parts[1] + parts[5]))
        out: Tensor = h + self.down(hidden) * parts[3]
        return out


class DiTNetwork(nn.Module):
    """u(x [B, C, H, W], t [B], s [B], label [B] | None) -> [B, C, H, W]."""

    def __init__(
        self, settings: DiT, shape: tuple[int, int, int], classes: int | None, generator: Generator
    ) -> None:
        super().__init__()
        width, depth = settings.width, settings.depth
        channels, height, breadth = shape
        self.patch = settings.patch
        self.grid = (height // settings.patch, breadth // settings.patch)
        size = channels * settings.patch**2
        self.condition = Conditioning(
            settings.time_features, settings.max_frequency, width, classes, generator
        )
        # One product for all blocks and the last norm; gates start at 1, as scales do.
        self.modulation = modulation(
            width, (6 * depth + 2) * width, (4 * depth + 1) * width, generator
        )
        self.first = linear(size, width, generator)
        tokens = self.grid[0] * self.grid[1]
        self.position = nn.Parameter(
            nn.init.normal_(
                self.first.weight.new_empty(tokens, width), std=0.5, generator=generator
            )
        )
        self.blocks = nn.ModuleList(
            DiTBlock(width, settings.heads, settings.mlp_ratio, depth, generator)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.last = linear(width, size, generator, gain=0.1)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        batch, channels = x.shape[0], x.shape[1]
        (rows, columns), patch = self.grid, self.patch
        depth = len(self.blocks)
        condition = self.modulation(self.condition(t, s, label))
        parts = condition.reshape(batch, 1, -1).chunk(6 * depth + 2, dim=2)
        ones, rest = parts[: 4 * depth + 1], parts[4 * depth + 1 :]

        tokens = x.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
        h = self.first(tokens.reshape(batch, rows * columns, -1)) + self.position
        for i, block in enumerate(self.blocks):
            h = block(h, (*ones[4 * i : 4 * i + 4], *rest[2 * i : 2 * i + 2]))
        h = self.last(self.norm(h) * ones[-1] + rest[-1])
        pixels: Tensor = h.reshape(batch, rows, columns, channels, patch, patch)
        return pixels.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
