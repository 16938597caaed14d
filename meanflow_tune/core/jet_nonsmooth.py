"""Rules for functions with kinks: exact wherever the derivatives exist, with one warning each.

A second-order target through them is what the network's derivatives are almost everywhere; the
curvature that sits in the kinks is not in it. `NonSmoothWarning` says so once per operator.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jet_elementwise import Derivatives, elementwise
from meanflow_tune.core.jet_errors import warn_of_kink
from meanflow_tune.core.jet_type import Jet, UnsupportedOperator, everywhere, register_rule
from meanflow_tune.core.jet_type import in_place as writing

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
    """x (x + 3) / 6 between -3 and 3; 0 before and x after."""
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


@piecewise(LINEAR, "abs", "absolute")
def absolute(x: Tensor, second: bool) -> Derivatives:
    if x.is_complex():
        raise UnsupportedOperator("abs of complex numbers", "write it out in real numbers")
    return _straight(x.abs(), x.sign(), second)


@piecewise(LINEAR, "clamp", "clip")
def clamp_numbers(
    x: Tensor, second: bool, min: float | None = None, max: float | None = None
) -> Derivatives:
    low, high = (-math.inf if min is None else min), (math.inf if max is None else max)
    return _straight(x.clamp(min, max), _between(x, low, high), second)


@piecewise(STEPS, "sign", "sgn")
def sign(x: Tensor, second: bool) -> Derivatives:
    return _straight(x.sign(), torch.zeros_like(x), second)


@piecewise(STEPS, "floor")
def floor(x: Tensor, second: bool) -> Derivatives:
    return _straight(x.floor(), torch.zeros_like(x), second)


@piecewise(STEPS, "ceil")
def ceil(x: Tensor, second: bool) -> Derivatives:
    return _straight(x.ceil(), torch.zeros_like(x), second)


@piecewise(STEPS, "round")
def rounded(x: Tensor, second: bool, *, decimals: int = 0) -> Derivatives:
    return _straight(x.round(decimals=decimals), torch.zeros_like(x), second)


@piecewise(STEPS, "trunc", "fix")
def trunc(x: Tensor, second: bool) -> Derivatives:
    return _straight(x.trunc(), torch.zeros_like(x), second)


@piecewise(LINEAR, "frac")
def frac(x: Tensor, second: bool) -> Derivatives:
    return _straight(x.frac(), torch.ones_like(x), second)


def _remainder(operator: Any, name: str) -> None:
    @piecewise(LINEAR, name)
    def rule(x: Tensor, second: bool, other: Any) -> Derivatives:
        if isinstance(other, Jet) or (isinstance(other, Tensor) and other.dim() > x.dim()):
            raise UnsupportedOperator(f"torch.{name} by more than a constant of no greater rank")
        f = operator(x, other)
        if f.shape != x.shape:
            raise UnsupportedOperator(f"torch.{name} that broadcasts its first operand")
        return _straight(f, torch.ones_like(x), second)


_remainder(torch.remainder, "remainder")
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
    if weight.numel() > 1:  # one a channel, which is axis 1
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


# --- choices of elements --------------------------------------------------------------------------

_CHOICE = "it chooses elements, so that its first derivative jumps where the choice changes"


def _pick(name: str, operator: Any) -> Callable[[Any, Any], Any]:
    def rule(x: Any, other: Any) -> Any:
        warn_of_kink(name, _CHOICE)
        return torch.where(operator(x, other), x, other)

    register_rule(*everywhere(name, f"f{name[:3]}"))(rule)
    return rule


minimum, maximum = _pick("minimum", torch.le), _pick("maximum", torch.ge)


@register_rule(*everywhere("clamp", "clip"))
def clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    if any(isinstance(bound, Jet | Tensor) for bound in (min, max)):
        warn_of_kink("clamp", LINEAR)
        x = x if min is None else torch.where(torch.ge(x, min), x, min)
        return x if max is None else torch.where(torch.le(x, max), x, max)
    return clamp_numbers(x, min, max)


@register_rule(*everywhere("clamp_min"))
def clamp_min(x: Any, min: Any) -> Any:
    return clamp(x, min=min)


@register_rule(*everywhere("clamp_max"))
def clamp_max(x: Any, max: Any) -> Any:
    return clamp(x, max=max)


for _rule, _name in ((clamp, "clamp"), (clamp, "clip"), (clamp_min, "clamp_min"),
                     (clamp_max, "clamp_max")):  # fmt: skip
    register_rule(*everywhere(f"{_name}_"))(writing(_rule))


def _gathered(x: Jet, indices: Tensor, dim: int) -> Jet:
    return Jet(torch.stack([part.gather(dim, indices) for part in x.parts]))


def _extreme(name: str) -> None:
    by_axis = getattr(torch, name)
    argument = getattr(torch, f"arg{name}", None)
    pick = {"max": maximum, "min": minimum}.get(name)

    def rule(x: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        other = dim if isinstance(dim, Tensor | Jet) else other
        if other is not None and pick is not None:
            return pick(x, other)
        warn_of_kink(name, _CHOICE)
        if dim is None:
            flat = x.reshape(-1)
            where = (
                by_axis(flat.parts[0], 0).indices if argument is None else argument(flat.parts[0])
            )
            return flat[where]
        value = x.parts[0]
        indices = by_axis(value, dim, True).indices
        values = _gathered(x, indices, dim) if value.dim() else x
        if not keepdim:
            values, indices = values.squeeze(dim), indices.squeeze(dim)
        return getattr(torch.return_types, name)((values, indices))

    register_rule(*everywhere(name))(rule)


for _name in ("max", "min", "median"):
    _extreme(_name)


def _extremes(name: str, whole: Any) -> None:
    """amax and amin: over several axes, without indices."""

    def rule(x: Jet, dim: Any = (), keepdim: bool = False) -> Jet:
        warn_of_kink(name, _CHOICE)
        parts, rank = x.parts, x.parts.dim() - 1
        dims = (dim,) if isinstance(dim, int) else tuple(dim)
        axes = [d % rank for d in dims] if dims else list(range(rank))
        kept = [d for d in range(rank) if d not in axes]
        flat = parts.permute(0, *(d + 1 for d in kept), *(d + 1 for d in axes)).flatten(
            len(kept) + 1
        )
        found = _gathered(Jet(flat), whole(flat[0], -1, True), -1).parts.squeeze(-1)
        if keepdim:
            for d in sorted(axes):
                found = found.unsqueeze(d + 1)
        return Jet(found)

    register_rule(*everywhere(name))(rule)


_extremes("amax", torch.argmax)
_extremes("amin", torch.argmin)


@register_rule(*everywhere("sort"))
def sort(x: Jet, dim: int = -1, descending: bool = False, *, stable: bool | None = None) -> Any:
    warn_of_kink("sort", _CHOICE)
    indices = torch.sort(x.parts[0], dim=dim, descending=descending, stable=bool(stable)).indices
    return torch.return_types.sort((_gathered(x, indices, dim), indices))  # type: ignore[arg-type]


@register_rule(*everywhere("topk"))
def topk(x: Jet, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    warn_of_kink("topk", _CHOICE)
    indices = torch.topk(x.parts[0], k, dim, largest, sorted).indices
    return torch.return_types.topk((_gathered(x, indices, dim), indices))  # type: ignore[arg-type]


def _max_pool(name: str, spatial: int) -> Callable[..., Any]:
    pooled = getattr(F, f"{name}_with_indices")

    def with_indices(x: Jet, *options: Any, **named: Any) -> tuple[Jet, Tensor]:
        warn_of_kink(name, _CHOICE)
        named.pop("return_indices", None)
        _, where = pooled(x.parts[0], *options, **named)
        flat = Jet(x.parts.flatten(-spatial))
        return Jet(
            _gathered(flat, where.flatten(-spatial), -1).parts.unflatten(-1, where.shape[-spatial:])
        ), where

    def alone(x: Jet, *options: Any, **named: Any) -> Any:
        both = with_indices(x, *options, **named)
        return both if named.get("return_indices") else both[0]

    register_rule(*everywhere(name))(alone)
    register_rule(pooled)(with_indices)
    return with_indices


for _spatial in (3, 2, 1):
    _max_pool(f"max_pool{_spatial}d", _spatial)
    _both = _max_pool(f"adaptive_max_pool{_spatial}d", _spatial)
# Unlike torch.max_pool1d and F.adaptive_max_pool1d, this one gives both.
register_rule(torch.adaptive_max_pool1d)(_both)
