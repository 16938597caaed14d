"""The question that the studies share: whether a second-order share helps, all else equal."""

from typing import Any

from meanflow_tune.config import Question, StudentJump, TrialConfig
from meanflow_tune.losses import Exact, LossMix, Ramp, SecondOrder
from search_spaces._families import SECOND_ORDER_RAMP, SECOND_ORDER_SHARE


def without_second_order(config: TrialConfig) -> TrialConfig:
    """The others' shares grow to sum to 1; beta of the generalized identity becomes 0.

    Raises ValueError where no other loss is there.
    """
    losses = config.losses
    generalized = losses.generalized
    beta = generalized.beta if generalized is not None else 0.0
    if losses.second_order is None and beta == 0.0:
        return config
    shares = {name: loss for name, loss in losses.active.items() if name != "second_order"}
    if generalized is not None and beta != 0.0:
        shares["generalized"] = generalized.model_copy(update={"beta": 0.0})
    return _with_losses(config, shares, Exact(), losses.form if len(shares) > 1 else "mixed_target")


def including_second_order(config: TrialConfig) -> TrialConfig:
    """With SECOND_ORDER_SHARE of the target after a ramp, for which the others' shares make room."""
    losses = config.losses
    if without_second_order(config) != config:
        return config
    left = {
        name: loss.model_copy(update={"share": loss.share * (1.0 - SECOND_ORDER_SHARE)})
        for name, loss in losses.active.items()
    }
    ramp = Ramp(length=SECOND_ORDER_RAMP)
    second = {"second_order": SecondOrder(share=SECOND_ORDER_SHARE, ramp=ramp)}
    return _with_losses(config, left | second, losses.derivative, losses.form, total=1.0)


def _with_losses(
    config: TrialConfig,
    active: dict[str, Any],
    derivative: Any,
    form: str,
    total: float | None = None,
) -> TrialConfig:
    """`config` with these losses, each divided by `total` (their sum), and without settings that no
    longer have an effect."""
    total = sum(loss.share for loss in active.values()) if total is None else total
    shares = {
        name: loss.model_copy(update={"share": loss.share / total}) for name, loss in active.items()
    }
    losses = LossMix.model_validate(
        {"form": form, "clamp": config.losses.clamp, "derivative": derivative, **shares}
    )
    return TrialConfig.model_validate(
        dict(config)
        | {
            "losses": losses,
            "x_source": config.x_source if losses.looks_at_x_s else StudentJump(),
            "ds_schedule": config.ds_schedule if losses.differences else None,
        }
    )


QUESTION = Question(
    text="Does a second-order share help?",
    factor="a second-order share",
    without=without_second_order,
    including=including_second_order,
)
