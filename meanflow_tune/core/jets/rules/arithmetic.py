"""Rules for sums, products, quotients, powers, choices and reductions.

Storage of a jet is x = (x₀, x₁, x₂, x₁₂) or (x₀, x₁), stacked on axis 0; "constant" is an operand
without derivatives. In-place operations act on tensors made here, so they are safe under autograd.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from meanflow_tune.core.jets.errors import UnsupportedOperator
from meanflow_tune.core.jets.jet import (
    Jet,
    align,
    autocast_dtype,
    axis,
    broadcast,
    chain,
    components_of,
    lift,
    lift_apart,
    value_of,
)
from meanflow_tune.core.jets.register import everywhere, in_place, register_rule
from meanflow_tune.core.jets.rules.elementwise import exp, log, reciprocal, sqrt

# Components (of x, of y) with no direction in common, by the component that they add to.
_SHARES = ([(0, 0)], [(1, 0), (0, 1)], [(2, 0), (0, 2)], [(3, 0), (0, 3), (1, 2), (2, 1)])


def bilinear(operator: Callable[[Tensor, Tensor], Tensor], x: Any, y: Any) -> Jet:
    """The jet of operator(x, y), which is linear in each operand; one of the two may be a constant."""
    if not isinstance(y, Jet):
        return _kept(x.parts, torch.stack([operator(part, y) for part in x.parts]))
    if not isinstance(x, Jet):
        return _kept(y.parts, torch.stack([operator(x, part) for part in y.parts]))
    a, b = x.parts, y.parts
    components = [[operator(a[i], b[k]) for i, k in shares] for shares in _SHARES[: len(a)]]
    return _kept(a, torch.stack([sum(terms[1:], terms[0]) for terms in components]))


def _kept(operand: Tensor, product: Tensor) -> Jet:
    """A product that autocast made in its own type goes on in the type of the jet."""
    return Jet(product if autocast_dtype(operand) is None else product.to(operand.dtype))


@register_rule(*everywhere("mul", "multiply", "__mul__", "__rmul__"))
def multiply(x: Any, y: Any) -> Jet:
    """(x₀y₀, x₁y₀ + x₀y₁, x₂y₀ + x₀y₂, x₁₂y₀ + x₁y₂ + x₂y₁ + x₀y₁₂)."""
    if not isinstance(x, Jet):
        x, y = y, x
    if not isinstance(y, Jet):
        if x.apart:
            return Jet.of([part * y for part in x.components])
        a = x.parts
        return Jet(_beside(a, y) * y)
    if x.apart or y.apart:
        p, q = x.components, y.components
        out = [p[0] * q[0], *(p[i] * q[0] + p[0] * q[i] for i in range(1, len(p)))]
        if len(p) == 4:
            out[3] = out[3] + p[1] * q[2] + p[2] * q[1]
        return Jet.of(out)
    a, b = x.parts, y.parts
    if a.dim() != b.dim() or a.dtype != b.dtype:
        a, b = _alike(a, b)
    product = a * b[0]
    product[1:].addcmul_(b[1:], a[0])
    if len(a) == 4:
        product[3].addcmul_(a[1], b[2]).addcmul_(a[2], b[1])
    return Jet(product)


def _beside(a: Tensor, y: Any) -> Tensor:
    """Storage ready to be multiplied by a constant, in the type that torch gives the result."""
    if not isinstance(y, Tensor):
        return a
    if a.dtype != y.dtype and a.dim() == 1:
        a = a.to(_common(a[0], y))
    return align(a, y.dim())


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two storages, with axes inserted to broadcast and in the type that torch gives the result."""
    if a.dtype != b.dtype:
        dtype = _common(a[0], b[0])  # where a number's type counts less than a tensor's
        a, b = a.to(dtype), b.to(dtype)
    return align(a, b.dim() - 1), align(b, a.dim() - 1)


@register_rule(*everywhere("add", "__add__", "__radd__"))
def add(x: Any, y: Any, *, alpha: float = 1) -> Jet:
    if alpha != 1:
        y = y * alpha
    if not isinstance(x, Jet):
        x, y = y, x
    if x.apart or (isinstance(y, Jet) and y.apart):
        return _add_apart(x.components, y)
    a = x.parts
    if isinstance(y, Jet):
        b = y.parts
        if a.dim() != b.dim() or a.dtype != b.dtype:
            a, b = _alike(a, b)
        return Jet(a + b)
    if isinstance(y, Tensor):
        a = align(a, y.dim())
        dtype = _common(x.parts[0], y)
        a = a.to(dtype).expand(len(a), *broadcast(a.shape[1:], y.shape))
    out = a.clone(memory_format=torch.contiguous_format)
    out[0] += y
    return Jet(out)


def _common(a: Tensor, b: Tensor) -> torch.dtype:
    """The type of a + b, as torch.result_type, which is not traced by a compiler."""
    if (a.dim() == 0) != (b.dim() == 0):
        scalar, other = (a, b) if a.dim() == 0 else (b, a)
        if scalar.is_floating_point() <= other.is_floating_point():
            return other.dtype
    return torch.promote_types(a.dtype, b.dtype)


def _add_apart(x: Sequence[Tensor], y: Any) -> Jet:
    if isinstance(y, Jet):
        return Jet.of([a + b for a, b in zip(x, y.components, strict=True)])
    first = x[0] + y
    # Copies, which a compiler leaves out: storage of two jets must not be one.
    rest = [part.to(first.dtype).expand(first.shape).clone() for part in x[1:]]
    return Jet.of([first, *rest])


@register_rule(*everywhere("sub", "subtract", "__sub__"))
def subtract(x: Any, y: Any, *, alpha: float = 1) -> Jet:
    if alpha == 1 and isinstance(x, Jet) and isinstance(y, Jet) and x.dim() == y.dim():
        if x.apart or y.apart:
            pairs = zip(x.components, y.components, strict=True)
            return Jet.of([a - b for a, b in pairs])
        return Jet(x.parts - y.parts)
    return add(x, -y, alpha=alpha)


@register_rule(*everywhere("rsub", "__rsub__"))
def reverse_subtract(x: Any, y: Any, *, alpha: float = 1) -> Jet:
    return subtract(y, x, alpha=alpha)


@register_rule(*everywhere("div", "divide", "true_divide", "__truediv__"))
def divide(x: Any, y: Any, *, rounding_mode: str | None = None) -> Jet:
    if rounding_mode is not None:
        raise UnsupportedOperator(f"torch.div with {rounding_mode=}", "divide without rounding")
    if not isinstance(y, Jet):
        if x.apart:
            return Jet.of([part / y for part in x.components])
        return Jet(_beside(x.parts, y) / y)
    return multiply(reciprocal(y), x)


@register_rule(*everywhere("__rdiv__", "__rtruediv__"))
def reverse_divide(x: Any, y: Any) -> Jet:
    return divide(y, x)


@register_rule(*everywhere("neg", "negative", "__neg__"))
def negate(x: Jet) -> Jet:
    return Jet.of([-part for part in x.components]) if x.apart else Jet(-x.parts)


@register_rule(*everywhere("pow", "__pow__"))
def power(x: Any, n: Any) -> Jet:
    if not isinstance(x, Jet):
        base = math.log(x) if isinstance(x, int | float) else torch.log(x)
        return exp(multiply(n, base))
    if isinstance(n, Jet):
        return exp(multiply(n, log(x)))
    if not isinstance(n, Tensor):
        if n == 2:
            return multiply(x, x)
        if n == 1:
            return Jet(x.parts.clone())
        if n == 0:
            return Jet(lift(torch.ones_like(x.parts[0]), len(x.parts), x.parts))
    else:
        shape = broadcast(x.parts.shape[1:], n.shape)
        x = Jet(align(x.parts, n.dim()).expand(len(x.parts), *shape))

    def term(factor: Any, exponent: Any) -> Tensor:
        """factor · x^exponent, zero where the factor is (and not 0 · ∞)."""
        result = x.value**exponent * factor
        return torch.where(factor == 0, 0.0, result) if isinstance(factor, Tensor) else result

    f2 = term(n * (n - 1), n - 2) if x.count == 4 else None
    return chain(x, x.value**n, term(n, n - 1), f2)


@register_rule(*everywhere("__rpow__"))
def reverse_power(x: Any, base: Any) -> Jet:
    return power(base, x)


@register_rule(*everywhere("addcmul"))
def addcmul(x: Any, y: Any, z: Any, *, value: float = 1) -> Any:
    return x + y * z * value


@register_rule(*everywhere("lerp"))
def lerp(x: Any, y: Any, weight: Any) -> Any:
    return x + (y - x) * weight


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
    return where(mask, torch.as_tensor(value, dtype=x.parts.dtype, device=mask.device), x)


for _rule, _names in (
    (add, "add_ __iadd__"),
    (subtract, "sub_ subtract_ __isub__"),
    (multiply, "mul_ multiply_ __imul__"),
    (divide, "div_ divide_ true_divide_ __itruediv__"),
    (negate, "neg_ negative_"),
    (power, "pow_ __ipow__"),
    (addcmul, "addcmul_"),
    (lerp, "lerp_"),
    (masked_fill, "masked_fill_"),
):
    register_rule(*everywhere(*_names.split()))(in_place(_rule))


# --- reductions -----------------------------------------------------------------------------------


def _axes(x: Tensor, dim: Any) -> tuple[int, ...]:
    """Axes of the storage for `dim` of the jet; None and () mean all."""
    if dim is None or dim == ():
        return tuple(range(1, x.dim()))
    return tuple(axis(d) for d in (dim if isinstance(dim, tuple | list) else (dim,)))


@register_rule(*everywhere("sum"))
def total(x: Jet, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Jet:
    if x.apart:
        axes = tuple(range(x.dim())) if dim is None or dim == () else dim
        return Jet.of([part.sum(axes, keepdim, dtype=dtype) for part in x.components])
    axes = _axes(x.parts, dim)
    return Jet(x.parts.sum(axes, keepdim, dtype=dtype) if axes else x.parts.clone())


@register_rule(*everywhere("mean"))
def mean(x: Jet, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Jet:
    if x.apart:
        axes = tuple(range(x.dim())) if dim is None or dim == () else dim
        return Jet.of([part.mean(axes, keepdim, dtype=dtype) for part in x.components])
    axes = _axes(x.parts, dim)
    return Jet(x.parts.mean(axes, keepdim, dtype=dtype) if axes else x.parts.clone())


@register_rule(*everywhere("var"))
def variance(
    x: Jet,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Jet:
    if isinstance(dim, bool):  # the form var(x, unbiased)
        dim, unbiased = None, dim
    axes = _axes(x.parts, dim)
    count = math.prod(x.parts.shape[a] for a in axes)
    lost = (1 if unbiased else 0) if correction is None else correction
    centred = Jet(x.parts - x.parts.mean(axes, True))
    return Jet(multiply(centred, centred).parts.sum(axes, keepdim) / (count - lost))


@register_rule(*everywhere("std"))
def deviation(x: Jet, *options: Any, **named: Any) -> Jet:
    return sqrt(variance(x, *options, **named))
