"""Rules for functions with kinks: exact wherever the derivatives exist.

A second-order target through them uses the derivatives that exist almost everywhere and misses the
curvature concentrated in the kinks. `NonSmoothWarning` says so once per operator.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jets.errors import UnsupportedOperator, warn_of_kink
from meanflow_tune.core.jets.jet import Jet
from meanflow_tune.core.jets.register import everywhere, register_rule
from meanflow_tune.core.jets.rules.elementwise import Derivatives, elementwise

LINEAR = (
    "it is linear in pieces, so that its own mixed derivative vanishes almost everywhere, and its "
    "first derivative jumps between the pieces"
)
BENT = "its first derivative is continuous almost everywhere only, and jumps at its kinks"
ONCE = "it is differentiable once, and its second derivative jumps"
STEPS = "it is constant in pieces, so that all its derivatives vanish almost everywhere"


def piecewise(why: str, *names: str) -> Callable[[Callable[..., Derivatives]], Callable[..., Jet]]:
    """As `elementwise`, for a function that is not smooth for the reason `why`."""

    def register(derivatives: Callable[..., Derivatives]) -> Callable[..., Jet]:
        @wraps(derivatives)
        def warned(x: Tensor, second: bool, *options: Any, **named: Any) -> Derivatives:
            warn_of_kink(names[0], why)
            return derivatives(x, second, *options, **named)

        return elementwise(*names)(warned)

    return register


def _between(x: Tensor, low: Any, high: Any) -> Tensor:
    """1 where low < x < high, else 0, in the type of x."""
    return torch.logical_and(x > low, x < high).to(x.dtype)


def _straight(f: Tensor, f1: Tensor, second: bool) -> Derivatives:
    return f, f1, torch.zeros_like(f) if second else None


@piecewise(LINEAR, "relu")
def relu(x: Tensor, second: bool) -> Derivatives:
    return _straight(x.relu(), (x > 0).to(x.dtype), second)


@piecewise(LINEAR, "leaky_relu")
def leaky_relu(x: Tensor, second: bool, negative_slope: float = 0.01) -> Derivatives:
    slope = torch.where(x > 0, 1.0, negative_slope).to(x.dtype)
    return _straight(x * slope, slope, second)


@piecewise(LINEAR, "relu6")
def relu6(x: Tensor, second: bool) -> Derivatives:
    return _straight(F.relu6(x), _between(x, 0, 6), second)


@piecewise(LINEAR, "hardtanh")
def hardtanh(x: Tensor, second: bool, min_val: float = -1.0, max_val: float = 1.0) -> Derivatives:
    return _straight(F.hardtanh(x, min_val, max_val), _between(x, min_val, max_val), second)


@piecewise(LINEAR, "hardsigmoid")
def hardsigmoid(x: Tensor, second: bool) -> Derivatives:
    return _straight(F.hardsigmoid(x), _between(x, -3, 3) / 6, second)


@piecewise(BENT, "hardswish")
def hardswish(x: Tensor, second: bool) -> Derivatives:
    """x (x + 3) / 6 between -3 and 3; 0 below and x above."""
    middle = _between(x, -3, 3)
    f1 = middle * (2 * x + 3) / 6 + (x >= 3).to(x.dtype)
    return F.hardswish(x), f1, middle / 3 if second else None


@piecewise(LINEAR, "hardshrink")
def hardshrink(x: Tensor, second: bool, lambd: float = 0.5) -> Derivatives:
    return _straight(F.hardshrink(x, lambd), (x.abs() > lambd).to(x.dtype), second)


@piecewise(LINEAR, "softshrink")
def softshrink(x: Tensor, second: bool, lambd: float = 0.5) -> Derivatives:
    return _straight(F.softshrink(x, lambd), (x.abs() > lambd).to(x.dtype), second)


@piecewise(LINEAR, "threshold")
def threshold(x: Tensor, second: bool, threshold: float, value: float) -> Derivatives:
    return _straight(F.threshold(x, threshold, value), (x > threshold).to(x.dtype), second)


@piecewise(LINEAR, "abs", "absolute", "__abs__")
def absolute(x: Tensor, second: bool) -> Derivatives:
    return _straight(x.abs(), x.sign(), second)


@register_rule(*everywhere("abs", "absolute", "__abs__"))
def magnitude(x: Jet) -> Any:
    if x.dtype.is_complex:
        return torch.linalg.vector_norm(torch.view_as_real(x), dim=-1)  # type: ignore[arg-type]
    return absolute(x)


@piecewise(LINEAR, "clamp", "clip")
def clamp_numbers(
    x: Tensor, second: bool, min: float | None = None, max: float | None = None
) -> Derivatives:
    low, high = (-math.inf if min is None else min), (math.inf if max is None else max)
    return _straight(x.clamp(min, max), _between(x, low, high), second)


def _of_slope(slope: float, kink: str, operator: Callable[[Tensor], Tensor], *names: str) -> None:
    @piecewise(kink, *names)
    def rule(x: Tensor, second: bool) -> Derivatives:
        return _straight(operator(x), torch.full_like(x, slope), second)


_of_slope(0.0, STEPS, torch.sign, "sign", "sgn")
_of_slope(0.0, STEPS, torch.floor, "floor")
_of_slope(0.0, STEPS, torch.ceil, "ceil")
_of_slope(0.0, STEPS, torch.trunc, "trunc", "fix")
_of_slope(1.0, LINEAR, torch.frac, "frac")


@piecewise(STEPS, "round")
def rounded(x: Tensor, second: bool, *, decimals: int = 0) -> Derivatives:
    return _straight(x.round(decimals=decimals), torch.zeros_like(x), second)


def _remainder(operator: Any, name: str, *more: str) -> None:
    @piecewise(LINEAR, name, *more)
    def rule(x: Tensor, second: bool, other: Any) -> Derivatives:
        if isinstance(other, Jet) or (isinstance(other, Tensor) and other.dim() > x.dim()):
            raise UnsupportedOperator(f"torch.{name} by more than a constant of no greater rank")
        f = operator(x, other)
        if f.shape != x.shape:
            raise UnsupportedOperator(f"torch.{name} that broadcasts its first operand")
        return _straight(f, torch.ones_like(x), second)


_remainder(torch.remainder, "remainder", "__mod__")
_remainder(torch.fmod, "fmod")


@piecewise(ONCE, "softsign")
def softsign(x: Tensor, second: bool) -> Derivatives:
    d = 1 / (1 + x.abs())
    return x * d, d * d, -2 * x.sign() * d**3 if second else None


def _elu(
    x: Tensor, second: bool, alpha: float, scale: float = 1.0, rate: float = 1.0
) -> Derivatives:
    """scale · x for x > 0, else scale · alpha (exp(rate x) - 1)."""
    above = x > 0
    low = torch.where(above, 0.0, x * rate)
    bent = scale * alpha * low.exp()
    f = torch.where(above, scale * x, scale * alpha * low.expm1())
    f2 = torch.where(above, 0.0, bent * rate * rate) if second else None
    return f, torch.where(above, scale, bent * rate), f2


@piecewise(f"{ONCE} at 0 (with alpha other than 1 the first one does)", "elu")
def elu(x: Tensor, second: bool, alpha: float = 1.0) -> Derivatives:
    return _elu(x, second, alpha)


@piecewise(f"{ONCE} at 0", "celu")
def celu(x: Tensor, second: bool, alpha: float = 1.0) -> Derivatives:
    return _elu(x, second, alpha, rate=1 / alpha)


@piecewise("its first derivative jumps at 0 from 1.76 to 1.05", "selu")
def selu(x: Tensor, second: bool) -> Derivatives:
    return _elu(x, second, 1.6732632423543772, scale=1.0507009873554805)


@register_rule(*everywhere("prelu"))
def prelu(x: Jet, weight: Tensor) -> Jet:
    if isinstance(weight, Jet) or not isinstance(x, Jet):
        raise UnsupportedOperator("prelu with derivatives of its weight")
    warn_of_kink("prelu", LINEAR)
    if weight.numel() > 1:  # one per channel, which is axis 1
        weight = weight.reshape(-1, *[1] * (x.parts.dim() - 3))
    return Jet(x.parts * torch.where(x.parts[0] > 0, 1.0, weight))


@register_rule(*everywhere("rrelu"))
def rrelu(
    x: Jet,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
    generator: Any = None,
) -> Jet:
    if training:
        raise UnsupportedOperator(
            "rrelu in training mode", "call eval() on it: its slope is random"
        )
    return leaky_relu(x, (lower + upper) / 2, inplace=inplace)
