"""Does a share of the second-order identity improve few-step samples of a distilled student?

Shares of the mixed target: the second-order share has a sign and a logarithmic magnitude (with a
stop-gradient, errors of a degree above about 2/share grow); tri-consistency takes a fraction of what is
left, and backward and forward split the rest.
"""

from math import fsum
from typing import Any

from optuna import Trial

from meanflow_tune.config import (
    Annealed,
    StudentJump,
    TeacherOde,
    TrialConfig,
    Weighting,
    XSource,
    ramps_end,
)
from meanflow_tune.ds_schedules import (
    Constant,
    Cosine,
    Doubling,
    DsSchedule,
    Exponential,
    GapPower,
    Linear,
    Sigmoid,
)
from meanflow_tune.losses import LossMix, Solver, TriConsistency
from meanflow_tune.time_samplers import (
    BetaPairs,
    GapFirst,
    LogitNormal,
    LogitNormalPairs,
    SeparatePairs,
    TimeSampler,
    UniformPairs,
)
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


def parameters(family: Family, second_order: bool = False) -> dict[str, Any]:
    """The parameters of this space, but for the learning rate, at which it trains as `family` does."""
    sampler = family.time_sampler
    assert sampler.diagonal_at == "start"
    assert not family.discrete, "the parameters of tri-consistency are not written here"
    found: dict[str, Any] = {
        "loss/second_order/sign": int(second_order),
        "loss/tri_consistency/active": False,
        "loss/backward/fraction": family.backward,
        "time/diagonal_share": sampler.diagonal_share,
        "weighting/power": family.weighting.power,
        "weighting/epsilon": family.weighting.epsilon,
    }
    if second_order:
        found["loss/second_order/magnitude"] = SECOND_ORDER_SHARE
        found["loss/second_order/ramp"] = SECOND_ORDER_RAMP
    if second_order or family.forward:
        found["x_source/kind"] = "student_jump"
    if isinstance(sampler, LogitNormalPairs):
        found["time/family"] = "logit_normal"
        found |= {f"time/logit_normal/{name}": getattr(sampler, name) for name in ("mean", "std")}
    elif isinstance(sampler, SeparatePairs):
        start, end = sampler.start, sampler.end
        assert isinstance(start, LogitNormal)
        assert isinstance(end, LogitNormal)
        found["time/family"] = "separate"
        found |= {
            "time/separate/start_mean": start.mean,
            "time/separate/end_mean": end.mean,
            "time/separate/std": start.std,
        }
    return found


def _published(name: str, second_order: bool = False) -> dict[str, Any]:
    """The parameters of a family at the middle learning rate."""
    return parameters(RECIPES[name], second_order) | {"optimizer/learning_rate": RATES["mid"]}


BASELINES: dict[str, dict[str, Any]] = {
    # The strongest family by search_spaces/published.py, at three learning rates: MeanFlow on CIFAR-10,
    # arXiv 2505.13447, and py-meanflow v0.
    **at_three_rates(STRONGEST, parameters(RECIPES[STRONGEST])),
    # py-meanflow v1, its best on CIFAR-10, and the best here at one step.
    "meanflow_cifar10_v1": _published("meanflow_cifar10_v1"),
    # Both first-order identities, at the times of MeanFlow on CIFAR-10; nobody has published it.
    "backward_forward": _published("backward_forward"),
    # The question of this study, asked once regardless of the sampler; nobody has published it.
    f"{STRONGEST}_second_order": _published(STRONGEST, second_order=True),
}
FAMILIES = strongest_of(BASELINES)
SOURCES = sources_of(BASELINES)
# What is called better is better than the best of these.
REFERENCE = FAMILIES[STRONGEST]

RAMPS_END = ramps_end


def suggest(trial: Trial) -> TrialConfig:
    """A configuration in which every parameter asked for has an effect."""
    losses = _losses(trial)
    return TrialConfig(
        **FIXED,
        losses=losses,
        x_source=_x_source(trial) if losses.looks_at_x_s else StudentJump(),
        time_sampler=_time_sampler(trial),
        ds_schedule=_ds_schedule(trial) if losses.tri_consistency else None,
        weighting=Weighting(
            power=trial.suggest_float("weighting/power", 0.0, 1.0),
            epsilon=trial.suggest_float("weighting/epsilon", 1e-6, 1e-2, log=True),
        ),
        optimizer=optimizer(trial.suggest_float("optimizer/learning_rate", 1e-3, 1e-2, log=True)),
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
    mix = LossMix.mixture(
        **shares(second_order, tri_fraction, backward_fraction), second_order_ramp=ramp
    )
    if mix.tri_consistency is None:
        return mix
    split = trial.suggest_categorical("loss/tri_consistency/split", ["end", "start"])
    if split == "end":
        return mix
    start = TriConsistency(split="start", share=mix.tri_consistency.share)
    return mix.model_copy(update={"tri_consistency": start})


def _x_source(trial: Trial) -> XSource:
    kind = trial.suggest_categorical("x_source/kind", ["student_jump", "teacher_ode", "annealed"])
    if kind == "student_jump":
        return StudentJump()
    solver = Solver(method="heun", steps=trial.suggest_int("x_source/steps", 1, 3))
    if kind == "teacher_ode":
        return TeacherOde(solver=solver)
    return Annealed(solver=solver, until=trial.suggest_float("x_source/until", 0.1, 0.8))


def _time_sampler(trial: Trial) -> TimeSampler:
    # At the pair's start, as in the published MeanFlow codes.
    diagonal_share = trial.suggest_float("time/diagonal_share", 0.1, 0.75, log=True)
    family = trial.suggest_categorical(
        "time/family", ["uniform", "logit_normal", "separate", "beta", "gap_first"]
    )
    if family == "uniform":
        return UniformPairs(diagonal_share=diagonal_share)
    if family == "logit_normal":
        return LogitNormalPairs(
            mean=trial.suggest_float("time/logit_normal/mean", -0.5, 2.5),
            std=trial.suggest_float("time/logit_normal/std", 0.8, 2.2),
            diagonal_share=diagonal_share,
        )
    if family == "separate":
        std = trial.suggest_float("time/separate/std", 0.8, 2.2)
        start = trial.suggest_float("time/separate/start_mean", -1.0, 2.0)
        end = trial.suggest_float("time/separate/end_mean", 1.0, 5.0)
        return SeparatePairs(
            start=LogitNormal(mean=start, std=std),
            end=LogitNormal(mean=end, std=std),
            pairing="end_max",
            diagonal_share=diagonal_share,
        )
    a = trial.suggest_float(f"time/{family}/a", 0.5, 2.0, log=True)
    b = trial.suggest_float(f"time/{family}/b", 0.5, 2.0, log=True)
    if family == "beta":
        return BetaPairs(a=a, b=b, diagonal_share=diagonal_share)
    return GapFirst(a=a, b=b, diagonal_share=diagonal_share)


def _ds_schedule(trial: Trial) -> DsSchedule:
    family = trial.suggest_categorical(
        "ds/family",
        ["constant", "linear", "exponential", "cosine", "sigmoid", "doubling", "gap_power"],
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
    end = trial.suggest_float(f"ds/{family}/end", 3e-4, 0.1, log=True)
    if family == "linear":
        return Linear(start=start, end=end)
    if family == "exponential":
        return Exponential(start=start, end=end)
    if family == "cosine":
        return Cosine(start=start, end=end)
    return Sigmoid(start=start, end=end)
