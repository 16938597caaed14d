"""A space whose trials train in seconds: two-dimensional data, 16-wide networks."""

from typing import Any

from optuna import Trial

from meanflow_tune.config import Budget, Ema, Evaluation, Optimizer, TeacherConfig, TrialConfig
from meanflow_tune.data import EightGaussians
from meanflow_tune.losses import LossMix
from meanflow_tune.metrics import TeacherGap
from meanflow_tune.models import MLP
from meanflow_tune.time_samplers import UniformPairs

GOAL = "Show that the whole path works."
OBJECTIVE = "geometric_mean(teacher_gap@1,teacher_gap@2)"
NET = MLP(width=16, blocks=1, time_features=8, condition_width=16)

_BACKWARD: dict[str, Any] = {"loss/second_order/sign": 0, "loss/backward/fraction": 1.0}
BASELINES: dict[str, dict[str, Any]] = {
    "backward": _BACKWARD | {"optimizer/learning_rate": 3e-3},
    "backward_fast": _BACKWARD | {"optimizer/learning_rate": 1e-2},
}
REFERENCE = ("backward", "backward_fast")


def suggest(trial: Trial) -> TrialConfig:
    """A second-order share of either sign, the split of the rest, and the learning rate."""
    sign = trial.suggest_categorical("loss/second_order/sign", [-1, 0, 1])
    second = (
        sign * trial.suggest_float("loss/second_order/size", 1e-3, 0.3, log=True) if sign else 0.0
    )
    backward = trial.suggest_float("loss/backward/fraction", 0.0, 1.0) * (1.0 - second)
    losses = LossMix.mixture(
        backward=backward, forward=1.0 - second - backward, second_order=second
    )
    rate = trial.suggest_float("optimizer/learning_rate", 1e-3, 1e-2, log=True)
    return TrialConfig(
        data=EightGaussians(size=512, held_out=128),
        teacher=TeacherConfig(model=NET, budget=Budget(images=6400, global_batch=64)),
        model=NET,
        losses=losses,
        time_sampler=UniformPairs(),
        optimizer=Optimizer(learning_rate=rate),
        ema=Ema(half_life_images=500),
        budget=Budget(images=12_800, global_batch=64, rungs=(0.25, 0.5, 1.0)),
        evaluation=Evaluation(nfe=(1, 2), samples=64, metrics=(TeacherGap(),)),
    )
