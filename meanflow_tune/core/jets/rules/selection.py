"""Rules for comparisons and for the selection of elements: extrema, clamping, sorting, max pooling.

The derivatives are those of the selected elements, which is exact except where the selection changes.
A comparison depends on values only and has no derivative.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jets.errors import warn_of_kink
from meanflow_tune.core.jets.jet import (
    Jet,
    align,
    axes_of,
    components_of,
    lift,
    lift_apart,
    value_of,
)
from meanflow_tune.core.jets.register import everywhere, in_place, register_rule
from meanflow_tune.core.jets.rules.nonsmooth import LINEAR, clamp_numbers

_CHOICE = "it chooses elements, so that its first derivative jumps where the choice changes"


@register_rule(torch.where)
def where(condition: Tensor, x: Any, y: Any) -> Jet:
    condition = value_of(condition)
    if any(isinstance(z, Jet) and z.apart for z in (x, y)):
        return Jet.of([torch.where(condition, a, b) for a, b in lift_apart((x, y))])
    count, like = components_of((x, y))
    a, b = lift(x, count, like), lift(y, count, like)
    rank = max(a.dim() - 1, b.dim() - 1, condition.dim())
    return Jet(torch.where(condition, align(a, rank), align(b, rank)))


@register_rule(Tensor.where)
def where_of(x: Any, condition: Tensor, other: Any) -> Jet:
    return where(condition, x, other)


@register_rule(*everywhere("masked_fill"))
def masked_fill(x: Jet, mask: Tensor, value: Any) -> Jet:
    return where(mask, value.to(x.parts.dtype) if isinstance(value, Tensor) else value, x)


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


for _rule, _names in (
    (masked_fill, "masked_fill_"),
    (clamp, "clamp_ clip_"),
    (clamp_min, "clamp_min_"),
    (clamp_max, "clamp_max_"),
):
    register_rule(*everywhere(*_names.split()))(in_place(_rule))


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
        dims = axes_of(dim)
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
        flat = _gathered(Jet(x.parts.flatten(-spatial)), where.flatten(-spatial), -1).parts
        return Jet(flat.reshape(*flat.shape[:-1], *where.shape[-spatial:])), where

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


def _of_values(operator: Any) -> None:
    """Registers an operator of values only, which has no derivative, such as a comparison."""

    def rule(*operands: Any, **named: Any) -> Any:
        return operator(*map(value_of, operands), **named)

    register_rule(operator)(rule)


_VALUES_ONLY = (
    "rand_like randn_like is_floating_point is_complex numel is_same_size is_nonzero "
    "is_signed eq ne lt le gt ge not_equal less less_equal greater greater_equal __eq__ __ne__ "
    "__lt__ __le__ __gt__ __ge__ isnan isinf isfinite isneginf isposinf isreal signbit isclose equal "
    "allclose logical_not logical_and logical_or logical_xor any all count_nonzero nonzero argwhere "
    "argmax argmin argsort result_type"
)
for _operator in everywhere(*_VALUES_ONLY.split()):
    _of_values(_operator)
