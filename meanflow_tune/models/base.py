"""Base of the networks: their settings' interface, seeded layers and the embedding of two times.

x [B, *D], t and s [B], label [B] int64 or None; every network returns the average velocity [B, *D].
Layers never draw from the global random state: all numbers come from a generator.
"""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from meanflow_tune.settings import Member


class NetworkSettings(Member):
    """Base of the family: settings that build a network u(x_t, t, s, label).

    compile_pays_after: optimiser steps after which compiled code has earned its compilation from the
    cache, as measured for `compile: auto`; None where it never did, or was not measured. convolutional:
    whether it has convolutions over images, which may run with channels last.
    """

    compile_pays_after: ClassVar[int | None] = None
    convolutional: ClassVar[bool] = False

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int | None, generator: Generator) -> nn.Module:
        """A network for samples of `shape` (*D), its initial weights drawn from `generator` only.

        Raises ValueError if the shape does not fit the settings.
        """


class Linear(nn.Linear):
    """A linear layer that does not draw from the global random state."""

    def reset_parameters(self) -> None:
        """Nothing: `linear` draws the weights."""


def linear(inputs: int, outputs: int, generator: Generator, gain: float = 1.0) -> nn.Linear:
    """A linear layer with weights N(0, gain² / inputs) and zero bias."""
    layer = Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inputs), generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class Conv2d(nn.Conv2d):
    """A convolution that does not draw from the global random state."""

    def reset_parameters(self) -> None:
        """Nothing: `conv` draws the weights."""


def conv(
    inputs: int,
    outputs: int,
    generator: Generator,
    size: int = 3,
    *,
    stride: int = 1,
    bias: bool = True,
    gain: float = 1.0,
) -> nn.Conv2d:
    """A convolution of odd `size` that keeps height and width (over `stride`), drawn as `linear` is."""
    layer = Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=bias)
    std = gain / math.sqrt(inputs * size**2)
    nn.init.normal_(layer.weight, std=std, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def modulation(inputs: int, outputs: int, ones: int, generator: Generator) -> nn.Linear:
    """The layer that makes all scales, gates and shifts of a network from its condition.

    The first `ones` outputs, scales and gates, start near 1, the others, shifts, near 0: the bias
    saves the usual "1 +" in every block.
    """
    layer = linear(inputs, outputs, generator, gain=0.1)
    nn.init.ones_(layer.bias[:ones])
    return layer


def embedding(classes: int, width: int, generator: Generator) -> nn.Embedding:
    """One N(0, 1) vector per class."""
    weight = torch.randn(classes, width, generator=generator)
    return nn.Embedding(classes, width, _weight=weight)


class Conditioning(nn.Module):
    """(t, s, label) -> [B, width], from sines and cosines of t and of the gap s - t.

    Angular frequencies run geometrically from 1 to `max_frequency` radians per unit time. They are
    low on purpose: the mixed derivative of sin(ω t) in two times grows like ω².
    """

    frequencies: Tensor
    phase: Tensor

    def __init__(
        self,
        features: int,
        max_frequency: float,
        width: int,
        classes: int | None,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.classes = classes
        omega = torch.logspace(0.0, math.log10(max_frequency), features // 2)
        # One matrix makes all angles of both times, and cos x = sin(x + π/2): two operators in all.
        omega = torch.cat((omega, omega))
        zeros = torch.zeros_like(omega)
        columns = torch.stack((torch.cat((omega, zeros)), torch.cat((zeros, omega))), dim=1)
        quarter = torch.full((features // 2,), math.pi / 2)
        shift = torch.cat((torch.zeros_like(quarter), quarter))
        self.register_buffer("frequencies", columns, persistent=False)
        self.register_buffer("phase", torch.cat((shift, shift)), persistent=False)
        self.hidden = linear(2 * features, width, generator)
        self.out = linear(width, width, generator)
        self.labels = None if classes is None else embedding(classes, width, generator)

    def forward(self, t: Tensor, s: Tensor, label: Tensor | None) -> Tensor:
        times = torch.stack([t, s - t], dim=1)
        waves = torch.sin(nn.functional.linear(times, self.frequencies, self.phase))
        condition: Tensor = self.out(nn.functional.silu(self.hidden(waves)))
        if self.labels is None:
            if label is not None:
                raise ValueError("`label` must be None for a network built with classes=None")
        elif label is None:
            raise ValueError(f"`label` [B] must be given: the network has {self.classes} classes")
        else:
            condition = condition + self.labels(label)
        return nn.functional.silu(condition)
