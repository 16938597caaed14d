"""Rules for softmax, its logarithm and scaled dot-product attention.

Storage of a jet is x = (x₀, x₁, x₂, x₁₂) or (x₀, x₁), stacked on axis 0.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jet_type import (
    Jet,
    UnsupportedOperator,
    axis,
    everywhere,
    put,
    register_rule,
)


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


@register_rule(*everywhere("softmax"))
def softmax(x: Jet, dim: int = -1, _stacklevel: int = 3, dtype: Any = None) -> Jet:
    parts = x.parts if dtype is None else x.parts.to(dtype)
    return Jet(softmax_parts(parts, dim if dim < 0 else dim - parts.dim() + 1))


@register_rule(*everywhere("log_softmax"))
def log_softmax(x: Jet, dim: int = -1, _stacklevel: int = 3, dtype: Any = None) -> Jet:
    parts = x.parts if dtype is None else x.parts.to(dtype)
    out = parts.clone()
    out -= logsumexp(Jet(parts), dim, keepdim=True).parts
    return Jet(out)


@register_rule(*everywhere("logsumexp"))
def logsumexp(x: Jet, dim: int, keepdim: bool = False) -> Jet:
    parts, d = x.parts, axis(dim)
    y = torch.softmax(parts[0], dim)
    # Not of the value, where -∞ · 0 of a masked entry would be no number.
    tangents = (parts[1:] * y).sum(d, keepdim=True)
    if len(parts) == 4:
        deviations = (parts[1] - tangents[0]) * (parts[2] - tangents[1])
        tangents[2] += (deviations * y).sum(dim, keepdim=True)
    out = torch.cat([torch.logsumexp(parts[0], dim, keepdim=True)[None], tangents])
    return Jet(out if keepdim else out.squeeze(d))


@register_rule(F.scaled_dot_product_attention)
def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(Q Kᵀ · scale + mask) V; query [..., L, E], key [..., S, E], value [..., S, Ev]."""
    if dropout_p > 0:
        raise UnsupportedOperator(f"attention with {dropout_p=}", "use dropout_p=0")
    if enable_gqa:
        raise UnsupportedOperator("attention with enable_gqa=True", "repeat the heads of key")
    if is_causal and attn_mask is not None:
        raise ValueError("`attn_mask` must be None where `is_causal` is True, as in torch")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if isinstance(query, Jet) and not torch.is_grad_enabled():
        # In one pass into the order that the product wants: queries come as views of q, k and v.
        ordered = query.parts.new_empty(query.parts.shape)
        query = Jet(torch.mul(query.parts, scale, out=ordered))
    else:
        query = query * scale
    scores = torch.matmul(query, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        return torch.matmul(_weights(scores), value)
    if isinstance(attn_mask, Jet):
        return torch.matmul(_weights(scores + attn_mask), value)
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=scores.dtype).masked_fill(
            ~attn_mask, -math.inf
        )
    # A row that may look nowhere has weight zero everywhere, as in torch, instead of 0 / 0.
    blind = (attn_mask == -math.inf).all(-1, keepdim=True)
    weights = _weights(scores + attn_mask.masked_fill(blind, 0.0))
    return torch.matmul(weights.masked_fill(blind, 0.0), value)


def _weights(scores: Any) -> Any:
    return softmax(scores) if isinstance(scores, Jet) else torch.softmax(scores, -1)
