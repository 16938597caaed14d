"""Rules for matrix products, convolutions and normalisation.

Storage of a jet is x = (x₀, x₁, x₂, x₁₂) or (x₀, x₁), stacked on axis 0; sums over j+k run over the
ways of sharing a component's directions between two factors.
"""

import itertools
import math
import string
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jet_arithmetic import add, bilinear, mean, multiply
from meanflow_tune.core.jet_elementwise import rsqrt
from meanflow_tune.core.jet_type import (
    Jet,
    UnsupportedOperator,
    align,
    autocast_dtype,
    broadcast,
    everywhere,
    half,
    register_rule,
)

# --- linear layers and matrix products ------------------------------------------------------------


@register_rule(F.linear)
def linear(x: Any, weight: Any, bias: Any = None) -> Jet:
    if isinstance(weight, Jet) or isinstance(bias, Jet) or not isinstance(x, Jet):
        # Of a network whose layers are made by another one.
        product = torch.matmul(x, weight.mT if weight.dim() > 1 else weight)
        return product if bias is None else product + bias  # type: ignore[return-value]
    out = F.linear(x.parts, weight).to(x.parts.dtype)
    if bias is not None:
        out[0] += bias
    return Jet(out)


@register_rule(*everywhere("matmul", "bmm", "mm", "mv", "__matmul__"))
def matmul(x: Any, y: Any) -> Jet:
    rank_x, rank_y = x.dim(), y.dim()
    if rank_x == 1 or rank_y == 1:  # torch then inserts an axis and drops it again
        left = x if rank_x > 1 else x.unsqueeze(0)
        right = y if rank_y > 1 else y.unsqueeze(1)
        product = matmul(left, right)
        dropped = [d for d, rank in ((-2, rank_x), (-1, rank_y)) if rank == 1]
        return Jet(product.parts.squeeze(tuple(dropped)))
    if not isinstance(y, Jet):
        return Jet(torch.matmul(align(x.parts, rank_y), y).to(x.parts.dtype))
    if not isinstance(x, Jet):
        return Jet(torch.matmul(x, align(y.parts, rank_x)).to(y.parts.dtype))
    a, b = align(x.parts, rank_y), align(y.parts, rank_x)
    if 0 in a.shape or 0 in b.shape:
        return bilinear(torch.matmul, x, y)
    low = autocast_dtype(a)
    if low is None:
        return Jet(matrix_product(a, b))
    return Jet(matrix_product(a.to(low), b.to(low)).to(a.dtype))


def matrix_product(x: Tensor, y: Tensor) -> Tensor:
    """Storage of x @ y from storages [K, ..., M, L] and [K, ..., L, N]."""
    pairs = [(1, 0), (0, 1)] if len(x) == 2 else _PAIRS
    if torch.is_grad_enabled():
        out = torch.matmul(x, y[0])
        for i, k in pairs:
            if k > 0:
                out[i + k] += torch.matmul(x[i], y[k])
        return out
    count, batch = len(x), broadcast(x.shape[1:-2], y.shape[1:-2])
    # Products added where they belong; torch.matmul would make a tensor for each first.
    a = x.expand(count, *batch, *x.shape[-2:]).reshape(count, -1, *x.shape[-2:])
    b = y.expand(count, *batch, *y.shape[-2:]).reshape(count, -1, *y.shape[-2:])
    out = x.new_empty(count, a.shape[1], x.shape[-2], y.shape[-1])
    torch.bmm(a[0], b[0], out=out[0])
    for i, k in pairs:
        if k == 0:
            torch.bmm(a[i], b[0], out=out[i])
        else:
            out[i + k].baddbmm_(a[i], b[k])
    return out.reshape(count, *batch, x.shape[-2], y.shape[-1])


# Components (of x, of y) whose product adds to component i + k, for directions {} 0, {1} 1, {2} 2 and
# {1, 2} 3: all pairs without a direction in common, but for (0, 0).
_PAIRS = [(1, 0), (0, 1), (2, 0), (0, 2), (3, 0), (0, 3), (1, 2), (2, 1)]


@register_rule(*everywhere("__rmatmul__"))
def reverse_matmul(x: Any, y: Any) -> Jet:
    return matmul(y, x)


@register_rule(*everywhere("addmm", "baddbmm"))
def addmm(x: Any, y: Any, z: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return plus_scaled(x, torch.matmul(y, z), beta, alpha)


def plus_scaled(x: Any, product: Any, beta: float, alpha: float) -> Any:
    """beta · x + alpha · product; for beta = 0 torch does not look at x, which may be uninitialised."""
    product = product * alpha
    if beta == 0:
        return product if isinstance(product, Jet) else Jet(torch.zeros_like(x.parts)) + product
    return x * beta + product


@register_rule(torch.einsum)
def einsum(equation: str, *operands: Any) -> Jet:
    jets = [i for i, x in enumerate(operands) if isinstance(x, Jet)]
    first: Jet = operands[jets[0]]
    if len(jets) == 1 and "->" in equation:
        # One more letter carries the components through a single call.
        letter = next(c for c in string.ascii_letters if c not in equation)
        left, right = equation.split("->")
        terms = left.split(",")
        terms[jets[0]] = letter + terms[jets[0]].strip()
        plain = [x.parts if isinstance(x, Jet) else x for x in operands]
        product = torch.einsum(f"{','.join(terms)}->{letter}{right.strip()}", *plain)
        return Jet(product.to(first.parts.dtype))

    def term(chosen: dict[int, int]) -> Tensor:
        """The product with component chosen[i] of operand i, and the value of the others."""
        return torch.einsum(
            equation,
            *(x.parts[chosen.get(i, 0)] if i in jets else x for i, x in enumerate(operands)),
        )

    out = [term({})]
    for component in range(1, len(first.parts)):
        out.append(sum((term({i: component}) for i in jets), torch.zeros_like(out[0])))
    if len(first.parts) == 4:
        for i, k in itertools.permutations(jets, 2):
            out[3] = out[3] + term({i: 1, k: 2})
    return Jet(torch.stack(out).to(first.parts.dtype))


def _convolution(operator: Any, spatial: int) -> None:
    def rule(x: Any, weight: Any, bias: Any = None, *options: Any, **named: Any) -> Jet:
        if isinstance(weight, Jet):  # as of layers made by another network
            made = bilinear(lambda a, b: operator(a, b, None, *options, **named), x, weight)
            return made if bias is None else add(made, bias.reshape(-1, *([1] * spatial)))
        parts = x.parts
        batched = parts.dim() == spatial + 3
        # The components join the batch: one convolution instead of K.
        images = parts.flatten(0, 1) if batched else parts
        folded = operator(images, weight, None, *options, **named)
        out = (folded.unflatten(0, parts.shape[:2]) if batched else folded).to(parts.dtype)
        if isinstance(bias, Jet):
            return add(Jet(out), bias.reshape(-1, *([1] * spatial)))
        if bias is not None:
            out[0] += bias.reshape(-1, *([1] * spatial))
        return Jet(out)

    register_rule(operator)(rule)


for _spatial in (1, 2, 3):
    _convolution(getattr(torch, f"conv{_spatial}d"), _spatial)
    _convolution(getattr(torch, f"conv_transpose{_spatial}d"), _spatial)


# --- normalisation --------------------------------------------------------------------------------


def normalise(x: Tensor, eps: float) -> Tensor:
    """Storage of (x - mean) / sqrt(var + eps) over the last axis.

    With n the result, r = (var + eps)^-½, J the (symmetric) Jacobian and ⟨⟩ the mean over the axis:

        n₁ = J x₁ = r (x₁ - ⟨x₁⟩) - α n,   α = r ⟨n x₁⟩;   n₂ likewise with β
        n₁₂ = J x₁₂ - β n₁ - α n₂ - n (⟨n₁n₂⟩ + αβ (1 - ⟨n²⟩)),   1 - ⟨n²⟩ = ε r²
    """
    if torch.is_grad_enabled():  # the kernels below would hide how r depends on x
        centred = Jet(x - x.mean(-1, keepdim=True))
        square = mean(multiply(centred, centred), -1, keepdim=True)
        square.parts[0] += eps
        return multiply(centred, rsqrt(square)).parts
    x = x.contiguous()
    size = x.shape[-1:]
    value, centre, r = torch.native_layer_norm(x[0], size, None, None, eps)
    out = torch.empty_like(x)
    out[0] = value
    for i in range(1, len(x)):
        # J is symmetric, so the kernel of the backward pass also pushes tangents forward.
        out[i] = torch.ops.aten.native_layer_norm_backward(
            x[i], x[0], size, centre, r, None, None, (True, False, False)
        )[0]
    if len(x) == 4:
        alpha, beta = (x[1:3] * value).mean(-1, keepdim=True).mul_(r)
        last = (out[1] * out[2]).mean(-1, keepdim=True).add_(alpha * beta * (r * r).mul_(eps))
        out[3] -= (out[1] * beta).addcmul_(out[2], alpha).addcmul_(value, last)
    return out


def _normalised(x: Any, parts: Tensor, eps: float) -> Tensor:
    """`normalise` over the last axis of a view `parts` of x's storage, in float32 or better."""
    wide = normalise(parts.float() if half(parts) else parts, eps)
    return wide.to(parts.dtype).reshape(x.parts.shape)


def _affine(parts: Tensor, weight: Any, bias: Any) -> Jet:
    if isinstance(weight, Jet) or isinstance(bias, Jet):
        out = Jet(parts) if weight is None else multiply(Jet(parts), weight)
        return out if bias is None else add(out, bias)
    if weight is not None:
        parts = (parts * weight).to(parts.dtype)
    if bias is not None:
        parts[0] += bias
    return Jet(parts)


def _storage(x: Any, operator: str) -> Tensor:
    if not isinstance(x, Jet):
        raise UnsupportedOperator(f"{operator} of a constant with derivatives of its weight")
    return x.parts


@register_rule(F.layer_norm, torch.layer_norm)
def layer_norm(
    x: Jet,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Jet:
    parts = _storage(x, "layer_norm")
    flat = parts if len(normalized_shape) == 1 else parts.flatten(-len(normalized_shape))
    return _affine(_normalised(x, flat, eps), weight, bias)


@register_rule(F.group_norm, torch.group_norm)
def group_norm(
    x: Jet,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Jet:
    parts = _storage(x, "group_norm")  # [K, B, C, *S]
    size = math.prod(parts.shape[2:]) // num_groups  # not -1: a batch may be empty
    groups = parts.reshape(*parts.shape[:2], num_groups, size)
    channel = (-1, *([1] * (parts.dim() - 3)))
    return _affine(
        _normalised(x, groups, eps),
        None if weight is None else weight.reshape(channel),
        None if bias is None else bias.reshape(channel),
    )


@register_rule(F.rms_norm, torch.rms_norm)
def rms_norm(
    x: Jet, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Jet:
    parts = _storage(x, "rms_norm")
    dims = tuple(range(-len(normalized_shape), 0))
    wide = Jet(parts.float() if half(parts) else parts)
    square = mean(multiply(wide, wide), dims, keepdim=True)
    square.parts[0] += torch.finfo(parts.dtype).eps if eps is None else eps
    return _affine(multiply(wide, rsqrt(square)).parts.to(parts.dtype), weight, None)


@register_rule(F.batch_norm)
def batch_norm(
    x: Jet,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Jet:
    if training or running_mean is None or running_var is None:
        raise UnsupportedOperator(
            "batch_norm by batch statistics", "call eval() on it, or use group or layer norm"
        )
    _storage(x, "batch_norm")
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    channel = (-1, *([1] * (x.parts.dim() - 3)))
    return _affine(x.parts, scale.reshape(channel), shift.reshape(channel))
