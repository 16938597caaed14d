"""A small convolutional U-Net (Ronneberger et al., 2015) conditioned as diffusion networks are."""

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from meanflow_tune.models.base import Conditioning, NetworkSettings, conv, linear, modulation

LevelNumber = Annotated[int, Field(ge=0, le=7)]


class UNet(NetworkSettings):
    """Residual blocks of convolutions at several resolutions, each half of the one before.

    width: channels at the full resolution; multipliers: of width, one per level, the full
    resolution first; blocks: per level, on the way down and again on the way up; attention: levels
    whose blocks are followed by self-attention over pixels, 0 being the full resolution; heads:
    divides the channels of those levels; groups: of the group norms, divides the channels of every
    level; down: a convolution with stride 2, or the average of 2x2 pixels before one; up: the
    interpolation before a convolution; dropout: probability of an element to be zero in training, before
    the second convolution of a block; time_features and max_frequency (radians per unit time): of
    the sines and cosines of each time; condition_width: of the embedded times and label.
    """

    convolutional: ClassVar[bool] = True

    kind: Literal["unet"] = "unet"
    width: int = Field(32, ge=4, le=2048)
    multipliers: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(
        (1, 2), min_length=2, max_length=8
    )
    blocks: int = Field(1, ge=1, le=8)
    attention: tuple[LevelNumber, ...] = (1,)
    heads: int = Field(4, ge=1, le=64)
    groups: int = Field(8, ge=1, le=256)
    down: Literal["convolution", "average"] = "convolution"
    up: Literal["nearest", "bilinear"] = "nearest"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    time_features: int = Field(32, ge=4, le=512, multiple_of=2)
    max_frequency: float = Field(4.0, gt=1.0, le=1000.0)
    condition_width: int = Field(128, ge=8, le=4096)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each level."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for channels in self.channels:
            if channels % self.groups:
                raise ValueError(
                    "`groups` must divide `width` x each of `multipliers`, but got "
                    f"(groups={self.groups}, channels={self.channels})"
                )
        levels = len(self.channels)
        if any(level >= levels for level in self.attention) or len(set(self.attention)) < len(
            self.attention
        ):
            raise ValueError(
                f"`attention` must name each level once, from 0 to {levels - 1} with "
                f"{levels} `multipliers`, but got (attention={self.attention})"
            )
        for level in self.attention:
            if self.channels[level] % self.heads:
                raise ValueError(
                    "`heads` must divide the channels of the levels of `attention`, but got "
                    f"(heads={self.heads}, channels={self.channels}, attention={self.attention})"
                )
        return self

    def build(self, shape: tuple[int, ...], classes: int | None, generator: Generator) -> nn.Module:
        factor = 2 ** (len(self.multipliers) - 1)
        if len(shape) != 3 or shape[1] % factor or shape[2] % factor:
            raise ValueError(
                "UNet needs samples [channels, height, width] with height and width multiples of "
                f"2^(levels - 1) = {factor}, but got ({shape=}, multipliers={self.multipliers}); "
                "use fewer `multipliers`, or the model 'mlp'"
            )
        pixels = (shape[1] // factor) * (shape[2] // factor)
        if pixels == 1 and self.channels[-1] == self.groups:
            raise ValueError(
                "a group of the lowest level would hold one number, which its norm makes zero: got "
                f"({shape=}, multipliers={self.multipliers}, groups={self.groups}); use fewer "
                "`multipliers` or `groups`"
            )
        return UNetNetwork(self, (shape[0], shape[1], shape[2]), classes, generator)


class Block(nn.Module):
    """Two convolutions added to the identity, and self-attention after them where `heads` > 0."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        groups: int,
        heads: int,
        dropout: float,
        depth: int,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(groups, inputs)
        # The norm that follows takes a bias away again, or nearly so.
        self.first = conv(inputs, outputs, generator, bias=False)
        self.second_norm = nn.GroupNorm(groups, outputs, affine=False)
        self.dropout = nn.Dropout(dropout) if dropout > 0.0 else nn.Identity()
        self.second = conv(outputs, outputs, generator, gain=depth**-0.5)
        self.skip = (
            nn.Identity() if inputs == outputs else conv(inputs, outputs, generator, 1, bias=False)
        )
        self.attention = Attention(outputs, groups, heads, depth, generator) if heads > 0 else None

    def forward(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """h [B, inputs, H, W]; scale and shift [B, outputs, 1, 1]."""
        y = self.first(nn.functional.silu(self.first_norm(h)))
        y = self.dropout(nn.functional.silu(self.second_norm(y) * scale + shift))
        y = self.second(y)
        h = self.skip(h) + y
        return h if self.attention is None else h + self.attention(h)


class Attention(nn.Module):
    """Self-attention over the pixels of [B, C, H, W]."""

    def __init__(self, channels: int, groups: int, heads: int, depth: int, generator: Generator):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = linear(channels, 3 * channels, generator)
        self.project = linear(channels, channels, generator, gain=depth**-0.5)

    def forward(self, h: Tensor) -> Tensor:
        batch, channels = h.shape[0], h.shape[1]
        tokens = self.qkv(self.norm(h).flatten(2).transpose(1, 2))
        heads = tokens.reshape(batch, -1, 3 * self.heads, channels // self.heads).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, -1, channels))
        return out.transpose(1, 2).reshape(h.shape)


class UNetNetwork(nn.Module):
    """u(x [B, C, H, W], t [B], s [B], label [B] | None) -> [B, C, H, W]."""

    def __init__(
        self, settings: UNet, shape: tuple[int, int, int], classes: int | None, generator: Generator
    ) -> None:
        super().__init__()
        channels, levels = settings.channels, len(settings.channels)
        depth = settings.blocks * (2 * levels - 1)
        self.up_mode = settings.up
        self.condition = Conditioning(
            settings.time_features,
            settings.max_frequency,
            settings.condition_width,
            classes,
            generator,
        )

        def blocks(inputs: int, level: int) -> Iterator[Block]:
            heads = settings.heads if level in settings.attention else 0
            sizes = [inputs] + [channels[level]] * settings.blocks
            for a, b in pairwise(sizes):
                yield Block(a, b, settings.groups, heads, settings.dropout, depth, generator)

        self.first = conv(shape[0], channels[0], generator)
        average = settings.down == "average"
        self.shrink = nn.AvgPool2d(2) if average else nn.Identity()
        self.down = nn.ModuleList(
            conv(c, c, generator, stride=1 if average else 2) for c in channels[:-1]
        )
        upwards = range(levels - 2, -1, -1)
        inputs = [(channels[max(i - 1, 0)], i) for i in range(levels)]
        inputs += [(2 * channels[i], i) for i in upwards]
        self.blocks = nn.ModuleList(block for pair in inputs for block in blocks(*pair))
        self.blocks_per_level = settings.blocks
        self.up = nn.ModuleList(conv(channels[i + 1], channels[i], generator) for i in upwards)
        self.norm = nn.GroupNorm(settings.groups, channels[0], affine=False)
        self.last = conv(channels[0], shape[0], generator, gain=0.1)

        # All scales and shifts, and the weight of x in u, by one matrix product.
        self.sizes = [channels[i] for _, i in inputs for _ in range(settings.blocks)]
        self.sizes.append(channels[0])
        total = sum(self.sizes)
        self.modulation = modulation(settings.condition_width, 2 * total + 1, total, generator)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        condition = self.modulation(self.condition(t, s, label))[:, :, None, None]
        parts = condition.split([*self.sizes, *self.sizes, 1], dim=1)
        count = len(self.sizes)
        scales, shifts, weight = parts[:count], parts[count:-1], parts[-1]
        steps = zip(self.blocks, scales, shifts, strict=False)

        def level(h: Tensor) -> Tensor:
            for block, scale, shift in islice(steps, self.blocks_per_level):
                h = block(h, scale, shift)
            return h

        h, skips = level(self.first(x)), []
        for reduce in self.down:
            skips.append(h)
            h = level(reduce(self.shrink(h)))
        for enlarge in self.up:
            h = enlarge(nn.functional.interpolate(h, scale_factor=2.0, mode=self.up_mode))
            h = level(torch.cat([h, skips.pop()], dim=1))
        h = nn.functional.silu(self.norm(h) * scales[-1] + shifts[-1])
        # The norm drops the size of x; the true u of a Gaussian is a multiple of x plus a shift.
        u: Tensor = self.last(h) + weight * x
        return u
