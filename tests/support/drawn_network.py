"""A network with all kinds of buffers: drawn from its generator, and changed by training."""

import torch
from torch import Generator, Tensor, nn

from meanflow_tune.models.base import linear


class DrawnNetwork(nn.Module):
    """u of random Fourier features of (x, t, s) minus a running mean of x; x [B, 2], without labels.

    persistent: whether its buffers are in the `state_dict`. The mean follows in training mode, in a new
    tensor at each step, as of a module that does not write in place.
    """

    frequencies: Tensor
    mean: Tensor
    calls: Tensor

    def __init__(self, generator: Generator, persistent: bool) -> None:
        super().__init__()
        drawn = 2.0 * torch.randn(8, 4, generator=generator)
        self.register_buffer("frequencies", drawn, persistent=persistent)
        self.register_buffer("mean", torch.zeros(2), persistent=persistent)
        self.register_buffer("calls", torch.zeros(1), persistent=persistent)
        self.hidden = linear(8, 16, generator)
        self.out = linear(16, 2, generator)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        inputs = torch.cat((x - self.mean, torch.stack((t, s), dim=1)), dim=1)
        waves = torch.sin(nn.functional.linear(inputs, self.frequencies))
        u: Tensor = self.out(torch.tanh(self.hidden(waves)))
        if self.training and isinstance(x, Tensor):
            self.mean = torch.lerp(self.mean, x.detach().mean(dim=0), 0.1)
            self.calls += 1
        return u
