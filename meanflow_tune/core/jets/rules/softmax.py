"""Rules for softmax, log-softmax and log-sum-exp.

Storage of a jet is x = (x₀, x₁, x₂, x₁₂) or (x₀, x₁), stacked on axis 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from meanflow_tune.core.jets.jet import Jet, axes_of, axis, put
from meanflow_tune.core.jets.register import everywhere, register_rule


def softmax_parts(x: Tensor, dim: int) -> Tensor:
    """Storage of softmax over `dim` < 0: with y the result and Eᵢ = xᵢ - Σ y xᵢ,

    yᵢ = y Eᵢ,   y₁₂ = y (T - Σ y T) with T = x₁₂ + E₁E₂.
    """
    out = torch.empty_like(x)
    y = torch.softmax(x[0], dim)
    out[0] = y
    last = 3 if len(x) == 4 else 2
    e = x[1:last] - (x[1:last] * y).sum(dim, keepdim=True)
    put(out[1:last], torch.mul, e, y)
    if last == 3:
        t = torch.addcmul(x[3], e[0], e[1])
        put(out[3], torch.mul, t - (t * y).sum(dim, keepdim=True), y)
    return out


def softmax_apart(x: Sequence[Tensor], dim: int) -> list[Tensor]:
    """`softmax_parts` on components apart."""
    y = torch.softmax(x[0], dim)
    e = [part - (part * y).sum(dim, keepdim=True) for part in x[1:3]]
    out = [y, *(y * part for part in e)]
    if len(x) == 4:
        t = x[3] + e[0] * e[1]
        out.append(y * (t - (t * y).sum(dim, keepdim=True)))
    return out


@register_rule(*everywhere("softmax"))
def softmax(x: Jet, dim: int = -1, _stacklevel: int = 3, dtype: Any = None) -> Jet:
    if x.apart:
        apart = [part if dtype is None else part.to(dtype) for part in x.components]
        return Jet.of(softmax_apart(apart, dim))
    parts = x.parts if dtype is None else x.parts.to(dtype)
    return Jet(softmax_parts(parts, dim if dim < 0 else dim - parts.dim() + 1))


@register_rule(*everywhere("log_softmax"))
def log_softmax(x: Jet, dim: int = -1, _stacklevel: int = 3, dtype: Any = None) -> Jet:
    parts = x.parts if dtype is None else x.parts.to(dtype)
    out = parts.clone()
    out -= logsumexp(Jet(parts), dim, keepdim=True).parts
    return Jet(out)


@register_rule(*everywhere("logsumexp"))
def logsumexp(x: Jet, dim: Any, keepdim: bool = False) -> Jet:
    parts, dims = x.parts, axes_of(dim)
    d = tuple(map(axis, dims))
    value = torch.logsumexp(parts[0], dims, keepdim=True)
    y = torch.exp(parts[0] - value) if len(dims) > 1 else torch.softmax(parts[0], dims[0])
    # Of the tangents only: in the value, -∞ · 0 of a masked entry would be NaN.
    tangents = (parts[1:] * y).sum(d, keepdim=True)
    if len(parts) == 4:
        deviations = (parts[1] - tangents[0]) * (parts[2] - tangents[1])
        tangents[2] += (deviations * y).sum(dims, keepdim=True)
    out = torch.cat([value[None], tangents])
    return Jet(out if keepdim else out.squeeze(d))


@register_rule(*everywhere("softmin"))
def softmin(x: Jet, dim: int = -1, _stacklevel: int = 3, dtype: Any = None) -> Jet:
    return softmax(Jet(-x.parts), dim, dtype=dtype)
