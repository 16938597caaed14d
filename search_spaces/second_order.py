"""Does a share of the second-order identity improve few-step samples of a distilled student?

Shares of the mixed target: the second-order share has a sign and a logarithmic magnitude (with a
stop-gradient it is stable below a degree that falls as 1/share, a smoothness cut-off);
tri-consistency takes a fraction of what is left, and backward and forward split the rest.
"""

from math import fsum
from typing import Any

from optuna import Trial

from meanflow_tune.config import (
    Annealed,
    Optimizer,
    StudentJump,
    TeacherOde,
    TrialConfig,
    Weighting,
    XSource,
)
from meanflow_tune.ds_schedules import (
    Constant,
    Cosine,
    Doubling,
    DsSchedule,
    Exponential,
    GapPower,
    Sigmoid,
)
from meanflow_tune.losses import LossMix, Solver
from meanflow_tune.time_samplers import (
    BetaPairs,
    GapFirst,
    LogitNormalPairs,
    TimeSampler,
    UniformPairs,
)
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

_PUBLISHED: dict[str, Any] = {
    "loss/second_order/sign": 0,
    "loss/tri_consistency/active": False,
    "time/family": "logit_normal",
    **PUBLISHED_TIMES,
    **PUBLISHED,
}
# Target inputs that depend on the source of x_s (or x_{s-ds}).
_NEED_X_S = {"v_s", "ode_velocity"}
_JUMP = {"x_source/kind": "student_jump"}

BASELINES: dict[str, dict[str, Any]] = {
    **at_three_learning_rates(_PUBLISHED | {"loss/backward/fraction": 1.0}),
    "forward": _PUBLISHED | _JUMP | {"loss/backward/fraction": 0.0},
    "backward_forward": _PUBLISHED | _JUMP | {"loss/backward/fraction": 0.5},
    # The question of this study, asked once regardless of the sampler.
    "second_order": _PUBLISHED
    | _JUMP
    | {
        "loss/backward/fraction": 0.5,
        "loss/second_order/sign": 1,
        "loss/second_order/magnitude": 0.1,
        "loss/second_order/ramp": 0.3,
    },
}


def suggest(trial: Trial) -> TrialConfig:
    """A configuration in which every parameter asked for has an effect."""
    losses = _losses(trial)
    return TrialConfig(
        **FIXED,
        losses=losses,
        x_source=_x_source(trial) if losses.needs & _NEED_X_S else StudentJump(),
        time_sampler=_time_sampler(trial),
        ds_schedule=_ds_schedule(trial) if losses.tri_consistency else None,
        weighting=Weighting(power=trial.suggest_float("weighting/power", 0.0, 1.0)),
        optimizer=Optimizer(
            learning_rate=trial.suggest_float("optimizer/learning_rate", 1e-3, 1e-2, log=True)
        ),
    )


def shares(second_order: float, tri_fraction: float, backward_fraction: float) -> dict[str, float]:
    """Shares that sum to 1: tri_fraction of what second_order leaves, the rest split in two."""
    left = 1.0 - second_order
    tri_consistency = tri_fraction * left
    rest = left - tri_consistency
    # The larger part is the remainder: rounding is not left to a share that should be 0.
    if backward_fraction >= 0.5:
        forward = (1.0 - backward_fraction) * rest
        backward = 1.0 - fsum((second_order, tri_consistency, forward))
    else:
        backward = backward_fraction * rest
        forward = 1.0 - fsum((second_order, tri_consistency, backward))
    return {
        "backward": backward,
        "forward": forward,
        "second_order": second_order,
        "tri_consistency": tri_consistency,
    }


def _losses(trial: Trial) -> LossMix:
    second_order, ramp, tri_fraction = 0.0, 0.0, 0.0
    sign = trial.suggest_categorical("loss/second_order/sign", [-1, 0, 1])
    if sign != 0:
        second_order = sign * trial.suggest_float(
            "loss/second_order/magnitude", 1e-3, 0.5, log=True
        )
        ramp = trial.suggest_float("loss/second_order/ramp", 0.0, 0.6)
    if trial.suggest_categorical("loss/tri_consistency/active", [False, True]):
        tri_fraction = trial.suggest_float("loss/tri_consistency/fraction", 0.05, 0.5)
    backward_fraction = trial.suggest_float("loss/backward/fraction", 0.0, 1.0)
    return LossMix.mixture(
        **shares(second_order, tri_fraction, backward_fraction), second_order_ramp=ramp
    )


def _x_source(trial: Trial) -> XSource:
    kind = trial.suggest_categorical("x_source/kind", ["student_jump", "teacher_ode", "annealed"])
    if kind == "student_jump":
        return StudentJump()
    solver = Solver(method="heun", steps=trial.suggest_int("x_source/steps", 1, 3))
    if kind == "teacher_ode":
        return TeacherOde(solver=solver)
    return Annealed(solver=solver, until=trial.suggest_float("x_source/until", 0.1, 0.8))


def _time_sampler(trial: Trial) -> TimeSampler:
    diagonal_share = trial.suggest_float("time/diagonal_share", 0.1, 0.5)
    family = trial.suggest_categorical(
        "time/family", ["uniform", "logit_normal", "beta", "gap_first"]
    )
    if family == "uniform":
        return UniformPairs(diagonal_share=diagonal_share)
    if family == "logit_normal":
        return LogitNormalPairs(
            mean=trial.suggest_float("time/logit_normal/mean", -0.5, 1.0),
            std=trial.suggest_float("time/logit_normal/std", 0.8, 2.0),
            diagonal_share=diagonal_share,
        )
    a = trial.suggest_float(f"time/{family}/a", 0.5, 2.0, log=True)
    b = trial.suggest_float(f"time/{family}/b", 0.5, 2.0, log=True)
    if family == "beta":
        return BetaPairs(a=a, b=b, diagonal_share=diagonal_share)
    return GapFirst(a=a, b=b, diagonal_share=diagonal_share)


def _ds_schedule(trial: Trial) -> DsSchedule:
    family = trial.suggest_categorical(
        "ds/family", ["constant", "exponential", "cosine", "sigmoid", "doubling", "gap_power"]
    )
    if family == "constant":
        return Constant(value=trial.suggest_float("ds/constant/value", 1e-2, 0.5, log=True))
    if family == "doubling":
        return Doubling(
            start_intervals=trial.suggest_int("ds/doubling/start_intervals", 2, 16, log=True),
            end_intervals=trial.suggest_int("ds/doubling/end_intervals", 32, 1280, log=True),
        )
    if family == "gap_power":
        return GapPower(
            scale=trial.suggest_float("ds/gap_power/scale", 1e-2, 1.0, log=True),
            power=trial.suggest_float("ds/gap_power/power", 0.1, 2.0),
        )
    start = trial.suggest_float(f"ds/{family}/start", 0.1, 1.0, log=True)
    end = trial.suggest_float(f"ds/{family}/end", 1e-3, 0.1, log=True)
    if family == "exponential":
        return Exponential(start=start, end=end)
    if family == "cosine":
        return Cosine(start=start, end=end)
    return Sigmoid(start=start, end=end)
