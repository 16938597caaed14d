"""Rules for sums, differences, products, quotients and powers.

Storage of a jet is x = (x₀, x₁, x₂, x₁₂) or (x₀, x₁), stacked on axis 0; "constant" is an operand
without derivatives. In-place operations act on tensors made here, so they are safe under autograd.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from meanflow_tune.core.jets.errors import UnsupportedOperator
from meanflow_tune.core.jets.jet import (
    Jet,
    align,
    broadcast,
    chain,
    lift,
)
from meanflow_tune.core.jets.register import everywhere, in_place, register_rule
from meanflow_tune.core.jets.rules.elementwise import exp, log


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
    """Storage to be multiplied by a constant, in the type that torch gives the result."""
    if not isinstance(y, Tensor):
        return a
    if a.dtype != y.dtype and a.dim() == 1:
        a = a.to(_common(a[0], y))
    return align(a, y.dim())


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two storages, with axes inserted to broadcast and in the type that torch gives the result."""
    if a.dtype != b.dtype:
        dtype = _common(a[0], b[0])  # in which a number's type counts less than a tensor's
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
    elif isinstance(y, complex):
        a = a.to(torch.promote_types(a.dtype, torch.complex32))
    out = a.clone(memory_format=torch.contiguous_format)
    out[0] += y
    return Jet(out)


def _common(a: Tensor, b: Tensor) -> torch.dtype:
    """The type of a + b, as by torch.result_type, which compilers do not trace."""
    if (a.dim() == 0) != (b.dim() == 0):
        scalar, other = (a, b) if a.dim() == 0 else (b, a)
        if _kind(scalar) <= _kind(other):
            return other.dtype
    return torch.promote_types(a.dtype, b.dtype)


def _kind(x: Tensor) -> int:
    return 2 if x.is_complex() else int(x.is_floating_point())


def _add_apart(x: Sequence[Tensor], y: Any) -> Jet:
    if isinstance(y, Jet):
        return Jet.of([a + b for a, b in zip(x, y.components, strict=True)])
    first = x[0] + y
    # Copies, which a compiler removes: two jets must not share storage.
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
    return _quotient(x, y)


def _quotient(x: Any, y: Jet) -> Jet:
    """q = x / y with qᵢ = (xᵢ - q yᵢ) / y and q₁₂ = (x₁₂ - q₁y₂ - q₂y₁ - q y₁₂) / y.

    No power of 1 / y appears, in gradients neither, which would overflow where the quotient is small.
    """
    b = y.components
    a = x.components if isinstance(x, Jet) else (x, *(None for _ in b[1:]))
    q = [a[0] / b[0]]
    for i in range(1, min(len(b), 3)):
        q.append(((0.0 if a[i] is None else a[i]) - q[0] * b[i]) / b[0])
    if len(b) == 4:
        rest = q[1] * b[2] + q[2] * b[1] + q[0] * b[3]
        q.append(((0.0 if a[3] is None else a[3]) - rest) / b[0])
    return Jet.of(q) if y.apart or (isinstance(x, Jet) and x.apart) else Jet(torch.stack(q))


@register_rule(*everywhere("reciprocal"))
def reciprocal(x: Jet) -> Jet:
    return _quotient(1.0, x)


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


@register_rule(*everywhere("positive", "__pos__"))
def positive(x: Jet) -> Jet:
    return x


@register_rule(*everywhere("float_power"))
def float_power(x: Any, n: Any) -> Any:
    """In float64 for every input, as torch computes it."""
    x, n = (a.double() if isinstance(a, Jet | Tensor) else a for a in (x, n))
    return x**n


@register_rule(*everywhere("addcdiv"))
def addcdiv(x: Any, y: Any, z: Any, *, value: float = 1) -> Any:
    return x + y / z * value


@register_rule(*everywhere("lerp"))
def lerp(x: Any, y: Any, weight: Any) -> Any:
    return x + (y - x) * weight


for _rule, _names in (
    (add, "add_ __iadd__"),
    (subtract, "sub_ subtract_ __isub__"),
    (multiply, "mul_ multiply_ __imul__"),
    (divide, "div_ divide_ true_divide_ __itruediv__"),
    (negate, "neg_ negative_"),
    (reciprocal, "reciprocal_"),
    (power, "pow_ __ipow__"),
    (addcmul, "addcmul_"),
    (lerp, "lerp_"),
    (addcdiv, "addcdiv_"),
):
    register_rule(*everywhere(*_names.split()))(in_place(_rule))
