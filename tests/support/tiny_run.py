"""Configurations that train in well under a second, and a reporter that remembers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from meanflow_tune.config import (
    Annealed,
    Budget,
    Ema,
    Evaluation,
    Optimizer,
    TeacherConfig,
    TrialConfig,
)
from meanflow_tune.data import EightGaussians
from meanflow_tune.losses import Backward, Forward, LossMix, SecondOrder
from meanflow_tune.metrics import TeacherGap
from meanflow_tune.models import MLP
from meanflow_tune.records import Report
from meanflow_tune.time_samplers import LogitNormalPairs
from meanflow_tune.training.run import Run
from meanflow_tune.weightings import LogVariance

NET = MLP(width=16, blocks=1, time_features=8, condition_width=16)


def tiny_config(**changes: Any) -> TrialConfig:
    """Two-dimensional data, a 16-wide network, ten steps of 32 with rungs at 4 and 10."""
    settings: dict[str, Any] = {
        "data": EightGaussians(size=512, held_out=128),
        "teacher": TeacherConfig(model=NET, budget=Budget(images=640, global_batch=64)),
        "model": NET,
        "losses": LossMix.mixture(backward=0.5, forward=0.4, second_order=0.1),
        "time_sampler": LogitNormalPairs(),
        "optimizer": Optimizer(learning_rate=1e-2),
        "ema": Ema(half_life_images=100),
        "budget": Budget(images=320, global_batch=32, rungs=(0.4, 1.0)),
        "evaluation": Evaluation(nfe=(1, 2), samples=64, metrics=(TeacherGap(),)),
    }
    return TrialConfig(**(settings | changes))


def wide_config(**changes: Any) -> TrialConfig:
    """Random rows, a learned weighting and a self-teacher, all at once."""
    settings: dict[str, Any] = {
        "velocity_source": "from_scratch",
        "losses": LossMix(
            backward=Backward(share=0.5),
            forward=Forward(share=0.4),
            second_order=SecondOrder(share=0.1, fraction=0.4, stop_gradient=False),
            clamp=1.0,
        ),
        "weighting": LogVariance(width=8),
    }
    return tiny_config(**(settings | changes))


def annealed_config(**changes: Any) -> TrialConfig:
    """x_s of a share of the rows comes from the teacher's ODE, up to the end of the run."""
    return tiny_config(**({"x_source": Annealed(until=1.0)} | changes))


CONFIGS = {"default": tiny_config, "wide": wide_config, "annealed": annealed_config}


class Memory:
    """A reporter that keeps all it is told.

    stop_after: reports, of which the last is answered with a stop; interrupt_after: how often
    `stopping` is asked before it says so; decide: the decision on each report.
    """

    def __init__(
        self,
        stop_after: int | None = None,
        interrupt_after: int | None = None,
        decide: Callable[[Report], bool] = lambda report: True,
    ) -> None:
        self.reports: list[Report] = []
        self.ticks: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.asked = 0
        self._stop_after, self._interrupt_after = stop_after, interrupt_after
        self._decide = decide

    def report(self, report: Report) -> bool:
        self.reports.append(report)
        go_on = self._stop_after is None or len(self.reports) < self._stop_after
        return go_on and self._decide(report)

    def tick(self, progress: dict[str, Any]) -> None:
        self.ticks.append(progress)

    def fault(self, cause: str, action: str) -> None:
        self.faults.append(f"{cause}; {action}")

    def stopping(self) -> bool:
        self.asked += 1
        return self._interrupt_after is not None and self.asked > self._interrupt_after


def flat(state: Any, prefix: str = "") -> dict[str, Tensor]:
    if isinstance(state, dict):
        return {k: v for key, x in state.items() for k, v in flat(x, f"{prefix}/{key}").items()}
    return {prefix: state} if isinstance(state, Tensor) else {}


def assert_same(run: Run, other: Run) -> None:
    mine, theirs = flat(run.state_dict()), flat(other.state_dict())
    assert mine.keys() == theirs.keys()
    assert len(mine) > 10
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name
