"""Training runs of the product itself, on made-up images."""

from typing import Any

import torch

from benchmarks.derivatives.networks import CLASSES, Subject
from meanflow_tune.config import Budget, Ema, Optimizer, TrialConfig
from meanflow_tune.core.types import DataSplit
from meanflow_tune.data import EightGaussians
from meanflow_tune.losses import LossMix
from meanflow_tune.time_samplers import LogitNormalPairs
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from meanflow_tune.weightings import Adaptive

# Backward MeanFlow, and the mixture of the default search's best trials. No ramp: every step is the same.
LOSSES = {
    "first-order": LossMix.mixture(backward=1.0),
    "second-order": LossMix.mixture(
        backward=0.6, forward=0.3, second_order=0.1, second_order_ramp=0.0
    ),
}


def config_of(subject: Subject, losses: LossMix, batch: int, **changes: Any) -> TrialConfig:
    """From scratch by a published recipe: times of MeanFlow on CIFAR-10, a quarter of the rows with t = s.

    `data` names a set that is not loaded: the images are those of `images_for`.
    """
    settings: dict[str, Any] = {
        "data": EightGaussians(),
        "teacher": None,
        "model": subject.settings,
        "velocity_source": "from_scratch",
        "losses": losses,
        "time_sampler": LogitNormalPairs(mean=2.0, std=2.0, diagonal_share=0.25),
        "weighting": Adaptive(power=0.75),
        "optimizer": Optimizer(learning_rate=1e-4, clip_norm=1.0),
        "ema": Ema(),
        "budget": Budget(images=10_000 * batch, global_batch=batch),
        "evaluation": None,
    }
    return TrialConfig(**(settings | changes))


def images_for(subject: Subject, device: str) -> DataSplit:
    """1,024 images of noise with labels, on `device`: a step's time does not depend on what they show."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1024, *subject.shape, generator=generator).to(device)
    label = torch.randint(CLASSES, (len(x),), generator=generator).to(device)
    return DataSplit(x, label, x[:64], label[:64], CLASSES, "made up")


def start(config: TrialConfig, subject: Subject, device: str) -> Run:
    """A run at step 0 on one process."""
    return Run.start(config, World(device=device), images_for(subject, device), None)


def step(run: Run) -> None:
    """All of one step: draws, targets, forward, backward, clipping, optimiser, moving average."""
    run.advance(run.objective)
