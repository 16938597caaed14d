"""Rules for sums, means, variances, norms, distances, and products and differences along an axis."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jets.errors import UnsupportedOperator
from meanflow_tune.core.jets.jet import Jet, axis
from meanflow_tune.core.jets.register import everywhere, register_rule
from meanflow_tune.core.jets.rules.arithmetic import divide, multiply, power
from meanflow_tune.core.jets.rules.elementwise import sqrt
from meanflow_tune.core.jets.rules.softmax import logsumexp


def _axes(x: Tensor, dim: Any) -> tuple[int, ...]:
    """Axes of the storage for `dim` of the jet; None and () mean all."""
    if dim is None or dim == ():
        return tuple(range(1, x.dim()))
    return tuple(axis(d) for d in (dim if isinstance(dim, tuple | list) else (dim,)))


def _reduction(operator: Callable[..., Tensor], name: str) -> Callable[..., Jet]:
    def rule(x: Jet, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Jet:
        if x.apart:
            axes = tuple(range(x.dim())) if dim is None or dim == () else dim
            return Jet.of([operator(part, axes, keepdim, dtype=dtype) for part in x.components])
        axes = _axes(x.parts, dim)
        return Jet(operator(x.parts, axes, keepdim, dtype=dtype) if axes else x.parts.clone())

    return register_rule(*everywhere(name))(rule)


total, mean = _reduction(torch.sum, "sum"), _reduction(torch.mean, "mean")


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
    """(Σ |x|ᵖ)^(1/p). Like torch's, it has no derivatives at 0."""
    if dtype is not None:
        x = Jet(x.parts.to(dtype))
    if ord == 2:
        return sqrt(total(multiply(x, x), dim, keepdim))
    if ord in (math.inf, -math.inf):
        extreme = torch.amax if ord > 0 else torch.amin
        return extreme(torch.abs(x), () if dim is None else dim, keepdim)  # type: ignore[arg-type]
    if ord == 0:
        raise UnsupportedOperator("a norm with ord=0", "use another order")
    size = multiply(x, x) if ord % 2 == 0 else torch.abs(x)  # type: ignore[arg-type]
    exponent = ord / 2 if ord % 2 == 0 else ord
    return power(total(power(size, exponent), dim, keepdim), 1 / ord)


@register_rule(torch.norm, Tensor.norm)
def norm(
    x: Jet,
    p: Any = "fro",
    dim: Any = None,
    keepdim: bool = False,
    dtype: Any = None,
    *,
    out: Any = None,
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
    return divide(x, torch.where(size.parts[0] > eps, size, eps))


@register_rule(*everywhere("cosine_similarity"))
def cosine_similarity(x: Any, y: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """Σ x y / (max(‖x‖, eps) max(‖y‖, eps))."""
    x, y = torch.broadcast_tensors(x, y)  # type: ignore[no-untyped-call]
    sizes = [torch.linalg.vector_norm(a, 2, dim) for a in (x, y)]
    floors = [torch.where(torch.gt(a, eps), a, eps) for a in sizes]
    return (x * y).sum(dim) / (floors[0] * floors[1])


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
