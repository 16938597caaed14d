"""What the studies on the digits share: task, budget, objective and optimiser."""

from typing import Any

from meanflow_tune.config import Budget, Optimizer, TeacherConfig
from meanflow_tune.data import Digits
from meanflow_tune.models import MLP

GOAL = (
    "Find out whether a second-order share, of either sign, brings samples at 1, 2 and 4 function "
    "evaluations closer to the teacher's than the strongest published training without one."
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


def optimizer(learning_rate: float) -> Optimizer:
    """Adam without clipping, as in MeanFlow's code for CIFAR-10.

    A bound of 1 changes most steps where the power of the adaptive weight is 0.75 or 1, and hardly any
    below 0.5, so that it would be confounded with the power (docs/BENCHMARKS.md).
    """
    return Optimizer(learning_rate=learning_rate, clip_norm=None)
