"""Derivatives and their gradients are finite wherever the truth is: at exact zeros, by tiny denominators."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jvp
from torch.nn import functional as F

from meanflow_tune.core.jets import Jet

POINT = torch.sin(torch.arange(12, dtype=torch.float64) * 2.1 + 1).reshape(3, 4)
A, B = torch.cos(POINT * 5.0 + 1), torch.sin(POINT * 3.0 + 2)


def pairs(x: Any) -> Any:
    return x[:, None] - x[None]


# At x = 0, or where the rows are alike.
AT_ZERO: dict[str, Callable[[Any], Any]] = {
    "norm": lambda x: x.norm(dim=-1),
    "norm of all": lambda x: torch.linalg.norm(x),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, dim=(0, 1), keepdim=True),
    "vector_norm of order 1": lambda x: torch.linalg.vector_norm(x, 1, -1),
    "vector_norm of order 4": lambda x: torch.linalg.vector_norm(x, 4, -1),
    "std": lambda x: x.std(-1),
    "std and mean": lambda x: torch.std_mean(x, 0, correction=0)[0],
    "normalize": lambda x: F.normalize(x, dim=-1),
    "normalize with a wide eps": lambda x: F.normalize(x, dim=-1, eps=0.1),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x + POINT.to(x.dtype), dim=-1),
    "cosine_similarity of both": lambda x: F.cosine_similarity(x, 2 * x, dim=-1),
    "distances of pairs": lambda x: pairs(x).norm(dim=-1),
    "cdist": lambda x: torch.cdist(x, x),
    "pairwise_distance": lambda x: F.pairwise_distance(x, x.flip(0)),
    "hypot": lambda x: torch.hypot(x, x * 2),
    "unit vectors of pairs": lambda x: pairs(x) / (pairs(x).norm(dim=-1, keepdim=True) + 1e-12),
    "a softened quotient": lambda x: x / (x * x + 1e-12),
    "rms norm by hand": lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-12),
    "squares below a root": lambda x: torch.sqrt((x * x).sum(-1) + 1e-16),
}
# Where torch.func itself differs or fails, the limit that is right.
OWN_LIMIT = {"hypot", "vector_norm of order 4", "normalize", "cosine_similarity of both", "cdist"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", AT_ZERO)
def test_at_exact_zeros(name: str, dtype: torch.dtype) -> None:
    f = AT_ZERO[name]
    zero, a, b = (x.to(dtype) for x in (torch.zeros_like(POINT), A, B))
    parts = torch.stack([zero, a, b, a * b])
    with torch.no_grad():
        found = f(Jet(parts)).parts
    assert found.isfinite().all()
    weight = torch.ones((), dtype=dtype, requires_grad=True)
    graph = f(Jet(parts * weight)).parts
    torch.testing.assert_close(graph.detach(), found)
    for k, part in enumerate(graph):
        (slope,) = torch.autograd.grad(part.sum(), weight, retain_graph=True)
        assert slope.isfinite(), f"the gradient of component {k}"
    if name not in OWN_LIMIT:
        value, along = jvp(f, (zero,), (a,))  # type: ignore[no-untyped-call]
        torch.testing.assert_close(found[:2], torch.stack([value, along]))


def test_distances_of_pairs_are_exact_beside_the_diagonal() -> None:
    """The diagonal of ‖xᵢ - xⱼ‖ is 0 with all its derivatives; the rest is as without it."""
    away = torch.eye(3, dtype=torch.float64)[..., None]

    def score(f: Callable[[Any], Any], weight: Tensor) -> Any:
        return f(Jet(torch.stack([POINT, A, B, A * B]) * weight)).parts

    found = []
    for shift in (0.0, 1.0):  # with 1 on the diagonal nothing is singular
        weight = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        out = score(lambda x, s=shift: (pairs(x) + s * away).norm(dim=-1), weight)
        if shift == 0.0:
            assert not out.diagonal(dim1=1, dim2=2).any()
        beside = (out * (1 - torch.eye(3))).square().sum((1, 2))
        slopes = [torch.autograd.grad(part, weight, retain_graph=True)[0] for part in beside]
        found.append([beside.detach(), torch.stack(slopes)])
    torch.testing.assert_close(found[0], found[1])


TINY: dict[str, Callable[[Any], Any]] = {
    "quotient": lambda x: x / (2 + x / x.value.abs()).mul(1e-25),
    "quotient of a constant": lambda x: 1e-25 / x,
    "reciprocal": lambda x: x.reciprocal() * 1e-25,
    "log": lambda x: x.abs().log(),
    "sqrt": lambda x: x.abs().sqrt() * 1e12,
    "rsqrt": lambda x: x.abs().rsqrt() * 1e-12,
    "norm": lambda x: x.norm(dim=-1) * 1e25,
    "norm of order 3": lambda x: torch.linalg.vector_norm(x, 3, -1) * 1e25,
    "std": lambda x: x.std(-1) * 1e25,
    "normalize": lambda x: F.normalize(x, dim=-1, eps=1e-30),
    "cosine_similarity": lambda x: F.cosine_similarity(
        x, x.flip(0) + (x * 1e25) * x, dim=-1, eps=1e-30
    ),
    "layer by hand": lambda x: (
        x * torch.rsqrt(((x * 1e25) * x).mean(-1, keepdim=True) + 1e-30) * 1e5
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TINY)
def test_by_tiny_denominators_in_float32(name: str) -> None:
    """All of it 1e-25 in size, float32 gives what float64 gives, gradients too; 1 / x of 1e-18, since
    1 / x² must be a number."""
    f, size = TINY[name], 1e-18 if name in ("reciprocal", "quotient of a constant") else 1e-25

    def evaluated(dtype: torch.dtype) -> list[Tensor]:
        parts = (torch.stack([POINT + 2.0 * POINT.sign(), A, B, A * B]) * size).to(dtype)
        weight = torch.ones((), dtype=dtype, requires_grad=True)
        out = f(Jet(parts * weight)).parts
        return [
            out.detach(),
            *(torch.autograd.grad(p.sum(), weight, retain_graph=True)[0] for p in out),
        ]

    for found, expected in zip(evaluated(torch.float32), evaluated(torch.float64), strict=True):
        assert found.isfinite().all()
        error = (found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
        assert error < 1e-3, name
