"""Training runs of the product itself, on made-up images."""

from typing import Any

import torch

from benchmarks.derivatives.networks import CLASSES, Subject
from meanflow_tune.config import Budget, Ema, Guidance, Optimizer, TrialConfig
from meanflow_tune.core.types import DataSplit
from meanflow_tune.data import EightGaussians
from meanflow_tune.ds_schedules import Constant
from meanflow_tune.losses import Backward, LossMix, SecondOrder, TriConsistency
from meanflow_tune.models import UNet
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
# Changes of a configuration that take other ways through a step.
WAYS: dict[str, dict[str, Any]] = {
    "first-order": {"losses": LOSSES["first-order"]},
    "second-order": {"losses": LOSSES["second-order"]},
    "second order on some rows": {
        "losses": LossMix(
            backward=Backward(share=0.5), second_order=SecondOrder(share=0.5, fraction=0.4)
        )
    },
    "tri-consistency": {
        "losses": LossMix(tri_consistency=TriConsistency(second_part="student")),
        "ds_schedule": Constant(value=0.5),
    },
    "guided": {"label_dropout": 0.3, "guidance": Guidance(scale=2.0, t_end=0.6)},
    "dropout": {"model": UNet(width=8, groups=4, heads=2, dropout=0.2)},
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
