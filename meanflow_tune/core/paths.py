"""The training path between noise and data, x_t = (1 - t) x_0 + t x_1."""

from torch import Tensor

from meanflow_tune.core.types import PathSample, TimePair, expand_as


def linear_path(x_0: Tensor, x_1: Tensor, times: TimePair, label: Tensor | None) -> PathSample:
    """x_t = (1 - t) x_0 + t x_1 with the conditional velocity v_t = x_1 - x_0.

    x_0 (noise), x_1 (data): [B, *D]; label: [B] int64, or None. Raises ValueError on other shapes,
    since broadcasting would pair the wrong samples silently.
    """
    if x_0.shape != x_1.shape:
        raise ValueError(
            "`x_0.shape == x_1.shape` must hold, "
            f"but got {tuple(x_0.shape)} and {tuple(x_1.shape)}."
        )
    for name, each in (("t", times.t), ("s", times.s), ("label", label)):
        if each is not None and each.shape != x_0.shape[:1]:
            raise ValueError(
                f"{name} must have shape {tuple(x_0.shape[:1])}, one for each sample of x_0, "
                f"but got {tuple(each.shape)}."
            )
    t = expand_as(times.t, x_0)
    x_t = (1.0 - t) * x_0 + t * x_1
    return PathSample(x_0, x_1, x_t, x_1 - x_0, times.t, times.s, label)
