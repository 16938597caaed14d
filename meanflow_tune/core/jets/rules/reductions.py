"""Rules for sums, means, variances, norms, distances, and products and differences along an axis."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jets.errors import UnsupportedOperator
from meanflow_tune.core.jets.jet import Jet, axes_of, axis
from meanflow_tune.core.jets.register import everywhere, register_rule
from meanflow_tune.core.jets.rules.arithmetic import divide, multiply, power
from meanflow_tune.core.jets.rules.softmax import logsumexp


def _axes(x: Tensor, dim: Any) -> tuple[int, ...]:
    """Axes of the storage for `dim` of the jet; None and () mean all."""
    dims = () if dim is None else axes_of(dim)
    return tuple(map(axis, dims)) if dims else tuple(range(1, x.dim()))


def _reduction(operator: Callable[..., Tensor], name: str) -> Callable[..., Jet]:
    def rule(x: Jet, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Jet:
        if x.apart:
            axes = (() if dim is None else axes_of(dim)) or tuple(range(x.dim()))
            return Jet.of([operator(part, axes, keepdim, dtype=dtype) for part in x.components])
        axes = _axes(x.parts, dim)
        return Jet(operator(x.parts, axes, keepdim, dtype=dtype) if axes else x.parts.clone())

    return register_rule(*everywhere(name))(rule)


total, mean = _reduction(torch.sum, "sum"), _reduction(torch.mean, "mean")


def _spread(
    x: Jet,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Jet, tuple[int, ...], bool, float]:
    """What var and std take: x - ⟨x⟩, the axes, whether they stay, and by what the squares are divided."""
    if isinstance(dim, bool):  # the form var(x, unbiased)
        dim, unbiased = None, dim
    axes = _axes(x.parts, dim)
    lost = (1 if unbiased else 0) if correction is None else correction
    divisor = max(math.prod(x.parts.shape[a] for a in axes) - lost, 0)
    dims = tuple(a if a < 0 else a - 1 for a in axes)
    return Jet(x.parts - x.parts.mean(axes, True)), dims, keepdim, divisor


@register_rule(*everywhere("var"))
def variance(x: Jet, *options: Any, **named: Any) -> Jet:
    centred, dims, keepdim, divisor = _spread(x, *options, **named)
    return divide(total(multiply(centred, centred), dims, keepdim), divisor)


@register_rule(*everywhere("std"))
def deviation(x: Jet, *options: Any, **named: Any) -> Jet:
    centred, dims, keepdim, divisor = _spread(x, *options, **named)
    return divide(vector_norm(centred, 2, dims, keepdim), math.sqrt(divisor))


@register_rule(*everywhere("std_mean"))
def std_mean(x: Jet, *options: Any, **named: Any) -> tuple[Jet, Jet]:
    return deviation(x, *options, **named), _mean_of(x, *options, **named)


@register_rule(*everywhere("var_mean"))
def var_mean(x: Jet, *options: Any, **named: Any) -> tuple[Jet, Jet]:
    return variance(x, *options, **named), _mean_of(x, *options, **named)


def _mean_of(
    x: Jet, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Jet:
    return mean(x, None if isinstance(dim, bool) else dim, keepdim)


@register_rule(torch.linalg.vector_norm)
def vector_norm(
    x: Jet, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """(Σ |x|ᵖ)^(1/p). Where x is 0 its derivatives are taken to be 0, as torch takes them."""
    if dtype is not None:
        x = Jet(x.parts.to(dtype))
    if x.dtype.is_complex:
        x = _euclidean(torch.view_as_real(x), (-1,), False)  # type: ignore[arg-type]
    dims = () if dim is None else axes_of(dim)
    if ord in (math.inf, -math.inf):
        extreme = torch.amax if ord > 0 else torch.amin
        return extreme(torch.abs(x), dims, keepdim)  # type: ignore[arg-type]
    if ord == 0:
        raise UnsupportedOperator("a norm with ord=0", "use another order")
    dims = dims or tuple(range(x.dim()))
    if ord == 2:
        return _euclidean(x, dims, keepdim)
    # Of x divided by its largest entry, and of 1 where all are 0, so that no power vanishes or overflows.
    largest = x.value.detach().abs().amax(dims, keepdim=True)
    zero = largest == 0
    scale = torch.where(zero, 1.0, largest)
    inner = divide(x, scale)
    size = multiply(inner, inner) if ord % 2 == 0 else torch.abs(inner)  # type: ignore[arg-type]
    powers: Any = total(power(size, ord / 2 if ord % 2 == 0 else ord), dims, True)
    root = multiply(power(torch.where(zero, 1.0, powers), 1 / ord), scale)
    out: Any = torch.where(zero, 0.0, root)  # type: ignore[call-overload]
    return out if keepdim else out.squeeze(dims)


def _euclidean(x: Jet, dims: tuple[int, ...], keepdim: bool) -> Jet:
    """r = ‖x₀‖ with n = x₀ / r:  rᵢ = ⟨n, xᵢ⟩ and r₁₂ = ⟨n, x₁₂⟩ + ⟨x₁ - n r₁, x₂ - n r₂⟩ / r.

    The squares are those of x divided by its largest entry, which do not vanish where x is tiny.
    """
    value, *rest = x.components
    largest = value.detach().abs().amax(dims, keepdim=True)
    zero = largest == 0
    scale = torch.where(zero, 1.0, largest)
    inner = value / scale
    square = torch.where(zero, 1.0, (inner * inner).sum(dims, keepdim=True))
    root = square.sqrt()
    n = inner / root
    r = root * scale
    out = [torch.where(zero, 0.0, r)]
    along = [(n * part).sum(dims, keepdim=True) for part in rest]
    out += [torch.where(zero, 0.0, a) for a in along]
    if len(rest) == 3:
        # The parts of x₁ and x₂ across n: no difference of large numbers.
        across = (rest[0] - n * along[0]) * ((rest[1] - n * along[1]) / r)
        out[3] = torch.where(zero, 0.0, along[2] + across.sum(dims, keepdim=True))
    if not keepdim:
        out = [part.squeeze(dims) for part in out]
    return Jet.of(out) if x.apart else Jet(torch.stack(out))


@register_rule(torch.norm, Tensor.norm)
def norm(
    x: Jet,
    p: Any = "fro",
    dim: Any = None,
    keepdim: bool = False,
    out: Any = None,
    dtype: Any = None,
) -> Any:
    if p == "nuc":
        raise UnsupportedOperator("the nuclear norm", "use another")
    return vector_norm(x, 2 if p in ("fro", None) else p, dim, keepdim, dtype=dtype)


@register_rule(torch.linalg.norm)
def linalg_norm(
    x: Jet, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    axes = x.parts.dim() - 1 if dim is None else 1 if isinstance(dim, int) else len(dim)
    if ord is not None and ord != "fro" and axes > 1:
        raise UnsupportedOperator(f"the matrix norm {ord!r}", "use torch.linalg.vector_norm")
    return vector_norm(x, 2 if ord in (None, "fro") else ord, dim, keepdim, dtype=dtype)


@register_rule(F.normalize)
def normalize(x: Jet, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Jet:
    """x / max(‖x‖, eps), without a warning of the maximum, which matters near x = 0 only."""
    size = vector_norm(x, p, dim, keepdim=True)
    return divide(x, torch.where(size.value > eps, size, eps))


@register_rule(*everywhere("cosine_similarity"))
def cosine_similarity(x: Any, y: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """Σ x y / (max(‖x‖, eps) max(‖y‖, eps))."""
    x, y = torch.broadcast_tensors(x, y)  # type: ignore[no-untyped-call]
    sizes = [torch.linalg.vector_norm(a, 2, dim) for a in (x, y)]
    floors = [torch.where(torch.gt(a, eps), a, eps) for a in sizes]
    # One norm after the other: their product may underflow.
    ends = [a / floor.unsqueeze(dim) for a, floor in zip((x, y), floors, strict=True)]
    return (ends[0] * ends[1]).sum(dim)


@register_rule(*everywhere("pairwise_distance"))
def pairwise_distance(
    x: Any, y: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Any:
    return vector_norm(x - y + eps, p, -1, keepdim)


@register_rule(*everywhere("cdist"))
def cdist(x: Any, y: Any, p: float = 2.0, compute_mode: Any = None) -> Any:
    return vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


@register_rule(*everywhere("prod"))
def product(x: Jet, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """One factor after another, so that zeros among them do no harm."""
    if dtype is not None:
        x = Jet(x.parts.to(dtype))
    if dim is None:
        x, dim = Jet(x.parts.flatten(1)), 0
    factors = x.unbind(dim)
    if not factors:
        return torch.prod(x.parts[0], dim, keepdim)
    out = factors[0]
    for factor in factors[1:]:
        out = multiply(out, factor)
    return out.unsqueeze(dim) if keepdim else out


@register_rule(*everywhere("cumprod"))
def cumprod(x: Jet, dim: int, *, dtype: Any = None) -> Any:
    factors = list((x if dtype is None else Jet(x.parts.to(dtype))).unbind(dim))
    for i in range(1, len(factors)):
        factors[i] = multiply(factors[i - 1], factors[i])
    return torch.stack(factors, dim)


@register_rule(*everywhere("logcumsumexp"))
def logcumsumexp(x: Jet, dim: int) -> Any:
    """log Σ exp over all elements up to each, as one masked logsumexp."""
    moved = x.movedim(dim, -1).unsqueeze(-2)
    size = moved.shape[-1]
    later = torch.ones(size, size, dtype=torch.bool, device=moved.device).triu(1)
    return logsumexp(moved.masked_fill(later, -math.inf), -1).movedim(-1, dim)


@register_rule(*everywhere("diff"))
def diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Differences of neighbours, n times; `prepend` and `append` may be constants."""
    whole = [part for part in (prepend, x, append) if part is not None]
    out: Any = torch.cat(whole, dim) if len(whole) > 1 else x
    for _ in range(n):
        size = out.shape[dim]
        out = out.narrow(dim, 1, size - 1) - out.narrow(dim, 0, size - 1)
    return out
