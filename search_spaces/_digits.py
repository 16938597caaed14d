"""What three studies of the second-order target on the digits share: task, budget and baselines."""

from typing import Any

from meanflow_tune.config import Budget, Optimizer, TeacherConfig
from meanflow_tune.data import Digits
from meanflow_tune.models import MLP

GOAL = (
    "Find out whether a second-order share, of either sign, brings samples at 1, 2 and 4 function "
    "evaluations closer to the teacher's than the backward identity (MeanFlow) alone."
)
OBJECTIVE = "geometric_mean(teacher_gap@1,teacher_gap@2,teacher_gap@4)"

_MODEL = MLP(width=128, blocks=3)
# The settings of TrialConfig that these studies do not search.
FIXED: dict[str, Any] = {
    "data": Digits(),
    "teacher": TeacherConfig(
        model=_MODEL,
        optimizer=Optimizer(learning_rate=2e-3),
        budget=Budget(images=512_000, global_batch=128),
    ),
    "model": _MODEL,
    "student_init": "teacher",
    "budget": Budget(images=128_000, global_batch=128, rungs=(0.25, 0.5, 1.0)),
}

# Published settings of MeanFlow on CIFAR-10 (arXiv 2505.13447).
PUBLISHED: dict[str, Any] = {
    "time/diagonal_share": 0.25,
    "weighting/power": 0.75,
    "optimizer/learning_rate": 3e-3,
}
# Their times, with time reversed.
PUBLISHED_TIMES: dict[str, Any] = {"time/logit_normal/mean": 0.4, "time/logit_normal/std": 1.0}

# What proposed trials are compared with: backward MeanFlow at its best of three learning rates.
REFERENCE = ("backward_lr_low", "backward_lr_mid", "backward_lr_high")


def at_three_learning_rates(backward: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The baselines of REFERENCE: `backward` at its own learning rate, a lower and a higher one."""
    return {
        "backward_lr_mid": backward,
        "backward_lr_low": backward | {"optimizer/learning_rate": 1e-3},
        "backward_lr_high": backward | {"optimizer/learning_rate": 1e-2},
    }
