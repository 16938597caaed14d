"""Ways to train an average velocity without a second-order share, each with its source.

Four are published recipes, two are published losses with the times of the first, and one mixes both
first-order identities.

Times have noise at 0 and data at 1; papers run the other way, so that a logit-normal mean of -2 there is
+2 here. Their constant c of the adaptive weight is on the sum over the D dimensions of a sample, ours on
the mean: c / D. Of each recipe these are the loss, the times and the weighting. Network, optimiser and
budget are those of the study, and the learning rate is the best of three.

The best of them on average is found by

    python scripts/tune.py --space published --trials 42 --confirm 2 --confirm-seeds 6

docs/BENCHMARKS.md has its table.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from meanflow_tune.ds_schedules import DsSchedule, Exponential, Sigmoid
from meanflow_tune.losses import (
    Backward,
    Forward,
    LossMix,
    Ramp,
    SecondOrder,
    TriConsistency,
)
from meanflow_tune.time_samplers import LogitNormal, LogitNormalPairs, SeparatePairs, TimeSampler
from meanflow_tune.weightings import Adaptive

DIMENSIONS = 64  # of a digit, 8 × 8
RATES = {"mid": 3e-3, "low": 1e-3, "high": 1e-2}
# What a paired run adds to a family; the other shares shrink to make room for it.
SECOND_ORDER_SHARE = 0.1
SECOND_ORDER_RAMP = 0.3


@dataclass(frozen=True)
class Family:
    """A recipe: where it was published, its loss, times and weighting.

    backward, forward, discrete: shares that sum to 1; discrete is tri-consistency split at the start,
    with `ds_schedule`.
    """

    source: str
    time_sampler: TimeSampler
    weighting: Adaptive
    backward: float = 0.0
    forward: float = 0.0
    discrete: float = 0.0
    ds_schedule: DsSchedule | None = None

    def settings(self, second_order: bool = False) -> dict[str, Any]:
        """The settings of a TrialConfig that make it up, with SECOND_ORDER_SHARE if asked for."""
        second = SECOND_ORDER_SHARE if second_order else 0.0
        left = 1.0 - second
        ramp = Ramp(length=SECOND_ORDER_RAMP)
        shares = {
            "backward": Backward(share=left * self.backward) if self.backward else None,
            "forward": Forward(share=left * self.forward) if self.forward else None,
            "tri_consistency": TriConsistency(split="start", share=left * self.discrete)
            if self.discrete
            else None,
            "second_order": SecondOrder(share=second, ramp=ramp) if second else None,
        }
        return {
            "losses": LossMix.model_validate(shares),
            "time_sampler": self.time_sampler,
            "weighting": self.weighting,
            "ds_schedule": self.ds_schedule,
        }


def _adaptive(power: float, c: float, dimensions: int = DIMENSIONS) -> Adaptive:
    """The adaptive weight of a paper whose constant c is on the sum over the dimensions."""
    return Adaptive(power=power, epsilon=c / dimensions)


# Sorted pairs of logit-normal (-2, 2); a quarter of them has r = t at the noisier of both times, our start.
_CIFAR10_TIMES = LogitNormalPairs(mean=2.0, std=2.0, diagonal_share=0.25, diagonal_at="start")
_IMAGENET_TIMES = {"mean": 0.4, "std": 1.0}  # published as (-0.4, 1)

FAMILIES: dict[str, Family] = {
    "meanflow_cifar10": Family(
        "MeanFlow on CIFAR-10: arXiv 2505.13447, and py-meanflow v0",
        _CIFAR10_TIMES,
        _adaptive(0.75, 1e-3),
        backward=1.0,
    ),
    "meanflow_cifar10_v1": Family(
        "py-meanflow v1, its best on CIFAR-10: t from (-0.6, 1.6), r from (-4, 1.6), r = min(t, r)",
        SeparatePairs(
            start=LogitNormal(mean=0.6, std=1.6),
            end=LogitNormal(mean=4.0, std=1.6),
            pairing="end_max",
            diagonal_share=0.25,
        ),
        _adaptive(0.75, 1e-3),
        backward=1.0,
    ),
    "meanflow_imagenet": Family(
        "MeanFlow on ImageNet latents: arXiv 2505.13447, c of its code; without guidance",
        LogitNormalPairs(**_IMAGENET_TIMES, diagonal_share=0.75, diagonal_at="start"),
        _adaptive(1.0, 1e-2),
        backward=1.0,
    ),
    "alpha_flow": Family(
        "α-Flow B/2 on ImageNet latents, approximately: arXiv 2510.20771 and its code. α falls from 1 to "
        "0.005 by a sigmoid of γ = 25 over the whole training (there on to 0, by a derivative); half of the "
        "samples have r = t, at a time of their own. Its weight is of the residual before the division by α, "
        "so that its constant grows like 1/α², and here it stays",
        LogitNormalPairs(
            **_IMAGENET_TIMES,
            diagonal_share=0.5,
            diagonal_at="own",
            diagonal=LogitNormal(**_IMAGENET_TIMES),
        ),
        _adaptive(1.0, 1e-3),
        discrete=1.0,
        ds_schedule=Sigmoid(start=1.0, end=0.005, temperature=25.0, snap=0.005),
    ),
    "soflow": Family(
        "the consistency and the schedule of SoFlow on CIFAR-10 (arXiv 2512.15657): the step falls "
        "exponentially from 1 to 3e-4 of the gap; times and weighting are those of meanflow_cifar10",
        _CIFAR10_TIMES,
        _adaptive(0.75, 1e-3),
        discrete=1.0,
        ds_schedule=Exponential(start=1.0, end=3e-4),
    ),
    "forward": Family(
        "the identity of terminal velocity matching (arXiv 2511.19797), which was published for ImageNet "
        "latents only; times and weighting are those of meanflow_cifar10",
        _CIFAR10_TIMES,
        _adaptive(0.75, 1e-3),
        forward=1.0,
    ),
    "backward_forward": Family(
        "both first-order identities in equal shares, a combination that nobody has published; times and "
        "weighting are those of meanflow_cifar10",
        _CIFAR10_TIMES,
        _adaptive(0.75, 1e-3),
        backward=0.5,
        forward=0.5,
    ),
}

# By the table of the command above; tests/search/space/test_families.py compares the two.
STRONGEST = "meanflow_cifar10"


def at_three_rates(name: str, parameters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Baselines `NAME_lr_mid`, `_low` and `_high`: the same parameters at each of RATES."""
    return {
        f"{name}_lr_{rate}": parameters | {"optimizer/learning_rate": value}
        for rate, value in RATES.items()
    }


def strongest_of(baselines: Iterable[str]) -> dict[str, list[str]]:
    """The FAMILIES of a space with the strongest family at three rates: their names by the family's."""
    return {STRONGEST: [name for name in baselines if name.startswith(f"{STRONGEST}_lr_")]}


def sources_of(baselines: Collection[str]) -> dict[str, str]:
    """The SOURCES of such a space: of the strongest family and of those that are a baseline themselves."""
    return {
        name: recipe.source for name, recipe in FAMILIES.items() if name in (*baselines, STRONGEST)
    }
