"""The optimiser, its learning-rate schedule in progress, and the moving average of the weights."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from meanflow_tune.config import Ema, Optimizer
from meanflow_tune.core.module_state import (
    copy_buffers,
    hidden_buffers,
    refuse_unstored,
    whole_state,
)


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Optimizer) -> torch.optim.AdamW:
    """AdamW by `settings`; the learning rate is set before each step by `learning_rate`."""
    return torch.optim.AdamW(
        list(parameters),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,  # one kernel per step; otherwise Adam takes a third of a small network's step
    )


def learning_rate(settings: Optimizer, progress: float) -> float:
    """Linear warm-up over the share `warmup` of the budget, then constant or half a cosine to zero.

    progress: at the middle of the step, so that neither the first step's rate nor the last one's is zero.
    """
    if progress < settings.warmup:
        return settings.learning_rate * progress / settings.warmup
    if settings.decay == "constant" or settings.warmup >= 1.0:
        return settings.learning_rate
    rest = (progress - settings.warmup) / (1.0 - settings.warmup)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(rest, 1.0)))


class MovingAverage:
    """A network with the exponential moving average of a module's parameters and the module's buffers.

    net: another instance of the module's network, as a reader of its stored state builds it; it is
    overwritten, on the module's device. Raises ValueError where the stored state would not be all of
    the module.
    """

    def __init__(self, module: nn.Module, net: nn.Module, settings: Ema) -> None:
        refuse_unstored(module, net)
        self.settings = settings
        self._rebuilt = {name: value.clone() for name, value in hidden_buffers(net).items()}
        for part in net.modules():  # a buffer that is a view of another cannot be written to
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, buffer.clone(memory_format=torch.contiguous_format))
        self.net = net.eval().requires_grad_(False)
        self.weights = {name: p.detach() for name, p in net.named_parameters()}
        with torch.no_grad():
            for own, new in zip(self.weights.values(), module.parameters(), strict=True):
                own.copy_(new)
        self.follow(module)

    @torch.no_grad()
    def update(self, module: nn.Module, images: int, batch: int) -> None:
        """After a step of `batch` images that ended at `images` seen."""
        new = [p.detach() for p in module.parameters()]
        decay = self.settings.decay(images, batch)
        torch._foreach_lerp_(list(self.weights.values()), new, 1.0 - decay)
        self.follow(module)

    def follow(self, module: nn.Module) -> None:
        """Take over the buffers of `module`, which training may have changed."""
        copy_buffers(self.net, module)

    def stored(self, module: nn.Module) -> dict[str, Tensor]:
        """What must be stored of `module`, or of `net`, so that a rebuilt network becomes the same."""
        return whole_state(module, self._rebuilt)

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        """Raises KeyError where `weights` lacks a parameter."""
        for name, own in self.weights.items():
            own.copy_(weights[name])
