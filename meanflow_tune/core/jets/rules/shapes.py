"""Rules for operators that rearrange, join, split, pad or average elements.

They are linear, so that every component is treated alike. The common ones act on the storage [K, *shape]
at once, as views where torch gives views. The rest are applied to one component after another.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jets.errors import INTEGERS, UnsupportedOperator
from meanflow_tune.core.jets.jet import (
    Jet,
    align,
    axes_of,
    axis,
    broadcast,
    components_of,
    lift,
    lift_apart,
)
from meanflow_tune.core.jets.register import Rule, everywhere, register_rule


def sizes(given: tuple[Any, ...]) -> tuple[int, ...]:
    """(2, 3), ((2, 3),) and ([2, 3],) are the same shape."""
    if len(given) == 1 and isinstance(given[0], Sequence):
        return tuple(given[0])
    return given


def moves(operator: Callable[..., Any]) -> Callable[[Rule], Rule]:
    """Decorates the rule of an operator that only moves elements: the rule serves stacked components, and
    `operator` is applied to separate components one by one."""

    def decorate(rule: Rule) -> Rule:
        @wraps(rule)
        def either(x: Any, *options: Any, **named: Any) -> Any:
            if not isinstance(x, Jet) or not x.apart:
                return rule(x, *options, **named)
            results = [operator(part, *options, **named) for part in x.components]
            if isinstance(results[0], Tensor):
                return Jet.of(results)
            return tuple(Jet.of(parts) for parts in zip(*results, strict=True))

        return cast(Rule, either)

    return decorate


@register_rule(*everywhere("reshape", "view"))
@moves(Tensor.reshape)
def reshape(x: Jet, *shape: Any) -> Jet:
    if shape and isinstance(shape[0], torch.dtype):
        raise UnsupportedOperator("Tensor.view of another dtype", "use Tensor.to")
    parts = x.parts
    return Jet(parts.reshape(parts.shape[0], *sizes(shape)))


@register_rule(*everywhere("reshape_as", "view_as"))
def reshape_as(x: Any, other: Any) -> Any:
    return x.reshape(other.shape)


@register_rule(*everywhere("flatten"))
@moves(torch.flatten)
def flatten(x: Jet, start_dim: int = 0, end_dim: int = -1) -> Jet:
    return Jet(x.parts.flatten(axis(start_dim), axis(end_dim)))


@register_rule(*everywhere("permute"))
@moves(Tensor.permute)
def permute(x: Jet, *dims: Any) -> Jet:
    return Jet(x.parts.permute(0, *(axis(d) for d in sizes(dims))))


@register_rule(*everywhere("transpose", "swapaxes", "swapdims"))
@moves(torch.transpose)
def transpose(x: Jet, dim0: int, dim1: int) -> Jet:
    return Jet(x.parts.transpose(axis(dim0), axis(dim1)))


def arranged(operator: Callable[..., Tensor], x: Jet, memory_format: Any) -> Jet:
    """A copy in a memory format; for formats of images the components join the batch."""
    if x.apart:
        return Jet.of([operator(part, memory_format=memory_format) for part in x.components])
    parts = x.parts
    if memory_format in (torch.channels_last, torch.channels_last_3d):
        images = operator(parts.flatten(0, 1), memory_format=memory_format)
        return Jet(images.reshape(*parts.shape[:2], *images.shape[1:]))
    return Jet(operator(parts, memory_format=memory_format))


@register_rule(*everywhere("contiguous"))
def contiguous(x: Jet, *, memory_format: Any = torch.contiguous_format) -> Jet:
    return arranged(Tensor.contiguous, x, memory_format)


@register_rule(*everywhere("unsqueeze"))
@moves(torch.unsqueeze)
def unsqueeze(x: Jet, dim: int) -> Jet:
    return Jet(x.parts.unsqueeze(axis(dim)))


@register_rule(*everywhere("squeeze"))
@moves(torch.squeeze)
def squeeze(x: Jet, *dims: Any) -> Jet:
    dim = sizes(dims) if dims else None
    if dim is None:  # the axis of the components must stay, even with K = 1
        dim = tuple(i for i, size in enumerate(x.parts.shape[1:]) if size == 1)
    return Jet(x.parts.squeeze(tuple(map(axis, axes_of(dim)))))


@register_rule(*everywhere("expand", "broadcast_to"))
@moves(Tensor.expand)
def expand(x: Jet, *shape: Any) -> Jet:
    wanted = sizes(shape)
    return Jet(align(x.parts, len(wanted)).expand(x.parts.shape[0], *wanted))


@register_rule(*everywhere("expand_as"))
def expand_as(x: Any, other: Any) -> Any:
    return x.expand(other.shape)


@register_rule(*everywhere("chunk", "unsafe_chunk"))
@moves(torch.chunk)
def chunk(x: Jet, chunks: int, dim: int = 0) -> tuple[Jet, ...]:
    return tuple(map(Jet, x.parts.chunk(chunks, axis(dim))))


@register_rule(*everywhere("split", "split_with_sizes", "unsafe_split"))
@moves(lambda x, split_size, dim=0: torch.split(x, split_size, dim))
def split(x: Jet, split_size: int | Sequence[int], dim: int = 0) -> tuple[Jet, ...]:
    # torch.Tensor.split calls the size split_size, torch.split calls it split_size_or_sections.
    size = list(split_size) if isinstance(split_size, Sequence) else int(split_size)
    return tuple(map(Jet, torch.split(x.parts, size, axis(dim))))


@register_rule(*everywhere("unbind"))
@moves(torch.unbind)
def unbind(x: Jet, dim: int = 0) -> tuple[Jet, ...]:
    return tuple(map(Jet, x.parts.unbind(axis(dim))))


def _joined(operator: Callable[..., Tensor], *names: str) -> Callable[..., Jet]:
    def rule(tensors: Sequence[Any], dim: int = 0) -> Jet:
        if any(isinstance(x, Jet) and x.apart for x in tensors):
            return Jet.of([operator(parts, dim) for parts in lift_apart(tensors)])
        count, like = components_of(tensors)
        return Jet(operator([lift(x, count, like) for x in tensors], axis(dim)))

    return register_rule(*everywhere(*names))(rule)


cat = _joined(torch.cat, "cat", "concat", "concatenate")
stack = _joined(torch.stack, "stack")


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


_PLAIN = (
    int,
    slice,
    type(...),
)  # indices that leave the axes before and after them in their places


@register_rule(Tensor.__getitem__)
def index(x: Jet, where: Any) -> Jet:
    entries = where if isinstance(where, tuple) else (where,)
    if not isinstance(x, Jet) or any(isinstance(entry, Jet) for entry in entries):
        raise UnsupportedOperator("an index with derivatives", INTEGERS)
    if x.apart:
        return Jet.of([part[where] for part in x.components])
    if not all(entry is None or type(entry) in _PLAIN for entry in entries):
        # Where several index tensors put their axis depends on the entries between them.
        return Jet(torch.stack([part[where] for part in x.parts]))
    return Jet(x.parts[(slice(None), *entries)])


@register_rule(F.pad)
def pad(x: Jet, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Jet:
    parts = [F.pad(part, pad, mode) for part in x.parts]
    if value:
        parts[0] = F.pad(x.parts[0], pad, mode, value)
    return Jet(torch.stack(parts))


def repeat_heads(x: Any, times: int) -> Any:
    """x [..., heads, S, E] with each head `times` times in a row."""
    if not isinstance(x, Jet):
        return x.repeat_interleave(times, -3)
    if x.apart:
        return Jet.of([part.repeat_interleave(times, -3) for part in x.components])
    return Jet(x.parts.repeat_interleave(times, -3))


def each_component(operator: Any, family: str = __name__) -> None:
    """Registers an operator that is linear in its first operand, to be applied to each component.

    family: the module of rules that the operator belongs to.
    """

    def rule(x: Any, *options: Any, **named: Any) -> Any:
        if not isinstance(x, Jet) or any(isinstance(o, Jet) for o in (*options, *named.values())):
            raise UnsupportedOperator(
                f"torch.{operator.__name__} with derivatives beyond its first operand"
            )
        results = [operator(part, *options, **named) for part in x.parts]
        if isinstance(results[0], Tensor):
            return Jet(torch.stack(results))
        return tuple(Jet(torch.stack(parts)) for parts in zip(*results, strict=True))

    rule.__module__ = family
    register_rule(operator)(rule)


# Operators that copy in torch too; views are views of the storage, above and in `rules.views`.
_LINEAR = (
    "index_select gather take_along_dim take repeat tile repeat_interleave flip fliplr flipud rot90 "
    "roll tril triu cumsum interpolate upsample pixel_shuffle pixel_unshuffle channel_shuffle "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d masked_select diag_embed grid_sample"
)
for _operator in everywhere(*_LINEAR.split()):
    each_component(_operator)
each_component(F.fold)
each_component(F.unfold)


@register_rule(
    *everywhere("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
    *everywhere("feature_dropout", "feature_alpha_dropout"),
)
def dropout(
    x: Jet, p: float = 0.5, training: bool = True, inplace: bool = False, *, train: bool = True
) -> Jet:
    if training and train and p > 0:
        raise UnsupportedOperator(
            f"dropout ({p=}) in training mode",
            "its mask would not be the plain forward's: use DropoutMasks, which gives both the same, "
            "or without_dropout()",
        )
    return x
