"""Rules for views, copies, types and writing into elements: what moves or stores numbers.

An operator that gives a view of a tensor gives a view of a jet's storage [K, *shape], so that what
is written into the one is seen in the other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from meanflow_tune.core.jet_errors import INTEGERS, UnsupportedOperator
from meanflow_tune.core.jet_functions import addcdiv
from meanflow_tune.core.jet_layers import addmm
from meanflow_tune.core.jet_products import addbmm, addmv, addr
from meanflow_tune.core.jet_shapes import (
    cat,
    expand,
    squeeze,
    transpose,
    unsqueeze,
)
from meanflow_tune.core.jet_type import (
    Jet,
    axis,
    broadcast,
    components_of,
    everywhere,
    in_place,
    lift,
    register_rule,
    value_of,
)

# --- views ----------------------------------------------------------------------------------------


@register_rule(*everywhere("narrow"))
def narrow(x: Jet, dim: int, start: Any, length: int) -> Jet:
    return Jet(x.parts.narrow(axis(dim), start, length))


@register_rule(*everywhere("select"))
def select(x: Jet, dim: int, index: int) -> Jet:
    return Jet(x.parts.select(axis(dim), index))


@register_rule(*everywhere("movedim", "moveaxis"))
def movedim(x: Jet, source: Any, destination: Any) -> Jet:
    def axes(dims: Any) -> Any:
        return axis(dims) if isinstance(dims, int) else tuple(map(axis, dims))

    return Jet(x.parts.movedim(axes(source), axes(destination)))


@register_rule(*everywhere("diagonal"))
def diagonal(x: Jet, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Jet:
    return Jet(x.parts.diagonal(offset, axis(dim1), axis(dim2)))


@register_rule(torch.linalg.diagonal)
def diagonal_of_matrices(x: Jet, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Jet:
    return diagonal(x, offset, dim1, dim2)


@register_rule(*everywhere("unflatten"))
def unflatten(x: Jet, dim: int, sizes: Any) -> Jet:
    return Jet(x.parts.unflatten(axis(dim), sizes))  # type: ignore[no-untyped-call]


@register_rule(*everywhere("ravel"))
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
def unfold(x: Jet, dimension: int, size: int, step: int) -> Jet:
    return Jet(x.parts.unfold(axis(dimension), size, step))


@register_rule(*everywhere("tensor_split"))
def tensor_split(x: Jet, parts: Any, dim: int = 0) -> tuple[Jet, ...]:
    return tuple(map(Jet, x.parts.tensor_split(parts, axis(dim))))


@register_rule(*everywhere("hsplit"))
def hsplit(x: Jet, parts: Any) -> tuple[Jet, ...]:
    return tensor_split(x, parts, 0 if x.parts.dim() == 2 else 1)


@register_rule(*everywhere("vsplit"))
def vsplit(x: Jet, parts: Any) -> tuple[Jet, ...]:
    return tensor_split(x, parts, 0)


@register_rule(*everywhere("dsplit"))
def dsplit(x: Jet, parts: Any) -> tuple[Jet, ...]:
    return tensor_split(x, parts, 2)


@register_rule(*everywhere("broadcast_tensors"))
def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    if len(tensors) == 1 and isinstance(tensors[0], list | tuple):
        tensors = tuple(tensors[0])
    shape = broadcast(*(x.shape for x in tensors))
    return tuple(x.expand(shape) for x in tensors)


@register_rule(*everywhere("atleast_1d"))
def atleast_1d(x: Any) -> Any:
    return x.reshape(1) if x.dim() == 0 else x


@register_rule(*everywhere("atleast_2d"))
def atleast_2d(x: Any) -> Any:
    return atleast_1d(x).unsqueeze(0) if x.dim() < 2 else x


@register_rule(*everywhere("atleast_3d"))
def atleast_3d(x: Any) -> Any:
    return atleast_2d(x).unsqueeze(-1) if x.dim() < 3 else x


# --- joining --------------------------------------------------------------------------------------


@register_rule(*everywhere("hstack"))
def hstack(tensors: Sequence[Any]) -> Jet:
    tensors = [atleast_1d(x) for x in tensors]
    return cat(tensors, 0 if tensors[0].dim() == 1 else 1)


@register_rule(*everywhere("vstack", "row_stack"))
def vstack(tensors: Sequence[Any]) -> Jet:
    return cat([atleast_2d(x) for x in tensors], 0)


@register_rule(*everywhere("dstack"))
def dstack(tensors: Sequence[Any]) -> Jet:
    return cat([atleast_3d(x) for x in tensors], 2)


@register_rule(*everywhere("column_stack"))
def column_stack(tensors: Sequence[Any]) -> Jet:
    return cat([x.reshape(-1, 1) if x.dim() < 2 else x for x in tensors], 1)


@register_rule(*everywhere("diag"))
def diag(x: Jet, diagonal: int = 0) -> Jet:
    return Jet(torch.stack([torch.diag(part, diagonal) for part in x.parts]))


# --- copies, types and places ---------------------------------------------------------------------


def _arranged(operator: Callable[..., Tensor], parts: Tensor, memory_format: Any) -> Jet:
    """A copy in a memory format of images, which the components join as more images."""
    if memory_format in (torch.channels_last, torch.channels_last_3d):
        images = operator(parts.flatten(0, 1), memory_format=memory_format)
        return Jet(images.unflatten(0, parts.shape[:2]))  # type: ignore[no-untyped-call]
    return Jet(operator(parts, memory_format=memory_format))


@register_rule(*everywhere("contiguous"))
def contiguous(x: Jet, *, memory_format: Any = torch.contiguous_format) -> Jet:
    return _arranged(Tensor.contiguous, x.parts, memory_format)


@register_rule(*everywhere("clone"))
def clone(x: Jet, *, memory_format: Any = torch.preserve_format) -> Jet:
    return _arranged(torch.clone, x.parts, memory_format)


@register_rule(*everywhere("detach"))
def detach(x: Jet) -> Jet:
    """Cuts the graph of gradients, and keeps the derivatives: the function of (x, t, s) is the same.

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
        if memory_format == torch.preserve_format
        else contiguous(Jet(parts), memory_format=memory_format)
    )


def _real(parts: Tensor) -> Tensor:
    if not parts.is_floating_point():
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


def _constant(operator: Any) -> None:
    """Registers an operator that makes a constant like a jet: a jet, so that it may be written into."""

    def rule(x: Jet, *options: Any, **named: Any) -> Any:
        value = operator(value_of(x), *map(value_of, options), **named)
        return Jet(lift(value, len(x.parts), x.parts)) if value.is_floating_point() else value

    register_rule(operator)(rule)


_CONSTANT = "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty"
for _operator in everywhere(*_CONSTANT.split()):
    _constant(_operator)


# --- writing --------------------------------------------------------------------------------------


@register_rule(Tensor.__setitem__)
def assign(x: Any, index: Any, value: Any) -> None:
    """x[index] = value, in every component; a constant value has zero derivatives.

    In a pass that records a graph, autograd raises RuntimeError in backward() where what is
    overwritten is still needed, as it does for tensors.
    """
    entries = index if isinstance(index, tuple) else (index,)
    if any(isinstance(entry, Jet) for entry in entries):
        raise UnsupportedOperator("an index with derivatives", INTEGERS)
    if not isinstance(x, Jet):
        raise UnsupportedOperator(
            "writing derivatives into elements of a tensor that has none",
            "make it from a jet, as by torch.zeros_like(x) or x.new_zeros(...), or use torch.cat",
        )
    for k in range(len(x.parts)):
        x.parts[k][index] = value.parts[k] if isinstance(value, Jet) else (value if k == 0 else 0.0)


def _written(name: str, sources: Sequence[str]) -> None:
    """Registers an operator that writes one jet or constant, `sources` its names, into another."""
    operator = getattr(torch, name)

    def rule(x: Any, dim: Any, *given: Any, **named: Any) -> Jet:
        options = list(given)
        source = options.pop(1) if len(options) > 1 else None
        for key in sources:
            source = named.pop(key, source)
        count, like = components_of((x, source))
        if isinstance(dim, Jet) or any(isinstance(o, Jet) for o in (*options, *named.values())):
            raise UnsupportedOperator("an index with derivatives", INTEGERS)
        if isinstance(source, Jet | Tensor):
            values = list(lift(source, count, like))
        else:
            values = [source, *[0.0] * (count - 1)]
        parts = lift(x, count, like)
        return Jet(
            torch.stack(
                [operator(p, dim, *options, v, **named) for p, v in zip(parts, values, strict=True)]
            )
        )

    register_rule(*everywhere(name))(rule)
    register_rule(*everywhere(f"{name}_"))(in_place(rule))


for _name in ("scatter", "scatter_add", "index_add", "index_copy", "index_fill"):
    _written(_name, ("src", "value", "source"))


@register_rule(*everywhere("masked_scatter"))
def masked_scatter(x: Any, mask: Tensor, source: Any) -> Jet:
    count, like = components_of((x, source))
    pairs = zip(lift(x, count, like), lift(source, count, like), strict=True)
    return Jet(torch.stack([torch.masked_scatter(p, mask, v) for p, v in pairs]))


@register_rule(*everywhere("index_put"))
def index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Jet:
    count, like = components_of((x, values))
    pairs = zip(lift(x, count, like), lift(values, count, like), strict=True)
    return Jet(torch.stack([torch.index_put(p, indices, v, accumulate) for p, v in pairs]))


def _copied(x: Jet, source: Any, non_blocking: bool = False) -> Jet:
    return expand(Jet(lift(source, len(x.parts), x.parts)), x.shape)


def _filled(x: Jet, value: Any = 0.0) -> Jet:
    whole = lift(value, len(x.parts), x.parts)
    return expand(Jet(whole), x.shape)


for _rule, _names in (
    (_copied, ("copy_",)),
    (_filled, ("fill_", "zero_")),
    (addcdiv, ("addcdiv_",)),
    (masked_scatter, ("masked_scatter_",)),
    (index_put, ("index_put_",)),
    (addmm, ("addmm_", "baddbmm_")),
    (addmv, ("addmv_",)),
    (addbmm, ("addbmm_",)),
    (addr, ("addr_",)),
):
    register_rule(*everywhere(*_names))(in_place(_rule))


def _restrided(rule: Callable[..., Jet]) -> Callable[..., Jet]:
    def stored(x: Jet, *options: Any, **named: Any) -> Jet:
        x.parts = rule(x, *options, **named).parts
        return x

    return stored


for _view, _view_names in (
    (unsqueeze, ("unsqueeze_",)),
    (squeeze, ("squeeze_",)),
    (transpose, ("transpose_", "swapaxes_", "swapdims_")),
    (t, ("t_",)),
    (detach, ("detach_",)),
):
    register_rule(*everywhere(*_view_names))(_restrided(_view))
