"""The question of second_order.py in numbers alone, for samplers that model no conditions (gp, cmaes).

Every parameter is a number, is asked for in every trial, and has an effect in every draw. Therefore
the second-order share is one signed number, its ramp is fixed, tri-consistency is left out, times are
logit-normal, and x_s comes from the student.
"""

from typing import Any

from optuna import Trial

from meanflow_tune.config import TrialConfig, Weighting, ramps_end
from meanflow_tune.losses import LossMix
from meanflow_tune.time_samplers import LogitNormalPairs
from search_spaces._digits import FIXED, GOAL, OBJECTIVE, optimizer
from search_spaces._families import FAMILIES as RECIPES
from search_spaces._families import (
    RATES,
    SECOND_ORDER_RAMP,
    SECOND_ORDER_SHARE,
    STRONGEST,
    Family,
    at_three_rates,
    sources_of,
    strongest_of,
)
from search_spaces._question import QUESTION

__all__ = [
    "BASELINES",
    "FAMILIES",
    "GOAL",
    "OBJECTIVE",
    "QUESTION",
    "RAMPS_END",
    "REFERENCE",
    "SOURCES",
    "suggest",
]

LARGEST_SHARE = 0.5


def parameters(family: Family, root: float = 0.0) -> dict[str, Any]:
    """The parameters of this space, but for the learning rate, at which it trains as `family` does."""
    sampler = family.time_sampler
    assert isinstance(sampler, LogitNormalPairs)
    assert sampler.diagonal_at == "start"
    assert not family.discrete, "this space has no tri-consistency"
    return {
        "loss/second_order/root": root,
        "loss/backward/fraction": family.backward,
        "time/logit_normal/mean": sampler.mean,
        "time/logit_normal/std": sampler.std,
        "time/diagonal_share": sampler.diagonal_share,
        "weighting/power": family.weighting.power,
        "weighting/epsilon": family.weighting.epsilon,
    }


_MID = {"optimizer/learning_rate": RATES["mid"]}
BASELINES: dict[str, dict[str, Any]] = {
    **at_three_rates(STRONGEST, parameters(RECIPES[STRONGEST])),
    "backward_forward": parameters(RECIPES["backward_forward"]) | _MID,
    # Asked for once regardless of the sampler.
    f"{STRONGEST}_second_order": parameters(
        RECIPES[STRONGEST], root=(SECOND_ORDER_SHARE / LARGEST_SHARE) ** (1 / 3)
    )
    | _MID,
}
FAMILIES = strongest_of(BASELINES)
SOURCES = sources_of(BASELINES)
REFERENCE = FAMILIES[STRONGEST]

RAMPS_END = ramps_end


def suggest(trial: Trial) -> TrialConfig:
    """A configuration of the eight parameters."""
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
            second_order_ramp=SECOND_ORDER_RAMP,  # as a parameter it would have no effect without a share
        ),
        time_sampler=LogitNormalPairs(
            mean=trial.suggest_float("time/logit_normal/mean", -0.5, 2.5),
            std=trial.suggest_float("time/logit_normal/std", 0.8, 2.2),
            diagonal_share=trial.suggest_float("time/diagonal_share", 0.1, 0.75, log=True),
        ),
        weighting=Weighting(
            power=trial.suggest_float("weighting/power", 0.0, 1.0),
            epsilon=trial.suggest_float("weighting/epsilon", 1e-6, 1e-2, log=True),
        ),
        optimizer=optimizer(trial.suggest_float("optimizer/learning_rate", 1e-3, 1e-2, log=True)),
    )


def second_order_share(root: float) -> float:
    """Its sign kept and its magnitude stretched near 0: 0.1 gives 0.0005, 0.5 gives 1/16, 1 gives 1/2."""
    return LARGEST_SHARE * root**3
