"""Fixed-step integration of dx/dt = v(x, t) with a start and an end time per sample."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from meanflow_tune.core.types import expand_as

Field = Callable[[Tensor, Tensor], Tensor]
Method = Literal["euler", "heun", "rk4"]


def integrate(
    velocity: Field,
    x: Tensor,
    start: Tensor | float,
    end: Tensor | float,
    steps: int,
    method: Method,
) -> Tensor:
    """x at time `end`, from x [B, *D] at `start`, by `steps` equal steps of `method`.

    velocity: (x [B, *D], t [B]) -> [B, *D]; start, end: [B], or one number for all; end < start
    goes back in time. Order 1 (euler, one evaluation per step), 2 (heun, two) or 4 (rk4, four). No
    evaluation leaves the interval. Raises ValueError for steps < 1 and for an unknown method.
    """
    if steps < 1:
        raise ValueError(f"`steps >= 1` must hold, but got ({steps=}).")
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, but got {method!r}.")
    advance = _METHODS[method]
    first, last = _times(start, x), _times(end, x)
    step = expand_as(last - first, x) / steps
    half = 0.5 / steps
    time = first
    for index in range(steps):
        # Interpolated, not accumulated: the last time is `end` to the bit.
        middle = torch.lerp(first, last, index / steps + half)
        following = torch.lerp(first, last, (index + 1) / steps)
        x = advance(velocity, x, step, (time, middle, following))
        time = following
    return x


def node_times(start: Tensor, end: Tensor, steps: int, method: Method) -> list[Tensor]:
    """The times [B] at which `integrate` evaluates its velocity, in their order."""
    found: list[Tensor] = []

    def note(x: Tensor, t: Tensor) -> Tensor:
        found.append(t)
        return x

    integrate(note, torch.zeros_like(start), start, end, steps, method)
    return found


_Nodes = tuple[Tensor, Tensor, Tensor]


def _euler(velocity: Field, x: Tensor, step: Tensor, times: _Nodes) -> Tensor:
    return x + step * velocity(x, times[0])


def _heun(velocity: Field, x: Tensor, step: Tensor, times: _Nodes) -> Tensor:
    first = velocity(x, times[0])
    second = velocity(x + step * first, times[2])
    return x + 0.5 * step * (first + second)


def _rk4(velocity: Field, x: Tensor, step: Tensor, times: _Nodes) -> Tensor:
    start, middle, end = times
    k1 = velocity(x, start)
    k2 = velocity(x + 0.5 * step * k1, middle)
    k3 = velocity(x + 0.5 * step * k2, middle)
    k4 = velocity(x + step * k3, end)
    return x + step / 6.0 * (k1 + 2.0 * (k2 + k3) + k4)


_METHODS = {"euler": _euler, "heun": _heun, "rk4": _rk4}


def _times(time: Tensor | float, x: Tensor) -> Tensor:
    """A time as [B] on the device of x; a tensor keeps its type, a number takes that of x."""
    if isinstance(time, Tensor):
        if time.shape != x.shape[:1]:
            raise ValueError(
                f"times must have shape {tuple(x.shape[:1])}, one for each sample, "
                f"but got {tuple(time.shape)}."
            )
        return time
    return torch.full(x.shape[:1], time, dtype=x.dtype, device=x.device)
