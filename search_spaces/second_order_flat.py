"""The question of second_order.py in numbers alone, for samplers that model no conditions (gp, cmaes).

Every parameter is a number, is asked for in every trial, and has an effect in every draw. Therefore
the second-order share is one signed number, its ramp is fixed, tri-consistency is left out, times are
logit-normal, and x_s comes from the student.
"""

from typing import Any

from optuna import Trial

from meanflow_tune.config import Optimizer, TrialConfig, Weighting
from meanflow_tune.losses import LossMix
from meanflow_tune.time_samplers import LogitNormalPairs
from search_spaces._digits import (
    FIXED,
    GOAL,
    OBJECTIVE,
    PUBLISHED,
    PUBLISHED_TIMES,
    REFERENCE,
    at_three_learning_rates,
)

__all__ = ["BASELINES", "GOAL", "OBJECTIVE", "REFERENCE", "suggest"]

LARGEST_SHARE = 0.5
# Progress over which the second-order share rises: as a parameter it would have no effect without one.
RAMP = 0.3

_PUBLISHED: dict[str, Any] = {"loss/second_order/root": 0.0, **PUBLISHED_TIMES, **PUBLISHED}

BASELINES: dict[str, dict[str, Any]] = {
    **at_three_learning_rates(_PUBLISHED | {"loss/backward/fraction": 1.0}),
    "forward": _PUBLISHED | {"loss/backward/fraction": 0.0},
    "backward_forward": _PUBLISHED | {"loss/backward/fraction": 0.5},
    # A share of 0.1, asked for once regardless of the sampler.
    "second_order": _PUBLISHED
    | {"loss/backward/fraction": 0.5, "loss/second_order/root": 0.2 ** (1 / 3)},
}


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
        **FIXED,
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
    )


def second_order_share(root: float) -> float:
    """Its sign kept and its magnitude stretched near 0: 0.1 gives 0.0005, 0.5 gives 1/16, 1 gives 1/2."""
    return LARGEST_SHARE * root**3
