"""The optimiser, its learning-rate schedule in progress, and the moving average of the weights."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from meanflow_tune.config import Ema, Optimizer


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

    progress: at the end of the step, so that the first step's rate is not zero.
    """
    if progress < settings.warmup:
        return settings.learning_rate * progress / settings.warmup
    if settings.decay == "constant" or settings.warmup >= 1.0:
        return settings.learning_rate
    rest = (progress - settings.warmup) / (1.0 - settings.warmup)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(rest, 1.0)))


class MovingAverage:
    """Exponential moving average of a module's parameters, without its buffers."""

    def __init__(self, module: nn.Module, settings: Ema) -> None:
        self.settings = settings
        self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, images: int, batch: int) -> None:
        """After a step of `batch` images that ended at `images` seen."""
        new = [p.detach() for p in module.parameters()]
        decay = self.settings.decay(images, batch)
        torch._foreach_lerp_(list(self.weights.values()), new, 1.0 - decay)

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        """Raises KeyError where `weights` lacks a parameter."""
        for name, own in self.weights.items():
            own.copy_(weights[name])

    def share_with(self, module: nn.Module) -> None:
        """Make the parameters of `module` the average itself: it follows every update and load."""
        for name, parameter in module.named_parameters():
            parameter.data = self.weights[name]

    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the parameters of `module` by the average."""
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(self.weights[name])
