"""The question of second_order.py in numbers alone, for samplers that model no conditions (gp, cmaes).

Every parameter is a number, is asked for in every trial, and has an effect in every draw. What that
takes: the second-order share is one number with a sign, its ramp is fixed, tri-consistency is left
out, times are logit-normal, and x_s comes from the student.
"""

from typing import Any

from optuna import Trial

from meanflow_tune.config import Budget, Optimizer, TeacherConfig, TrialConfig, Weighting
from meanflow_tune.data import Digits
from meanflow_tune.losses import LossMix
from meanflow_tune.models import MLP
from meanflow_tune.time_samplers import LogitNormalPairs

GOAL = (
    "Find out whether a second-order share, of either sign, brings samples at 1, 2 and 4 function "
    "evaluations closer to the teacher's than the backward identity (MeanFlow) alone."
)
OBJECTIVE = "geometric_mean(teacher_gap@1,teacher_gap@2,teacher_gap@4)"

DATA = Digits()
MODEL = MLP(width=128, blocks=3)
TEACHER = TeacherConfig(
    model=MODEL,
    optimizer=Optimizer(learning_rate=2e-3),
    budget=Budget(images=512_000, global_batch=128),
)
BUDGET = Budget(images=128_000, global_batch=128, rungs=(0.25, 0.5, 1.0))

LARGEST_SHARE = 0.5
RAMP = (
    0.3  # progress over which the second-order share rises; without a share it would have no effect
)

# Published settings of MeanFlow on CIFAR-10 (arXiv 2505.13447), with time reversed.
_PUBLISHED: dict[str, Any] = {
    "loss/second_order/root": 0.0,
    "time/diagonal_share": 0.25,
    "time/logit_normal/mean": 0.4,
    "time/logit_normal/std": 1.0,
    "optimizer/learning_rate": 3e-3,
    "weighting/power": 0.75,
}
_BACKWARD = _PUBLISHED | {"loss/backward/fraction": 1.0}

BASELINES: dict[str, dict[str, Any]] = {
    "backward_lr_mid": _BACKWARD,
    "backward_lr_low": _BACKWARD | {"optimizer/learning_rate": 1e-3},
    "backward_lr_high": _BACKWARD | {"optimizer/learning_rate": 1e-2},
    "forward": _PUBLISHED | {"loss/backward/fraction": 0.0},
    "backward_forward": _PUBLISHED | {"loss/backward/fraction": 0.5},
    # A share of 0.1, asked for once without leaving it to the sampler.
    "second_order": _PUBLISHED
    | {"loss/backward/fraction": 0.5, "loss/second_order/root": 0.2 ** (1 / 3)},
}

# What proposed trials are compared with: backward MeanFlow at its best of three learning rates.
REFERENCE = ("backward_lr_low", "backward_lr_mid", "backward_lr_high")


def suggest(trial: Trial) -> TrialConfig:
    """A configuration of the seven parameters."""
    second_order = second_order_share(trial.suggest_float("loss/second_order/root", -1.0, 1.0))
    part = trial.suggest_float("loss/backward/fraction", 0.0, 1.0)
    backward = part * (1.0 - second_order)
    # The larger part is the remainder: rounding is not left to a share that should be 0.
    forward = (1.0 - part) * (1.0 - second_order)
    if part >= 0.5:
        backward = 1.0 - second_order - forward
    else:
        forward = 1.0 - second_order - backward
    return TrialConfig(
        data=DATA,
        teacher=TEACHER,
        model=MODEL,
        student_init="teacher",
        losses=LossMix.mixture(
            backward=backward,
            forward=forward,
            second_order=second_order,
            second_order_ramp=RAMP,
        ),
        time_sampler=LogitNormalPairs(
            mean=trial.suggest_float("time/logit_normal/mean", -0.5, 1.0),
            std=trial.suggest_float("time/logit_normal/std", 0.8, 2.0),
            diagonal_share=trial.suggest_float("time/diagonal_share", 0.1, 0.5),
        ),
        weighting=Weighting(power=trial.suggest_float("weighting/power", 0.0, 1.0)),
        optimizer=Optimizer(
            learning_rate=trial.suggest_float("optimizer/learning_rate", 1e-3, 1e-2, log=True)
        ),
        budget=BUDGET,
    )


def second_order_share(root: float) -> float:
    """Its sign kept and its magnitude stretched near 0: 0.1 gives 0.0005, 0.5 gives 1/16, 1 gives 1/2."""
    return LARGEST_SHARE * root**3
