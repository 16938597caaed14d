"""Rules for assignment and scattering, and for constants made like a jet to be written into."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from meanflow_tune.core.jets.errors import INTEGERS, UnsupportedOperator, WritesIntoConstant
from meanflow_tune.core.jets.jet import Jet, components_of, lift, value_of
from meanflow_tune.core.jets.register import everywhere, in_place, register_rule
from meanflow_tune.core.jets.rules.linear import addbmm, addmm, addmv, addr
from meanflow_tune.core.jets.rules.shapes import expand, squeeze, transpose, unsqueeze
from meanflow_tune.core.jets.rules.views import detach, t


def _constant(operator: Any) -> None:
    """Registers an operator that makes a constant like a jet: itself a jet, to be written into."""

    def rule(x: Jet, *options: Any, **named: Any) -> Any:
        value = operator(value_of(x), *map(value_of, options), **named)
        return Jet(lift(value, len(x.parts), x.parts)) if value.is_floating_point() else value

    register_rule(operator)(rule)


_CONSTANT = "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty"
for _operator in everywhere(*_CONSTANT.split()):
    _constant(_operator)


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
        raise WritesIntoConstant(
            "writing derivatives into elements of a tensor that has none",
            "make it from a jet, as by torch.zeros_like(x) or x.new_zeros(...), or use torch.cat",
        )
    count = x.count
    for k in range(count):
        _component(x, k)[index] = _component(value, k) if isinstance(value, Jet) else value
        value = value if isinstance(value, Jet) else 0.0


def _component(x: Jet, k: int) -> Tensor:
    """A view of component k; not by unbind(), because autograd forbids writes into its results."""
    return x.components[k] if x.apart else x.parts[k]


def _written(name: str, sources: Sequence[str]) -> None:
    """Registers an operator that writes one jet or constant (named one of `sources`) into another."""
    operator = getattr(torch, name)

    def rule(x: Any, dim: Any, *given: Any, **named: Any) -> Jet:
        options = list(given)
        source = options.pop(1) if len(options) > 1 else None
        for key in sources:
            source = named.pop(key, source)
        if named.get("reduce") is not None:
            raise UnsupportedOperator(f"torch.{name} with reduce={named['reduce']!r}")
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


def _filled(x: Jet, value: Any = 0.0, non_blocking: bool = False) -> Any:
    return expand(Jet(lift(value, len(x.parts), x.parts)), x.shape)


for _rule, _names in (
    (_filled, ("copy_", "fill_", "zero_")),
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
        x.become(rule(x, *options, **named))
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
