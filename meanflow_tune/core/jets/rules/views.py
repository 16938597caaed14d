"""Rules for further views, and for copies and conversions of type and device.

An operator that gives a view of a tensor gives a view of a jet's storage [K, *shape], so that a write
into one is seen in the other.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from meanflow_tune.core.jets.errors import INTEGERS, UnsupportedOperator
from meanflow_tune.core.jets.jet import Jet, axes_of, axis, value_of
from meanflow_tune.core.jets.register import everywhere, register_rule
from meanflow_tune.core.jets.rules.shapes import (
    arranged,
    contiguous,
    moves,
    reshape,
)


@register_rule(*everywhere("narrow"))
@moves(torch.narrow)
def narrow(x: Jet, dim: int, start: Any, length: int) -> Jet:
    return Jet(x.parts.narrow(axis(dim), start, length))


@register_rule(*everywhere("select"))
@moves(torch.select)
def select(x: Jet, dim: int, index: int) -> Jet:
    return Jet(x.parts.select(axis(dim), index))


@register_rule(*everywhere("movedim", "moveaxis"))
@moves(torch.movedim)
def movedim(x: Jet, source: Any, destination: Any) -> Jet:
    def axes(dims: Any) -> Any:
        return tuple(map(axis, axes_of(dims)))

    return Jet(x.parts.movedim(axes(source), axes(destination)))


@register_rule(*everywhere("diagonal"))
@moves(torch.diagonal)
def diagonal(x: Jet, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Jet:
    return Jet(x.parts.diagonal(offset, axis(dim1), axis(dim2)))


@register_rule(torch.linalg.diagonal)
def diagonal_of_matrices(x: Jet, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Jet:
    return diagonal(x, offset, dim1, dim2)


@register_rule(*everywhere("unflatten"))
def unflatten(x: Jet, dim: int, sizes: Sequence[int]) -> Any:
    before, size, after = x.shape[:dim], x.shape[dim], x.shape[dim:][1:]
    known = math.prod(
        [n for n in sizes if n != -1]
    )  # not left to reshape, because a batch may be empty
    return reshape(x, *before, *(size // known if n == -1 else n for n in sizes), *after)


@register_rule(*everywhere("ravel"))
@moves(torch.ravel)
def ravel(x: Jet) -> Jet:
    return Jet(x.parts.flatten(1))


@register_rule(*everywhere("t"))
def t(x: Jet) -> Jet:
    if x.parts.dim() > 3:
        raise ValueError(f"t() needs at most 2 axes, but got {x.parts.dim() - 1}")
    return x.T  # type: ignore[no-any-return]


@register_rule(*everywhere("adjoint"))
def adjoint(x: Jet) -> Jet:
    return x.mT  # type: ignore[no-any-return]


@register_rule(Tensor.unfold)
@moves(Tensor.unfold)
def unfold(x: Jet, dimension: int, size: int, step: int) -> Jet:
    return Jet(x.parts.unfold(axis(dimension), size, step))


@register_rule(*everywhere("tensor_split"))
@moves(torch.tensor_split)
def tensor_split(x: Jet, parts: Any, dim: int = 0) -> tuple[Jet, ...]:
    return tuple(map(Jet, x.parts.tensor_split(parts, axis(dim))))


def _places(parts: tuple[Any, ...]) -> Any:
    """The number of parts, or where to split: (1, 2) and ((1, 2),) are the same places."""
    return parts[0] if len(parts) == 1 else parts


@register_rule(*everywhere("hsplit"))
def hsplit(x: Jet, *parts: Any) -> tuple[Jet, ...]:
    return tensor_split(x, _places(parts), 0 if x.parts.dim() == 2 else 1)


@register_rule(*everywhere("vsplit"))
def vsplit(x: Jet, *parts: Any) -> tuple[Jet, ...]:
    return tensor_split(x, _places(parts), 0)


@register_rule(*everywhere("dsplit"))
def dsplit(x: Jet, *parts: Any) -> tuple[Jet, ...]:
    return tensor_split(x, _places(parts), 2)


@register_rule(*everywhere("clone"))
def clone(x: Jet, *, memory_format: Any = torch.preserve_format) -> Jet:
    return arranged(torch.clone, x, memory_format)


@register_rule(*everywhere("detach"))
@moves(torch.detach)
def detach(x: Jet) -> Jet:
    """Cuts the graph of gradients but keeps the derivatives: the function of (x, t, s) is the same.

    So do `Tensor.data` and `torch.no_grad` in a network, as in forward-mode differentiation.
    """
    return Jet(x.parts.detach())


@register_rule(*everywhere("to"))
def to(x: Any, *where: Any, memory_format: Any = torch.preserve_format, **named: Any) -> Any:
    where = tuple(map(value_of, where))
    if "other" in named:
        named["other"] = value_of(named["other"])
    if not isinstance(x, Jet):
        return x.to(*where, memory_format=memory_format, **named)
    parts = _real(x.parts.to(*where, **named))
    return (
        Jet(parts)
        if memory_format in (None, torch.preserve_format)
        else contiguous(Jet(parts), memory_format=memory_format)
    )


def _real(parts: Tensor) -> Tensor:
    if not (parts.is_floating_point() or parts.is_complex()):
        raise UnsupportedOperator(f"the conversion of a jet to {parts.dtype}", INTEGERS)
    return parts


@register_rule(*everywhere("type"))
def type_(x: Jet, dtype: Any = None, non_blocking: bool = False) -> Any:
    if dtype is None:
        return x.parts.type()
    return Jet(_real(x.parts.type(dtype, non_blocking)))


@register_rule(*everywhere("type_as"))
def type_as(x: Any, other: Any) -> Any:
    return to(x, value_of(other).dtype)


def _converted(name: str) -> None:
    def rule(x: Jet, *options: Any, **named: Any) -> Jet:
        return Jet(getattr(x.parts, name)(*options, **named))

    register_rule(*everywhere(name))(rule)


for _name in ("float", "double", "half", "bfloat16", "cpu", "cuda"):
    _converted(_name)
