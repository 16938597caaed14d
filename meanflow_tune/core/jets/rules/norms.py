"""Rules for normalisation layers.

Storage of a jet is x = (x₀, x₁, x₂, x₁₂) or (x₀, x₁), stacked on axis 0.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jets.errors import UnsupportedOperator
from meanflow_tune.core.jets.jet import Jet, converted, half
from meanflow_tune.core.jets.register import register_rule
from meanflow_tune.core.jets.rules.arithmetic import add, divide, multiply, power
from meanflow_tune.core.jets.rules.elementwise import rsqrt
from meanflow_tune.core.jets.rules.reductions import mean


def normalise(x: Tensor, eps: float) -> Tensor:
    """Storage of (x - mean) / sqrt(var + eps) over the last axis.

    With n the result, r = (var + eps)^-½, J the (symmetric) Jacobian and ⟨⟩ the mean over the axis:

        n₁ = J x₁ = r (x₁ - ⟨x₁⟩) - α n,   α = r ⟨n x₁⟩;   n₂ likewise with β
        n₁₂ = J x₁₂ - β n₁ - α n₂ - n (⟨n₁n₂⟩ + αβ (1 - ⟨n²⟩)),   1 - ⟨n²⟩ = ε r²
    """
    if torch.is_grad_enabled():  # the kernels below would hide the dependence of r on x
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
        # J is symmetric, so the backward kernel also maps tangents forward.
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
    """x viewed as `shape`, normalised over the last axis and viewed as before; times weight plus bias."""
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
    """x · weight + bias; x must be fresh storage, as it is written into."""
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


@register_rule(F.instance_norm)
def instance_norm(
    x: Jet,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Jet:
    """A group norm with one channel per group, or with running statistics a batch norm in eval mode."""
    if use_input_stats:
        if running_mean is not None:
            raise UnsupportedOperator(
                "instance_norm that updates running statistics",
                "call eval() on it, or make it with track_running_stats=False",
            )
        return group_norm(x, x.shape[1], weight, bias, eps)
    return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)


@register_rule(F.local_response_norm)
def local_response_norm(
    x: Jet, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Jet:
    """x / (k + alpha · mean of x² over `size` neighbouring channels)^beta."""
    around = (0, 0) * (x.parts.dim() - 3) + (size // 2, (size - 1) // 2)
    squares = F.pad(multiply(x, x).parts, around)  # channels are axis 2 of the storage
    means = Jet(squares.unfold(2, size, 1).mean(-1))
    return divide(x, power(means * alpha + k, beta))
