"""Rule for scaled dot-product attention, in blocks of queries so that memory stays linear in tokens."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from meanflow_tune.core.jets.errors import UnsupportedOperator
from meanflow_tune.core.jets.jet import Jet
from meanflow_tune.core.jets.register import register_rule
from meanflow_tune.core.jets.rules.arithmetic import add, multiply
from meanflow_tune.core.jets.rules.linear import matmul
from meanflow_tune.core.jets.rules.selection import masked_fill
from meanflow_tune.core.jets.rules.shapes import cat, contiguous, index, repeat_heads, transpose
from meanflow_tune.core.jets.rules.softmax import softmax

FEWEST_ROWS = 64
MOST_BLOCKS_COMPILED = 8


def block_rows(length: int, sources: int, width: int) -> int:
    """How many of `length` queries form a block: its scores [rows, sources] are no larger than the
    queries [length, width], so that memory grows linearly with the number of tokens.

    Compiled code unrolls the blocks, so there are at most MOST_BLOCKS_COMPILED of them.
    """
    rows = max(FEWEST_ROWS, length * width // sources)
    if torch.compiler.is_compiling():
        rows = max(rows, -(-length // MOST_BLOCKS_COMPILED))
    return rows


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
    """softmax(Q Kᵀ · scale + mask) V; query [..., L, E], key [..., S, E], value [..., S, Ev].

    enable_gqa: query has a multiple of the heads (third axis from the end) of key and value.
    """
    if dropout_p > 0:
        raise UnsupportedOperator(
            f"attention with {dropout_p=}", "use dropout_p=0, or without_dropout()"
        )
    if is_causal and attn_mask is not None:
        raise ValueError("`attn_mask` must be None where `is_causal` is True, as in torch")
    if enable_gqa:
        key, value = (_with_heads_of(query, x) for x in (key, value))
    length, sources = query.shape[-2], key.shape[-2]
    query = _scaled(query, 1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    keys = _transposed(key)
    rows = block_rows(length, sources, query.shape[-1])
    if rows >= length:
        return _attend(query, keys, value, _mask(attn_mask, is_causal, slice(0, length), key))
    keys, value = _ordered(keys), _ordered(value)  # once, not per block
    blocks = []
    for start in range(0, length, rows):
        block = slice(start, min(start + rows, length))
        mask = _mask(attn_mask, is_causal, block, key)
        blocks.append(_recomputed(_rows(query, block), keys, value, mask))
    return cat(blocks, -2)


def _scaled(query: Any, scale: float) -> Any:
    if not isinstance(query, Jet):
        return query * scale
    if query.apart or torch.is_grad_enabled():
        return multiply(query, scale)
    # Scaled and made contiguous in one pass: queries are usually views into a joint q, k, v tensor.
    ordered = query.parts.new_empty(query.parts.shape)
    return Jet(torch.mul(query.parts, scale, out=ordered))


def _transposed(key: Any) -> Any:
    return transpose(key, -2, -1) if isinstance(key, Jet) else key.transpose(-2, -1)


def _ordered(x: Any) -> Any:
    return contiguous(x) if isinstance(x, Jet) else x.contiguous()


def _rows(x: Any, block: slice) -> Any:
    """The rows `block` of the second-to-last axis; x itself where one row serves all queries."""
    if x.shape[-2] == 1:
        return x
    where = (..., block, slice(None))
    return index(x, where) if isinstance(x, Jet) else x[where]


def _with_heads_of(query: Any, x: Any) -> Any:
    """x [..., heads, S, E] with each head repeated up to the number of heads of query."""
    wanted, heads = query.shape[-3], x.shape[-3]
    if wanted % heads:
        raise ValueError(
            "the heads of `query` must be a multiple of those of `key` and `value`, but got "
            f"{wanted} and {heads}"
        )
    return repeat_heads(x, wanted // heads)


def _mask(mask: Any, causal: bool, block: slice, key: Any) -> Any:
    """The mask of the queries in `block`, [..., rows, S]: boolean, additive, a jet, or None."""
    if causal:
        rows = torch.arange(block.start, block.stop, device=key.device)
        return torch.arange(key.shape[-2], device=key.device) <= rows[:, None]
    return None if mask is None else _rows(mask, block)


def _recomputed(query: Any, keys: Any, value: Any, mask: Any) -> Any:
    """`_attend` that keeps no scores for the backward pass but recomputes them there."""
    if not torch.is_grad_enabled():
        return _attend(query, keys, value, mask)

    def tensors() -> tuple[Tensor, ...]:
        out = _attend(query, keys, value, mask)
        return out.components if out.apart else (out.parts,)

    found = checkpoint(tensors, use_reentrant=False, preserve_rng_state=False)
    return Jet(found[0]) if len(found) == 1 else Jet.of(found)


def _attend(query: Any, keys: Any, value: Any, mask: Any) -> Any:
    """softmax(query · keys + mask) · value; keys [..., E, S]; at least one of the four is a jet."""
    scores = _product(query, keys)
    if mask is None:
        return _product(_softmax(scores), value)
    if isinstance(mask, Jet):
        return _product(_softmax(add(scores, mask)), value)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
    # A fully masked row gets weight zero everywhere, as in torch, instead of 0 / 0.
    blind = (mask == -math.inf).all(-1, keepdim=True)
    mask = mask.masked_fill(blind, 0.0)
    weights = _softmax(add(scores, mask) if isinstance(scores, Jet) else scores + mask)
    if isinstance(weights, Jet):
        return _product(masked_fill(weights, blind, 0.0), value)
    return _product(weights.masked_fill(blind, 0.0), value)


def _product(x: Any, y: Any) -> Any:
    return matmul(x, y) if isinstance(x, Jet) or isinstance(y, Jet) else torch.matmul(x, y)


def _softmax(scores: Any) -> Any:
    return softmax(scores) if isinstance(scores, Jet) else torch.softmax(scores, -1)
