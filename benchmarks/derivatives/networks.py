"""The networks that are measured, with samples of a given precision and device."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from benchmarks.derivatives.options import LARGE
from meanflow_tune.models import MLP, DiT, NetworkSettings, UNet

CLASSES = 10


@dataclass(frozen=True)
class Subject:
    """A network to measure: settings, shape of one sample, and samples a call."""

    settings: NetworkSettings
    shape: tuple[int, ...]
    batch: int
    note: str

    def build(self, seed: int, device: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The same numbers in every `dtype`: the weights that training starts from, with noise.

        Without the noise, of half their size, the networks hardly depend on the times yet.
        """
        generator = Generator().manual_seed(seed)
        network = self.settings.build(self.shape, CLASSES, generator)
        with torch.no_grad():
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                inputs = parameter[0].numel() if parameter.dim() > 1 else 100
                parameter.add_(0.5 * noise / inputs**0.5)
        return network.to(device, dtype)


@dataclass(frozen=True)
class Batch:
    """x and velocity [B, *D], t and s [B] with t < s, label [B]."""

    x: Tensor
    t: Tensor
    s: Tensor
    velocity: Tensor
    label: Tensor

    @classmethod
    def make(cls, subject: Subject, size: int, device: str) -> "Batch":
        """float32 numbers from a fixed seed, the same on every device."""
        generator = Generator().manual_seed(1)
        x, velocity = torch.randn(2, size, *subject.shape, generator=generator)
        t = 0.8 * torch.rand(size, generator=generator)
        s = t + 0.1 + (0.9 - t) * torch.rand(size, generator=generator)
        label = torch.randint(CLASSES, (size,), generator=generator)
        return cls(*(tensor.to(device) for tensor in (x, t, s, velocity, label)))

    def to(self, dtype: torch.dtype) -> "Batch":
        """All but the labels in `dtype`."""
        return Batch(
            self.x.to(dtype),
            self.t.to(dtype),
            self.s.to(dtype),
            self.velocity.to(dtype),
            self.label,
        )


NETWORKS = {
    "mlp": Subject(MLP(width=256), (1, 8, 8), 128, "width 256, 3 blocks, 8x8"),
    "dit": Subject(
        DiT(width=128, depth=4, heads=4, patch=1), (1, 8, 8), 16, "width 128, depth 4, 64 tokens"
    ),
    "dit-32": Subject(
        DiT(width=128, depth=4, heads=4, patch=2), (3, 32, 32), 16, "width 128, depth 4, 256 tokens"
    ),
    "dit-1024": Subject(
        DiT(width=128, depth=2, heads=4, patch=1),
        (3, 32, 32),
        2,
        "width 128, depth 2, 1,024 tokens",
    ),
    "dit-b": Subject(
        DiT(width=768, depth=12, heads=12, patch=2), (4, 32, 32), 16, "DiT-B, 256 tokens"
    ),
    "unet": Subject(UNet(width=32), (1, 8, 8), 16, "width 32 and 64, 8x8"),
    "unet-32": Subject(
        UNet(width=32, multipliers=(1, 2, 4), attention=(2,)),
        (3, 32, 32),
        16,
        "width 32, 64 and 128, 32x32",
    ),
    "unet-cifar": Subject(
        UNet(width=128, multipliers=(1, 2, 2), blocks=2, attention=(1,), groups=32),
        (3, 32, 32),
        64,
        "width 128 and 256, 2 blocks per level, 32x32",
    ),
}


def default_networks(device: str) -> list[str]:
    """All, but the large ones only where a GPU takes them."""
    return [name for name in NETWORKS if name not in LARGE or device != "cpu"]
