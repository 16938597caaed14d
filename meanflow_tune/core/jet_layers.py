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
    converted,
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
    return _shifted(x, F.linear(x.parts, weight), bias)


def _shifted(x: Jet, out: Tensor, bias: Any) -> Jet:
    """The jet of storage `out`, made here, plus a constant; its components apart as those of x are."""
    if out.dtype != x.dtype:  # as autocast makes it
        out = out.to(x.dtype)
    if isinstance(bias, Jet):
        return add(Jet(out), bias)
    if x.apart:
        value, *rest = out.unbind()
        return Jet.of([value if bias is None else value + bias, *rest])
    if bias is not None:
        out[0] += bias
    return Jet(out)


@register_rule(torch.matmul, *everywhere("bmm", "mm", "mv"))
def matmul(x: Any, y: Any) -> Jet:
    rank_x, rank_y = x.dim(), y.dim()
    if _apart(x, y):
        of = x if isinstance(x, Jet) else y
        return Jet.of([part.to(of.dtype) for part in product_apart(x, y)])
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


@register_rule(Tensor.matmul, Tensor.__matmul__)
def matmul_of(x: Any, y: Any) -> Jet:
    if not isinstance(x, Jet) and torch.compiler.is_compiling():
        # The compiler hands `jet @ constant` over with its sides exchanged, as if `constant @ jet`.
        raise UnsupportedOperator("`@` with a constant in compiled code", "use torch.matmul")
    return matmul(x, y)


def _apart(*operands: Any) -> bool:
    return any(isinstance(x, Jet) and x.apart for x in operands)


def product_apart(x: Any, y: Any) -> list[Tensor]:
    """Components of x @ y. Those that add to one component are laid side by side along the axis that
    the product sums over, so that it adds them: one product a component."""
    if not isinstance(y, Jet):
        return [torch.matmul(part, y) for part in x.components]
    if not isinstance(x, Jet):
        return [torch.matmul(x, part) for part in y.components]
    a, b = x.components, y.components
    along = -1 if b[0].dim() == 1 else -2
    return [
        torch.matmul(torch.cat([a[i] for i in left], -1), torch.cat([b[i] for i in right], along))
        for left, right in _SIDES[: len(a)]
    ]


# For each component, the components of x and of y whose products add to it.
_SIDES = [([0], [0]), ([1, 0], [0, 1]), ([2, 0], [0, 2]), ([3, 0, 1, 2], [0, 3, 2, 1])]


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
        terms = [
            letter + term.strip() if i == jets[0] else term
            for i, term in enumerate(left.split(","))
        ]
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
        out = folded.unflatten(0, parts.shape[:2]) if batched else folded
        return _shifted(x, out, None if bias is None else bias.reshape(-1, *([1] * spatial)))

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


def normalise_apart(x: Sequence[Tensor], eps: float) -> list[Tensor]:
    """`normalise` on components apart, differentiable. With cᵢ = xᵢ - ⟨xᵢ⟩ and γ = r ⟨n x₁₂⟩

    n₁₂ = r c₁₂ - γ n - β n₁ - α n₂ - n (r² ⟨c₁c₂⟩ - αβ).
    """
    centred = [part - part.mean(-1, keepdim=True) for part in x]
    r = (centred[0].square().mean(-1, keepdim=True) + eps).rsqrt()
    n = centred[0] * r
    along = [r * (n * part).mean(-1, keepdim=True) for part in centred[1:]]
    out = [n, *(r * c - a * n for c, a in zip(centred[1:], along, strict=True))]
    if len(x) == 4:
        alpha, beta, _ = along
        both = r.square() * (centred[1] * centred[2]).mean(-1, keepdim=True)
        out[3] = out[3] - beta * out[1] - alpha * out[2] - (both - alpha * beta) * n
    return out


def _normalised(x: Jet, shape: Sequence[int], eps: float, weight: Any, bias: Any) -> Jet:
    """x viewed in `shape`, normalised over its last axis, viewed as before, times weight plus bias."""
    wide = _wide(x)
    if x.apart:
        parts = normalise_apart([part.reshape(*shape) for part in wide.components], eps)
        out = Jet.of([part.reshape(x.shape) for part in parts])
    else:
        stacked = wide.parts
        out = Jet(normalise(stacked.reshape(len(stacked), *shape), eps).reshape(stacked.shape))
    return converted(_affine(out, weight, bias), x.dtype)


def _wide(x: Jet) -> Jet:
    return converted(x, torch.float32) if half(x) else x


def _affine(x: Jet, weight: Any, bias: Any) -> Jet:
    """x · weight + bias; x is made here, so that it may be written into."""
    if weight is not None:
        x = multiply(x, weight)
    if bias is None:
        return x
    if x.apart or isinstance(bias, Jet):
        return add(x, bias)
    x.parts[0] += bias
    return x


def _refuse_constant(x: Any, operator: str) -> None:
    if not isinstance(x, Jet):
        raise UnsupportedOperator(f"{operator} of a constant with derivatives of its weight")


@register_rule(F.layer_norm, torch.layer_norm)
def layer_norm(
    x: Jet,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Jet:
    _refuse_constant(x, "layer_norm")
    kept = x.shape[: x.dim() - len(normalized_shape)]
    return _normalised(x, (*kept, math.prod(normalized_shape)), eps, weight, bias)


@register_rule(F.group_norm, torch.group_norm)
def group_norm(
    x: Jet,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Jet:
    _refuse_constant(x, "group_norm")
    batch, channels, *space = x.shape
    channel = (-1, *([1] * len(space)))
    return _normalised(
        x,
        (batch, num_groups, channels // num_groups * math.prod(space)),
        eps,
        None if weight is None else weight.reshape(channel),
        None if bias is None else bias.reshape(channel),
    )


@register_rule(F.rms_norm, torch.rms_norm)
def rms_norm(
    x: Jet, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Jet:
    _refuse_constant(x, "rms_norm")
    dims = tuple(range(-len(normalized_shape), 0))
    wide = _wide(x)
    square = mean(multiply(wide, wide), dims, keepdim=True)
    square = add(square, torch.finfo(x.dtype).eps if eps is None else eps)
    return converted(_affine(multiply(wide, rsqrt(square)), weight, None), x.dtype)


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
    _refuse_constant(x, "batch_norm")
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    channel = (-1, *([1] * (x.dim() - 2)))
    return _affine(x, scale.reshape(channel), shift.reshape(channel))
